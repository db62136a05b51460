"""Images that never were in a store give what the stored ones give, from a home and from a packed folder alike."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cli import main
from pipeline.live import CalibratedCamera, Student
from pipeline.packing import pack_student
from storage.errors import ErrorKind, IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_files
from storage.targets.images import InputImagesConfig, resize_scene_images
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN
from student.applications.finetuned_head import FinetunedHead, new_head
from student.config import FeatureHeadFitConfig, FinetuneTask, OccupancyFitConfig, TrainingSetConfig
from student.data.dataset import FrameDataset
from student.data.training_set import freeze_training_set, load_training_set
from student.data.views import all_views
from student.evaluation.sections.occupancy import OccupancySample
from student.inference.predictor import Predictor
from student.model.config import OccupancyHeadConfig
from student.presets.students import demo_student
from student.training.fit import fit_student
from teachers.config import DepthAnythingConfig, FeatureBasisConfig, PatchFeatureConfig, WeightsConfig
from teachers.image.run import extract_depth_anything, extract_patch_features, fit_feature_basis
from teachers.image.weights import DEMO_WEIGHTS, TeacherModel
from tests.pipeline.conftest import home_that_knows
from tests.storage.conftest import write_tiny_nuscenes

KEY = SceneKey("tiny", "scene-0001")
VARIANT = "clip"


def copy_weights(to: Path) -> None:
    for name in (TeacherModel.LITE.value, "clip"):
        shutil.copytree(DEMO_WEIGHTS / name, to / name, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording, weights, and a home with a student of one step.

    The student reads Depth Anything features and renders CLIP's.
    """
    folder = tmp_path_factory.mktemp("trained")
    weights = folder / "weights"
    copy_weights(weights)
    torch.set_num_threads(1)
    home = home_that_knows(write_tiny_nuscenes(folder / "recording").root, folder / "home")
    run = demo_student(VARIANT)
    data = replace(run.data, teacher_depth=False, sky_masks=False, views=replace(run.data.views, virtual=0))
    # From nothing: in noise, a taught student sees surfaces that a last bit of half precision moves by percents.
    heads = replace(run.fit, heads=FeatureHeadFitConfig(steps=2), occupancy=OccupancyFitConfig(steps=1))
    fit = replace(heads, initial=None, max_steps=1, max_validation_samples=0)
    run = replace(run, data=data, losses=replace(run.losses, teacher_depth=0.0, opacity=0.0, sky=0.0), fit=fit)
    ingest_scene(home, KEY, IngestConfig())
    resize_scene_images(home, KEY, InputImagesConfig(height=data.image_height, width=data.image_width))
    config = DepthAnythingConfig(
        weights=WeightsConfig(source=str(weights / TeacherModel.LITE.value)),
        input_short_side=56,
        min_lidar_rank_correlation=-1.0,
    )
    extract_depth_anything(home, KEY, config)
    patches = PatchFeatureConfig(weights=WeightsConfig(source=str(weights / "clip")), input_short_side=56)
    fit_feature_basis(home, "clip", [KEY], FeatureBasisConfig(extractor=patches))
    extract_patch_features(home, KEY, "clip", replace(patches, min_retained_variance=0.0, max_clipped=1.0))
    # Images are noise: no gate that compares features with them can pass.
    taken = TrainingSetConfig(train_scenes=(str(KEY),), kinds=data.kinds, allow_ungated=(*data.kinds, "scene_audit"))
    freeze_training_set(home, VARIANT, taken)
    fit_student(home, VARIANT, run)
    return folder


@pytest.fixture
def weights(trained: Path) -> Iterator[Path]:
    """The student's depth model and CLIP, to be tampered with."""
    yield trained / "weights"
    copy_weights(trained / "weights")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Home:
    """A home with a student, to be broken at will."""
    return Home(shutil.copytree(trained / "home", tmp_path / "home"))


