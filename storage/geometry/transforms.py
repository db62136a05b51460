"""Rigid transforms: ``a_to_b`` maps coordinates in frame ``a`` to frame ``b``, for numpy arrays and torch tensors."""

from typing import Any

from array_api_compat import array_namespace, device
from jaxtyping import Float


def compose(b_to_c: Float[Any, "*batch 4 4"], a_to_b: Float[Any, "*batch 4 4"]) -> Float[Any, "*batch 4 4"]:
    """Return ``a_to_c``: the names cancel from the inside out."""
    return b_to_c @ a_to_b


def invert_se3(a_to_b: Float[Any, "*batch 4 4"]) -> Float[Any, "*batch 4 4"]:
    """Return ``b_to_a`` of a rigid transform, from its transpose: exact where a general inverse would drift."""
    xp = array_namespace(a_to_b)
    rotation_t = xp.matrix_transpose(a_to_b[..., :3, :3])
    translation = -(rotation_t @ a_to_b[..., :3, 3:])
    upper = xp.concat([rotation_t, translation], axis=-1)
    return xp.concat([upper, a_to_b[..., 3:, :]], axis=-2)


def apply_se3(
    a_to_b: Float[Any, "*batch 4 4"], points_a: Float[Any, "*batch points 3"]
) -> Float[Any, "*batch points 3"]:
    """Return points of frame ``a`` in frame ``b``, metres."""
    xp = array_namespace(a_to_b, points_a)
    return points_a @ xp.matrix_transpose(a_to_b[..., :3, :3]) + a_to_b[..., None, :3, 3]


def rotate(
    a_to_b: Float[Any, "*batch 4 4"], directions_a: Float[Any, "*batch points 3"]
) -> Float[Any, "*batch points 3"]:
    """Return directions of frame ``a`` in frame ``b``: rotated, not moved."""
    xp = array_namespace(a_to_b, directions_a)
    return directions_a @ xp.matrix_transpose(a_to_b[..., :3, :3])


def from_rotation_translation(
    rotation: Float[Any, "*batch 3 3"], translation: Float[Any, "*batch 3"]
) -> Float[Any, "*batch 4 4"]:
    """Return the 4x4 transform of a rotation and a translation in metres."""
    xp = array_namespace(rotation, translation)
    upper = xp.concat([rotation, translation[..., None]], axis=-1)
    bottom = xp.zeros_like(upper[..., :1, :])
    bottom[..., 0, 3] = 1.0
    return xp.concat([upper, bottom], axis=-2)


def quat_wxyz_to_rotation(quat_wxyz: Float[Any, "*batch 4"]) -> Float[Any, "*batch 3 3"]:
    """Return the rotation matrix of a quaternion, which need not have unit length but must not be zero."""
    xp = array_namespace(quat_wxyz)
    unit = quat_wxyz / xp.linalg.vector_norm(quat_wxyz, axis=-1, keepdims=True)
    w, x, y, z = unit[..., 0], unit[..., 1], unit[..., 2], unit[..., 3]
    rows = [
        xp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        xp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        xp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def rotation_to_quat_wxyz(rotation: Float[Any, "*batch 3 3"]) -> Float[Any, "*batch 4"]:
    """Return the unit quaternion (w >= 0) of a rotation matrix.

    The largest of the four components is found first and the others divided by it, so no rotation is ill-conditioned.
    """
    xp = array_namespace(rotation)
    r = rotation
    m00, m11, m22 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    products = xp.stack(  # row i holds 4 * q_i * (w, x, y, z)
        [
            xp.stack(
                [
                    1 + m00 + m11 + m22,
                    r[..., 2, 1] - r[..., 1, 2],
                    r[..., 0, 2] - r[..., 2, 0],
                    r[..., 1, 0] - r[..., 0, 1],
                ],
                axis=-1,
            ),
            xp.stack(
                [
                    r[..., 2, 1] - r[..., 1, 2],
                    1 + m00 - m11 - m22,
                    r[..., 1, 0] + r[..., 0, 1],
                    r[..., 0, 2] + r[..., 2, 0],
                ],
                axis=-1,
            ),
            xp.stack(
                [
                    r[..., 0, 2] - r[..., 2, 0],
                    r[..., 1, 0] + r[..., 0, 1],
                    1 - m00 + m11 - m22,
                    r[..., 2, 1] + r[..., 1, 2],
                ],
                axis=-1,
            ),
            xp.stack(
                [
                    r[..., 1, 0] - r[..., 0, 1],
                    r[..., 0, 2] + r[..., 2, 0],
                    r[..., 2, 1] + r[..., 1, 2],
                    1 - m00 - m11 + m22,
                ],
                axis=-1,
            ),
        ],
        axis=-2,
    )
    squares = xp.stack([products[..., i, i] for i in range(4)], axis=-1)
    largest = xp.argmax(squares, axis=-1)
    one_hot = xp.astype(largest[..., None] == xp.arange(4, device=device(largest)), rotation.dtype)
    row = xp.sum(products * one_hot[..., None], axis=-2)
    quat = row / xp.linalg.vector_norm(row, axis=-1, keepdims=True)
    return xp.where(quat[..., :1] < 0, -quat, quat)


def rotation_error(rotation: Float[Any, "*batch 3 3"]) -> Float[Any, "*batch"]:
    """Return how far a matrix is from a rotation: the largest entry of ``RᵀR - I``, or 2 for a reflection."""
    xp = array_namespace(rotation)
    identity = xp.eye(3, dtype=rotation.dtype, device=device(rotation))
    defect = xp.max(xp.max(xp.abs(xp.matrix_transpose(rotation) @ rotation - identity), axis=-1), axis=-1)
    return xp.where(xp.linalg.det(rotation) < 0, 2.0 * xp.ones_like(defect), defect)
