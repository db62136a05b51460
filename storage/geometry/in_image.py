"""Which points fall into an image, for numpy arrays: LiDAR returns, voxel centres, any cloud."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3

LIDAR_NEAR_M = 1.0
"""The ``near`` of LiDAR returns: nearer ones are mostly the vehicle itself."""


class PointsInImage(NamedTuple):
    """The points of a cloud that a camera has in its image.

    Attributes:
        index: Place of each in the cloud, ascending.
        pixels: Right and down; inside the image.
        termination_depth: Distance from the camera, metres.
        camera_depth: Along the optical axis, metres; a fisheye sees points where it is not positive.
    """

    index: Int64[np.ndarray, " seen"]
    pixels: Float[np.ndarray, "seen 2"]
    termination_depth: Float[np.ndarray, " seen"]
    camera_depth: Float[np.ndarray, " seen"]

    @property
    def row(self) -> Int64[np.ndarray, " seen"]:
        """Pixel row of each point."""
        return self.pixels[:, 1].astype(np.int64)

    @property
    def column(self) -> Int64[np.ndarray, " seen"]:
        """Pixel column of each point."""
        return self.pixels[:, 0].astype(np.int64)

    def farthest_first(self) -> "PointsInImage":
        """Return the points in an order in which the nearest of each pixel is written last."""
        order = np.argsort(-self.termination_depth)
        return PointsInImage(*(part[order] for part in self))


def points_in_image(
    points: Float[np.ndarray, "points 3"],
    camera_to_frame: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"] | None = None,
    *,
    size: tuple[int, int],
    near: float,
    is_valid: Bool[np.ndarray, "height width"] | None = None,
) -> PointsInImage:
    """Return the points that fall into an image, whatever may hide them there.

    Computed in the precision of the points.

    Args:
        points: In any frame, metres. A point that is not a number falls nowhere.
        camera_to_frame: The camera in the frame of the points.
        intrinsics: In pixels of the image.
        fisheye: Coefficients of the lens, NaN or None for a pinhole.
        size: Height and width of the image.
        near: Points nearer to the camera plane are left out, metres; nearer to the camera itself, if it is a fisheye,
            which sees beside and behind that plane too.
        is_valid: Pixels that show the world; points in others are left out. None if all do.
    """
    frame_to_camera = invert_se3(camera_to_frame).astype(points.dtype)
    intrinsics = intrinsics.astype(points.dtype)
    if fisheye is None or np.isnan(fisheye).all():
        seen = _through_pinhole(points, frame_to_camera, intrinsics, size, near)
    else:
        seen = _through_lens(points, frame_to_camera, intrinsics, fisheye.astype(points.dtype), size, near)
    if is_valid is None:
        return seen
    shown = is_valid[seen.row, seen.column]
    return PointsInImage(*(part[shown] for part in seen))


def _through_pinhole(
    points: Float[np.ndarray, "points 3"],
    frame_to_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    near: float,
) -> PointsInImage:
    """Tell before anything is divided, from three products per point: most points are outside."""
    projection = intrinsics @ frame_to_camera[:3]
    u, v, depth = projection[:, :3] @ points.T + projection[:, 3:]
    # A point that is not a number fails every comparison.
    is_inside = (depth >= near) & (u >= 0) & (v >= 0) & (u < size[1] * depth) & (v < size[0] * depth)
    index = np.flatnonzero(is_inside)
    depth = depth[index]
    # Rounding may bring a quotient up to the edge that it was told to be short of.
    last = np.nextafter(np.array([size[1], size[0]], points.dtype), points.dtype.type(0))
    pixels = np.minimum(np.stack([u[index] / depth, v[index] / depth], axis=-1), last)
    distance = np.linalg.norm(apply_se3(frame_to_camera, points[index]), axis=-1)
    return PointsInImage(index, pixels, distance, depth)


def _through_lens(
    points: Float[np.ndarray, "points 3"],
    frame_to_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"],
    size: tuple[int, int],
    near: float,
) -> PointsInImage:
    in_camera = apply_se3(frame_to_camera, points)
    distance = np.linalg.norm(in_camera, axis=-1)
    index = np.flatnonzero(distance >= near)
    pixels, depth = project_camera(in_camera[index], intrinsics, fisheye)
    # Beyond the lens's fold a pixel is not a number, and falls nowhere.
    is_inside = ((pixels >= 0) & (pixels < np.array([size[1], size[0]], points.dtype))).all(axis=-1)
    index = index[is_inside]
    return PointsInImage(index, pixels[is_inside], distance[index], depth[is_inside])
