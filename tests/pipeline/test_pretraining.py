"""Pretraining at toy size: drives, exact targets, rounds that follow each other, and a student to ship."""

import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.live import Student
from pipeline.overrides import apply_overrides
from pipeline.presets import PRESET_NAMES, build_preset
from pipeline.pretraining import rigs, rounds, scenes, ship
from pipeline.pretraining.commands import pretraining_config
from pipeline.pretraining.drives import drive, held_out_drive, unseen_rig
from storage.digests import file_digest
from storage.errors import MissingTargetError
from storage.kinds import Kind
from storage.procedural.sensing.rigs import drawn_rig
from storage.procedural.writers import truth
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from student.config import FitConfig, OccupancyFitConfig
from student.data.training_set import load_training_set
from student.evaluation.companions import Companions
from student.inference.checkpoint import from_pretrained
from student.inference.feature_bases import load_feature_bases, same_basis
from student.inference.open_vocabulary import StoredFeatureBasis
from student.training.initial import initial_folder
from student.training.occupancy import OccupancyLesson
from teachers.exact import ExactTeacherConfig, exact_depth
from teachers.image.feature_basis import FeatureBasis

pytestmark = pytest.mark.slow

KEY, HELD_OUT = "pretrain-0000.scene-0001", "pretrain-held-out.scene-0001"


