import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from storage.geometry.cameras import project_camera
from storage.geometry.in_image import points_in_image
from storage.geometry.transforms import apply_se3, invert_se3

SIZE = (12, 16)
INTRINSICS = np.array([[5.0, 0.4, 7.3], [0, 4.5, 6.2], [0, 0, 1]])
POSE = np.eye(4)
POSE[:3, :3] = Rotation.from_euler("xyz", [0.3, -0.8, 0.2]).as_matrix()
POSE[:3, 3] = [1.0, -0.5, 1.6]
LENS = np.array([-0.05, 0.004, 0.0, 0.0])
PINHOLE = np.full(4, np.nan)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lens", [None, PINHOLE, LENS], ids=["None", "NaN", "fisheye"])
def test_it_keeps_what_the_camera_model_puts_inside(lens, dtype):
    points = np.random.default_rng(0).normal(0, 4, (4000, 3))
    points[::100] = np.nan
    is_valid = np.random.default_rng(1).random(SIZE) < 0.7
    seen = points_in_image(points.astype(dtype), POSE, INTRINSICS, lens, size=SIZE, near=2.0, is_valid=is_valid)
    in_camera = apply_se3(invert_se3(POSE), points)
    pixels, depth = project_camera(in_camera, INTRINSICS, lens)
    distance = np.linalg.norm(in_camera, axis=-1)
    is_far = (depth if lens is not LENS else distance) >= 2.0
    inside = is_far & ((pixels >= 0) & (pixels < SIZE[::-1])).all(axis=-1)
    row, column = np.where(inside[:, None], pixels, 0).astype(int).T[::-1]
    wanted = np.flatnonzero(inside & is_valid[row, column])
    np.testing.assert_array_equal(seen.index, wanted)
    assert len(wanted) > 300
    tolerance = {"rtol": 1e-4 if dtype == np.float32 else 1e-9, "atol": 1e-4 if dtype == np.float32 else 1e-9}
    np.testing.assert_allclose(seen.pixels, pixels[wanted], **tolerance)
    np.testing.assert_allclose(seen.termination_depth, distance[wanted], **tolerance)
    np.testing.assert_allclose(seen.camera_depth, depth[wanted], **tolerance)
    assert seen.pixels.dtype == seen.termination_depth.dtype == seen.camera_depth.dtype == dtype
    np.testing.assert_array_equal((seen.row, seen.column), seen.pixels.astype(int).T[::-1])


@pytest.mark.parametrize("lens", [None, LENS], ids=["pinhole", "fisheye"])
def test_without_points_there_is_nothing(lens):
    seen = points_in_image(np.zeros((0, 3)), POSE, INTRINSICS, lens, size=SIZE, near=1.0, is_valid=np.ones(SIZE, bool))
    assert all(len(part) == 0 for part in seen)


def test_rounding_never_lifts_a_pixel_out_of_the_image():
    width = np.float32(13)  # no power of two: products and quotients are rounded
    depth = np.linspace(1, 50, 20001, dtype=np.float32)
    points = np.stack([np.nextafter(width * depth, np.float32(0)), 0 * depth, depth], axis=-1)
    seen = points_in_image(points, np.eye(4), np.eye(3), size=(1, 13), near=1.0)
    assert len(seen.index) > 10000
    assert seen.column.max() == 12
