"""Visibility masks against dense sampling and against walls whose shadows are known."""

import numpy as np
import pytest

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.procedural.appearance.lighting import make_lighting
from storage.procedural.sensing.occupancy import OccupancyBuilder, voxel_centres
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.sensors import lidar_to_ego, simulate_lidar
from storage.procedural.sensing.visibility import camera_visibility, lidar_visibility
from storage.procedural.world.mesh import Surface
from storage.procedural.world.solids import panel
from storage.procedural.world.traffic import AlongRoad, Road, constant_speed
from storage.procedural.world.world import World
from storage.taxonomy import OCC3D_FREE, Theme

WALL_X = 10.1  # in the middle of a voxel's x range, so that rounding decides nothing
LEVEL = np.array([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
FISHEYE = np.array([0.02, -0.004, 0.0, 0.0])


@pytest.fixture(scope="module")
def walled() -> World:
    """A wall across the way, as wide as a grid and higher."""
    corners = [(WALL_X, -60, -3), (WALL_X, 60, -3), (WALL_X, 60, 12), (WALL_X, -60, 12)]
    return World(
        theme=Theme.STREET,
        seed=0,
        duration_s=2.0,
        lighting=make_lighting(np.random.default_rng(0), "sunny"),
        stuff=[panel([(float(x), float(y), float(z)) for x, y, z in corners], Surface("concrete", "manmade"))],
        actors=[],
        ego=AlongRoad(road=Road(curvature=0.0), start=0.0, offset=0.0, direction=1, profile=constant_speed(0.0, 2.0)),
    )


@pytest.mark.parametrize("fisheye", [None, FISHEYE])
def test_camera_sees_up_to_the_wall_and_no_further(walled, fisheye):
    camera = PosedCamera(
        time_us=0,
        camera_to_world=LEVEL,
        intrinsics=np.array([[60.0, 0, 48], [0, 60.0, 32], [0, 0, 1]]),
        height=64,
        width=96,
        fisheye=fisheye,
    )
    view = render_view(walled, camera, antialias=False)
    seen = camera_visibility(walled.snapshot(0), np.eye(4), camera, view.termination_depth)
    centres = voxel_centres()
    is_in_image = camera.holds(camera.project(centres.reshape(-1, 3))).reshape(seen.shape)
    reached = centres[..., 0] - OCC3D_GRID.voxel_size / 2 < WALL_X
    np.testing.assert_array_equal(seen & is_in_image, is_in_image & reached)
    beside = seen & ~is_in_image  # only where the ray of a pixel at the rim ends
    assert beside.sum() < 0.02 * seen.sum()
    assert (np.abs(centres[beside][:, 0] - WALL_X) < OCC3D_GRID.voxel_size / 2).all()


def test_lidar_sees_what_its_beams_cross(walled):
    lidar_to_world = lidar_to_ego()
    sweep = simulate_lidar(walled, 0, lidar_to_world, np.random.default_rng(0))
    seen = lidar_visibility(walled.snapshot(0), np.eye(4), lidar_to_world, sweep)
    centres = voxel_centres()
    assert not seen[centres[..., 0] - OCC3D_GRID.voxel_size / 2 > WALL_X].any()
    assert not seen[centres[..., 0] + OCC3D_GRID.voxel_size / 2 < lidar_to_world[0, 3]].any()  # no return from behind
    at_wall = np.abs(centres[..., 0] - WALL_X) < OCC3D_GRID.voxel_size / 2
    near = (np.abs(centres[..., 1]) < 4.0) & (np.abs(centres[..., 2] - 1.8) < 1.0)
    assert seen[at_wall & near].mean() > 0.9
    between = (centres[..., 0] > 2) & (centres[..., 0] < 9) & (np.abs(centres[..., 1]) < 1.0)
    assert seen[between & (np.abs(centres[..., 2] - 1.84) < 0.2)].all()


@pytest.mark.parametrize("theme", ["street", "airside"])
def test_every_return_ends_in_a_voxel_that_is_scanned_and_filled(theme, request):
    world: World = request.getfixturevalue(theme)
    time_us = 500_000
    grid_to_world = world.ego_to_world(time_us)
    lidar_to_world = grid_to_world @ lidar_to_ego()
    sweep = simulate_lidar(world, time_us, lidar_to_world, np.random.default_rng(1))
    seen = lidar_visibility(world.snapshot(time_us), grid_to_world, lidar_to_world, sweep)
    grid = OccupancyBuilder(world).occupancy(time_us)
    mount = lidar_to_ego()
    points = (sweep.points @ mount[:3, :3].T + mount[:3, 3] - OCC3D_GRID.minimum) / OCC3D_GRID.voxel_size
    clear = np.all(np.abs(points - np.round(points)) > 0.12, axis=1)  # beyond the noise of a range
    inside = clear & np.all((points > 0) & (points < grid.shape), axis=1)
    index = tuple(np.floor(points[inside]).astype(int).T)
    assert inside.sum() > 2000
    assert seen[index].mean() > 0.999
    assert np.mean(grid[index] != OCC3D_FREE) > 0.98
    assert 0.02 < seen.mean() < 0.4
