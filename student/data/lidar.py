"""Rasterising of LiDAR returns to a sparse map of termination depth."""

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
    ego_to_camera = invert_se3(camera_to_ego).astype(np.float32)
    points_ego = np.asarray(points_ego, np.float32)
    intrinsics = intrinsics.astype(np.float32)
    if fisheye is None or np.isnan(fisheye).all():
        columns, rows, points_camera = _through_pinhole(
            points_ego, ego_to_camera, intrinsics, (height, width), min_camera_depth
        )
    else:
        points_camera = apply_se3(ego_to_camera, points_ego)
        points_camera = points_camera[np.linalg.norm(points_camera, axis=-1) >= min_camera_depth]
        pixels, _ = project_camera(points_camera, intrinsics, fisheye.astype(np.float32))
        is_inside = ((pixels >= 0) & (pixels < np.array([width, height], np.float32))).all(axis=1)
        (columns, rows), points_camera = pixels[is_inside].T, points_camera[is_inside]
    distances = np.linalg.norm(points_camera, axis=-1)
    is_near = distances <= max_range
    nearest = np.full(height * width, np.inf, np.float32)
    places = rows[is_near].astype(np.int64) * width + columns[is_near].astype(np.int64)
    np.minimum.at(nearest, places, distances[is_near])
    nearest[np.isinf(nearest)] = np.nan
    return nearest.reshape(height, width)


def _through_pinhole(
    points_ego: Float[np.ndarray, "points 3"],
    ego_to_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    min_camera_depth: float,
) -> tuple[Float[np.ndarray, " seen"], Float[np.ndarray, " seen"], Float[np.ndarray, "seen 3"]]:
    """Return column, row and place in the camera frame of the points inside the image.

    Most points are outside: it is told before anything is divided, from three products per point.
    """
    projection = intrinsics @ ego_to_camera[:3]
    u, v, depth = projection[:, :3] @ points_ego.T + projection[:, 3:]
    # A return that is not a number fails every comparison, so it is dropped as well.
    is_inside = (depth >= min_camera_depth) & (u >= 0) & (v >= 0) & (u < size[1] * depth) & (v < size[0] * depth)
    seen = is_inside.nonzero()[0]
    depth = depth[seen]
    # Rounding may bring a quotient up to the edge that it was told to be short of.
    columns = np.minimum(u[seen] / depth, np.nextafter(np.float32(size[1]), np.float32(0)))
    rows = np.minimum(v[seen] / depth, np.nextafter(np.float32(size[0]), np.float32(0)))
    return columns, rows, apply_se3(ego_to_camera, points_ego[seen])
