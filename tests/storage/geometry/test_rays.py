import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.geometry.cameras import project, unproject
from storage.geometry.rays import (
    camera_depth_to_termination_depth,
    camera_rays,
    pixel_grid,
    points_on_rays,
    termination_depth_to_camera_depth,
)
from storage.geometry.transforms import apply_se3, from_rotation_translation, invert_se3, quat_wxyz_to_rotation

INTRINSICS = np.array([[9.0, 0.0, 6.5], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]])
CAMERA_TO_WORLD = from_rotation_translation(
    quat_wxyz_to_rotation(np.array([0.8, 0.3, -0.5, 0.1])), np.array([4.0, -2.0, 1.5])
)
HEIGHT, WIDTH = 8, 13


def test_first_pixel_has_its_centre_at_half():
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[1, 2].tolist() == [2.5, 1.5]


@given(distance=st.floats(0.1, 200))
def test_rays_meet_the_pixels_they_were_cast_through(distance):
    origins, directions = camera_rays(INTRINSICS, CAMERA_TO_WORLD, height=HEIGHT, width=WIDTH)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0)
    points = points_on_rays(origins, directions, np.full((HEIGHT, WIDTH), distance))
    in_camera = apply_se3(invert_se3(CAMERA_TO_WORLD), points.reshape(-1, 3))
    pixels, camera_depth = project(in_camera, INTRINSICS)
    grid = pixel_grid(HEIGHT, WIDTH).reshape(-1, 2)
    np.testing.assert_allclose(pixels, grid, atol=1e-8)
    # The depth along the axis, turned back, is the distance that was walked along the ray.
    walked = camera_depth_to_termination_depth(camera_depth, grid, INTRINSICS)
    np.testing.assert_allclose(walked, distance, rtol=1e-9)


@given(depth=st.floats(0.01, 500), u=st.floats(0, 13), v=st.floats(0, 8))
def test_depth_conversions_undo_each_other(depth, u, v):
    pixels, camera_depth = np.array([u, v]), np.array(depth)
    along_ray = camera_depth_to_termination_depth(camera_depth, pixels, INTRINSICS)
    assert along_ray >= camera_depth * (1 - 1e-12)
    back = termination_depth_to_camera_depth(along_ray, pixels, INTRINSICS)
    np.testing.assert_allclose(back, camera_depth, rtol=1e-12)


def test_depths_agree_on_the_axis_alone():
    axis = np.array([[6.5, 4.0], [0.5, 0.5]])
    along_ray = camera_depth_to_termination_depth(np.array([10.0, 10.0]), axis, INTRINSICS)
    assert along_ray[0] == 10.0
    assert along_ray[1] > 12.0  # at the corner of a wide camera the two differ by a fifth and more


def test_undefined_depth_stays_undefined():
    pixels = pixel_grid(1, 2)
    depth = np.array([[np.nan, 3.0]])
    for convert in (camera_depth_to_termination_depth, termination_depth_to_camera_depth):
        assert np.isnan(convert(depth, pixels, INTRINSICS)).tolist() == [[True, False]]


def test_torch_agrees_with_numpy():
    pixels = pixel_grid(HEIGHT, WIDTH)
    depth = np.random.default_rng(0).uniform(1, 50, (HEIGHT, WIDTH))
    matrix = torch.from_numpy(INTRINSICS)
    ours = camera_depth_to_termination_depth(torch.from_numpy(depth), torch.from_numpy(pixels), matrix)
    np.testing.assert_allclose(ours.numpy(), camera_depth_to_termination_depth(depth, pixels, INTRINSICS))
    rays = unproject(pixels, INTRINSICS)
    on_rays = points_on_rays(torch.zeros(HEIGHT, WIDTH, 3), torch.from_numpy(rays), torch.from_numpy(depth))
    np.testing.assert_allclose(on_rays.numpy(), rays * depth[..., None])
