"""Write scenes in the official nuScenes v1.0 layout: thirteen tables, JPEG images and ``.pcd.bin`` sweeps."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from storage.geometry.transforms import rotation_to_quat_wxyz
from storage.procedural.sensing.sensors import LidarSweep
from storage.taxonomy import CLASSES, class_named

Row = dict[str, Any]
MAP_METRES_PER_PIXEL = 0.1
_VISIBILITY = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.01))
_TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample",
    "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip


def token(*parts: object) -> str:
    """Return a 32-digit token; equal ``parts`` give equal tokens."""
    return hashlib.md5("/".join(str(p) for p in parts).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorMount:
    """A sensor as calibrated for one scene.

    Attributes:
        channel: nuScenes channel.
        sensor_to_ego: Pose on the vehicle.
        intrinsics: Camera intrinsics, pixels; None for a LiDAR.
    """

    channel: str
    sensor_to_ego: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One box in one keyframe.

    Attributes:
        instance: Actor number within the scene.
        class_name: Semantic class, which must have a nuScenes category.
        box_to_global: Pose of the box centre; axes are length, width, height.
        size: Length, width, height, metres.
        is_moving: Whether the actor moves at this time.
        visible_share: Share of its camera-facing surface that the cameras see, [0, 1].
        num_lidar_points: LiDAR returns from it in the keyframe's sweep.
    """

    instance: int
    class_name: str
    box_to_global: Float[np.ndarray, "4 4"]
    size: tuple[float, float, float]
    is_moving: bool
    visible_share: float
    num_lidar_points: int


@dataclass(slots=True, kw_only=True)
class SceneWriter:
    """Collects the rows of one scene and writes its files.

    Attributes:
        root: Root of the data set.
        name: Scene name.
        log_name: Name of the recording; begins every file name.
        location: Place of the drive, for the log table.
        description: One line of text.
        mounts: Every sensor, LiDAR included.
        rows: Rows by table; complete after ``finish``.
    """

    root: Path
    name: str
    log_name: str
    location: str
    description: str
    mounts: tuple[SensorMount, ...]
    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in _TABLES})

    def __post_init__(self) -> None:
        for mount in self.mounts:
            self.rows["calibrated_sensor"].append(
                {
                    "token": self._token("calibrated_sensor", mount.channel),
                    "sensor_token": token("sensor", mount.channel),
                    **_pose(mount.sensor_to_ego),
                    "camera_intrinsic": [] if mount.intrinsics is None else mount.intrinsics.tolist(),
                }
            )

    def add_frame(self, timestamp_us: int) -> str:
        """Begin a keyframe and return its sample token."""
        sample = self._token("sample", timestamp_us)
        self.rows["sample"].append({"token": sample, "timestamp": timestamp_us, "scene_token": self._token("scene")})
        return sample

    def add_image(
        self,
        sample: str,
        channel: str,
        timestamp_us: int,
        ego_to_global: Float[np.ndarray, "4 4"],
        image: UInt8[np.ndarray, "height width 3"],
        *,
        quality: int,
        is_key_frame: bool = True,
    ) -> None:
        """Write an image and its rows; an image between keyframes belongs to the sample that follows it."""
        file = self._file(channel, timestamp_us, "jpg", is_key_frame=is_key_frame)
        Image.fromarray(image).save(self.root / file, quality=quality, subsampling=0)
        self._add_data(
            sample, channel, timestamp_us, ego_to_global, file, "jpg", image.shape[:2], is_key_frame=is_key_frame
        )

    def add_sweep(
        self,
        sample: str,
        channel: str,
        timestamp_us: int,
        ego_to_global: Float[np.ndarray, "4 4"],
        sweep: LidarSweep,
        *,
        is_key_frame: bool = True,
    ) -> None:
        """Write a sweep (points in the LiDAR frame) and its rows; see ``add_image``."""
        file = self._file(channel, timestamp_us, "pcd.bin", is_key_frame=is_key_frame)
        sweep.as_rows().tofile(self.root / file)
        self._add_data(sample, channel, timestamp_us, ego_to_global, file, "pcd", (0, 0), is_key_frame=is_key_frame)

    def add_annotation(self, sample: str, annotation: Annotation) -> None:
        """Add one box to a keyframe."""
        entry = class_named(annotation.class_name)
        attribute = entry.nuscenes_attributes[0 if annotation.is_moving else 1] if entry.nuscenes_attributes else None
        level = next(t for t, _, limit in _VISIBILITY if annotation.visible_share < limit)
        length, width, height = annotation.size
        self.rows["sample_annotation"].append(
            {
                "token": self._token("annotation", sample, annotation.instance),
                "sample_token": sample,
                "instance_token": self._token("instance", annotation.instance),
                "visibility_token": level,
                "attribute_tokens": [] if attribute is None else [token("attribute", attribute)],
                **_pose(annotation.box_to_global),
                "size": [width, length, height],
                "num_lidar_pts": annotation.num_lidar_points,
                "num_radar_pts": 0,
            }
        )
        known = {row["token"] for row in self.rows["instance"]}
        instance = self._token("instance", annotation.instance)
        if instance not in known:
            category = token("category", entry.nuscenes_category)
            self.rows["instance"].append({"token": instance, "category_token": category})

    def finish(self, is_driveable: Bool[np.ndarray, "rows columns"]) -> None:
        """Link the chains and add the scene, its log and its map mask (row 0 is the largest y)."""
        samples = self.rows["sample"]
        _link(samples)
        by_channel: dict[str, list[Row]] = {}
        for row in self.rows["sample_data"]:
            by_channel.setdefault(row["calibrated_sensor_token"], []).append(row)
        for chain in by_channel.values():
            _link(sorted(chain, key=lambda row: row["timestamp"]))
        by_instance: dict[str, list[Row]] = {}
        for row in self.rows["sample_annotation"]:
            by_instance.setdefault(row["instance_token"], []).append(row)
        for chain in by_instance.values():
            _link(chain)
        for row in self.rows["instance"]:
            chain = by_instance[row["token"]]
            row["nbr_annotations"] = len(chain)
            row["first_annotation_token"] = chain[0]["token"]
            row["last_annotation_token"] = chain[-1]["token"]
        log = self._token("log")
        self.rows["scene"].append(
            {
                "token": self._token("scene"),
                "log_token": log,
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": self.name,
                "description": self.description,
            }
        )
        self.rows["log"].append(
            {
                "token": log,
                "logfile": self.log_name,
                "vehicle": "procedural",
                "date_captured": "2026-01-01",
                "location": self.location,
            }
        )
        file = f"maps/{self._token('map')}.png"
        (self.root / "maps").mkdir(exist_ok=True)
        Image.fromarray(np.where(is_driveable, np.uint8(255), np.uint8(0))).save(self.root / file, compress_level=2)
        self.rows["map"].append(
            {"token": self._token("map"), "log_tokens": [log], "category": "semantic_prior", "filename": file}
        )

    def _token(self, *parts: object) -> str:
        return token(self.log_name, self.name, *parts)

    def _file(self, channel: str, timestamp_us: int, suffix: str, *, is_key_frame: bool) -> str:
        folder = Path("samples" if is_key_frame else "sweeps") / channel
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        return f"{folder}/{self.log_name}__{channel}__{timestamp_us}.{suffix}"

    def _add_data(
        self,
        sample: str,
        channel: str,
        timestamp_us: int,
        ego_to_global: Float[np.ndarray, "4 4"],
        file: str,
        fileformat: str,
        size: tuple[int, ...],
        *,
        is_key_frame: bool,
    ) -> None:
        own = self._token("sample_data", channel, timestamp_us)
        self.rows["ego_pose"].append({"token": own, "timestamp": timestamp_us, **_pose(ego_to_global)})
        self.rows["sample_data"].append(
            {
                "token": own,
                "sample_token": sample,
                "ego_pose_token": own,
                "calibrated_sensor_token": self._token("calibrated_sensor", channel),
                "timestamp": timestamp_us,
                "fileformat": fileformat,
                "is_key_frame": is_key_frame,
                "height": size[0],
                "width": size[1],
                "filename": file,
            }
        )


