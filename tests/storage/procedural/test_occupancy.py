import numpy as np
import pytest

from storage.geometry.rays import camera_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.procedural.sensing.occupancy import (
    OccupancyBuilder,
    sample_surface,
    voxel_centres,
)
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.sensing.visibility import camera_visibility
from storage.procedural.world.mesh import placement
from storage.taxonomy import OCC3D_FREE, SKY_ID, occ3d_table

SIZE = (112, 200)
TIME_US = 500_000


@pytest.fixture(scope="module", params=["street", "airside"])
def scene(request):
    """World, occupancy, visibility, and the views of all cameras at one instant."""
    world = request.getfixturevalue(request.param)
    grid = OccupancyBuilder(world).occupancy(TIME_US)
    views, visible = [], np.zeros(OCC3D_GRID.shape, bool)
    for camera in CAMERAS:
        pose, intrinsics = world.ego_to_world(TIME_US) @ camera.camera_to_ego(), camera.intrinsics(*SIZE)
        posed = PosedCamera(time_us=TIME_US, camera_to_world=pose, intrinsics=intrinsics, height=SIZE[0], width=SIZE[1])
        view = render_view(world, posed, antialias=False)
        views.append((pose, intrinsics, view))
        snapshot, grid_to_world = world.snapshot(TIME_US), world.ego_to_world(TIME_US)
        visible |= camera_visibility(snapshot, grid_to_world, posed, view.termination_depth)
    return world, grid, visible, views


def voxels_of(world, pose, intrinsics, view):
    """Return voxel indices and classes of every pixel whose surface lies well inside the grid."""
    origins, directions = camera_rays(intrinsics, pose, height=SIZE[0], width=SIZE[1])
    points = (origins + directions * view.termination_depth[..., None]).reshape(-1, 3)
    world_to_ego = np.linalg.inv(world.ego_to_world(TIME_US))
    local = (points @ world_to_ego[:3, :3].T + world_to_ego[:3, 3] - OCC3D_GRID.minimum) / OCC3D_GRID.voxel_size
    with np.errstate(invalid="ignore"):
        kept = (view.semantics.reshape(-1) != SKY_ID) & np.all(
            (local > 0.02) & (local < np.array(OCC3D_GRID.shape) - 0.02), 1
        )
    return local[kept], occ3d_table()[view.semantics.reshape(-1)[kept]]


def test_every_surface_seen_fills_its_voxel(scene):
    world, grid, visible, views = scene
    for pose, intrinsics, view in views:
        local, classes = voxels_of(world, pose, intrinsics, view)
        index = tuple(np.floor(local).astype(int).T)
        # Surfaces on a face between voxels may fall to either side.
        clear = np.all(np.abs(local - np.round(local)) > 0.02, axis=1)
        assert np.mean(grid[index][clear] != OCC3D_FREE) > 0.985
        assert np.mean(grid[index][clear] == classes[clear]) > 0.8
        assert np.mean(visible[index][clear]) > 0.999


def test_no_voxel_between_camera_and_surface_is_filled(scene):
    world, grid, _, views = scene
    rng = np.random.default_rng(0)
    for pose, intrinsics, view in views:
        origins, directions = camera_rays(intrinsics, pose, height=SIZE[0], width=SIZE[1])
        depth = np.nan_to_num(view.termination_depth, nan=60.0)
        # Half way along a ray, in a voxel that the ray crosses near its middle, nothing may stand.
        points = (origins + directions * (depth * rng.uniform(0.2, 0.7, depth.shape))[..., None]).reshape(-1, 3)
        world_to_ego = np.linalg.inv(world.ego_to_world(TIME_US))
        local = (points @ world_to_ego[:3, :3].T + world_to_ego[:3, 3] - OCC3D_GRID.minimum) / OCC3D_GRID.voxel_size
        inside = np.all((local > 0) & (local < OCC3D_GRID.shape), axis=1)
        central = inside & np.all(np.abs(local % 1.0 - 0.5) < 0.15, axis=1)
        filled = grid[tuple(np.floor(local[central]).astype(int).T)] != OCC3D_FREE
        assert central.sum() > 50
        assert filled.mean() < 0.03


def test_free_space_is_seen_and_hidden_space_is_not(scene):
    _, grid, visible, _ = scene
    assert 0.1 < visible.mean() < 0.9
    below = voxel_centres()[..., 2] < -0.7  # under the ground
    assert visible[below].mean() < 0.12
    assert np.mean(grid[..., 2] != OCC3D_FREE) > 0.5  # the ground's layer


def test_moving_things_move_in_the_grid(street):
    builder = OccupancyBuilder(street)
    early, late = builder.occupancy(0), builder.occupancy(2_000_000)
    assert np.any(early != late)
    np.testing.assert_array_equal(early, builder.occupancy(0))


def test_samples_lie_on_faces_evenly(street):
    mesh = street.snapshot(0).moving_mesh
    assert mesh is not None
    points, classes = sample_surface(mesh)
    assert len(points) == len(classes)
    low, high = mesh.corners.reshape(-1, 3).min(0), mesh.corners.reshape(-1, 3).max(0)
    assert np.all(points >= low - 1e-4)
    assert np.all(points <= high + 1e-4)
    assert set(np.unique(classes)) == set(np.unique(occ3d_table()[mesh.class_id]))


def test_grid_may_lie_where_no_car_ever_was(street):
    """A grid two voxels to the side holds the same world, two voxels over; one that turns holds the same volume."""
    builder, pose = OccupancyBuilder(street), street.ego_to_world(TIME_US)
    here = builder.occupancy(TIME_US)
    np.testing.assert_array_equal(builder.occupancy_at(TIME_US, pose), here)
    beside = builder.occupancy_at(TIME_US, pose @ placement(0.8, 0.8, 0))
    assert np.mean(beside[:-2, :-2] == here[2:, 2:]) > 0.995
    turned = builder.occupancy_at(TIME_US, pose @ placement(0, 0, 0, np.pi / 2))
    assert np.mean(turned == np.rot90(here, -1)) > 0.98


@pytest.mark.parametrize("pose", [placement(500, 0, 0), placement(0, 0, 3)])
def test_grid_beyond_what_was_sampled_is_refused(street, pose):
    with pytest.raises(ValueError, match="reaches"):
        OccupancyBuilder(street).occupancy_at(0, pose)
