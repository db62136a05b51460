import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.geometry.cameras import project, project_camera, scale_intrinsics, unproject, unproject_camera
from storage.geometry.fisheye import largest_angle, project_fisheye, unproject_fisheye
from storage.geometry.rays import camera_rays, pixel_grid

WIDE = np.array([[330.0, 0.7, 640.3], [0.0, 329.0, 480.1], [0.0, 0.0, 1.0]])
PINHOLE = np.full(4, np.nan)
# Arrays of another shape may go through other vector instructions, which round the last bits otherwise.
ROUNDING = {"rtol": 1e-10, "atol": 1e-8}


@st.composite
def lenses(draw) -> np.ndarray:
    """Coefficients of lenses as calibrations give them: some grow for ever, some fold within the field of view."""
    return np.array([draw(st.floats(-bound, bound)) for bound in (0.2, 0.05, 0.02, 0.005)])


@st.composite
def matrices(draw) -> np.ndarray:
    fx, fy = draw(st.floats(50, 1500)), draw(st.floats(50, 1500))
    return np.array(
        [[fx, draw(st.floats(-2, 2)), draw(st.floats(0, 2000))], [0, fy, draw(st.floats(0, 1200))], [0, 0, 1]]
    )


def directions_within(angle: float, seed: int, count: int = 64) -> np.ndarray:
    random = np.random.default_rng(seed)
    theta, phi = random.uniform(0, angle, count), random.uniform(-np.pi, np.pi, count)
    theta[0] = 0.0
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)


@given(lens=lenses(), matrix=matrices(), seed=st.integers(0, 1 << 20), distance=st.floats(0.1, 300))
def test_unproject_and_project_undo_each_other(lens, matrix, seed, distance):
    directions = directions_within(0.999 * float(largest_angle(lens)), seed)
    pixels, depth = project_fisheye(directions * distance, matrix, lens)
    np.testing.assert_allclose(depth, directions[:, 2] * distance)
    found = unproject_fisheye(pixels, matrix, lens)
    np.testing.assert_allclose(project_fisheye(found, matrix, lens)[0], pixels, atol=1e-6)
    # Near the fold a pixel hardly moves with the angle, so the angle is held to less there.
    inner = directions[:, 2] > np.cos(0.9 * float(largest_angle(lens)))
    np.testing.assert_allclose(found[inner], directions[inner], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0)


@given(lens=lenses(), matrix=matrices(), seed=st.integers(0, 1 << 20))
def test_agrees_with_opencv(lens, matrix, seed):
    matrix[0, 1] = 0.0  # its matrix has no skew; that is a coefficient of its own
    points = 7.0 * directions_within(min(1.4, 0.95 * float(largest_angle(lens))), seed)
    theirs, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), matrix, lens)
    ours, _ = project_fisheye(points, matrix, lens)
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-6)


@given(lens=lenses(), seed=st.integers(0, 1 << 20))
def test_torch_agrees_with_numpy(lens, seed):
    points = 3.0 * directions_within(np.pi, seed)
    arguments = [torch.from_numpy(a) for a in (points, WIDE, lens)]
    pixels, _ = project_fisheye(points, WIDE, lens)
    np.testing.assert_allclose(project_fisheye(*arguments)[0].numpy(), pixels, rtol=1e-12, atol=1e-9)
    grid = pixel_grid(6, 8) * 160
    np.testing.assert_allclose(
        unproject_fisheye(torch.from_numpy(grid), *arguments[1:]).numpy(),
        unproject_fisheye(grid, WIDE, lens),
        atol=1e-9,
    )


def test_every_pixel_up_to_the_fold_has_its_angle():
    """Where the model bends both ways, Newton's method from afar went to and fro and never came to the one angle."""
    lens = np.array([0.16804208, 0.0, -0.00270429, 0.0])
    angles = np.linspace(0.0, 0.999 * float(largest_angle(lens)), 20_001)
    pixels, _ = project_fisheye(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=-1), WIDE, lens)
    directions = unproject_fisheye(pixels, WIDE, lens)
    np.testing.assert_allclose(np.arctan2(directions[:, 0], directions[:, 2]), angles, atol=1e-9)


def test_sees_behind_itself():
    """A lens of more than 180 degrees: the point has a negative depth and a pixel."""
    lens = np.array([-0.02, 0.003, -0.001, 0.0001])
    behind = np.array([np.sin(1.7), 0.0, np.cos(1.7)])
    pixel, depth = project_fisheye(behind, WIDE, lens)
    assert depth < 0
    np.testing.assert_allclose(unproject_fisheye(pixel, WIDE, lens), behind, atol=1e-12)


