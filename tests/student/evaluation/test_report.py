import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from storage.errors import IntegrityError, MissingTargetError
from storage.previews.pictures import depth_image, encode_image, heat_overlay, label_image
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, materialize_arrays, materialize_files
from student.evaluation.results import Baseline, EvaluationResult, Figure, Panel, Section, Tile
from student.reporting.lineage import trace_lineage
from student.reporting.report import PAGE, ReportConfig, answer_of, build_report


def figure(name, value, **more):
    return Figure(name=name, label=more.pop("label", name), value=value, definition=f"What {name} means.",
                  better=more.pop("better", "higher"), count=12, **more)  # fmt: skip


def make_result(panels=()):
    psnr = figure("psnr", 24.5, label="PSNR", unit="dB", low=23.1, high=25.9, resampled="frame",
                  baselines=(Baseline(label="mean training image", value=14.25),))  # fmt: skip
    depth = figure(
        "abs_rel", 0.21, label="AbsRel", better="lower", baselines=(Baseline(label="flat ground", value=0.9),)
    )
    classes = [figure(f"iou.{n}", v, label=n, group="IoU per class") for n, v in (("car", 0.4), ("bus", None))]
    bins = {"confidence": [0.1, None, 0.9], "frequency": [0.2, None, 0.8], "count": [10, 0, 20]}
    return EvaluationResult(
        variant="depth",
        checkpoint_digest="c" * 64,
        scenes=("procedural.<scene>-0003",),
        num_frames=4,
        sections=(
            Section(name="reconstruction", title="Rebuilt", quality="image", reference="images", figures=(psnr,)),
            Section(name="depth_lidar", title="Depth, LiDAR", quality="geometric", reference="LiDAR", figures=(depth,)),
            Section(name="semantic_occupancy", title="Semantic occupancy", quality="semantic", reference="truth",
                    figures=(figure("miou_17", 0.2), *classes)),
            Section(name="calibration", title="Calibration", quality="calibration", reference="truth",
                    figures=(figure("ece", 0.02, better="lower"),)),
            Section(name="lateral_truth", title="Lateral views", quality="image", reference="truth",
                    unavailable="not available: no ground truth"),
        ),
        panels=panels,
        curves={
            "depth_lidar": {"edges": [0.0, 10.0, 80.0], "series": {"student": [0.1, None]}},
            "calibration": {"raw": bins, "calibrated": bins},
        },
        settings={"density_threshold": 0.31},
        masked={"teacher depth undefined": 1234},
        timings={"render": 1.5},
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    """A home with one raw scene, one gated teacher store, a checkpoint and its evaluation."""
    home = Home(tmp_path)

    def write_nothing(group):
        group.create_array("x", data=np.zeros(1))
        return {"quality": {"passed": True, "checks": {"psnr": {"value": 21, "threshold": 18.5, "passed": True}}}}

    teacher = materialize_arrays(
        home,
        Provenance(kind="teacher_thing", partition="procedural.a", seed=7, licence="CC0-1.0",
                   sources={"samples/a.jpg": "a" * 64}, weights_digests={"clip": "b" * 64}),
        write_nothing,
    )  # fmt: skip

    def write_checkpoint(folder):
        history = [{"step": s, "elapsed_s": s, "loss/rgb": 1 / (s + 1), "count/rgb": 4321} for s in range(30)]
        validations = [{"step": 29, "psnr": 20.0, "depth_abs_rel": None}]
        (folder / "history.json").write_text(json.dumps({"history": history, "validations": validations}))
        return {}

    checkpoint = materialize_files(
        home,
        Provenance(kind="student_checkpoint", partition="depth", inputs=(version_of(teacher),),
                   packages={"torch": "2.13.0"}),
        write_checkpoint,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    depth = np.tile(np.linspace(2, 80, 40), (24, 1))
    pictures = {
        "image": generator.integers(0, 255, (24, 40, 3), dtype=np.uint8),
        "depth": depth_image(depth),
        "semantics": label_image(generator.integers(0, 17, (24, 40), dtype=np.uint8)),
        "query": heat_overlay(np.full((24, 40, 3), 128, np.uint8), depth / 80),
    }

    def write_evaluation(folder):
        (folder / "panels").mkdir()
        for name, picture in pictures.items():
            (folder / "panels" / f"{name}.jpg").write_bytes(encode_image(picture))
        tiles = tuple(Tile(column=name, path=f"panels/{name}.jpg", caption="seen") for name in pictures)
        hole = (*tiles[:-1], Tile(column="query", path="", caption="no truth"))
        panel = Panel(scene="procedural.a", frame=3, camera="CAM_FRONT", rows=(("truth", hole), ("student", tiles)))
        return make_result((panel,)).to_json()

    materialize_files(
        home,
        Provenance(kind="student_evaluation", partition="depth", inputs=(version_of(checkpoint),)),
        write_evaluation,
    )
    return home


def version_of(made):
    return InputVersion(made.version.kind, made.version.partition, made.version.digest)


def test_a_result_round_trips_through_json():
    result = make_result((Panel(scene="s", frame=0, camera="c", rows=(("truth", (Tile(column="image", path=""),)),)),))
    assert EvaluationResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.headline() == {
        "reconstruction.psnr": 24.5,
        "depth_lidar.abs_rel": 0.21,
        "semantic_occupancy.miou_17": 0.2,
        "calibration.ece": 0.02,
    }
    with pytest.raises(IntegrityError, match="schema"):
        EvaluationResult.from_json({"schema": "other"})


def test_the_answer_tells_truth_from_imitation():
    def section(name, value, *, better="higher", rival="the prior"):
        beside = (Baseline(label=rival, value=0.5),)
        one = Figure(name=name, label=name, value=value, definition="d", better=better, baselines=beside)
        return Section(name=name, title=name, quality="image", reference="r", figures=(one,))

    result = replace(
        make_result(()),
        sections=(
            section("reconstruction", 0.9),
            section("occupancy", 0.4),
            section("returns_called_sky", 0.1, better="lower"),
            section("depth_lidar", 0.1, rival="the scene teacher"),
            section("features", 0.9),
        ),
    )
    assert answer_of(result) == (
        "Better than every predictor that ignores the input in 1 of 2 sections; worse in occupancy; beside no such "
        "predictor: returns_called_sky, depth_lidar. As an imitation of its teachers, better in 1 of 1 sections."
    )


def test_a_section_has_figures_or_a_reason_and_a_figure_knows_what_it_beats():
    with pytest.raises(ValueError, match="either figures or the reason"):
        Section(name="x", title="x", quality="image", reference="")
    with pytest.raises(ValueError, match="two figures"):
        Section(name="x", title="x", quality="image", reference="", figures=(figure("a", 1.0), figure("a", 2.0)))
    better = figure("a", 0.1, better="lower", baselines=(Baseline(label="b", value=0.2),))
    assert better.beats_baselines is True
    assert figure("a", 0.1, baselines=(Baseline(label="b", value=0.2),)).beats_baselines is False
    assert figure("a", None).beats_baselines is None


def test_the_report_is_one_page_that_loads_nothing(home):
    made = build_report(home, "depth", ReportConfig())
    folder = home.open_files(made.version)
    page = (folder / PAGE).read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    for expected in (
        "24.50", "23.10", "14.25 dB", "not available: no ground truth", "What psnr means.", "CC0-1.0", "1,234",
        "teacher_thing", "density_threshold", "2.13.0", "1 raw files", "undefined", "no truth",
        "4,321", "held out: psnr",
    ):  # fmt: skip
        assert expected in page or expected.encode() in decoded_images(page), expected
    assert "procedural.&lt;scene&gt;-0003" in page  # names are escaped
    assert made.metrics["headline"]["reconstruction.psnr"] == 24.5


def decoded_images(page):
    import base64

    return b"".join(base64.b64decode(b) for b in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]*)", page))


def test_building_again_finds_the_same_report_and_a_changed_title_another(home):
    first = build_report(home, "depth", ReportConfig())
    again = build_report(home, "depth", ReportConfig())
    assert again.reused
    assert again.version == first.version
    other = build_report(home, "depth", ReportConfig(title="Night run", maximum_panels=0))
    assert other.version.digest != first.version.digest
    page = (home.open_files(other.version) / PAGE).read_text()
    assert "<h1>Night run</h1>" in page
    assert "kept no pictures" in page


def test_a_variant_that_was_never_evaluated_is_named(home):
    with pytest.raises(MissingTargetError, match="student_evaluation/clip"):
        build_report(home, "clip", ReportConfig())
    with pytest.raises(ValueError, match="maximum_panels"):
        ReportConfig(maximum_panels=-1)


def test_lineage_reaches_the_raw_files_and_shows_gaps(home):
    evaluation = home.require("student_evaluation", "depth")
    lineage = trace_lineage(home, InputVersion(evaluation.kind, evaluation.partition, evaluation.digest))
    assert [node.version.kind for node in lineage.nodes] == [
        "student_evaluation",
        "student_checkpoint",
        "teacher_thing",
    ]
    assert lineage.raw_files == {"procedural.a/samples/a.jpg": "a" * 64}
    assert lineage.weights == {"clip": "b" * 64}
    assert [(gate.check, gate.passed) for gate in lineage.gates] == [("psnr", True)]
    shutil.rmtree(home.root / "stores" / "teacher_thing")
    gaps = trace_lineage(home, InputVersion(evaluation.kind, evaluation.partition, evaluation.digest))
    assert [node.is_present for node in gaps.nodes] == [True, True, False]


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_page(home, tmp_path):
    made = build_report(home, "depth", ReportConfig())
    page, picture = home.open_files(made.version) / PAGE, tmp_path / "page.png"
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,2400",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    assert drawn.shape == (2400, 1280, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
