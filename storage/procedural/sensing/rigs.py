"""Camera rigs for recording a world; Waymo's rig is in ``storage.testing``, calibrated in Waymo's terms."""

import numpy as np

from storage.procedural.config import FixedRigName, ProceduralConfig
from storage.procedural.sensing.sensors import CAMERAS, Camera

# Four pinholes at the corners of a tug's roof look far; four fisheyes low on its sides, tilted down, see what is close:
# chocks, tow bars, people beside the wheels. All are triggered together.
_LENS = (0.045, -0.012, 0.0018, -0.0002)
_FISHEYE_FOCAL_SHARE = 0.30  # the image is 185 degrees wide
_PINHOLE_FOCAL_SHARE = 0.55  # 85 degrees


def _pinhole(name: str, position: tuple[float, float, float], yaw_deg: float) -> Camera:
    return Camera(
        name=name, position=position, yaw_deg=yaw_deg, pitch_deg=-2.0, focal_share=_PINHOLE_FOCAL_SHARE, delay_us=0
    )


def _fisheye(name: str, position: tuple[float, float, float], yaw_deg: float) -> Camera:
    return Camera(
        name=name,
        position=position,
        yaw_deg=yaw_deg,
        pitch_deg=-20.0,
        focal_share=_FISHEYE_FOCAL_SHARE,
        delay_us=0,
        fisheye=_LENS,
    )


AIRSIDE_CAMERAS: tuple[Camera, ...] = (
    _pinhole("FRONT", (1.60, 0.0, 2.05), 0.0),
    _pinhole("LEFT", (0.20, 0.85, 2.05), 90.0),
    _pinhole("REAR", (-1.50, 0.0, 2.05), 180.0),
    _pinhole("RIGHT", (0.20, -0.85, 2.05), -90.0),
    _fisheye("FISHEYE_FRONT", (2.10, 0.0, 0.85), 0.0),
    _fisheye("FISHEYE_LEFT", (0.40, 0.95, 0.95), 90.0),
    _fisheye("FISHEYE_REAR", (-2.00, 0.0, 0.85), 180.0),
    _fisheye("FISHEYE_RIGHT", (0.40, -0.95, 0.95), -90.0),
)

RIGS: dict[FixedRigName, tuple[Camera, ...]] = {"nuscenes": CAMERAS, "airside": AIRSIDE_CAMERAS}

_DOMAIN = 0x51C
_FOCAL_SHARES = (0.42, 1.05)  # 100 and 51 degrees
_HEIGHTS_M = (1.2, 2.6)


def rig_cameras(config: ProceduralConfig) -> tuple[Camera, ...]:
    """Return the cameras that record a data set."""
    return drawn_rig(config.seed) if config.rig == "drawn" else RIGS[config.rig]


def drawn_rig(seed: int) -> tuple[Camera, ...]:
    """Draw a rig of five to seven pinholes that look all around, triggered together.

    Its focal length, its height and its tilt differ from rig to rig, and a little between its cameras. Every other
    rig's front camera has a focal length of its own, as most makers' have.
    """
    rng = np.random.default_rng([seed, _DOMAIN])
    number, height, tilt = int(rng.integers(5, 8)), rng.uniform(*_HEIGHTS_M), rng.uniform(-4.0, 2.0)
    low, high = np.log(_FOCAL_SHARES)
    focals = np.exp(np.full(number, rng.uniform(low, high)) + rng.normal(0.0, 0.03, number))
    if rng.random() < 0.5:
        focals[0] = np.exp(rng.uniform(low, high))
    cameras = []
    for index, focal in enumerate(focals):
        yaw_deg = (index * 360.0 / number + 180.0) % 360.0 - 180.0 + float(rng.uniform(-6.0, 6.0))
        yaw = np.radians(yaw_deg)
        cameras.append(
            Camera(
                name=f"CAM_{index}",
                position=(0.8 + 0.9 * np.cos(yaw), 0.6 * np.sin(yaw), height + float(rng.uniform(-0.08, 0.08))),
                yaw_deg=yaw_deg,
                pitch_deg=tilt + float(rng.uniform(-1.0, 1.0)),
                focal_share=float(focal),
                delay_us=0,
            )
        )
    return tuple(cameras)
