"""The group axioms, over batch axes, precisions and both array libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.geometry.transforms import (
    apply_se3,
    compose,
    from_rotation_translation,
    invert_se3,
    quat_wxyz_to_rotation,
    rotate,
    rotation_error,
    rotation_to_quat_wxyz,
)

# Rounding of the arithmetic itself, for rotations of unit size and translations up to 100 m.
TOLERANCE = {"float32": 3e-4, "float64": 1e-11}
LIBRARIES = {
    f"{library} {dtype}": (library, dtype) for library in ("numpy", "torch") for dtype in ("float32", "float64")
}
BATCHES = st.sampled_from([(), (1,), (5,), (2, 3), (0,)])


@pytest.fixture(params=LIBRARIES, scope="module")
def arrays(request):
    """A converter from float64 numpy, and the tolerance that goes with it."""
    library, dtype = LIBRARIES[request.param]

    def convert(array: np.ndarray):
        array = np.asarray(array, dtype)
        return torch.from_numpy(array.copy()) if library == "torch" else array

    return convert, TOLERANCE[dtype]


@st.composite
def quaternions(draw, batch: tuple[int, ...]) -> np.ndarray:
    """Unit quaternions: anywhere, and on purpose next to no rotation and to half a turn, where formulas break."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axis = rng.normal(size=(*batch, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = draw(st.sampled_from([0.0, 1e-9, 1e-4, 1.0, np.pi - 1e-7, np.pi])) + 0.0 * axis[..., :1]
    if draw(st.booleans()):
        angle = rng.uniform(0, np.pi, size=angle.shape)
    return np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * axis], axis=-1)