def moment(reader: SceneReader, frame: int) -> tuple[list[np.ndarray], list[CalibratedCamera]]:
    cameras = range(reader.num_cameras)
    rig = [
        CalibratedCamera(intrinsics=reader.intrinsics(c), camera_to_ego=reader.camera_to_reference_ego(frame, c))
        for c in cameras
    ]
    return [reader.image(frame, c) for c in cameras], rig


def test_a_live_rig_is_seen_as_a_stored_one(home: Home) -> None:
    reader = SceneReader.open(home, KEY)
    live = Student.open(home, VARIANT, device="cpu")
    images, rig = moment(reader, 1)
    frame = live(images, rig)

    frozen = load_training_set(home, VARIANT)
    predictor = Predictor.open(home, VARIANT, device="cpu")
    batch = FrameDataset(home, frozen, "train", predictor.config.data).sample(
        str(KEY), 1, all_views(frozen.scenes[0], 1)
    )
    stored = live.inputs(images, rig)
    torch.testing.assert_close(stored.images, batch.inputs.images, atol=2 / 255, rtol=0.0)
    torch.testing.assert_close(stored.intrinsics, batch.inputs.intrinsics)
    torch.testing.assert_close(stored.camera_to_reference_ego, batch.inputs.camera_to_reference_ego)
    assert stored.depth_features is not None
    assert batch.inputs.depth_features is not None
    scale = float(batch.inputs.depth_features.std())
    torch.testing.assert_close(stored.depth_features, batch.inputs.depth_features, atol=0.05 * scale, rtol=0.05)

    field = predictor.encode(batch.inputs)
    wanted = predictor.render(field, frame.cameras)
    assert frame.views.termination_depth.shape == wanted.termination_depth.shape
    known = np.isfinite(wanted.termination_depth) & np.isfinite(frame.views.termination_depth)
    assert known.mean() > 0.5
    error = np.abs(frame.views.termination_depth - wanted.termination_depth)[known] / wanted.termination_depth[known]
    assert np.median(error) < 0.02

    # One camera of another size is as welcome as the whole rig.
    half = np.ascontiguousarray(images[0][:, : images[0].shape[1] // 2])
    assert live([half], rig[:1]).views.termination_depth.shape[0] == 1

    # What a camera sees of its own vehicle does not matter.
    is_valid = np.ones(images[0].shape[:2], bool)
    is_valid[len(is_valid) // 2 :] = False
    view = live(images[:1], [replace(rig[0], is_valid=is_valid)]).views.termination_depth[0]
    assert np.isnan(view[len(view) // 2 + 1 :]).all()
    assert np.isfinite(view[: len(view) // 2]).any()


def test_a_packed_student_needs_no_home(home: Home, weights: Path, tmp_path: Path) -> None:
    images, rig = moment(SceneReader.open(home, KEY), 0)
    at_home = Student.open(home, VARIANT, device="cpu")(images, rig)
    assert main(["pack", str(tmp_path / "packed"), "--home", str(home.root), "--precision", "float32"]) == 0
    shutil.rmtree(home.root)
    student = Student.from_pretrained(tmp_path / "packed", device="cpu")
    away = student(images, rig)
    np.testing.assert_array_equal(away.views.termination_depth, at_home.views.termination_depth)

    heat = away.find("car")
    assert heat.shape == away.views.termination_depth.shape
    assert np.nanmin(heat) >= 0
    assert np.nanmax(heat) <= 1
    assert np.isnan(heat[~away.views.is_seen]).all()
    occupancy = away.occupancy()
    assert occupancy.is_occupied.shape == (200, 200, 16)
    assert not (occupancy.is_occupied & ~occupancy.is_observed).any()
    assert (occupancy.probability[~occupancy.is_observed] == 0).all()

    (cameras,) = student.companions.rigs
    assert len(cameras) == len(rig)
    assert cameras[0].height_m == pytest.approx(rig[0].camera_to_ego[2, 3], abs=0.05)
    width, focal = images[0].shape[1], rig[0].intrinsics[0, 0]
    assert cameras[0].horizontal_field_deg == pytest.approx(2 * np.degrees(np.arctan(width / 2 / focal)), abs=2)
    card = (tmp_path / "packed" / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    assert "Student.from_pretrained" in card

    # Other words, or another depth model, than the student's own are not taken in silence.
    (weights / "clip" / "vocab.json").write_text("{}")
    with pytest.raises(ProvenanceMismatchError, match=r"vocab\.json"):
        Student.from_pretrained(tmp_path / "packed", device="cpu")(images, rig).find("car")
    config = weights / TeacherModel.LITE.value / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(IntegrityError, match="other files") as raised:
        Student.from_pretrained(tmp_path / "packed", device="cpu")
    assert raised.value.kind is ErrorKind.DIGEST_MISMATCH


def publish_head(home: Home, task: FinetuneTask, checkpoint: StoreVersion) -> FinetunedHead:
    torch.manual_seed(3)
    config, width = (
        OccupancyHeadConfig(width=4, column_width=8, num_levels=2),
        2 * demo_student(VARIANT).model.voxels.feature_width,
    )
    probability = np.array([0.1, 0.2, 0.6, 0.9])
    sample = OccupancySample(max_per_frame=4, seed=0)
    sample.add(probability, probability > 0.5, np.array([True, False, True, False]))
    fit = sample.fit("isotonic")
    assert fit is not None
    head = FinetunedHead(
        head=new_head(config, task, width).eval(),
        config=config,
        task=task,
        feature_width=width,
        fit=fit,
        checkpoint_digest=checkpoint.digest,
    )

    def write(folder: Path) -> dict[str, str]:
        head.save(folder)
        (folder / "README.md").write_text("# Head")
        return {}

    provenance = Provenance(kind=Kind.FINETUNED_HEAD, partition=f"{VARIANT}-{task}", inputs=(checkpoint.as_input,))
    materialize_files(home, provenance, write)
    return head


def test_heads_travel_with_the_student_that_they_read(home: Home, tmp_path: Path) -> None:
    images, rig = moment(SceneReader.open(home, KEY), 0)
    checkpoint = home.require(Kind.STUDENT_CHECKPOINT, VARIANT)
    head = publish_head(home, "segmentation", checkpoint)
    publish_head(home, "occupancy", replace(checkpoint, digest="0" * 64))  # of another student: it stays
    at_home = Student.open(home, VARIANT, device="cpu")(images, rig)
    pack_student(home, VARIANT, tmp_path / "packed", precision="float32")
    assert "`heads/segmentation`: `frame.label()`" in (tmp_path / "packed" / "README.md").read_text()
    away = Student.from_pretrained(tmp_path / "packed", device="cpu")(images, rig)
    for frame in (at_home, away):
        labels, occupancy = frame.label(), frame.occupancy(head="segmentation")
        is_seen = occupancy.is_observed
        np.testing.assert_array_equal(labels[is_seen], head.label(frame.field)[is_seen])
        assert (labels[~is_seen] == OCC3D_UNKNOWN).all()
        np.testing.assert_array_equal(occupancy.is_occupied, is_seen & (labels != OCC3D_FREE))
        raw = head.read(frame.field).occupancy.reshape(is_seen.shape)[is_seen]
        np.testing.assert_array_equal(occupancy.probability[is_seen], head.fit.calibration.apply(raw))
        with pytest.raises(MissingTargetError, match="has no head for occupancy: distillnerf finetune occupancy"):
            frame.occupancy(head="occupancy")


def test_half_precision_is_half_the_size_and_sees_the_same(home: Home, tmp_path: Path) -> None:
    images, rig = moment(SceneReader.open(home, KEY), 0)
    pack_student(home, VARIANT, tmp_path / "half")
    pack_student(home, VARIANT, tmp_path / "whole", precision="float32")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    half, whole = (Student.from_pretrained(tmp_path / n, device="cpu")(images, rig) for n in ("half", "whole"))
    known = np.isfinite(half.views.termination_depth) & np.isfinite(whole.views.termination_depth)
    ratio = half.views.termination_depth[known] / whole.views.termination_depth[known]
    assert np.median(np.abs(ratio - 1)) < 0.01
    with pytest.raises(ValueError, match="not empty"):
        pack_student(home, VARIANT, tmp_path / "half")


class TestRefusals:
    """What a student does not take."""

    @pytest.fixture
    def packed(self, home: Home, tmp_path: Path) -> Path:
        pack_student(home, VARIANT, tmp_path / "packed")
        return tmp_path / "packed"

    def test_images_that_are_none_or_of_an_unknown_range(self, packed: Path) -> None:
        student = Student.from_pretrained(packed, device="cpu")
        camera = CalibratedCamera(
            intrinsics=np.array([[60.0, 0, 40], [0, 60.0, 24], [0, 0, 1]]), camera_to_ego=np.eye(4)
        )
        image = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8)
        with pytest.raises(ValueError, match="at least one camera"):
            student([], [])
        with pytest.raises(ValueError, match="1 images for 2 cameras"):
            student([image], [camera, camera])
        as_float = image.astype(np.float32) / 255
        with pytest.raises(ValueError, match="needs image_range"):
            student([as_float], [camera])
        with pytest.raises(ValueError, match="within image_range"):
            student([as_float * 255], [camera], image_range=(0.0, 1.0))
        for wrong, said in (
            (Image.fromarray(image), "the image is a Image, want an array"),
            ("front.jpg", "the image is a str, want an array"),
            (image.transpose(2, 0, 1), r"camera 0: the image has shape \(3, 48, 80\), want \(height, width, 3\)"),
            (image[..., 0], "want .height, width, 3., RGB"),
            (np.dstack([image, image[..., :1]]), "want .height, width, 3., RGB"),
            (image[:0], "16 pixels or more"),
            (image[:8, :8], "16 pixels or more"),
            (image[::3, ::3], "are the intrinsics those of another size"),
        ):
            with pytest.raises(ValueError, match=said):
                student([wrong], [camera])
        millimetres = replace(camera, intrinsics=np.diag([0.004, 0.004, 1.0]))
        with pytest.raises(ValueError, match=r"camera 0: fx, fy are 0\.004, 0\.004 for 80 x 48 pixels, want pixels"):
            student([image], [millimetres])
        one, two = student([image], [camera]), student([as_float * 2 - 1], [camera], image_range=(-1.0, 1.0))
        np.testing.assert_array_equal(one.views.termination_depth, two.views.termination_depth)

    def test_ten_cameras_are_welcome(self, packed: Path) -> None:
        student = Student.from_pretrained(packed, device="cpu")
        intrinsics = np.array([[60.0, 0, 40], [0, 60.0, 24], [0, 0, 1]])
        image = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8)
        camera = CalibratedCamera(intrinsics=intrinsics, camera_to_ego=np.eye(4))
        assert student([image] * 10, [camera] * 10).views.termination_depth.shape[0] == 10

    def test_a_folder_that_lacks_a_file_or_holds_a_damaged_one(self, packed: Path, tmp_path: Path) -> None:
        with pytest.raises(MissingTargetError, match="no model that the hub gave"):
            Student.from_pretrained(tmp_path / "nowhere")
        record = packed / "companions.json"
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "colour": "red"}))
        with pytest.raises(IntegrityError, match="colour"):
            Student.from_pretrained(packed)
        record.unlink()
        with pytest.raises(MissingTargetError, match="distillnerf pack"):
            Student.from_pretrained(packed)
        record.write_text(json.dumps(content))
        weights = packed / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            Student.from_pretrained(packed)
