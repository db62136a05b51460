"""The sensor rig of six cameras and a LiDAR, mounted and timed like those of nuScenes, and the LiDAR's returns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from storage.procedural.appearance.materials import texture_atlas
from storage.procedural.world.world import World

_NOMINAL_WIDTH = 1600


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera of a rig.

    Attributes:
        name: nuScenes channel.
        position: Position in the ego frame, metres.
        yaw_deg: Viewing direction, counter-clockwise from straight ahead.
        pitch_deg: Viewing angle above the horizontal.
        focal_share: Focal length divided by the image width.
        delay_us: Time of the exposure after the LiDAR timestamp, which is the end of its sweep.
        fisheye: Coefficients k1 to k4 of a Kannala-Brandt lens; None for a pinhole.
    """

    name: str
    position: tuple[float, float, float]
    yaw_deg: float
    pitch_deg: float
    focal_share: float
    delay_us: int
    fisheye: tuple[float, float, float, float] | None = None

    def camera_to_ego(self) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose on the vehicle; camera axes are x right, y down, z forward."""
        yaw, pitch = np.radians(self.yaw_deg), np.radians(self.pitch_deg)
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        down = np.cross(forward, right)
        out = np.eye(4)
        out[:3, :3] = np.stack([right, down, forward], axis=1)
        out[:3, 3] = self.position
        return out

    def intrinsics(self, height: int, width: int) -> Float[np.ndarray, "3 3"]:
        """Return the intrinsics of a ``height`` by ``width`` image with square pixels."""
        focal = self.focal_share * width
        return np.array([[focal, 0.0, width * 0.504], [0.0, focal, height * 0.512], [0.0, 0.0, 1.0]])


def _camera(
    name: str, position: tuple[float, float, float], yaw_deg: float, pitch_deg: float, focal: float, delay_us: int
) -> Camera:
    return Camera(
        name=name,
        position=position,
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        focal_share=focal / _NOMINAL_WIDTH,
        delay_us=delay_us,
    )


# Mounting, field of view and trigger order follow the published nuScenes rig: the LiDAR turns clockwise seen from
# above, triggers each camera as it sweeps past, and stamps its own sweep at the end.
CAMERAS: tuple[Camera, ...] = (
    _camera("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, 0.3, 1272.0, -43_100),
    _camera("CAM_FRONT", (1.70, 0.02, 1.51), 0.3, -0.3, 1266.0, -35_500),
    _camera("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -56.0, 0.2, 1261.0, -27_600),
    _camera("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 108.5, -0.2, 1257.0, -500),
    _camera("CAM_BACK", (0.03, 0.00, 1.58), 179.8, -0.4, 809.0, -10_400),
    _camera("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110.5, 0.1, 1259.0, -20_100),
)

LIDAR_NAME = "LIDAR_TOP"
NUM_BEAMS = 32
_BEAM_ELEVATION_DEG = np.linspace(-30.67, 10.67, NUM_BEAMS)
_AZIMUTH_STEPS = 1084
_RANGE_NOISE_M = 0.015
_MIN_RANGE_M, _MAX_RANGE_M = 1.0, 105.0
_FADE_FROM_M = 70.0
_GLASS_GLOSS_REFLECTIVITY = 0.07


def lidar_to_ego() -> Float[np.ndarray, "4 4"]:
    """Return the LiDAR's pose on the vehicle: its x axis points right and its y axis forward, as in nuScenes."""
    out = np.eye(4)
    out[:3, :3] = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    out[:3, 3] = (0.94, 0.0, 1.84)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarSweep:
    """One revolution of the LiDAR, taken at one instant like a motion-compensated sweep.

    Attributes:
        points: Returns in the LiDAR frame, metres.
        intensity: Intensity, 0 to 255.
        ring: Beam number, 0 is the lowest.
        instance: Number of the actor that was hit, 0 for surroundings.
    """

    points: Float32[np.ndarray, "points 3"]
    intensity: Float32[np.ndarray, " points"]
    ring: UInt8[np.ndarray, " points"]
    instance: Int[np.ndarray, " points"]

    def as_rows(self) -> Float32[np.ndarray, "points 5"]:
        """Return rows of x, y, z, intensity, ring: the layout of nuScenes' ``.pcd.bin`` files."""
        columns = [self.points, self.intensity[:, None], self.ring[:, None].astype(np.float32)]
        return np.concatenate(columns, axis=1)


def beam_directions() -> Float32[np.ndarray, "rays 3"]:
    """Return unit directions of one revolution in the LiDAR frame, beam by beam within each azimuth step."""
    azimuth = np.arange(_AZIMUTH_STEPS) * (2 * np.pi / _AZIMUTH_STEPS)
    elevation = np.radians(_BEAM_ELEVATION_DEG)
    turn, tilt = np.meshgrid(azimuth, elevation, indexing="ij")
    directions = np.stack([np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)], -1)
    return directions.reshape(-1, 3).astype(np.float32)


def simulate_lidar(
    world: World, time_us: int, lidar_to_world: Float[np.ndarray, "4 4"], rng: np.random.Generator
) -> LidarSweep:
    """Return the sweep at ``time_us``.

    A return needs enough light: its chance falls with range beyond 70 m, faster for dark and slanted surfaces, and
    glass mostly lets the beam through. Ranges carry noise of 1.5 cm standard deviation, cut at three.

    Args:
        world: World to scan.
        time_us: World time, microseconds.
        lidar_to_world: Pose of the sensor.
        rng: Source of noise and dropped returns.
    """
    snapshot = world.snapshot(time_us)
    local = beam_directions()
    directions = np.ascontiguousarray(local @ lidar_to_world[:3, :3].T.astype(np.float32))
    origins = np.broadcast_to(lidar_to_world[:3, 3].astype(np.float32), directions.shape).copy()
    hits = snapshot.first_hits(origins, directions)
    noise = np.clip(rng.standard_normal(len(local)), -3, 3) * _RANGE_NOISE_M
    luck = rng.random(len(local))
    found = np.flatnonzero((hits.distance > _MIN_RANGE_M) & (hits.distance < _MAX_RANGE_M))
    face, distance = hits.face[found], hits.distance[found]
    normal = snapshot.table.rows[0:3].take(face, axis=1)
    cosine = np.abs(np.einsum("cn,nc->n", normal, directions[found]))
    reflectivity = texture_atlas().reflectivity[snapshot.table.material[face]]
    signal = reflectivity * np.sqrt(np.clip(cosine, 0.01, 1.0))
    fade = np.clip((distance - _FADE_FROM_M) / (_MAX_RANGE_M - _FADE_FROM_M), 0.0, 1.0)
    chance = 0.995 * np.exp(-fade * 0.8 / np.maximum(signal, 0.02))
    chance[reflectivity < _GLASS_GLOSS_REFLECTIVITY] *= 0.25
    kept = luck[found] < chance
    found, face, signal = found[kept], face[kept], signal[kept]
    ranges = (distance[kept] + noise[found]).astype(np.float32)
    return LidarSweep(
        points=local[found] * ranges[:, None],
        intensity=np.round(np.clip(signal * 150.0, 1.0, 255.0)).astype(np.float32),
        ring=(found % NUM_BEAMS).astype(np.uint8),
        instance=snapshot.table.instance[face].astype(np.int64),
    )
