"""Which voxels a rig observes, against the geometry of each lens written out, and what unseen pixels say: nothing."""

import numpy as np
import pytest
import torch

from storage.geometry.voxel_grid import VoxelGrid
from student.inference.observed_voxels import VoxelSight
from student.model.types import TargetCameras

GRID = VoxelGrid(minimum=(-8.0, -8.0, -8.0), voxel_size=0.8, shape=(20, 20, 20))
CENTRES = GRID.centres_of(np.arange(20**3))
HEIGHT, WIDTH = 24, 32
FOCAL = 9.0
LENS = np.array([-0.05, 0.002, 0.0, 0.0])  # sees behind its own plane
REACH = 4.0
AHEAD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # camera axes in the ego frame
POSE = AHEAD + np.array([[0.0, 0, 0, 0.3], [0, 0, 0, -0.2], [0, 0, 0, 0.1], [0, 0, 0, 0]])


def cameras(*fisheye) -> TargetCameras:
    """Return cameras at one place, each with the lens given, NaN for a pinhole."""
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return TargetCameras(
        intrinsics=intrinsics.repeat(1, len(fisheye), 1, 1),
        camera_to_reference_ego=torch.tensor(POSE).repeat(1, len(fisheye), 1, 1),
        target_is_present=torch.ones(1, len(fisheye), dtype=torch.bool),
        render_height=HEIGHT,
        render_width=WIDTH,
        fisheye=torch.tensor(np.stack(fisheye))[None].float(),
    )


def places(lens):
    """Return column and row of every voxel's centre in a camera, and its distance; NaN where it is not projected."""
    forward, left, up = (CENTRES - POSE[:3, 3]).T
    right, down = -left, -up
    if np.isnan(lens).any():
        scale = np.where(forward > 0, 1 / np.where(forward > 0, forward, 1), np.nan)
    else:
        aside = np.hypot(right, down)
        angle = np.arctan2(aside, forward)
        scale = (angle + lens[0] * angle**3 + lens[1] * angle**5) / aside
    distance = np.sqrt(forward**2 + left**2 + up**2)
    return FOCAL * right * scale + WIDTH / 2, FOCAL * down * scale + HEIGHT / 2, distance


def in_pixels(lens, is_seen):
    column, row, _ = places(lens)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    at = np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)
    return inside & is_seen[at]


EVERYWHERE = np.ones((HEIGHT, WIDTH), bool)
PINHOLE = np.full(4, np.nan)


@pytest.mark.parametrize("lens", [PINHOLE, LENS], ids=["pinhole", "fisheye"])
def test_a_camera_observes_up_to_the_surface_along_its_own_rays(lens):
    depth = np.full((1, HEIGHT, WIDTH), REACH, np.float32)
    observed = VoxelSight(GRID, cameras(lens), EVERYWHERE[None]).before(depth)
    distance = places(lens)[2]
    expected = in_pixels(lens, EVERYWHERE) & (distance <= REACH + GRID.voxel_size * np.sqrt(3))
    np.testing.assert_array_equal(observed, expected)
    assert 0.01 < observed.mean() < 0.5


def test_a_fisheye_observes_beside_and_behind_its_plane_and_a_pinhole_beside_it_does_not_change():
    depth = np.full((2, HEIGHT, WIDTH), np.nan, np.float32)
    both = VoxelSight(GRID, cameras(PINHOLE, LENS), np.stack([EVERYWHERE, EVERYWHERE])).before(depth)
    np.testing.assert_array_equal(both, in_pixels(PINHOLE, EVERYWHERE) | in_pixels(LENS, EVERYWHERE))
    assert both[CENTRES[:, 0] < POSE[0, 3] - 0.5].any()


@pytest.mark.parametrize("lens", [PINHOLE, LENS], ids=["pinhole", "fisheye"])
def test_a_pixel_without_a_ray_observes_nothing_and_one_that_ends_nowhere_observes_all(lens):
    is_seen = np.ones((HEIGHT, WIDTH), bool)
    is_seen[HEIGHT // 2 :] = False  # the vehicle itself: no ray, so no depth
    nowhere = np.full((1, HEIGHT, WIDTH), np.nan, np.float32)
    observed = VoxelSight(GRID, cameras(lens), is_seen[None]).before(nowhere)
    np.testing.assert_array_equal(observed, in_pixels(lens, is_seen))
    sky = VoxelSight(GRID, cameras(lens), EVERYWHERE[None]).before(nowhere)
    np.testing.assert_array_equal(sky, in_pixels(lens, EVERYWHERE))
    assert observed.sum() < 0.8 * sky.sum()


@pytest.mark.parametrize("lens", [PINHOLE, LENS], ids=["pinhole", "fisheye"])
def test_in_view_is_what_some_pixel_with_a_ray_looks_at(lens):
    is_seen = np.ones((HEIGHT, WIDTH), bool)
    is_seen[HEIGHT // 2 :] = False
    sight = VoxelSight(GRID, cameras(lens), is_seen[None])
    np.testing.assert_array_equal(sight.in_view, in_pixels(lens, is_seen))


def test_a_voxel_is_seen_past_what_is_occupied_and_not_behind_it():
    """A wall two voxels thick across half of the view: its face is seen, and what lies before and beside it."""
    sight = VoxelSight(GRID, cameras(PINHOLE), EVERYWHERE[None])
    wall = np.zeros(GRID.shape, bool)
    wall[14:16, 10:] = True
    nothing = np.zeros(GRID.num_voxels, bool)
    seen = sight.observed(nothing, wall.reshape(-1)).reshape(GRID.shape)
    in_view = sight.in_view.reshape(GRID.shape)
    np.testing.assert_array_equal(seen[:14], in_view[:14])
    assert seen[14, 10:][in_view[14, 10:]].all()
    assert not seen[16:, 12:].any()
    np.testing.assert_array_equal(seen[:, :8], in_view[:, :8])
    behind = nothing.copy()
    behind[-1] = True
    np.testing.assert_array_equal(sight.observed(behind, wall.reshape(-1)), seen.reshape(-1) | behind)
    assert behind.sum() == 1
