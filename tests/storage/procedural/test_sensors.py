import numpy as np
import pytest

from storage.geometry.transforms import rotation_error
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import CAMERAS, NUM_BEAMS, beam_directions, lidar_to_ego, simulate_lidar

SIZE = (180, 320)


def sweep_of(world, time_us=500_000, seed=0):
    pose = world.ego_to_world(time_us) @ lidar_to_ego()
    return simulate_lidar(world, time_us, pose, np.random.default_rng(seed)), pose


def test_rig_looks_all_around():
    axes = [c.camera_to_ego()[:3, 2] for c in CAMERAS]
    yaw = sorted(np.degrees(np.arctan2(a[1], a[0])) % 360 for a in axes)
    assert np.diff([*yaw, yaw[0] + 360]).max() < 80
    for camera in CAMERAS:
        pose = camera.camera_to_ego()
        assert rotation_error(pose[:3, :3]) < 1e-12
        assert pose[2, 1] < -0.99  # image rows run downwards
    wide = {c.name: c.focal_share for c in CAMERAS}
    assert min(wide, key=lambda name: wide[name]) == "CAM_BACK"
    assert len({c.delay_us for c in CAMERAS}) == len(CAMERAS)


def test_beams_are_unit_and_cover_the_circle():
    directions = beam_directions()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-6)
    assert len(directions) % NUM_BEAMS == 0
    elevation = np.degrees(np.arcsin(directions[:NUM_BEAMS, 2]))
    assert elevation[0] == pytest.approx(-30.67, abs=0.01)
    assert elevation[-1] == pytest.approx(10.67, abs=0.01)


def test_sweep_is_like_a_real_one(street):
    sweep, _ = sweep_of(street)
    rows = sweep.as_rows()
    assert rows.dtype == np.float32
    assert rows.shape[1] == 5
    assert 15_000 < len(rows) < 34_688
    distance = np.linalg.norm(rows[:, :3], axis=1)
    assert distance.min() > 0.9
    assert distance.max() < 106
    assert set(np.unique(rows[:, 4])) <= set(range(NUM_BEAMS))
    assert 0 < rows[:, 3].min() <= rows[:, 3].max() <= 255


def test_sweep_depends_on_its_seed_alone(street):
    (first, _), (again, _), (other, _) = (sweep_of(street, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.as_rows(), again.as_rows())
    assert len(other.points) != len(first.points)


@pytest.mark.parametrize("theme", ["street", "airside"])
def test_lidar_agrees_with_depth_images(theme, request):
    """Points seen at the same instant and unoccluded from the camera lie at the image's depth."""
    world = request.getfixturevalue(theme)
    sweep, lidar_to_world = sweep_of(world)
    points = sweep.points @ lidar_to_world[:3, :3].T + lidar_to_world[:3, 3]
    agreements = []
    for camera in CAMERAS:
        pose, intrinsics = world.ego_to_world(500_000) @ camera.camera_to_ego(), camera.intrinsics(*SIZE)
        view = render_camera(world, 500_000, pose, intrinsics, *SIZE, antialias=False)
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        ahead = local[:, 2] > 1.0
        local = local[ahead]
        pixel = np.floor(local @ intrinsics.T / local[:, 2:])[:, :2].astype(int)
        inside = np.all((pixel >= 0) & (pixel < (SIZE[1], SIZE[0])), axis=1)
        distance = np.linalg.norm(local[inside], axis=1)
        depth = view.termination_depth[pixel[inside, 1], pixel[inside, 0]]
        # The same surface unless parallax hides it: half a pixel on grazing ground moves depth by some percent.
        ratio = distance / depth
        agreements.append(np.mean(np.abs(ratio - 1) < 0.06))
        assert np.nanmedian(np.abs(distance - depth)) < 0.12
    assert np.mean(agreements) > 0.9
