"""Spot checks: a random sample that people judge, and what becomes of their verdicts."""

import csv

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.run import RunOutcome
from pipeline.run_config import HomeSelection
from pipeline.summary import build_summary
from storage.digests import file_digest
from storage.errors import ErrorKind, MissingTargetError, SourceDataError
from storage.keys import SceneKey
from storage.stores.arrays import read_target
from storage.taxonomy import CLASSES, SKY_ID
from student.applications.class_thresholds import choose_on_verdicts
from student.applications.label_sheet import (
    PAGE,
    SheetConfig,
    accept_verdicts,
    make_sheet,
    read_samples,
    wilson_interval,
)
from student.applications.weak_labels import export_weak_labels
from student.evaluation.config import WeakLabelConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.inference.class_list import load_class_list
from student.reporting.report import ReportConfig, render_report, verdicts_of
from tests.student.evaluation.conftest import SMALL_EVALUATION

SCENES = ("yard.a", "yard.b")
NAMES = {"sky": SKY_ID, "others": 0} | {entry.name: entry.class_id for entry in CLASSES[1:17]}


@pytest.fixture
def sheet(oracle):
    for scene in SCENES:
        export_weak_labels(oracle.home, SceneKey.parse(scene), "oracle", WeakLabelConfig())
    return make_sheet(oracle.home, "oracle", SCENES, SheetConfig(per_class=5)).version


