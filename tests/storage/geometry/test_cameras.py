import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.geometry.cameras import project, scale_intrinsics, unproject

INTRINSICS = np.array([[120.0, 0.5, 81.0], [0.0, 118.0, 44.0], [0.0, 0.0, 1.0]])


@st.composite
def intrinsics(draw) -> np.ndarray:
    fx, fy = draw(st.floats(10, 3000)), draw(st.floats(10, 3000))
    cx, cy = draw(st.floats(-10, 2000)), draw(st.floats(-10, 2000))
    return np.array([[fx, draw(st.floats(-2, 2)), cx], [0, fy, cy], [0, 0, 1]])


def pixels(shape):
    return hnp.arrays(np.float64, shape, elements=st.floats(-500, 2500, width=32))


@given(matrix=intrinsics(), points=pixels((4, 2)), depth=st.floats(0.1, 500))
def test_project_undoes_unproject(matrix, points, depth):
    back, camera_depth = project(unproject(points, matrix) * depth, matrix)
    np.testing.assert_allclose(back, points, atol=1e-8)
    assert (camera_depth > 0).all()
    assert (camera_depth <= depth + 1e-9).all()


@given(matrix=intrinsics(), points=pixels((4, 2)))
def test_directions_have_unit_length_and_point_forward(matrix, points):
    directions = unproject(points, matrix)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0)
    assert (directions[:, 2] > 0).all()


@given(matrix=intrinsics(), points=pixels((2, 3, 2)))
def test_torch_agrees_with_numpy(matrix, points):
    directions = unproject(torch.from_numpy(points), torch.from_numpy(matrix))
    np.testing.assert_allclose(directions.numpy(), unproject(points, matrix), atol=1e-12)
    for ours, theirs in zip(
        project(directions, torch.from_numpy(matrix)), project(directions.numpy(), matrix), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-9)


@given(matrix=intrinsics(), to_height=st.integers(1, 900), to_width=st.integers(1, 1600))
def test_resizing_moves_pixels_in_proportion(matrix, to_height, to_width):
    """A point keeps its place relative to the image's corners: no half pixel is gained or lost."""
    point = np.array([1.0, -0.5, 4.0])
    before, _ = project(point, matrix)
    scaled = scale_intrinsics(matrix, from_size=(900, 1600), to_size=(to_height, to_width))
    after, _ = project(point, scaled)
    np.testing.assert_allclose(after / [to_width, to_height], before / [1600, 900], rtol=1e-9, atol=1e-9)
    assert scaled[2].tolist() == [0, 0, 1]


def test_scaling_leaves_its_input_alone():
    before = INTRINSICS.copy()
    scale_intrinsics(INTRINSICS, from_size=(90, 160), to_size=(45, 80))
    np.testing.assert_array_equal(INTRINSICS, before)


def test_axes_are_opencv():
    pixel, depth = project(np.array([1.0, 2.0, 10.0]), INTRINSICS)
    assert pixel[0] > INTRINSICS[0, 2]  # right of the centre
    assert pixel[1] > INTRINSICS[1, 2]  # below the centre
    assert depth == 10.0


def test_one_matrix_serves_a_batch_and_a_batch_of_matrices_too():
    points = np.random.default_rng(0).uniform(1, 5, (2, 6, 3))
    alone, _ = project(points, INTRINSICS[None, None])
    batch, _ = project(points, np.broadcast_to(INTRINSICS, (2, 6, 3, 3)))
    np.testing.assert_allclose(alone, batch, rtol=1e-12)  # other strides may take other vector instructions


def test_gradients_flow():
    points = torch.tensor([[0.3, -0.2, 2.0]], dtype=torch.float64, requires_grad=True)
    matrix = torch.from_numpy(INTRINSICS).requires_grad_()
    assert torch.autograd.gradcheck(project, (points, matrix))
    assert torch.autograd.gradcheck(lambda p, m: unproject(p[..., :2], m), (points, matrix))


def test_point_behind_the_camera_has_negative_depth():
    _, depth = project(np.array([[0.0, 0.0, -3.0]]), INTRINSICS)
    assert depth == pytest.approx(-3.0)
