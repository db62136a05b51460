"""LiDAR returns as a sparse map of termination depth."""

import numpy as np
from jaxtyping import Float

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3


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

    The value is the length of the ray, as everywhere in this project, and not the depth along the optical axis: at the
    corner of a wide camera the two differ by half. Where several returns fall into one pixel the nearest wins, since a
    return behind it was seen past an edge by a sensor that sits elsewhere.

    Args:
        points_ego: Returns in an ego frame, metres.
        camera_to_ego: The camera at its own exposure, in the same ego frame.
        intrinsics: In pixels of the map.
        fisheye: Coefficients of the lens, NaN or None for a pinhole.
        height: Rows of the map.
        width: Columns of the map.
        min_camera_depth: Returns nearer to the camera plane are dropped, metres; to the camera itself, if it is a
            fisheye, which sees beside and behind that plane too.
        max_range: Returns farther from the camera are dropped, metres.

    Returns:
        The map, NaN where no return fell.
    """
    # Single precision resolves a hundredth of a millimetre here, and all of a sweep is projected once per view.
    ego_to_camera = invert_se3(camera_to_ego).astype(np.float32)
    points_ego = np.ascontiguousarray(points_ego, np.float32)
    # A return that is not a number fails every comparison, so it is dropped as well.
    if fisheye is None or np.isnan(fisheye).all():
        # Most returns are behind the camera: nothing but their depth is worked out.
        is_ahead = points_ego @ ego_to_camera[2, :3] + ego_to_camera[2, 3] >= min_camera_depth
        lens, points_camera = None, apply_se3(ego_to_camera, points_ego[is_ahead])
    else:
        lens, points_camera = fisheye.astype(np.float32), apply_se3(ego_to_camera, points_ego)
        points_camera = points_camera[np.linalg.norm(points_camera, axis=-1) >= min_camera_depth]
    pixels, _ = project_camera(points_camera, intrinsics.astype(np.float32), lens)
    limits = np.array([width, height], np.float32)
    is_inside = ((pixels >= 0) & (pixels < limits)).all(axis=1)
    columns, rows = pixels[is_inside].astype(np.int64).T
    distances = np.linalg.norm(points_camera[is_inside], axis=-1)
    is_near = distances <= max_range
    nearest = np.full(height * width, np.inf, np.float32)
    np.minimum.at(nearest, (rows * width + columns)[is_near], distances[is_near])
    nearest[np.isinf(nearest)] = np.nan
    return nearest.reshape(height, width)
