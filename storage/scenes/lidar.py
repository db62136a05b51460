"""Where a scene's LiDAR returns fall in its images."""

import numpy as np
from jaxtyping import Float, Int64

from storage.geometry.in_image import LIDAR_NEAR_M, PointsInImage, points_in_image
from storage.scenes.store import SceneReader

_SIGHT_ROWS = 225
"""Rows of the image in which nearer returns hide farther ones: about as fine as the rings of a LiDAR."""

_BEHIND_SHARE, _BEHIND_M = 0.05, 0.5
"""A return that is farther than the nearest one of its pixel by more than this is hidden."""


def returns_in_image(
    reader: SceneReader,
    frame: int,
    camera: int,
    returns: Float[np.ndarray, "returns _"],
    *,
    size: tuple[int, int] | None = None,
) -> PointsInImage:
    """Return the LiDAR returns that fall on an image's valid pixels, as seen at the camera's own exposure.

    Args:
        reader: The scene.
        frame: Frame index.
        camera: Camera index.
        returns: The frame's sweep in the ego frame of its reference instant; the first three columns are metres.
        size: Height and width of the pixel grid to land on; the stored image's by default.
    """
    return points_in_image(
        returns[:, :3].astype(np.float64),
        reader.camera_to_reference_ego(frame, camera),
        reader.intrinsics(camera, size=size),
        reader.fisheye(camera),
        size=size or reader.image_size(camera),
        near=LIDAR_NEAR_M,
        is_valid=reader.is_valid(camera, size=size),
    )


def seen_returns(
    reader: SceneReader, frame: int, camera: int, returns: Float[np.ndarray, "returns _"]
) -> tuple[PointsInImage, tuple[int, int]]:
    """Return the returns that a camera sees: no nearer return hides them; and the grid that they are placed on.

    Args:
        reader: The scene.
        frame: Frame index.
        camera: Camera index.
        returns: See :func:`returns_in_image`.
    """
    height, width = reader.image_size(camera)
    size = (_SIGHT_ROWS, max(1, round(width * _SIGHT_ROWS / height)))
    shown = returns_in_image(reader, frame, camera, returns, size=size)
    flat: Int64[np.ndarray, " shown"] = shown.row * size[1] + shown.column
    nearest = np.full(size[0] * size[1], np.inf)
    np.minimum.at(nearest, flat, shown.termination_depth)
    is_seen = shown.termination_depth <= nearest[flat] * (1 + _BEHIND_SHARE) + _BEHIND_M
    return PointsInImage(*(part[is_seen] for part in shown)), size
