"""Render the procedural world at poses that the car never had, as the truth for moved views."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from storage.keys import SceneKey
from storage.previews.pictures import from_uint8
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.evaluation.frames import shift_views
from student.model.types import TargetCameras

if TYPE_CHECKING:
    from storage.procedural.world.world import World


class LateralTruth:
    """Renderer of the world that a procedural scene was recorded in.

    Args:
        world: The world.
        reader: The ingested scene; its world frame and clock have the same origin as the world's.
    """

    def __init__(self, world: "World", reader: SceneReader) -> None:
        self._world, self._reader = world, reader

    @classmethod
    def open(cls, home: Home, reader: SceneReader, scene_key: str) -> "LateralTruth":
        """Rebuild the world that a generated scene was recorded in.

        Raises:
            MissingTargetError: If the scene has no published truth.
        """
        from storage.procedural.writers.truth import read_recipe  # meshes and ray casting: only truth pays for them

        return cls(read_recipe(home, SceneKey.parse(scene_key)).build(), reader)

    def views(
        self, frame: int, cameras: TargetCameras, virtual_to_camera: Float[np.ndarray, "4 4"]
    ) -> tuple[TargetCameras, Float32[np.ndarray, "views height width 3"]]:
        """Move the cameras of a frame and render the true images, each at its own exposure time.

        Args:
            frame: Index of the frame.
            cameras: All cameras of the frame, one scene.
            virtual_to_camera: Pose of the moved camera in the frame of the original one, metres.

        Returns:
            Moved cameras, and their images in [0, 1] at twice the render grid.
        """
        from storage.procedural.sensing.render import render_camera

        moved = shift_views(cameras, virtual_to_camera)
        height, width = 2 * cameras.render_height, 2 * cameras.render_width
        ego_to_world = self._reader.ego_to_world(frame)
        images = []
        for camera in range(self._reader.num_cameras):
            pose = moved.camera_to_reference_ego[0, camera].double().numpy()
            intrinsics = cameras.intrinsics[0, camera].double().numpy().copy()
            intrinsics[:2] *= 2.0
            time_us = self._reader.camera_timestamp_us(frame, camera) - self._reader.timestamp_us(0)
            lens = self._reader.fisheye(camera)
            view = render_camera(self._world, time_us, ego_to_world @ pose, intrinsics, height, width, fisheye=lens)
            images.append(from_uint8(view.image))
        return moved, np.stack(images)
