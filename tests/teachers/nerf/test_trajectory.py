"""Frames aligned by their LiDAR: disturbed poses are found again, exact ones stay as they are."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader, write_scene
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from teachers.nerf.config import TrajectoryConfig
from teachers.nerf.trajectory import align_scans, scan_gap, settle_trajectory
from tests.teachers.nerf.conftest import make_wall_scene

CONFIG = TrajectoryConfig()


def room_scan(ego_to_world: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns from ground, two walls and three pillars, with a centimetre of noise, ego frame."""
    ground = np.column_stack([rng.uniform(-25, 25, (6000, 2)), np.zeros(6000)])
    walls = [
        np.column_stack([rng.uniform(-25, 25, 2000), np.full(2000, side), rng.uniform(0, 4, 2000)])
        for side in (-8.0, 11.0)
    ]
    ends = np.column_stack([np.full(1500, 25.0), rng.uniform(-8, 11, 1500), rng.uniform(0, 4, 1500)])
    angle = rng.uniform(0, 2 * np.pi, (3, 400))
    pillars = [
        np.column_stack([x + 0.5 * np.cos(a), y + 0.5 * np.sin(a), rng.uniform(0, 3, 400)])
        for (x, y), a in zip([(-6, 4), (5, -3), (14, 6)], angle, strict=True)
    ]
    world = np.concatenate([ground, *walls, ends, *pillars])
    return apply_se3(invert_se3(ego_to_world), world + rng.normal(0, 0.01, world.shape))


def disturbed(poses: np.ndarray, rng: np.random.Generator, *, metres: float, degrees: float) -> np.ndarray:
    noise = np.tile(np.eye(4), (len(poses), 1, 1))
    noise[:, :3, :3] = Rotation.from_rotvec(np.radians(rng.normal(0, degrees, (len(poses), 3)))).as_matrix()
    noise[:, :3, 3] = rng.normal(0, metres, (len(poses), 3))
    return poses @ noise


def relative_errors(poses: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Largest error of a pose seen from the middle one, metres and degrees."""
    middle = len(poses) // 2
    off = invert_se3(invert_se3(exact[middle]) @ exact) @ (invert_se3(poses[middle]) @ poses)
    return float(np.linalg.norm(off[:, :3, 3], axis=-1).max()), float(
        np.degrees(Rotation.from_matrix(off[:, :3, :3]).magnitude().max())
    )


@pytest.fixture(scope="module")
def drive() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    exact = np.tile(np.eye(4), (6, 1, 1))
    exact[:, 0, 3] = 1.5 * np.arange(6) + 300.0  # worlds begin anywhere
    exact[:, :3, :3] = Rotation.from_euler("z", 3.0 * np.arange(6)[:, None], degrees=True).as_matrix()
    scans = [room_scan(pose - np.array([[0, 0, 0, 300.0], *[[0, 0, 0, 0]] * 3]), rng) for pose in exact]
    return scans, exact


def test_disturbed_poses_are_found_again(drive):
    scans, exact = drive
    recorded = disturbed(exact, np.random.default_rng(1), metres=0.1, degrees=0.5)
    before = relative_errors(recorded, exact)
    after = relative_errors(align_scans(scans, recorded, CONFIG), exact)
    assert before[0] > 0.15
    assert before[1] > 0.8
    assert after[0] < 0.05
    assert after[1] < 0.1
    assert scan_gap(scans, recorded, CONFIG) > 3 * scan_gap(scans, exact, CONFIG)


def test_alignment_is_the_same_bits_twice(drive):
    scans, exact = drive
    recorded = disturbed(exact, np.random.default_rng(2), metres=0.1, degrees=0.5)
    np.testing.assert_array_equal(align_scans(scans, recorded, CONFIG), align_scans(scans, recorded, CONFIG))


def test_a_scan_without_returns_is_carried_along(drive):
    scans, exact = drive
    aligned = align_scans([*scans[:4], scans[4][:50], scans[5]], exact, CONFIG)
    step = invert_se3(exact[3]) @ exact[4]
    np.testing.assert_allclose(aligned[4], aligned[3] @ step, atol=1e-9)
    assert np.isnan(scan_gap([scan[:50] for scan in scans], exact, CONFIG))


def scene_of(home: Home, poses: np.ndarray | None = None) -> SceneReader:
    scene, _ = make_wall_scene()
    if poses is not None:
        ego = np.asarray(scene.ego_to_world) @ poses
        scene = type(scene)(
            **{
                **{name: getattr(scene, name) for name in scene.__dataclass_fields__},
                "ego_to_world": ego,
                "camera_ego_to_world": np.tile(ego[:, None], (1, 2, 1, 1)),
            }
        )

    def write(group):
        write_scene(group, scene)
        return {}

    materialize_arrays(home, Provenance(kind="scene", partition="test.wall", licence="none"), write)
    return SceneReader.open(home, "test.wall")


def test_exact_poses_stay_and_wrong_heights_do_not(tmp_path):
    exact = settle_trajectory(scene_of(Home(tmp_path / "exact")), CONFIG)
    assert not exact.is_aligned
    np.testing.assert_array_equal(exact.corrections, np.tile(np.eye(4), (5, 1, 1)))
    heights = np.tile(np.eye(4), (5, 1, 1))
    heights[:, 2, 3] = [0.0, 0.15, 0.0, -0.12, -0.3]
    scene = scene_of(Home(tmp_path / "wrong"), heights)
    found = settle_trajectory(scene, CONFIG)
    assert found.is_aligned
    assert found.aligned_gap_m < 0.3 * found.recorded_gap_m
    np.testing.assert_allclose(found.corrections[:, 2, 3], -heights[:, 2, 3], atol=0.03)
    assert found.metrics(scene)["trajectory_max_shift_m"] == pytest.approx(0.3, abs=0.05)
    kept = settle_trajectory(scene, TrajectoryConfig(source="recorded"))
    assert not kept.is_aligned


def test_a_moved_scene_is_moved_as_a_whole(tmp_path):
    scene = scene_of(Home(tmp_path / "home"))
    corrections = disturbed(np.tile(np.eye(4), (5, 1, 1)), np.random.default_rng(3), metres=1.0, degrees=20.0)
    moved = scene.moved(corrections)
    for frame in range(5):
        np.testing.assert_allclose(
            moved.ego_to_world(frame), corrections[frame] @ scene.ego_to_world(frame), atol=1e-12
        )
        np.testing.assert_allclose(
            moved.camera_to_reference_ego(frame, 1), scene.camera_to_reference_ego(frame, 1), atol=1e-12
        )
    twice = moved.moved(invert_se3(corrections))
    np.testing.assert_allclose(twice.camera_to_world(2, 0), scene.camera_to_world(2, 0), atol=1e-12)
