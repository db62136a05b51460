"""Procedural scenes seen by rigs of random make, kept in memory: what an audit of calibration is tried on.

Each rig has its own number of cameras, their directions, heights, fields of view, sizes, delays and noise, and its own
LiDAR: beams, spacing, noise, losses and place. Calibration, poses and times are exact.
"""

import copy
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.ndimage import gaussian_filter

from storage.audits.misplaced_cameras import MisplacedCameras
from storage.geometry.distortion import LensDistortion, plan_undistortion
from storage.geometry.transforms import apply_se3, compose
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import Camera
from storage.procedural.world.world import World, build_world
from storage.scenes.schema import SceneBoxes
from storage.taxonomy import Theme

_SIZES = ((180, 320), (225, 400), (270, 480), (300, 400), (320, 640))
_START_US = 100_000  # no exposure lies before the world begins


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRig:
    """One rig.

    Attributes:
        cameras: Its cameras.
        size: Height and width of their images, pixels.
        image_noise: Standard deviation of the noise of a pixel, levels of 255.
        blur_px: Blur of the images, standard deviation.
        lidar_position: Place of the LiDAR in the ego frame, metres.
        elevations_deg: Elevation of each of its beams.
        azimuth_steps: Beams of one turn.
        range_noise_m: Standard deviation of a range.
        loss: Share of returns that are lost.
    """

    cameras: tuple[Camera, ...]
    size: tuple[int, int]
    image_noise: float
    blur_px: float
    lidar_position: tuple[float, float, float]
    elevations_deg: Float[np.ndarray, " beams"]
    azimuth_steps: int
    range_noise_m: float
    loss: float


def random_rig(seed: int) -> TrialRig:
    """Return the rig of a seed."""
    rng = np.random.default_rng([seed, 0xCA11])
    number = int(rng.integers(1, 7))
    first, height = rng.uniform(-180, 180), rng.uniform(1.2, 2.4)
    cameras = tuple(
        Camera(
            name=f"camera_{index}",
            position=(rng.uniform(-0.5, 2.0), rng.uniform(-0.9, 0.9), height + rng.uniform(-0.1, 0.1)),
            yaw_deg=float((first + index * 360 / number + rng.uniform(-8, 8) + 180) % 360 - 180),
            pitch_deg=rng.uniform(-6, 3),
            focal_share=rng.uniform(0.45, 1.1),
            delay_us=int(rng.integers(-50_000, 10_000)),
        )
        for index in range(number)
    )
    beams = int(rng.choice([16, 32, 40, 64, 128]))
    low, high = rng.uniform(-30, -15), rng.uniform(2, 15)
    elevations = np.linspace(low, high, beams)
    if rng.random() < 0.4:  # denser about the horizon, as many sensors of 40 beams and more are
        elevations = np.sign(elevations) * np.abs(elevations / 30.0) ** 1.5 * 30.0
    return TrialRig(
        cameras=cameras,
        size=_SIZES[rng.integers(len(_SIZES))],
        image_noise=float(rng.choice([0.0, 2.0, 6.0, 12.0])),
        blur_px=float(rng.choice([0.0, 0.0, 0.7, 1.2])),
        lidar_position=(rng.uniform(-0.2, 1.2), rng.uniform(-0.2, 0.2), rng.uniform(1.7, 2.6)),
        elevations_deg=elevations,
        azimuth_steps=int(rng.choice([600, 900, 1084, 1800])),
        range_noise_m=float(rng.choice([0.01, 0.02, 0.04])),
        loss=float(rng.choice([0.0, 0.05, 0.2])),
    )