def small(config: Any) -> Any:
    return replace(config, num_scenes=1, frames_per_scene=2, image_height=72, image_width=128, antialias=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A home with a drive to learn from and one held out, of one short scene each."""
    home = Home(tmp_path_factory.mktemp("pretraining") / "home")
    loose = ("image_teachers.clip_basis.source=fit", "image_teachers.depth_anything.min_lidar_rank_correlation=-1")
    config = apply_overrides(pretraining_config(), loose)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "drive", lambda index: small(drive(index)))
        patch.setattr(scenes, "held_out_drive", lambda: small(held_out_drive()))
        patch.setattr(truth, "build_world", functools.cache(truth.build_world))  # seconds for each; nothing changes one
        scenes.make_scenes(home, config, range(1))
        yield home, config


def test_seeds_are_those_of_no_other_run() -> None:
    used = {build_preset(name, variant="clip").procedural.seed for name in PRESET_NAMES}
    ours = [make(index) for make in (drive, unseen_rig) for index in range(200)] + [held_out_drive()]
    of_scenes = [config.scene_seed(i) for config in ours for i in range(config.num_scenes)]
    assert len(set(of_scenes)) == len(of_scenes)
    assert min(config.seed for config in ours) > 10_000 > max(used)
    assert {config.rig for config in ours} == {"nuscenes", "airside", "drawn"}


def test_exact_depth_is_that_of_the_truth(made: Any) -> None:
    home, config = made
    exact = ExactTeacherConfig(depth_size=(72, 128), view_size=config.virtual_views.size)
    version = exact_depth(home, KEY, exact).version
    found = read_target(home.open_arrays(version), Kind.TEACHER_DEPTH, "termination_depth").astype(np.float32)
    true = read_target(home.open_arrays(home.require(Kind.SCENE_TRUTH, KEY)), Kind.SCENE_TRUTH, "termination_depth")
    assert np.array_equal(np.isnan(found), np.isnan(true))
    np.testing.assert_allclose(found, true, rtol=2e-3)  # float16, and intrinsics scaled to and fro
    assert {item.kind for item in home.provenance(version).inputs} == {Kind.SCENE, Kind.SCENE_TRUTH}
    assert home.provenance(version).config["method"] == "exact_world"


def test_views_are_of_the_pose_that_they_state(made: Any) -> None:
    home, _ = made
    group = home.open_arrays(home.require(Kind.VIRTUAL_VIEWS, KEY))
    depth = read_target(group, Kind.VIRTUAL_VIEWS, "termination_depth").astype(np.float32)
    up = list(group.attrs["view_names"]).index("up")  # type: ignore[arg-type]
    own = read_target(
        home.open_arrays(home.require(Kind.TEACHER_DEPTH, KEY)), Kind.TEACHER_DEPTH, "termination_depth"
    ).astype(np.float32)
    # The lowest row of the front camera sees the road: a metre higher, it is farther by as much as the camera rose.
    row = np.nanmedian(depth[:, 0, up, -1]) / np.nanmedian(own[:, 0, -1])
    assert 1.4 < row < 2.0  # the camera stood 1.5 m above it


def test_a_scene_without_an_exact_world_is_refused(made: Any) -> None:
    home, config = made
    exact = ExactTeacherConfig(depth_size=config.teacher_depth.size, view_size=config.virtual_views.size)
    with pytest.raises(MissingTargetError, match="nowhere"):
        exact_depth(home, "recorded.nowhere", exact)


def test_a_head_that_is_taught_first_does_not_choose_the_scenes_of_the_first_round(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = made
    lesson = OccupancyLesson(frames=0, frames_without_beams=0, occupied_share=None, steps=0, loss=None)
    monkeypatch.setattr(ship, "teach_occupancy", lambda *_, **__: lesson)
    folder = shutil.copytree(initial_folder("shipped"), tmp_path / "student")
    ship.ship_head(home, folder, OccupancyFitConfig(steps=1), features_only=True)
    assert home.latest(Kind.TRAINING_SET, rounds.training_set_name(1)) is None
    assert {s.key for s in load_training_set(home, "pretrained-head").scenes} == {KEY, HELD_OUT}


def short(depth_steps: int) -> FitConfig:
    return replace(rounds.pretraining_fit(2, depth_steps), occupancy=OccupancyFitConfig(steps=2))


@pytest.fixture(scope="module")
def fitted(made: Any) -> Any:
    """Two rounds of two steps each."""
    home, config = made
    for depth_steps in (1, 0):
        fit = short(depth_steps)
        rounds.fit_rounds(home, replace(config.student, fit=fit), rounds=1)
    return home, rounds.completed_rounds(home)


class TestRounds:
    """Rounds that follow each other, and what is shipped of them."""

    def test_each_starts_from_the_last_and_learns_from_other_scenes_than_it_is_judged_on(self, fitted: Any) -> None:
        home, done = fitted
        assert [(entry.number, entry.steps, entry.scenes) for entry in done] == [(1, 2, 1), (2, 2, 1)]
        first, second = (home.require(Kind.STUDENT_CHECKPOINT, rounds.PARTITION, e.checkpoint) for e in done)
        assert first.as_input in home.provenance(second).inputs
        assert home.metrics(second)["initial"]["fresh"] == 0
        frozen = load_training_set(home, "pretrained-0002")
        assert {s.key: bool(s.train_frames) for s in frozen.scenes} == {KEY: True, HELD_OUT: False}
        assert done[0].validation["psnr"] is not None

    def test_a_stopped_round_keeps_its_scenes(self, fitted: Any, made: Any) -> None:
        home, done = fitted
        stopped = home.root / "rounds.json"
        whole = stopped.read_text()
        stopped.write_text(json.dumps(json.loads(whole)[:1]))  # as if it had been killed before it was recorded
        run = replace(made[1].student, fit=short(0))
        rounds.fit_rounds(home, run, rounds=1)
        assert rounds.completed_rounds(home) == done  # the same training set and the same checkpoint: only looked up

    def test_what_is_shipped_is_whole(self, fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home, _ = fitted
        monkeypatch.setattr(ship, "DEMO_WEIGHTS", tmp_path)
        (tmp_path / "clip").mkdir()
        ship.ship(home, tmp_path / "student", "clip")
        model, config = from_pretrained(tmp_path / "student")
        assert config.fit.initial is None
        assert not model.training
        basis = FeatureBasis.load(tmp_path / "clip", 96)
        stored = StoredFeatureBasis.read(home.open_arrays(home.require(Kind.FEATURE_BASIS, "clip")))
        assert same_basis(load_feature_bases(tmp_path / "student")["clip"], stored)
        assert np.array_equal(basis.components, stored.components)
        companions = Companions.load(tmp_path / "student")
        assert companions.variant == "clip"
        assert companions.checkpoint == file_digest(tmp_path / "student" / "model.safetensors")
        assert companions.point.calibration is not None
        curve = json.loads((tmp_path / "student" / ship.CURVE_FILE).read_text())
        assert [(entry["steps"], entry["depth_steps"]) for entry in curve] == [(2, 1), (2, 0)]
        card = (tmp_path / "student" / "README.md").read_text()
        assert "exact world" in card
        assert "in 4 steps, 1 of them on depth.\nThe last 2 were on 1 procedural scenes" in card
        assert "learned in 4 steps, the last 2 of\n  them from beams about 2 frames" in card
        assert sum(path.stat().st_size for path in (tmp_path / "student").iterdir()) < 16_000_000

    @pytest.fixture
    def shipped(self, fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Home, Path]:
        home, _ = fitted
        monkeypatch.setattr(ship, "DEMO_WEIGHTS", tmp_path)
        (tmp_path / "clip").mkdir()
        ship.ship(home, tmp_path / "student", "clip")
        return home, tmp_path / "student"

    def test_a_head_is_taught_anew_without_touching_the_rest(self, shipped: tuple[Home, Path]) -> None:
        home, folder = shipped
        before, kept = from_pretrained(folder)[0].state_dict(), (folder / "bill_of_materials.json").read_text()
        lesson = ship.ship_head(home, folder, OccupancyFitConfig(steps=3))
        after, config = from_pretrained(folder)
        assert config.model.occupancy_head is not None
        changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert {name.partition(".")[0] for name in changed} == {"occupancy_head", "voxel_feature_heads"}
        assert (lesson.steps, lesson.frames) == (3, 2)
        assert config.fit.occupancy == OccupancyFitConfig(steps=3)
        assert 0 < lesson.feature_errors["clip"] < 0.1
        assert (
            "learned in 3 steps, the last 3 of\n  them from beams about 2 frames" in (folder / "README.md").read_text()
        )
        assert Companions.load(folder).checkpoint == file_digest(folder / "model.safetensors")
        point = Companions.load(folder).point
        assert point.calibration is not None
        low, high = point.occupied(np.array([0.1, 0.9]))
        assert 0 < low < high < 1
        assert (folder / "bill_of_materials.json").read_text() == kept
        ship.ship_head(home, folder, OccupancyFitConfig(steps=2), features_only=True)
        further = from_pretrained(folder)[0].state_dict()
        moved = {name for name, value in further.items() if not torch.equal(value, after.state_dict()[name])}
        assert {name.partition(".")[0] for name in moved} == {"voxel_feature_heads"}
        assert (
            "learned in 3 steps, the last 3 of\n  them from beams about 2 frames" in (folder / "README.md").read_text()
        )
        assert "end, of 2 frames in 2 steps" in (folder / "README.md").read_text()

    def test_a_head_goes_on_from_where_it_is(self, shipped: tuple[Home, Path]) -> None:
        home, folder = shipped
        before = from_pretrained(folder)[0].state_dict()
        tiny_steps = OccupancyFitConfig(steps=1, learning_rate=1e-6)
        ship.ship_head(home, folder, tiny_steps, further=True)
        after = from_pretrained(folder)[0].state_dict()
        assert all(torch.allclose(value, before[name], atol=1e-3) for name, value in after.items())
        assert "learned in 5 steps, the last 1 of" in (folder / "README.md").read_text()
        ship.ship_head(home, folder, tiny_steps)
        anew = from_pretrained(folder)[0].state_dict()
        assert not all(torch.allclose(value, before[name], atol=1e-3) for name, value in anew.items())
        assert "learned in 1 steps, the last 1 of" in (folder / "README.md").read_text()

    def test_nothing_is_shipped_before_a_round_is_done(self, tmp_path: Path) -> None:
        with pytest.raises(MissingTargetError, match="no round"):
            ship.ship(Home(tmp_path / "empty"), tmp_path / "student", "clip")
        assert not (tmp_path / "student").exists()


@pytest.mark.nightly
def test_a_student_is_judged_by_a_rig_that_it_never_saw(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = made
    monkeypatch.setattr(rigs, "unseen_rig", lambda index: small(unseen_rig(index)))
    home = Home(made[0].root.parent / "unseen")
    (score,) = rigs.judge_on_rigs(home, config, Student.from_pretrained("shipped"), [0])
    cameras = drawn_rig(unseen_rig(0).seed)
    assert score.cameras == len(cameras)
    assert score.focal_share == pytest.approx(np.median([c.focal_share for c in cameras]))
    assert score.height_m == pytest.approx(np.median([c.position[2] for c in cameras]), abs=0.02)
    assert 0.02 < score.abs_rel < score.abs_rel_flat
    assert 0.5 < score.ratio < 2.0
    assert f"| {score.scene} | {len(cameras)} |" in rigs.table([score])