def shared_rows(mounts: tuple[SensorMount, ...]) -> dict[str, list[Row]]:
    """Return the rows shared by all scenes: sensors, categories, attributes, visibility levels."""
    categories = dict.fromkeys(c.nuscenes_category for c in CLASSES if c.nuscenes_category)
    attributes = dict.fromkeys(a for c in CLASSES for a in c.nuscenes_attributes)
    words = {c.nuscenes_category: c.words[0] for c in CLASSES}
    return {
        "sensor": [
            {
                "token": token("sensor", m.channel),
                "channel": m.channel,
                "modality": "lidar" if m.intrinsics is None else "camera",
            }
            for m in mounts
        ],
        "category": [
            {"token": token("category", name), "name": name, "description": words[name], "index": index + 1}
            for index, name in enumerate(categories)
        ],
        "attribute": [{"token": token("attribute", name), "name": name, "description": name} for name in attributes],
        "visibility": [
            {"token": t, "level": level, "description": f"visible share {level}"} for t, level, _ in _VISIBILITY
        ],
    }


def write_tables(folder: Path, parts: list[dict[str, list[Row]]]) -> None:
    """Write all thirteen tables, concatenating the rows of each table in ``parts``."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in _TABLES:
        rows = [row for part in parts for row in part.get(table, [])]
        (folder / f"{table}.json").write_text(json.dumps(rows, indent=0) + "\n")


def _link(chain: list[Row]) -> None:
    for row, before, after in zip(chain, [None, *chain], [*chain[1:], None], strict=False):
        row["prev"] = "" if before is None else before["token"]
        row["next"] = "" if after is None else after["token"]


def _pose(local_to_parent: Float[np.ndarray, "4 4"]) -> Row:
    return {
        "translation": local_to_parent[:3, 3].tolist(),
        "rotation": rotation_to_quat_wxyz(local_to_parent[:3, :3]).tolist(),
    }