def test_nothing_is_seen_beyond_the_fold():
    lens = np.array([-0.2, 0.0, 0.0, 0.0])
    fold = float(largest_angle(lens))
    assert fold == pytest.approx(np.sqrt(1 / 0.6), abs=1e-9)
    angles = np.array([0.99 * fold, 1.01 * fold])
    pixels, _ = project_fisheye(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1), WIDE, lens)
    assert np.isfinite(pixels[0]).all()
    assert np.isnan(pixels[1]).all()
    circle = WIDE[:2, 2] + np.array([[0.99], [1.01]]) * [WIDE[0, 0] * fold * (1 - 0.2 * fold**2), 0.0]
    directions = unproject_fisheye(circle, WIDE, lens)
    assert np.isfinite(directions[0]).all()
    assert np.isnan(directions[1]).all()


@pytest.mark.parametrize("point", [(0.0, 0.0, 5.0), (0.0, 0.0, -5.0), (0.0, 0.0, 0.0)])
def test_on_the_axis(point):
    pixel, _ = project_fisheye(np.array(point), WIDE, np.zeros(4))
    np.testing.assert_array_equal(pixel, WIDE[:2, 2] if point[2] > 0 else [np.nan, np.nan])


def test_gradients_are_finite_everywhere():
    points = torch.tensor(
        [[0.3, -0.2, 2.0], [1.0, 0.5, -0.1], [0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True
    )
    lens = torch.tensor([0.02, -0.01, 0.001, 0.0], dtype=torch.float64, requires_grad=True)
    matrix = torch.from_numpy(WIDE).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, m, k: project_fisheye(p, m, k)[0], (points[:2], matrix, lens))
    mixed = torch.stack([lens, lens.new_full((4,), torch.nan), lens.new_full((4,), torch.nan)])
    project_camera(points, matrix.expand(3, 3, 3), mixed)[0].nansum().backward()
    assert torch.isfinite(points.grad).all()
    assert torch.isfinite(lens.grad).all()


class TestMixedRigs:
    LENS = np.array([0.03, -0.01, 0.002, -0.0005])

    @given(seed=st.integers(0, 1 << 20))
    def test_each_camera_is_projected_by_its_own_model(self, seed):
        points = 4.0 * directions_within(np.pi, seed)
        matrices_of = np.stack([WIDE, WIDE])[:, None]
        fisheye = np.stack([PINHOLE, self.LENS])[:, None]
        both = np.broadcast_to(points, (2, *points.shape))
        pixels, depth = project_camera(both, matrices_of, fisheye)
        ahead = points[:, 2] > 0
        np.testing.assert_allclose(pixels[0][ahead], project(points[ahead], WIDE)[0], **ROUNDING)
        assert np.isnan(pixels[0][~ahead]).all()
        np.testing.assert_allclose(pixels[1], project_fisheye(points, WIDE, self.LENS)[0], **ROUNDING)
        np.testing.assert_array_equal(depth, both[..., 2])

    def test_each_camera_is_unprojected_by_its_own_model(self):
        grid = pixel_grid(8, 12).reshape(-1, 2) * 100
        fisheye = np.stack([PINHOLE, self.LENS])[:, None]
        directions = unproject_camera(np.stack([grid, grid]), np.stack([WIDE, WIDE])[:, None], fisheye)
        np.testing.assert_allclose(directions[0], unproject(grid, WIDE), **ROUNDING)
        np.testing.assert_allclose(directions[1], unproject_fisheye(grid, WIDE, self.LENS), **ROUNDING)

    def test_none_means_that_all_are_pinholes(self):
        grid = pixel_grid(3, 4)
        np.testing.assert_allclose(
            unproject_camera(grid, WIDE, None), unproject_camera(grid, WIDE, PINHOLE), **ROUNDING
        )

    def test_rays_of_a_fisheye(self):
        turned = np.eye(4)[[0, 2, 1, 3]]
        _, directions = camera_rays(WIDE, turned, height=4, width=5, fisheye=self.LENS)
        expected = unproject_fisheye(pixel_grid(4, 5), WIDE, self.LENS)[..., [0, 2, 1]]
        np.testing.assert_allclose(directions, expected, atol=1e-12)


def test_resizing_keeps_the_lens():
    lens, point = np.array([0.03, -0.01, 0.002, -0.0005]), np.array([2.0, -1.0, 0.5])
    smaller = scale_intrinsics(WIDE, from_size=(960, 1280), to_size=(240, 640))
    np.testing.assert_allclose(
        project_fisheye(point, smaller, lens)[0], project_fisheye(point, WIDE, lens)[0] * [0.5, 0.25], atol=1e-9
    )
