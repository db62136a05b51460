"""Rasterising of LiDAR returns to a sparse map of termination depth."""

import numpy as np
from jaxtyping import Float

from storage.geometry.in_image import points_in_image


def rasterise_lidar(
    points_ego: Float[np.ndarray, "points 3"],
    camera_to_ego: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"] | None = None,
    *,
    height: int,
    width: int,
    min_camera_depth: float,
    max_range: float,
) -> Float[np.ndarray, "height width"]:
    """Return the distance from the camera centre to the nearest return in each pixel, float32 metres.

    The distance is the length of the ray, as everywhere in this project. At the corner of a wide camera it is half as
    long again as the depth along the optical axis. If several returns fall into one pixel, the nearest is kept: the
    LiDAR saw those behind it past an edge, from another position.

    Args:
        points_ego: LiDAR returns in an ego frame, metres.
        camera_to_ego: Pose of the camera at its exposure, in the same ego frame.
        intrinsics: Intrinsics of the camera, in pixels of the map.
        fisheye: Coefficients of the lens; NaN or None for a pinhole.
        height: Rows of the map.
        width: Columns of the map.
        min_camera_depth: Smallest depth along the optical axis, metres; nearer returns are dropped. For a fisheye,
            which sees beside and behind the camera plane, it is the smallest distance from the camera.
        max_range: Returns farther from the camera are dropped, metres.

    Returns:
        The map, NaN where no return fell.
    """
    # Single precision resolves a hundredth of a millimetre here, and all of a sweep is projected once per view.
    points_ego = np.asarray(points_ego, np.float32)
    size = (height, width)
    seen = points_in_image(points_ego, camera_to_ego, intrinsics, fisheye, size=size, near=min_camera_depth)
    is_near = seen.termination_depth <= max_range
    nearest = np.full(height * width, np.inf, np.float32)
    np.minimum.at(nearest, (seen.row * width + seen.column)[is_near], seen.termination_depth[is_near])
    nearest[np.isinf(nearest)] = np.nan
    return nearest.reshape(height, width)
