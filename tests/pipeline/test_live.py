"""Images that never were in a store give what the stored ones give."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.live import CameraImage, LiveStudent
from storage.errors import ErrorKind, IntegrityError
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from storage.targets.images import InputImagesConfig, resize_scene_images
from student.config import TrainingSetConfig
from student.data.dataset import FrameDataset
from student.data.training_set import freeze_training_set, load_training_set
from student.data.views import all_views
from student.inference.predictor import Predictor
from student.presets.students import demo_student
from student.training.fit import fit_student
from teachers.config import DepthAnythingConfig, WeightsConfig
from teachers.image.run import extract_depth_anything
from teachers.image.weights import DEMO_WEIGHTS

KEY = SceneKey("tiny", "scene-0001")
VARIANT = "depth"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the depth model that can be tampered with."""
    return shutil.copytree(DEMO_WEIGHTS / "depth_anything", tmp_path / "depth-anything")


@pytest.fixture
def home(make_home: Any, weights: Path) -> Home:
    """A home with a student of one step that reads Depth Anything features."""
    torch.set_num_threads(1)
    home = make_home()
    run = demo_student(VARIANT)
    data = replace(run.data, teacher_depth=False, sky_masks=False)
    fit = replace(run.fit, max_steps=1, max_validation_samples=0)
    run = replace(run, data=data, losses=replace(run.losses, teacher_depth=0.0, opacity=0.0, sky=0.0), fit=fit)
    ingest_scene(home, KEY, IngestConfig())
    resize_scene_images(home, KEY, InputImagesConfig(height=data.image_height, width=data.image_width))
    config = DepthAnythingConfig(
        weights=WeightsConfig(source=str(weights)), input_short_side=56, min_lidar_rank_correlation=-1.0
    )
    extract_depth_anything(home, KEY, config)
    freeze_training_set(home, VARIANT, TrainingSetConfig(train_scenes=(str(KEY),), kinds=data.kinds))
    fit_student(home, VARIANT, run)
    return home


def rig_of(reader: SceneReader, frame: int) -> list[CameraImage]:
    return [
        CameraImage(
            image=reader.image(frame, camera),
            intrinsics=reader.intrinsics(camera),
            camera_to_ego=reader.camera_to_reference_ego(frame, camera),
        )
        for camera in range(reader.num_cameras)
    ]


def test_a_live_rig_is_seen_as_a_stored_one(home: Home, weights: Path) -> None:
    reader = SceneReader.open(home, KEY)
    live = LiveStudent.open(home, VARIANT, device="cpu")
    rig = rig_of(reader, 1)
    frame = live.see(rig)

    frozen = load_training_set(home, VARIANT)
    predictor = Predictor.open(home, VARIANT, device="cpu")
    batch = FrameDataset(home, frozen, "train", predictor.config.data).sample(
        str(KEY), 1, all_views(frozen.scenes[0], 1)
    )
    stored = live._inputs(rig)
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

    # One camera of another size is as welcome as the whole rig; no camera is not.
    one = replace(rig[0], image=np.ascontiguousarray(rig[0].image[:, : rig[0].image.shape[1] // 2]))
    assert live.see([one]).views.termination_depth.shape[0] == 1
    with pytest.raises(ValueError, match="at least one camera"):
        live.see([])

    # What a camera sees of its own vehicle does not matter.
    is_valid = np.ones(rig[0].size, bool)
    is_valid[rig[0].size[0] // 2 :] = False
    masked = replace(rig[0], is_valid=is_valid)
    view = live.see([masked]).views.termination_depth[0]
    assert np.isnan(view[len(view) // 2 + 1 :]).all()
    assert np.isfinite(view[: len(view) // 2]).any()

    # Another depth model than the student's own is not taken in silence.
    config = weights / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(IntegrityError, match="other files") as raised:
        LiveStudent.open(home, VARIANT, device="cpu")
    assert raised.value.kind is ErrorKind.DIGEST_MISMATCH
