"""Pinhole cameras with OpenCV axes; pixel (0, 0) has its centre at (0.5, 0.5)."""

from typing import Any

from array_api_compat import array_namespace
from jaxtyping import Float


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


def scale_intrinsics(
    intrinsics: Float[Any, "*batch 3 3"], *, from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Any, "*batch 3 3"]:
    """Return the intrinsics of the same camera after its image was resized.

    With pixel centres at half-integers a resize is a pure scaling about the image corner, so no shift is needed.

    Args:
        intrinsics: Of the image at ``from_size``, pixels.
        from_size: Height and width of the image they belong to.
        to_size: Height and width wanted.
    """
    xp = array_namespace(intrinsics)
    scaled = xp.asarray(intrinsics, copy=True)
    scaled[..., 0, :] *= to_size[1] / from_size[1]
    scaled[..., 1, :] *= to_size[0] / from_size[0]
    return scaled
