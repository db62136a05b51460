"""What LiDAR knows about an image: where something returned a pulse, and how far away it is.

Used only to judge a teacher's output, never to make it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader

MIN_DEPTH = 1.0
"""Metres; nearer returns are mostly the vehicle itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarPixels:
    """LiDAR returns seen in one image.

    Attributes:
        row: Pixel row of each return.
        column: Pixel column of each return.
        camera_depth: Along the optical axis, metres.
    """

    row: Int[np.ndarray, " points"]
    column: Int[np.ndarray, " points"]
    camera_depth: Float[np.ndarray, " points"]


def lidar_pixels(
    reader: SceneReader,
    frame: int,
    camera: int,
    points: Float[np.ndarray, "returns 4"],
    *,
    height: int,
    width: int,
) -> LidarPixels:
    """Project a sweep into one image, as seen at the camera's own exposure.

    Args:
        reader: The scene.
        frame: Frame index.
        camera: Camera index.
        points: The frame's sweep, ego frame of the reference instant, metres.
        height: Rows of the pixel grid to land on.
        width: Columns of the pixel grid to land on.
    """
    ego_to_camera = invert_se3(reader.camera_to_reference_ego(frame, camera))
    points_camera = apply_se3(ego_to_camera, points[:, :3].astype(np.float64))
    points_camera = points_camera[points_camera[:, 2] >= MIN_DEPTH]
    intrinsics = reader.intrinsics(camera, size=(height, width))
    pixels, depth = project_camera(points_camera, intrinsics, reader.fisheye(camera))
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=-1)
    column, row = pixels[inside].astype(np.int64).T
    return LidarPixels(row=row, column=column, camera_depth=depth[inside])
