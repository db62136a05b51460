"""Configuration of procedural data sets."""

from dataclasses import dataclass

from storage.keys import SceneKey
from storage.procedural.classes import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralConfig:
    """What to generate.

    Attributes:
        dataset: Name the scenes are known by, the first half of every scene key.
        version: Folder of the tables inside the root.
        num_scenes: Number of scenes.
        airside_share: Share of the scenes that show an airport apron, spread evenly; the others show streets.
        frames_per_scene: Keyframes of each scene.
        keyframe_rate_hz: Keyframes per second; nuScenes has 2.
        image_height: Rows of every camera image.
        image_width: Columns of every camera image.
        jpeg_quality: 1 to 95.
        antialias: Whether edges in images get five rays a pixel instead of one.
        seed: Of the whole data set. Scene ``i`` depends on the seed and on ``i`` only.
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

    @property
    def duration_s(self) -> float:
        """Seconds from the first keyframe to the last, and half a second more."""
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

    def keyframe_time_us(self, frame: int) -> int:
        """Return the world time of a keyframe's LiDAR sweep, microseconds; 0 for the first."""
        return round(frame * 1e6 / self.keyframe_rate_hz)
