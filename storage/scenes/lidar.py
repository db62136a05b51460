"""Where a scene's LiDAR returns fall in its images."""

import numpy as np
from jaxtyping import Float

from storage.geometry.in_image import LIDAR_NEAR_M, PointsInImage, points_in_image
from storage.scenes.store import SceneReader


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
