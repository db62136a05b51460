"""Rendering along a path: an oracle's pictures are those of the exact world, wherever its cameras are moved."""

import json
from dataclasses import replace
from functools import cached_property

import av
import numpy as np
import pytest
from PIL import Image

import pipeline.rendering
from pipeline.live import Student
from pipeline.presets import build_preset
from pipeline.rendering import RenderConfig, render_scene
from storage.errors import IntegrityError, MissingTargetError
from storage.previews.pictures import UNDEFINED_COLOUR
from storage.stores.versioned import Home, StoreForm, StoreVersion
from student.applications.camera_path import PathConfig
from student.evaluation.caveats import DEMO_SOURCE, WORDS_OF_RENDERS
from student.evaluation.companions import Companions, ModelRecord
from student.inference.open_vocabulary import StoredFeatureBasis, TextEncoder
from student.inference.predictor import Predictor
from student.inference.vocabulary import ClipSpace
from teachers.nerf.feature_request import FeatureReading
from tests.student.evaluation.conftest import CAR, GRID, look, scaled_intrinsics, shift_of

SCENE = "yard.b"
SETTINGS = build_preset("demo", variant="clip")


class Deployed(Student):
    """A student whose words come from the home that it was made in, not from a packed folder."""

    @cached_property
    def words(self) -> ClipSpace:
        return ClipSpace(encoder=TextEncoder(str(self.world.clip.folder)), basis=self.world_basis)


@pytest.fixture
def student(oracle):
    predictor = Predictor.open(oracle.home, "oracle")
    point = {"occupancy_threshold": 0.5, "calibration": None, "temperature": 0.004, "temperature_source": "test"}
    companions = Companions(
        variant="oracle",
        checkpoint="c" * 64,
        training_set="",
        licence="",
        depth_anything=None,
        clip=None,
        operating_point=point,
        rigs=(),
    )
    basis = StoredFeatureBasis.read(oracle.home.open_arrays(oracle.basis.version))
    made = Deployed(predictor, companions, {"clip": basis}, device="cpu")
    made.world, made.world_basis = oracle, basis
    return made


def config(**settings):
    path = PathConfig(**{"kind": "recorded", "first": 0, "last": 2, **settings.pop("path", {})})
    usual = {"cameras": (0,), "products": ("rgb", "depth", "features", "words"), "texts": ("car",)}
    return RenderConfig(path=path, tile_width=64, **{**usual, **settings})


def render(oracle, student, folder, settings, *, watch=True, **options):
    shown = []
    made = render_scene(
        oracle.home,
        student,
        SCENE,
        settings,
        SETTINGS,
        folder,
        on_view=(lambda *view: shown.append(view)) if watch else None,
        **options,
    )
    return made, shown


def test_what_is_shown_beside_the_path_is_the_world_from_there(oracle, student, scene_reader, tmp_path):
    offset = {"offset_m": (0.5, -1.0, 0.3), "steps_per_frame": 2}
    made, shown = render(oracle, student, tmp_path / "out", config(path=offset, cameras=(1, 0)))
    assert (made.num_steps, made.num_made, len(shown)) == (5, 5, 5)
    for _, _, step, views, _ in shown:
        assert [view.camera for view in step.views] == [1, 0]
        for place, view in zip(step.views, views, strict=True):
            pose = scene_reader.camera_to_reference_ego(place.frame, place.camera) @ place.virtual_to_camera
            distance, labels, _ = look(scaled_intrinsics(*GRID), pose, shift_of(1, place.frame), *GRID)
            depth = np.where(np.isfinite(distance), distance, np.nan)
            # The oracle is asked in single precision, and where a ray passes an edge a last bit decides.
            agrees = np.isclose(view.termination_depth, depth, rtol=1e-3, equal_nan=True)
            assert agrees.mean() > 0.98
            is_car = labels == CAR
            if is_car.any():
                assert view.heat["car"][is_car].mean() > view.heat["car"][~is_car].mean() + 0.5
    record = json.loads((tmp_path / "out" / "render.json").read_text())
    assert [step["frame"] for step in record["steps"]] == [0, 0, 1, 1, 2]
    assert record["asked"]["path"]["offset_m"] == [0.5, -1.0, 0.3]
    names = {path.name for path in (tmp_path / "out" / "stills").iterdir()}
    assert len(names) == 5 * 2 * 4
    assert "00003-CAM_1-student-words-0-car.png" in names
    with Image.open(tmp_path / "out" / "stills" / "00000-CAM_0-student-depth.png") as still:
        assert still.size == GRID[::-1]
        assert np.asarray(still)[0, 0].tolist() == list(UNDEFINED_COLOUR)  # the sky
    with av.open(str(made.film)) as film:
        assert sum(1 for _ in film.decode(video=0)) == 5
        assert float(film.streams.video[0].average_rate) == pytest.approx(4.0)  # 2 Hz, a step between