@st.composite
def transforms(draw, batch: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation = quat_wxyz_to_rotation(draw(quaternions(batch)))
    return from_rotation_translation(rotation, rng.uniform(-100, 100, (*batch, 3)))


@st.composite
def batched_transforms(draw, count: int) -> list[np.ndarray]:
    batch = draw(BATCHES)
    return [draw(transforms(batch)) for _ in range(count)]


@given(made=batched_transforms(2))
def test_closure(arrays, made):
    convert, tolerance = arrays
    product = compose(convert(made[0]), convert(made[1]))
    assert (np.asarray(rotation_error(product[..., :3, :3])) <= tolerance).all()
    np.testing.assert_array_equal(np.asarray(product[..., 3, :]), np.broadcast_to([0, 0, 0, 1], product.shape[:-1]))


@given(made=batched_transforms(1))
def test_inverse_from_both_sides(arrays, made):
    convert, tolerance = arrays
    a_to_b = convert(made[0])
    identity = np.broadcast_to(np.eye(4), a_to_b.shape)
    np.testing.assert_allclose(np.asarray(compose(a_to_b, invert_se3(a_to_b))), identity, atol=tolerance)
    np.testing.assert_allclose(np.asarray(compose(invert_se3(a_to_b), a_to_b)), identity, atol=tolerance)


@given(made=batched_transforms(3))
def test_associativity(arrays, made):
    convert, tolerance = arrays
    a, b, c = (convert(m) for m in made)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    np.testing.assert_allclose(np.asarray(left), np.asarray(right), atol=tolerance)


@given(made=batched_transforms(2))
def test_applying_in_turn_is_applying_the_product(arrays, made):
    convert, tolerance = arrays
    b_to_c, a_to_b = (convert(m) for m in made)
    points = convert(np.random.default_rng(0).uniform(-10, 10, (*made[0].shape[:-2], 7, 3)))
    at_once = apply_se3(compose(b_to_c, a_to_b), points)
    in_turn = apply_se3(b_to_c, apply_se3(a_to_b, points))
    np.testing.assert_allclose(np.asarray(at_once), np.asarray(in_turn), atol=tolerance)


@given(made=batched_transforms(1))
def test_distances_stay_and_directions_do_not_move(arrays, made):
    convert, tolerance = arrays
    a_to_b = convert(made[0])
    points = convert(np.random.default_rng(0).uniform(-10, 10, (*made[0].shape[:-2], 7, 3)))
    moved = apply_se3(a_to_b, points)
    before = np.linalg.norm(np.asarray(points)[..., 1:, :] - np.asarray(points)[..., :1, :], axis=-1)
    after = np.linalg.norm(np.asarray(moved)[..., 1:, :] - np.asarray(moved)[..., :1, :], axis=-1)
    np.testing.assert_allclose(after, before, atol=tolerance)
    turned = np.asarray(rotate(a_to_b, points[..., 1:, :] - points[..., :1, :]))
    np.testing.assert_allclose(turned, np.asarray(moved)[..., 1:, :] - np.asarray(moved)[..., :1, :], atol=tolerance)


@given(quat=BATCHES.flatmap(quaternions))
def test_quaternion_round_trip(arrays, quat):
    convert, tolerance = arrays
    back = np.asarray(rotation_to_quat_wxyz(quat_wxyz_to_rotation(convert(quat))))
    # q and -q are the same rotation; the result has w >= 0, which near half a turn may be either of the two.
    same = np.abs((back * quat).sum(axis=-1))
    np.testing.assert_allclose(same, np.ones(quat.shape[:-1]), atol=tolerance)
    assert (back[..., 0] >= 0).all()


@given(quat=BATCHES.flatmap(quaternions), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_length_of_a_quaternion_does_not_matter(arrays, quat, scale):
    convert, tolerance = arrays
    np.testing.assert_allclose(
        np.asarray(quat_wxyz_to_rotation(convert(scale * quat))),
        np.asarray(quat_wxyz_to_rotation(convert(quat))),
        atol=tolerance,
    )


@given(made=batched_transforms(2))
def test_torch_agrees_with_numpy(made):
    tensors = [torch.from_numpy(m) for m in made]
    points = np.random.default_rng(0).normal(size=(*made[0].shape[:-2], 3, 3))
    for function, numpy_arguments, torch_arguments in (
        (compose, made, tensors),
        (invert_se3, made[:1], tensors[:1]),
        (apply_se3, [made[0], points], [tensors[0], torch.from_numpy(points)]),
        (rotation_to_quat_wxyz, [made[0][..., :3, :3]], [tensors[0][..., :3, :3]]),
        (rotation_error, [made[0][..., :3, :3]], [tensors[0][..., :3, :3]]),
    ):
        numpy_result, torch_result = function(*numpy_arguments), function(*torch_arguments)
        assert isinstance(torch_result, torch.Tensor)
        np.testing.assert_allclose(torch_result.numpy(), numpy_result, atol=1e-12)


@pytest.mark.parametrize(
    ("quat", "axis_x_goes_to"),
    [
        ([1, 0, 0, 0], [1, 0, 0]),
        ([np.sqrt(0.5), 0, 0, np.sqrt(0.5)], [0, 1, 0]),  # a quarter turn to the left about z (up)
        ([np.sqrt(0.5), 0, np.sqrt(0.5), 0], [0, 0, -1]),
        ([0, 1, 0, 0], [1, 0, 0]),
    ],
)
def test_order_is_wxyz_and_turns_are_right_handed(quat, axis_x_goes_to):
    rotation = quat_wxyz_to_rotation(np.array(quat, np.float64))
    np.testing.assert_allclose(rotation @ [1.0, 0, 0], axis_x_goes_to, atol=1e-15)


@pytest.mark.parametrize(
    ("matrix", "least"),
    [(2 * np.eye(3), 2.9), (np.zeros((3, 3)), 0.9), (np.diag([1.0, 1.0, -1.0]), 2.0), (np.eye(3) + 0.01, 0.01)],
)
def test_what_is_no_rotation_is_told(matrix, least):
    assert rotation_error(matrix) >= least


def test_gradients_flow():
    quat = torch.tensor([0.9, 0.1, -0.3, 0.2], dtype=torch.float64, requires_grad=True)
    translation = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    points = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def moved(quat, translation, points):
        a_to_b = from_rotation_translation(quat_wxyz_to_rotation(quat), translation)
        return apply_se3(invert_se3(a_to_b), points), rotation_to_quat_wxyz(a_to_b[:3, :3])

    assert torch.autograd.gradcheck(moved, (quat, translation, points))
