"""Cameras with OpenCV axes; pixel (0, 0) has its centre at (0.5, 0.5).

``project`` and ``unproject`` are the pinhole; ``project_camera`` and ``unproject_camera`` take any camera of a rig: its
``fisheye`` holds the coefficients of a fisheye lens, or NaN for a pinhole, so that a mixed rig is one call.
"""

import math
from typing import Any

from array_api_compat import array_namespace
from jaxtyping import Bool, Float

from storage.geometry.fisheye import project_fisheye, unproject_fisheye

_FOCAL_SHARE = (0.02, 200.0)  # of width or height: 0.3 degrees of view at least; millimetres would be 0.002


MAX_PRINCIPAL_POINT_OFFSET = 0.5
"""Farthest that a principal point lies from the middle, as a share of the image: at its border."""


def principal_point_offset(intrinsics: Float[Any, "3 3"], *, height: int, width: int) -> float:
    """Return how far the principal point lies from the middle, as a share of the image."""
    return float(max(abs(intrinsics[0, 2] / width - 0.5), abs(intrinsics[1, 2] / height - 0.5)))


def focal_fault(intrinsics: Float[Any, "3 3"], *, height: int, width: int) -> str | None:
    """Return why focal lengths cannot be pixels of a camera with images of this size; None if they can."""
    fx, fy = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    low, high = _FOCAL_SHARE
    if all(low <= focal / size <= high for focal, size in ((fx, width), (fy, height))):
        return None
    return (
        f"fx, fy are {fx:.6g}, {fy:.6g} for {width} x {height} pixels, want pixels, {low:g} to {high:g} times the image"
    )


def project(
    points_camera: Float[Any, "*batch 3"], intrinsics: Float[Any, "*#batch 3 3"]
) -> tuple[Float[Any, "*batch 2"], Float[Any, "*batch"]]:
    """Return pixel coordinates and ``camera_depth`` (z, metres) of points in the camera frame.

    A point with ``camera_depth <= 0`` lies behind the camera: its pixel means nothing, and the caller must drop it.
    """
    homogeneous = (intrinsics @ points_camera[..., None])[..., 0]
    return homogeneous[..., :2] / homogeneous[..., 2:], points_camera[..., 2]


def unproject(pixels: Float[Any, "*batch 2"], intrinsics: Float[Any, "*#batch 3 3"]) -> Float[Any, "*batch 3"]:
    """Return the unit ray directions, in the camera frame, through pixel coordinates."""
    xp = array_namespace(pixels, intrinsics)
    fx, fy = intrinsics[..., 0, 0], intrinsics[..., 1, 1]
    skew, cx, cy = intrinsics[..., 0, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]
    y = (pixels[..., 1] - cy) / fy
    x = (pixels[..., 0] - cx - skew * y) / fx
    direction = xp.stack([x, y, xp.ones_like(x)], axis=-1)
    return direction / xp.linalg.vector_norm(direction, axis=-1, keepdims=True)


def project_camera(
    points_camera: Float[Any, "*batch 3"],
    intrinsics: Float[Any, "*#batch 3 3"],
    fisheye: Float[Any, "*#batch 4"] | None,
) -> tuple[Float[Any, "*batch 2"], Float[Any, "*batch"]]:
    """Return pixel coordinates and ``camera_depth`` (z, metres) of points in the frames of cameras of either model.

    Args:
        points_camera: Metres.
        intrinsics: Pixels.
        fisheye: Coefficients k1 to k4, NaN for a pinhole; None if all are pinholes.

    Returns:
        Pixels, NaN where the camera cannot see: behind a pinhole, beyond the fold of a fisheye. A fisheye may see
        points whose depth is not positive, so visibility is read from the pixels and never from the depth.
    """
    xp = array_namespace(points_camera, intrinsics)
    camera_depth = points_camera[..., 2]
    is_ahead = camera_depth > 0
    ahead = xp.concat(
        [points_camera[..., :2], xp.where(is_ahead, camera_depth, xp.ones_like(camera_depth))[..., None]], axis=-1
    )
    pixels = project(ahead, intrinsics)[0]
    pixels = xp.where(is_ahead[..., None], pixels, xp.full_like(pixels, math.nan))
    if fisheye is None or _has_pinholes_only(fisheye):
        return pixels, camera_depth
    is_pinhole, coefficients = _split_models(fisheye)
    return xp.where(is_pinhole, pixels, project_fisheye(points_camera, intrinsics, coefficients)[0]), camera_depth


def unproject_camera(
    pixels: Float[Any, "*batch 2"], intrinsics: Float[Any, "*#batch 3 3"], fisheye: Float[Any, "*#batch 4"] | None
) -> Float[Any, "*batch 3"]:
    """Return the unit ray directions, in the camera frame, through pixel coordinates of cameras of either model.

    Args:
        pixels: Right and down.
        intrinsics: Pixels.
        fisheye: Coefficients k1 to k4, NaN for a pinhole; None if all are pinholes.

    Returns:
        Directions, NaN for a pixel outside the image circle of a fisheye.
    """
    directions = unproject(pixels, intrinsics)
    if fisheye is None or _has_pinholes_only(fisheye):
        return directions
    xp = array_namespace(pixels, intrinsics)
    is_pinhole, coefficients = _split_models(fisheye)
    return xp.where(is_pinhole, directions, unproject_fisheye(pixels, intrinsics, coefficients))


def _has_pinholes_only(fisheye: Float[Any, "*batch 4"]) -> bool:
    """Return whether no camera has a lens to invert, which is done by iteration: a rig without one does not pay."""
    xp = array_namespace(fisheye)
    return bool(xp.all(xp.isnan(fisheye[..., :1])))


def _split_models(fisheye: Float[Any, "*batch 4"]) -> tuple[Bool[Any, "*batch 1"], Float[Any, "*batch 4"]]:
    """Return which cameras are pinholes, and coefficients without NaN."""
    xp = array_namespace(fisheye)
    is_pinhole = xp.isnan(fisheye[..., :1])
    return is_pinhole, xp.where(is_pinhole, xp.zeros_like(fisheye), fisheye)


def scale_intrinsics(
    intrinsics: Float[Any, "*batch 3 3"], *, from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Any, "*batch 3 3"]:
    """Return the intrinsics of the same camera after its image was resized.

    With pixel centres at half-integers a resize is a pure scaling about the image corner, so no shift is needed. It
    moves pixels after the lens, so the coefficients of a fisheye stay as they are.

    Args:
        intrinsics: Intrinsics of the image at ``from_size``, pixels.
        from_size: Height and width of that image.
        to_size: Height and width of the resized image.
    """
    xp = array_namespace(intrinsics)
    scaled = xp.asarray(intrinsics, copy=True)
    scaled[..., 0, :] *= to_size[1] / from_size[1]
    scaled[..., 1, :] *= to_size[0] / from_size[0]
    return scaled
