"""What moves in the images of a procedural scene, and how, exactly: for evaluation alone, no fit reads it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from storage.keys import SceneKey
from storage.procedural.sensing.flow import optical_flow
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.world.world import World
from storage.procedural.writers.truth import read_recipe
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home

_MIN_SPEED_M_S = 0.5
"""A surface that is slower counts as standing: it does not leave its cell from one frame to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMotion:
    """Motion of the surface points that one image shows, from its own instant to that camera's next image.

    In the last frame it is that from the image before, turned around.

    Attributes:
        moves: Pixels that show something that moves.
        points: Where the points of those pixels are, world frame, metres.
        velocity: Their mean velocity, metres per second.
        seconds: Time between the two images.
    """

    moves: Bool[np.ndarray, " pixels"]
    points: Float[np.ndarray, "moving 3"]
    velocity: Float[np.ndarray, "moving 3"]
    seconds: float


class ExactMotions:
    """Exact motion in any image of a procedural scene.

    Args:
        home: Home that holds the scene and its truth.
        scene: The ingested scene.
        scene_key: Its key.
        image_size: Height and width of the images.

    Raises:
        MissingTargetError: If the scene has no truth: it is not procedural.
    """

    def __init__(self, home: Home, scene: SceneReader, scene_key: str, image_size: tuple[int, int]) -> None:
        recipe = read_recipe(home, SceneKey.parse(scene_key))
        self.world: World = recipe.build()
        self.start_us = recipe.start_timestamp_us
        self.scene, self.image_size = scene, image_size

    def of(self, frame: int, camera: int) -> ExactMotion:
        """Return the motion in one image."""
        last = self.scene.num_frames - 1
        source, target = self._camera(frame, camera), self._camera(frame + (1 if frame < last else -1), camera)
        seconds = (target.time_us - source.time_us) / 1e6
        motion = optical_flow(self.world, source, target).scene_flow.reshape(-1, 3).astype(np.float64)
        moves = np.linalg.norm(np.nan_to_num(motion), axis=-1) > _MIN_SPEED_M_S * abs(seconds)
        directions = source.rays(source.pixel_centres()[moves]).astype(np.float64)
        hits = self.world.snapshot(source.time_us).first_hits(
            np.broadcast_to(source.origin.astype(np.float32), directions.shape).copy(), directions.astype(np.float32)
        )
        return ExactMotion(
            moves=moves,
            points=source.origin + directions * hits.distance[:, None],
            velocity=motion[moves] / seconds,
            seconds=abs(seconds),
        )

    def _camera(self, frame: int, camera: int) -> PosedCamera:
        height, width = self.image_size
        return PosedCamera(
            time_us=self.scene.camera_timestamp_us(frame, camera) - self.start_us,
            camera_to_world=self.scene.camera_to_world(frame, camera),
            intrinsics=self.scene.intrinsics(camera, size=self.image_size),
            height=height,
            width=width,
            fisheye=self.scene.fisheye(camera),
        )