def judged(home, sheet, path, verdict_of):
    """Write the sheet's table with the verdicts of a judge."""
    with (home.open_files(sheet) / "verdicts.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[-1] = verdict_of(row)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_wilsons_interval():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_sheet_draws_of_every_class_at_random_and_says_where(oracle, sheet):
    home = oracle.home
    samples = read_samples(home, sheet)
    metrics = home.metrics(sheet)
    assert metrics["drawn"] == dict.fromkeys(("car", "driveable_surface", "manmade", "sky"), 5)
    assert {sample.scene for sample in samples} == set(SCENES)
    assert len({(s.scene, s.frame, s.camera, s.row, s.column) for s in samples}) == len(samples) == 20
    for sample in samples:
        group = home.open_arrays(home.require("weak_labels", sample.scene))
        camera = group.attrs["camera_names"].index(sample.camera)
        at = (sample.frame, camera, sample.row, sample.column)
        assert read_target(group, "weak_labels", "pixel_label")[at] == NAMES[sample.name]
        assert read_target(group, "weak_labels", "pixel_probability")[at] == pytest.approx(sample.confidence, abs=1e-3)
    page = (home.open_files(sheet) / PAGE).read_text()
    assert page.count("<fieldset id=") == page.count("data:image/jpeg") == 20
    assert all(sample.id in page for sample in samples)
    assert make_sheet(home, "oracle", SCENES, SheetConfig(per_class=5)).reused
    other = make_sheet(home, "oracle", SCENES, SheetConfig(per_class=5, seed=1)).version
    assert {s.row * 1000 + s.column for s in read_samples(home, other)} != {s.row * 1000 + s.column for s in samples}
    with pytest.raises(MissingTargetError, match="want pixel labels of 'clip'"):
        make_sheet(home, "clip", SCENES, SheetConfig())


def test_verdicts_become_precision_with_an_interval_and_know_who_said_so(oracle, sheet, tmp_path, monkeypatch, capsys):
    home = oracle.home
    said = iter(["right", "wrong", "unsure", "", "Right "])

    def verdict(row):
        return next(said) if row[1] == "car" else "right" if row[1] == "sky" else ""

    path = judged(home, sheet, tmp_path / "back.csv", verdict)
    made = accept_verdicts(home, "oracle", [path], "  Ada   L. ")
    car = made.metrics["classes"]["car"]
    assert (car["right"], car["wrong"], car["unsure"]) == (2, 1, 1)
    assert car["precision"] == pytest.approx(2 / 3)
    assert (car["low"], car["high"]) == pytest.approx(wilson_interval(2, 3))
    assert made.metrics["classes"]["sky"]["precision"] == 1.0
    assert made.metrics["classes"]["manmade"]["precision"] is None
    assert (made.metrics["judged"], made.metrics["not_judged"], made.metrics["person"]) == (9, 11, "Ada L.")
    provenance = home.provenance(made.version)
    assert {item.kind for item in provenance.inputs} == {"label_sheet", "weak_labels"}
    assert list(provenance.sources.values()) == [file_digest(path)]
    assert provenance.config == {"person": "Ada L."}
    assert accept_verdicts(home, "oracle", [path], "Ada L.").reused
    assert not accept_verdicts(home, "oracle", [path], "Grace H.").reused
    classes = tmp_path / "yard.yaml"
    classes.write_text("name: yard\nclasses:\n  car:\n  tree:\n")
    choices, verdicts = choose_on_verdicts(home, "oracle", load_class_list(str(classes)), min_precision=0.6)
    assert verdicts.kind == "label_verdicts"
    assert (choices["car"].count, choices["tree"].threshold) == (3, None)
    monkeypatch.setattr(HomeSelection, "load", classmethod(lambda *_: HomeSelection(preset="tiny", variant="clip")))
    empty = judged(home, sheet, tmp_path / "empty.csv", lambda _: "")
    assert main(["labels", "accept", str(empty), "--person", "Ada", "--home", str(home.root)]) == 1
    assert "there is none of that digest of student 'clip'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",right", ",yes", 1), "line 2: has the verdict 'yes'"),
        (lambda text: text.replace("-00000,", "-99999,", 1), "line 2: '.*-99999' is no id of its sheet"),
        (lambda text: text.replace("-00001,", "-00000,", 1), "line 3: '.*-00000' stands twice"),
        (lambda text: text.replace("id,", "key,", 1), "columns"),
        (lambda text: text.replace(",right", "", 1), "line 2: has no 9 cells"),
        (lambda text: text.replace(",right", ",right,again", 1), "line 2: has no 9 cells"),
        (lambda text: text.replace(",right", ","), "judges nothing"),
        (lambda text: text.replace("right", '"right', 1), "no readable CSV|has the verdict"),
        (lambda _: "", "columns"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(oracle, sheet, tmp_path, change, message):
    path = judged(oracle.home, sheet, tmp_path / "back.csv", lambda _: "right")
    path.write_text(change(path.read_text().replace("\r\n", "\n")))
    with pytest.raises(SourceDataError, match=message) as raised:
        accept_verdicts(oracle.home, "oracle", [path], "Ada")
    assert raised.value.kind is ErrorKind.VERDICTS_INVALID
    assert "back.csv" in str(raised.value)


def test_a_missing_table_person_or_scene_is_refused(oracle, sheet, tmp_path):
    path = judged(oracle.home, sheet, tmp_path / "back.csv", lambda _: "right")
    with pytest.raises(SourceDataError, match="no such file"):
        accept_verdicts(oracle.home, "oracle", [tmp_path / "none.csv"], "Ada")
    with pytest.raises(SourceDataError, match="given twice"):
        accept_verdicts(oracle.home, "oracle", [path, path], "Ada")
    with pytest.raises(ValueError, match="who judged"):
        accept_verdicts(oracle.home, "oracle", [path], " ")
    with pytest.raises(ValueError, match="no scene"):
        make_sheet(oracle.home, "oracle", (), SheetConfig())
    with pytest.raises(ValueError, match="per_class"):
        SheetConfig(per_class=0)


def test_an_oracle_is_always_right(oracle, sheet, tmp_path):
    """Judged by the truth itself, the labels of a student that tells it are all right."""
    home = oracle.home

    def verdict(row):
        _, name, _, scene, frame, camera, at_row, at_column, _ = row
        truth = home.open_arrays(home.require("scene_truth", scene))
        cameras = truth.attrs["camera_names"]
        seen = read_target(truth, "scene_truth", "semantics")[int(frame), cameras.index(camera)]
        return "right" if seen[int(at_row), int(at_column)] == NAMES[name] else "wrong"

    made = accept_verdicts(home, "oracle", [judged(home, sheet, tmp_path / "back.csv", verdict)], "truth")
    assert all(score["precision"] == 1.0 for score in made.metrics["classes"].values())
    evaluation = evaluate_checkpoint(home, "oracle", SMALL_EVALUATION).version
    assert verdicts_of(home, evaluation) == made.version
    assert "truth judged 20 labels" in render_report(home, evaluation, ReportConfig())
    selection = HomeSelection(preset="tiny", variant="clip")
    object.__setattr__(selection, "variant", "oracle")  # no variant that a user can choose
    summary = build_summary(
        home,
        selection,
        RunOutcome(outcomes={}, blocked=[]),
        command="",
        wall_time_s=0.0,
        peak_memory_bytes=0,
        nerfstudio_version=None,
    )
    assert summary["label_verdicts"] == made.metrics
    assert np.isfinite([score["low"] for score in made.metrics["classes"].values()]).all()
