"""Waymo's rig in the procedural world: five cameras with lenses, a spinning laser on the roof, four near the ground."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from storage.geometry.distortion import LensDistortion
from storage.ingest.waymo.scene import WaymoCamera, WaymoLaserMount
from storage.procedural.config import ProceduralConfig

_NOMINAL_WIDTH = 1920
# Height over width, and row of the principal point over width: the side cameras' images are cut at the top.
_FULL, _LOW = (1280 / 1920, 636 / 1920), (886 / 1920, 243 / 1920)
_LENS = LensDistortion(k1=0.038, k2=-0.328, p1=0.0012, p2=-0.0009)
_CAMERAS = {  # position, yaw in degrees, focal length in pixels of a full image, shape, delay of the exposure
    "FRONT": ((1.54, -0.02, 2.12), 0.2, 2052.0, _FULL, 52_000),
    "FRONT_LEFT": ((1.49, 0.09, 2.12), 44.3, 2056.0, _FULL, 42_000),
    "FRONT_RIGHT": ((1.49, -0.09, 2.12), -44.6, 2046.0, _FULL, 62_000),
    "SIDE_LEFT": ((1.43, 0.11, 2.12), 89.3, 2054.0, _LOW, 22_000),
    "SIDE_RIGHT": ((1.43, -0.11, 2.12), -90.1, 2064.0, _LOW, 72_000),
}
_NEAR_LASERS = {  # position and yaw in degrees
    "FRONT": ((4.07, 0.0, 0.69), -0.3),
    "SIDE_LEFT": ((3.25, 1.03, 0.98), 88.8),
    "SIDE_RIGHT": ((3.25, -1.03, 0.98), -92.2),
    "REAR": ((-1.16, 0.0, 0.46), 178.4),
}
_TOP_BEAMS_RAD = (-0.3118, 0.0453)
_NEAR_BEAMS_RAD = (-1.5708, 0.5236)
_TOP_YAW_DEG = 147.9  # where the sensor's own zero happens to be: readers must take it off


@dataclass(frozen=True, slots=True, kw_only=True)
class WaymoRigConfig:
    """A Waymo-like data set of a procedural world.

    Attributes:
        world: Scenes, frames and seeds; its image size is ignored. Its name must differ from the nuScenes twin's.
        image_width: Columns of every image; 1920 in the original.
        has_distortion: Whether the cameras have distorting lenses; otherwise they are pinholes.
        top_shape: Beams and columns of the spinning laser; 64 by 2650 in the original.
        near_shape: Beams and columns of each of the other four; 200 by 600 in the original.
        spin_steps: Parts of a revolution, each seen at its own instant.
        jpeg_quality: JPEG quality, 1 to 95.
        labelled_every: Every so many frames, from the first on, one has classes of LiDAR points and pixels; about 5 in
            Waymo.
    """

    world: ProceduralConfig
    image_width: int = 480
    has_distortion: bool = True
    top_shape: tuple[int, int] = (64, 720)
    near_shape: tuple[int, int] = (40, 120)
    spin_steps: int = 8
    jpeg_quality: int = 95
    labelled_every: int = 5

    def __post_init__(self) -> None:
        if not 32 <= self.image_width <= 4096:
            raise ValueError(f"image_width is {self.image_width}, want 32 to 4096")
        for name in ("top_shape", "near_shape"):
            beams, columns = getattr(self, name)
            if not (1 <= beams <= 256 and 4 <= columns <= 8192):
                raise ValueError(f"{name} is {getattr(self, name)}, want 1 to 256 beams and 4 to 8192 columns")
        if not 1 <= self.spin_steps <= self.top_shape[1]:
            raise ValueError(f"spin_steps is {self.spin_steps}, want 1 to the number of columns")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}, want 1 to 95")
        if self.labelled_every < 1:
            raise ValueError(f"labelled_every is {self.labelled_every}, want at least 1")

    def cameras(self) -> dict[str, WaymoCamera]:
        """Return the calibrated cameras by name."""
        return {name: self._camera(name) for name in _CAMERAS}

    def lasers(self) -> dict[str, WaymoLaserMount]:
        """Return the calibrated lasers by name."""
        beams = self.top_shape[0]
        # Denser around the horizon, as a table that readers must not replace by an even spacing.
        share = np.linspace(0.0, 1.0, beams) ** 0.8
        low, high = _TOP_BEAMS_RAD
        top = WaymoLaserMount(
            name="TOP",
            laser_to_ego=_mounting((1.43, 0.0, 2.18), _TOP_YAW_DEG),
            inclinations=low + (high - low) * share,
            inclination_range=_TOP_BEAMS_RAD,
        )
        near = {
            name: WaymoLaserMount(
                name=name,
                laser_to_ego=_mounting(position, yaw_deg),
                inclinations=np.zeros(0),
                inclination_range=_NEAR_BEAMS_RAD,
            )
            for name, (position, yaw_deg) in _NEAR_LASERS.items()
        }
        return {"TOP": top, **near}

    def _camera(self, name: str) -> WaymoCamera:
        position, yaw_deg, focal, (height_share, row_share), _ = _CAMERAS[name]
        width = self.image_width
        scale = width / _NOMINAL_WIDTH
        mounting = _mounting(position, yaw_deg)
        right_down_forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        mounting[:3, :3] = mounting[:3, :3] @ right_down_forward
        return WaymoCamera(
            name=name,
            size=(round(height_share * width), width),
            intrinsics=np.array(
                [[focal * scale, 0.0, 0.4985 * width], [0.0, focal * scale, row_share * width], [0.0, 0.0, 1.0]]
            ),
            lens=_LENS if self.has_distortion else LensDistortion(),
            camera_to_ego=mounting,
            readout="GLOBAL_SHUTTER",
        )


def exposure_delay_us(camera: str) -> int:
    """Return the time of a camera's exposure, microseconds after the frame's instant."""
    return _CAMERAS[camera][4]


def _mounting(position: tuple[float, float, float], yaw_deg: float) -> Float[np.ndarray, "4 4"]:
    cos, sin = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    out = np.eye(4)
    out[:2, :2] = [[cos, -sin], [sin, cos]]
    out[:3, 3] = position
    return out
