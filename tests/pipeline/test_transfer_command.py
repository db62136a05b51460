"""Zero-shot transfer as a user does it: a student of a nuScenes-like drive, judged on a Waymo-like one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli import main
from pipeline.run_config import HomeSelection
from storage.ingest.run import ingest_scene
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home
from storage.targets.images import InputImagesConfig, resize_scene_images
from storage.testing.waymo.rig import WaymoRigConfig
from storage.testing.waymo.writer import generate_waymo_dataset
from student.config import DataConfig, FitConfig, LossConfig, StudentConfig, TrainingSetConfig, ViewsConfig
from student.data.training_set import freeze_training_set
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.evaluation.results import EvaluationResult
from student.presets.models import tiny_model
from student.training.fit import fit_student

VARIANT = "no_distillation"
SIZE = {"image_height": 32, "image_width": 56}
GRID = {"render_height": 16, "render_width": 28, "depth_height": 16, "depth_width": 28}
NUSCENES = ProceduralConfig(
    dataset="drives", num_scenes=1, frames_per_scene=4, image_height=45, image_width=80, airside_share=0.0
)
WAYMO = WaymoRigConfig(
    world=ProceduralConfig(dataset="waymo", num_scenes=1, frames_per_scene=2, airside_share=0.0, seed=5),
    image_width=96,
    top_shape=(24, 180),
    near_shape=(8, 24),
    spin_steps=3,
)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of a student that took one step on a nuScenes-like drive, evaluated on its own split."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("origin")
    home = Home(folder / "home")
    (key,) = generate_dataset(home, folder / "raw", NUSCENES)
    ingest_scene(home, key)
    resize_scene_images(home, key, InputImagesConfig(height=32, width=56))
    model = tiny_model(feature_heads=())
    model = replace(
        model,
        fine_depth=replace(model.fine_depth, lift_detail=False),
        voxels=replace(model.voxels, coarse_level=5, feature_width=8, convolution_width=8, down_width=8),
        renderer=replace(model.renderer, bins=replace(model.renderer.bins, num_bins=32), num_fine_samples=4),
    )
    data = DataConfig(
        **SIZE,
        **GRID,
        views=ViewsConfig(same_frame=2, virtual=0),
        depth_anything=False,
        teacher_depth=False,
        sky_masks=False,
        feature_sources=(),
    )
    losses = LossConfig(teacher_depth=0.0, opacity=0.0, sky=0.0)
    fit = FitConfig(max_steps=1, max_validation_samples=0)
    split = TrainingSetConfig(
        train_scenes=(str(key),), kinds=data.kinds, held_out_stride=2, allow_ungated=("scene_audit",)
    )
    freeze_training_set(home, VARIANT, split)
    fit_student(home, VARIANT, StudentConfig(model=model, data=data, losses=losses, fit=fit))
    evaluate_checkpoint(
        home, VARIANT, EvaluationConfig(max_lateral_frames=0, panel_frames=0, num_training_frames=1, seed=4)
    )
    HomeSelection(preset="tiny", variant=VARIANT, train_scenes=(str(key),)).save(home.root)
    return home


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that knows a Waymo-like drive, and nothing of the student."""
    folder = tmp_path_factory.mktemp("elsewhere")
    home = Home(folder / "home")
    (key,) = generate_waymo_dataset(home, folder / "raw", WAYMO, source_format="waymo_v2")
    ingest_scene(home, key)
    return home


def evaluate(student: str, home: Home) -> EvaluationResult:
    arguments = ["evaluate", student, "--scenes", "waymo.scene-0001", "--home", str(home.root), "--preset", "tiny"]
    assert main([*arguments, "--evaluation.panel-frames", "0"]) == 0
    return EvaluationResult.from_json(home.metrics(home.require("transfer_evaluation", VARIANT)))


def test_packed_and_in_its_folder_a_student_is_judged_alike(origin: Home, elsewhere: Home, tmp_path: Path, capsys: Any):
    packed = tmp_path / "packed"
    assert main(["pack", str(packed), "--home", str(origin.root), "--precision", "float32"]) == 0
    assert json.loads((packed / "companions.json").read_text())["variant"] == VARIANT
    away = evaluate(str(packed), elsewhere)
    assert "scenes outside its training" in capsys.readouterr().out
    assert away.scenes == ("waymo.scene-0001",)
    assert away.num_frames == 2
    assert any(note.startswith("Another rig than the student learned from: 5 cameras") for note in away.notes)
    assert away.section("reconstruction").figure("psnr").value > 5.0
    assert away.section("depth_lidar").figure("abs_rel").count > 100
    occupancy = away.section("occupancy")  # beams judge it, though nothing but an ingest was made of the drive
    assert "beams" in occupancy.reference
    assert occupancy.figure("iou").count > 1_000
    own = EvaluationResult.from_json(origin.metrics(origin.require("student_evaluation", VARIANT)))
    assert away.settings["occupancy"] == own.settings["occupancy"]  # nothing was chosen here
    (page,) = (elsewhere.root / "report").glob("transfer-*.html")
    assert "Another rig" in page.read_text()

    folder = evaluate(str(origin.open_files(origin.require("student_checkpoint", VARIANT))), elsewhere)
    assert folder.headline() == pytest.approx(away.headline(), rel=1e-6, nan_ok=True)
    assert folder.notes == away.notes


def test_a_student_on_its_own_scene_is_refused(origin: Home, capsys: Any):
    scene = origin.latest("scene", "drives.scene-0001")
    assert scene is not None
    code = main(["evaluate", "--scenes", "drives.scene-0001", "--home", str(origin.root)])
    assert code == 1
    assert "learned from drives.scene-0001" in capsys.readouterr().out.replace("\n", " ")
