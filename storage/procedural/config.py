"""Configuration of procedural data sets."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from storage.keys import SceneKey
from storage.procedural.conditions import Conditions
from storage.taxonomy import Theme

FixedRigName = Literal["nuscenes", "airside"]
RigName = Literal[FixedRigName, "drawn"]
_WEATHER_DOMAIN = 0x3EA7


@dataclass(frozen=True, slots=True, kw_only=True)
class WeatherConfig:
    """Light and weather of a data set; every scene draws its own from its seed.

    Attributes:
        lighting: Kind of light of all scenes; "seeded" draws one for each scene.
        sun_elevation_deg: Elevation of the sun in every scene; drawn for each scene when None.
        sun_azimuth_deg: Direction of the sun, counter-clockwise from the world's x axis; drawn for each scene when
            None.
        wet_share: Share of the scenes whose ground is wet, to a drawn degree.
        thin_structures: Whether cables, railings and barrier tape are added.
    """

    lighting: Literal["seeded", "sunny", "hazy", "overcast", "dusk"] = "seeded"
    sun_elevation_deg: float | None = None
    sun_azimuth_deg: float | None = None
    wet_share: float = 0.0
    thin_structures: bool = False

    def __post_init__(self) -> None:
        self.of_scene(0)  # raises on a value that no scene can have
        if not 0.0 <= self.wet_share <= 1.0:
            raise ValueError(f"wet_share is {self.wet_share}, want 0 to 1")

    def of_scene(self, scene_seed: int) -> Conditions:
        """Return the conditions of the scene with that seed."""
        chance, amount = np.random.default_rng([scene_seed, _WEATHER_DOMAIN]).random(2)
        return Conditions(
            lighting=None if self.lighting == "seeded" else self.lighting,
            sun_elevation_deg=self.sun_elevation_deg,
            sun_azimuth_deg=self.sun_azimuth_deg,
            wetness=float(0.3 + 0.7 * amount) if chance < self.wet_share else 0.0,
            thin_structures=self.thin_structures,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralConfig:
    """Settings of a procedural data set.

    Attributes:
        dataset: Name of the data set, the first half of every scene key.
        version: Folder of the tables inside the root.
        num_scenes: Number of scenes.
        airside_share: Share of the scenes that show an airport apron, spread evenly; the others show streets.
        frames_per_scene: Keyframes of each scene.
        keyframe_rate_hz: Keyframes per second; nuScenes has 2.
        image_height: Rows of every camera image.
        image_width: Columns of every camera image.
        jpeg_quality: JPEG quality, 1 to 95.
        antialias: Whether edges in images get five rays a pixel instead of one.
        seed: Seed of the whole data set. Scene ``i`` depends on the seed and on ``i`` only.
        rig: Camera rig: that of nuScenes, the airside vehicle's four pinholes and four fisheyes, or one of five to
            seven pinholes that is drawn from the seed.
        source_format: Format of the files: nuScenes, whose cameras are given, or a rig manifest.
        camera_sweep_rate_hz: Rate of all images, those between keyframes included (12 in nuScenes); 0 for keyframes
            only.
        lidar_sweep_rate_hz: Rate of all LiDAR sweeps (20 in nuScenes); 0 for keyframes only.
        weather: Light and weather of the scenes.
    """

    dataset: str = "procedural"
    version: str = "v1.0-mini"
    num_scenes: int = 4
    airside_share: float = 0.25
    frames_per_scene: int = 10
    keyframe_rate_hz: float = 2.0
    image_height: int = 225
    image_width: int = 400
    jpeg_quality: int = 95
    antialias: bool = True
    seed: int = 0
    rig: RigName = "nuscenes"
    source_format: Literal["nuscenes", "manifest"] = "nuscenes"
    camera_sweep_rate_hz: float = 0.0
    lidar_sweep_rate_hz: float = 0.0
    weather: WeatherConfig = field(default_factory=WeatherConfig)

    def __post_init__(self) -> None:
        SceneKey(self.dataset, "any")  # raises on a name that cannot stand in a key
        ranges: tuple[tuple[str, float, float], ...] = (
            ("num_scenes", 1, 10_000),
            ("airside_share", 0.0, 1.0),
            ("frames_per_scene", 1, 10_000),
            ("keyframe_rate_hz", 0.1, 20.0),
            ("image_height", 16, 4096),
            ("image_width", 16, 4096),
            ("jpeg_quality", 1, 95),
            ("seed", 0, 2**31 - 1),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, want {low} to {high}")
        if not self.version or self.version.startswith(".") or any(c in self.version for c in "/\\"):
            raise ValueError(f"version is {self.version!r}, want the name of one folder inside the root")

        if self.source_format == "nuscenes" and self.rig != "nuscenes":
            raise ValueError(f"rig {self.rig!r} has other cameras than nuScenes, want source_format 'manifest'")
        for name in ("camera_sweep_rate_hz", "lidar_sweep_rate_hz"):
            rate = getattr(self, name)
            if rate and self.source_format != "nuscenes":
                raise ValueError(f"{name} is {rate}, want 0: a rig manifest holds whole frames only")
            ratio = rate / self.keyframe_rate_hz
            if rate and (rate > 50.0 or ratio < 2.0 or abs(ratio - round(ratio)) > 1e-9):
                raise ValueError(f"{name} is {rate}, want 0 or a multiple of keyframe_rate_hz up to 50")

    @property
    def duration_s(self) -> float:
        """Return the seconds from the first keyframe to the last, plus half a second."""
        return (self.frames_per_scene - 1) / self.keyframe_rate_hz + 0.5

    def scene_name(self, index: int) -> str:
        """Return the name of scene ``index``, counted from 0."""
        return f"scene-{index + 1:04d}"

    def theme(self, index: int) -> Theme:
        """Return the theme of scene ``index``."""
        share = self.airside_share
        # Half a step ahead, so that the first of every 1 / share scenes is not always a street.
        is_airside = int((index + 1.5) * share) > int((index + 0.5) * share)
        return Theme.AIRSIDE if is_airside else Theme.STREET

    def scene_seed(self, index: int) -> int:
        """Return the world seed of scene ``index``."""
        return self.seed * 10_007 + index

    def times_between_us(self, frame: int, rate_hz: float) -> list[int]:
        """Return the world times (microseconds) of a sensor's sweeps between keyframe ``frame`` and the one before."""
        if frame == 0 or rate_hz == 0.0:
            return []
        steps = round(rate_hz / self.keyframe_rate_hz)
        start_us = self.keyframe_time_us(frame - 1)
        return [start_us + round(k * 1e6 / rate_hz) for k in range(1, steps)]

    def keyframe_time_us(self, frame: int) -> int:
        """Return the world time of a keyframe's LiDAR sweep, microseconds; 0 for the first."""
        return round(frame * 1e6 / self.keyframe_rate_hz)