def test_an_interrupted_rendering_goes_on_and_a_finished_one_is_not_made_again(oracle, student, tmp_path):
    folder = tmp_path / "out"

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(oracle, student, folder, config(), on_progress=stop, watch=False)
    assert [path.name for path in (folder / "sheets").iterdir()] == ["00000.png"]
    assert render(oracle, student, folder, config(), watch=False)[0].num_made == 2
    render(oracle, student, tmp_path / "whole", config())
    for name in ("sheets/00000.png", "sheets/00002.png", "stills/00001-CAM_0-student-features.png"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert render(oracle, student, folder, config(), watch=False)[0].num_made == 0
    assert len(render(oracle, student, folder, config())[1]) == 3  # who watches sees all of it

    with pytest.raises(ValueError, match=r"another rendering \(path differ\)"):
        render(oracle, student, folder, config(path={"turn_deg": 5.0}))
    render(oracle, student, folder, config(path={"last": 0}), replace_existing=True)
    assert [path.name for path in (folder / "sheets").iterdir()] == ["00000.png"]
    (folder / "render.json").write_text("{")
    with pytest.raises(IntegrityError, match="no record of a rendering"):
        render(oracle, student, folder, config())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else"):
        render(oracle, student, tmp_path / "mine", config(), replace_existing=True)


def test_words_of_the_demo_clip_in_a_recording_come_with_a_warning(oracle, student, tmp_path, monkeypatch):
    latest = Home.latest
    monkeypatch.setattr(Home, "latest", lambda self, *of: None if of == ("scene_truth", SCENE) else latest(self, *of))
    demo = ModelRecord(config={}, source=DEMO_SOURCE, revision=None, digests={})
    student.companions = replace(student.companions, clip=demo)
    for products, notes in ((("words",), (WORDS_OF_RENDERS,)), (("depth",), ())):
        settings = config(path={"last": 0}, products=products, texts=("car",) if "words" in products else ())
        made, _ = render(oracle, student, tmp_path / products[0], settings, watch=False)
        assert made.notes == notes


@pytest.mark.parametrize("shares_basis", [True, False])
def test_a_field_stands_beside_the_student_and_says_whether_colours_compare(
    oracle, student, scene_reader, tmp_path, monkeypatch, shares_basis
):
    asked = []

    def exact(home, scene_key, views, size, execution, features):
        asked.extend(views)
        for view in views:
            pose = scene_reader.camera_to_reference_ego(view.frame, view.camera) @ np.array(view.virtual_to_camera)
            distance, labels, colour = look(scaled_intrinsics(*size), pose, shift_of(1, view.frame), *size)
            depth = np.where(np.isfinite(distance), distance, np.nan).astype(np.float32)[None]
            yield FeatureReading(
                frame_index=np.array([view.frame]),
                camera_index=np.array([view.camera]),
                camera_to_world=pose[None],
                intrinsics=scaled_intrinsics(*size)[None],
                rgb=(255 * colour).astype(np.uint8)[None],
                termination_depth=depth,
                points_world=np.zeros((*depth.shape, 3), np.float32),
                features={"clip": oracle.clip.of(labels).astype(np.float16)[None]},
            )

    field = StoreVersion("feature_field", SCENE, "f" * 64, "f" * 64, StoreForm.FILES)
    monkeypatch.setattr(pipeline.rendering, "iterate_views", exact)
    features = oracle.home.require("clip_features", SCENE)
    monkeypatch.setattr(Home, "require", _with({"feature_field": field, "nerf_teacher": field}))
    monkeypatch.setattr(Home, "provenance", _provenance_of({field.digest: (features.as_input,)}))
    if not shares_basis:
        student._bases = {}
    settings = config(path={"offset_m": (0.0, 0.4, 0.0)}, teacher=True)
    made, shown = render(oracle, student, tmp_path / "out", settings)
    assert [name for name, *_ in shown] == ["teacher", "student"] * 3
    assert [view.frame for view in asked] == [0, 1, 2]
    for (_, _, _, (taught,), _), (_, _, _, (said,), _) in zip(shown[::2], shown[1::2], strict=True):
        half = taught.termination_depth[::2, ::2]
        assert np.nanmedian(np.abs(half - said.termination_depth) / half) < 0.1
    assert len(made.notes) == (0 if shares_basis else 1)
    colours = json.loads((tmp_path / "out" / "render.json").read_text())["feature_colours"]
    assert (colours["teacher"] == colours["student"]) == shares_basis
    names = {path.name for path in (tmp_path / "out" / "stills").iterdir()}
    assert {"00000-CAM_0-teacher-words-0-car.png", "00000-CAM_0-student-words-0-car.png"} <= names


def _with(stand_ins):
    original = Home.require
    return lambda home, kind, *key: stand_ins.get(kind) or original(home, kind, *key)


def _provenance_of(inputs):
    from storage.stores.provenance import Provenance

    original = Home.provenance

    def provenance(home, version):
        if version.digest in inputs:
            return Provenance(kind=version.kind, partition=version.partition, inputs=inputs[version.digest])
        return original(home, version)

    return provenance


def test_what_cannot_be_shown_is_refused(oracle, student, tmp_path):
    for wrong in ({"products": ()}, {"texts": ()}, {"products": ("rgb",)}, {"texts": ("car", "car")}):
        with pytest.raises(ValueError, match="want"):
            config(**wrong)
    with pytest.raises(ValueError, match="at least one word"):
        render(oracle, student, tmp_path / "a", config(texts=(" ",)))
    with pytest.raises(MissingTargetError, match="renders no dinov2 features"):
        render(oracle, student, tmp_path / "a", config(feature_source="dinov2"))
    with pytest.raises(MissingTargetError, match="nerf_teacher"):
        render(oracle, student, tmp_path / "a", config(teacher=True))
    with pytest.raises(ValueError, match="frames 0 to 2"):
        render(oracle, student, tmp_path / "a", config(path={"last": 9}))
    assert not (tmp_path / "a").exists()
