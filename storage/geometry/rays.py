"""Rays through pixel centres, and the two depths that must never be mixed up.

``termination_depth`` is the distance along a unit ray; ``camera_depth`` is z in the camera frame.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Float

from storage.geometry.cameras import unproject_camera
from storage.geometry.transforms import rotate


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "height width 2"]:
    """Return the (u, v) coordinates of every pixel centre, float64."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1)


def camera_rays(
    intrinsics: Float[np.ndarray, "3 3"],
    camera_to_frame: Float[np.ndarray, "4 4"],
    *,
    height: int,
    width: int,
    fisheye: Float[np.ndarray, "4"] | None = None,
) -> tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width 3"]]:
    """Return origins (metres) and unit directions, in ``frame``, of the rays through every pixel centre.

    Directions are NaN outside the image circle of a fisheye; ``fisheye`` is as in ``unproject_camera``.
    """
    directions_camera = unproject_camera(pixel_grid(height, width), intrinsics, fisheye).reshape(-1, 3)
    directions = rotate(camera_to_frame, directions_camera).reshape(height, width, 3)
    return np.broadcast_to(camera_to_frame[:3, 3], directions.shape), directions


def camera_depth_to_termination_depth(
    camera_depth: Float[Any, "*batch"],
    pixels: Float[Any, "*batch 2"],
    intrinsics: Float[Any, "*#batch 3 3"],
    fisheye: Float[Any, "*#batch 4"] | None = None,
) -> Float[Any, "*batch"]:
    """Return the distance along the unit ray for a depth along the optical axis, metres; NaN stays NaN."""
    return camera_depth / unproject_camera(pixels, intrinsics, fisheye)[..., 2]


def termination_depth_to_camera_depth(
    termination_depth: Float[Any, "*batch"],
    pixels: Float[Any, "*batch 2"],
    intrinsics: Float[Any, "*#batch 3 3"],
    fisheye: Float[Any, "*#batch 4"] | None = None,
) -> Float[Any, "*batch"]:
    """Return the depth along the optical axis for a distance along the unit ray, metres; NaN stays NaN."""
    return termination_depth * unproject_camera(pixels, intrinsics, fisheye)[..., 2]


def points_on_rays(
    origins: Float[Any, "*batch 3"], directions: Float[Any, "*batch 3"], termination_depth: Float[Any, "*batch"]
) -> Float[Any, "*batch 3"]:
    """Return the points at a distance (metres) along unit rays."""
    xp = array_namespace(origins, directions, termination_depth)
    return origins + directions * xp.expand_dims(termination_depth, axis=-1)
