"""Camera rigs for recording a world; Waymo's rig is in ``storage.testing``, calibrated in Waymo's terms."""

from storage.procedural.config import RigName
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

RIGS: dict[RigName, tuple[Camera, ...]] = {"nuscenes": CAMERAS, "airside": AIRSIDE_CAMERAS}
