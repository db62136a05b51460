"""Fisheye cameras of the model of (Kannala-Brandt Eq. 6), which is OpenCV's ``fisheye``, for numpy and torch.

A ray at the angle ``theta`` from the optical axis lands at the distance
``theta_d = theta (1 + k1 theta² + k2 theta⁴ + k3 theta⁶ + k4 theta⁸)`` from the principal point, in focal lengths. The
angle may exceed a right one, so a point with ``camera_depth <= 0`` can be seen. The polynomial folds back at some
angle; beyond it the model means nothing: pixels and directions are NaN there.
"""

import math
from typing import Any

from array_api_compat import array_namespace, device
from jaxtyping import Float

_GRID_STEPS = 512  # of the search for the fold
_BISECTIONS = 40
_NARROWINGS = 8  # by halves, before Newton's method: in a wide bracket it may jump between two places for ever
_NEWTON_STEPS = 8
_ON_AXIS = 1e-18  # squared distance from the axis under which a point lies on it, in units of its own


def project_fisheye(
    points_camera: Float[Any, "*batch 3"], intrinsics: Float[Any, "*#batch 3 3"], coefficients: Float[Any, "*#batch 4"]
) -> tuple[Float[Any, "*batch 2"], Float[Any, "*batch"]]:
    """Return pixel coordinates and ``camera_depth`` (z, metres, of either sign) of points in the camera frame.

    Args:
        points_camera: Metres.
        intrinsics: Pixels.
        coefficients: k1 to k4, without unit.

    Returns:
        Pixels, NaN for a point beyond the fold of the model, and the depth along the optical axis.
    """
    xp = array_namespace(points_camera, intrinsics, coefficients)
    x, y, z = points_camera[..., 0], points_camera[..., 1], points_camera[..., 2]
    squared = x * x + y * y
    is_on_axis = squared <= _ON_AXIS * z * z
    radius = xp.sqrt(xp.where(is_on_axis, xp.ones_like(squared), squared))  # 1 keeps the gradient of a root finite
    theta = xp.atan2(xp.where(is_on_axis, xp.zeros_like(radius), radius), z)
    is_seen = (theta < largest_angle(coefficients)) & ~(is_on_axis & (z <= 0))
    off_axis = _distorted(theta, coefficients) / radius
    scale = xp.where(is_on_axis, 1.0 / xp.where(is_on_axis & is_seen, z, xp.ones_like(z)), off_axis)
    scale = xp.where(is_seen, scale, xp.full_like(scale, math.nan))
    homogeneous = xp.stack([x * scale, y * scale, xp.ones_like(scale)], axis=-1)
    return (intrinsics[..., :2, :] @ homogeneous[..., None])[..., 0], z


def unproject_fisheye(
    pixels: Float[Any, "*batch 2"], intrinsics: Float[Any, "*#batch 3 3"], coefficients: Float[Any, "*#batch 4"]
) -> Float[Any, "*batch 3"]:
    """Return the unit ray directions, in the camera frame, through pixel coordinates.

    Args:
        pixels: Right and down.
        intrinsics: Pixels.
        coefficients: k1 to k4, without unit.

    Returns:
        Directions, NaN for a pixel outside the circle on which the model folds.
    """
    xp = array_namespace(pixels, intrinsics, coefficients)
    y = (pixels[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    x = (pixels[..., 0] - intrinsics[..., 0, 2] - intrinsics[..., 0, 1] * y) / intrinsics[..., 0, 0]
    squared = x * x + y * y
    is_on_axis = squared <= _ON_AXIS
    radius = xp.sqrt(xp.where(is_on_axis, xp.ones_like(squared), squared))
    theta = _undistorted(xp.where(is_on_axis, xp.zeros_like(radius), radius), coefficients)
    scale = xp.where(is_on_axis, xp.ones_like(radius), xp.sin(theta) / radius)
    return xp.stack([x * scale, y * scale, xp.cos(theta)], axis=-1)


def largest_angle(coefficients: Float[Any, "*batch 4"]) -> Float[Any, "*batch"]:
    """Return the angle from the axis, radians, up to which the model grows: its fold, or a straight angle."""
    xp = array_namespace(coefficients)
    step = math.pi / _GRID_STEPS
    kind = {"dtype": coefficients.dtype, "device": device(coefficients)}
    grid = xp.linspace(step, math.pi, _GRID_STEPS, **kind)
    falls = _slope(grid, coefficients[..., None, :]) <= 0
    first = xp.min(xp.where(falls, grid, xp.full_like(grid, math.inf)), axis=-1)
    folds = first <= math.pi
    high = xp.where(folds, first, xp.full_like(first, math.pi))
    low = xp.where(folds, high - step, high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        rises = _slope(middle, coefficients) > 0
        low, high = xp.where(rises, middle, low), xp.where(rises, high, middle)
    return low


def _distorted(theta: Float[Any, "*batch"], coefficients: Float[Any, "*#batch 4"]) -> Float[Any, "*batch"]:
    k1, k2, k3, k4 = (coefficients[..., i] for i in range(4))
    s = theta * theta
    return theta * (1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4))))


def _slope(theta: Any, coefficients: Any) -> Any:  # noqa: ANN401 - any two arrays that broadcast
    k1, k2, k3, k4 = (coefficients[..., i] for i in range(4))
    s = theta * theta
    return 1.0 + s * (3.0 * k1 + s * (5.0 * k2 + s * (7.0 * k3 + s * (9.0 * k4))))


def _undistorted(distance: Float[Any, "*batch"], coefficients: Float[Any, "*#batch 4"]) -> Float[Any, "*batch"]:
    """Return the angle of a distance from the principal point, NaN beyond the fold, by Newton's method in a bracket."""
    xp = array_namespace(distance, coefficients)
    limit = largest_angle(coefficients)
    is_seen = distance < _distorted(limit, coefficients)
    high = xp.where(is_seen, limit, xp.zeros_like(distance))  # both also give the bracket the shape of ``distance``
    low = xp.zeros_like(high)
    for _ in range(_NARROWINGS):
        middle = 0.5 * (low + high)
        is_short = _distorted(middle, coefficients) <= distance
        low, high = xp.where(is_short, middle, low), xp.where(is_short, high, middle)
    theta = 0.5 * (low + high)
    for _ in range(_NEWTON_STEPS):
        slope = _slope(theta, coefficients)
        defect = _distorted(theta, coefficients) - distance
        theta = xp.clip(theta - defect / xp.where(slope > 0, slope, xp.ones_like(slope)), low, high)
    return xp.where(is_seen, theta, xp.full_like(theta, math.nan))