class TrialScene(MisplacedCameras):
    """A procedural world seen by a rig; its calibration is exact.

    Args:
        theme: Kind of place.
        seed: Seed of the world and of all noise.
        rig: The rig.
        num_frames: Number of frames.
        step_us: Time between them.
        stands: Whether the vehicle stands where it began, while the others go on.
        camera_late_us: How much later than its table says each image was taken.
    """

    def __init__(
        self,
        theme: Theme,
        seed: int,
        rig: TrialRig,
        *,
        num_frames: int = 8,
        step_us: int = 500_000,
        stands: bool = False,
        camera_late_us: int = 0,
    ) -> None:
        world, rng = build_world(theme, seed), np.random.default_rng(seed)
        times_us = _START_US + step_us * np.arange(num_frames, dtype=np.int64)
        exposures_us = times_us[:, None] + [camera.delay_us for camera in rig.cameras]
        lidar_to_ego = np.eye(4)
        lidar_to_ego[:3, 3] = rig.lidar_position

        def pose(time_us: int) -> Float[np.ndarray, "4 4"]:
            return world.ego_to_world(_START_US if stands else int(time_us))

        self.camera_names = tuple(camera.name for camera in rig.cameras)
        self.attributes = {}
        self._sizes = [rig.size] * len(rig.cameras)
        self._fisheye = np.full((len(rig.cameras), 4), np.nan)
        self._arrays = {
            "timestamp_us": times_us,
            "camera_timestamp_us": exposures_us,
            "intrinsics": np.stack([camera.intrinsics(*rig.size) for camera in rig.cameras]),
            "camera_to_ego": np.stack([camera.camera_to_ego() for camera in rig.cameras]),
            "lidar_to_ego": lidar_to_ego,
            "ego_to_world": np.stack([pose(t) for t in times_us]),
            "camera_ego_to_world": np.stack([[pose(t) for t in row] for row in exposures_us]),
        }
        self._points = [_sweep(world, int(t), compose(pose(t), lidar_to_ego), rig, rng) for t in times_us]
        self._images: dict[tuple[int, int], UInt8[np.ndarray, "_ _ 3"]] = {}
        for frame, row in enumerate(exposures_us + camera_late_us):
            for index, time_us in enumerate(row):
                camera_to_world = pose(time_us) @ rig.cameras[index].camera_to_ego()
                view = render_camera(
                    world, int(time_us), camera_to_world, self.intrinsics(index), *rig.size, antialias=False
                )
                self._images[frame, index] = _noisy(view.image, rig, rng)

    def undistorted_again(self, lens: LensDistortion) -> "TrialScene":
        """Return the scene as an ingest makes it if distortion is given for images that have none.

        Args:
            lens: Distortion that is given for every camera.
        """
        bent = copy.copy(self)
        bent._arrays, bent._images = dict(self._arrays), {}
        plans = [
            plan_undistortion(self.intrinsics(camera), lens, self._sizes[camera]) for camera in range(self.num_cameras)
        ]
        bent._arrays["intrinsics"] = np.stack([plan.intrinsics for plan in plans])
        for camera, plan in enumerate(plans):
            pixels = plan.build_map()
            for frame in range(self.num_frames):
                bent._images[frame, camera] = pixels.apply(self._images[frame, camera])
        return bent

    def resized_image(
        self, frame_index: int, camera_index: int, *, height: int, width: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return the image, which must be of that size."""
        image = self._images[frame_index, camera_index]
        if image.shape[:2] == (height, width):
            return image
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

    def image(self, frame_index: int, camera_index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the image."""
        return self._images[frame_index, camera_index]

    def lidar_points(self, frame_index: int) -> Float32[np.ndarray, "points 4"]:
        """Return the sweep in the ego frame."""
        return self._points[frame_index]

    def is_valid(self, camera_index: int, *, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "height width"]:
        """Return that every pixel shows the world."""
        return np.ones(size or self._sizes[camera_index], bool)

    def boxes(self) -> SceneBoxes:
        """Return no boxes."""
        return SceneBoxes.none()


def _sweep(
    world: World, time_us: int, lidar_to_world: Float[np.ndarray, "4 4"], rig: TrialRig, rng: np.random.Generator
) -> Float32[np.ndarray, "points 4"]:
    turn, tilt = np.meshgrid(
        np.arange(rig.azimuth_steps) * (2 * np.pi / rig.azimuth_steps), np.radians(rig.elevations_deg), indexing="ij"
    )
    local = np.stack([np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)], -1).reshape(-1, 3)
    directions = np.ascontiguousarray(local @ lidar_to_world[:3, :3].T, dtype=np.float32)
    origins = np.broadcast_to(lidar_to_world[:3, 3].astype(np.float32), directions.shape).copy()
    distance = world.snapshot(time_us).first_hits(origins, directions).distance
    kept = np.flatnonzero((distance > 1.0) & (distance < 100.0) & (rng.random(len(distance)) >= rig.loss))
    ranges = distance[kept] + rig.range_noise_m * np.clip(rng.standard_normal(len(kept)), -3, 3)
    lidar_to_ego = np.eye(4)
    lidar_to_ego[:3, 3] = rig.lidar_position
    points = apply_se3(lidar_to_ego, local[kept] * ranges[:, None])
    return np.pad(points, ((0, 0), (0, 1))).astype(np.float32)


def _noisy(
    image: UInt8[np.ndarray, "height width 3"], rig: TrialRig, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    seen = image.astype(np.float32)
    if rig.blur_px:
        seen = gaussian_filter(seen, (rig.blur_px, rig.blur_px, 0))
    if rig.image_noise:
        seen += rng.normal(0.0, rig.image_noise, seen.shape)
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)


def trial_scene(number: int, *, stands: bool = False, camera_late_us: int = 0) -> TrialScene:
    """Return the trial of a number: streets and aprons in turn, at 2 or 10 Hz, of 8 to 16 frames."""
    rng = np.random.default_rng([number, 0x7217])
    return TrialScene(
        Theme.STREET if number % 2 == 0 else Theme.AIRSIDE,
        50_000 + number,
        random_rig(number),
        num_frames=int(rng.choice([8, 12, 16])),
        step_us=int(rng.choice([100_000, 500_000])),
        stands=stands,
        camera_late_us=camera_late_us,
    )
