"""A nuScenes release small enough to write for every test, and to break in one place."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.stores.versioned import Home

# The machine that runs the tests may be busy: time limits per example only make failures that are not there.
settings.register_profile("repository", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repository")

VERSION = "v1.0-mini"
SCENES = ("scene-0001", "scene-0002")
CAMERAS = ("CAM_FRONT", "CAM_BACK")
NUM_FRAMES = 3
HEIGHT, WIDTH = 18, 32
# Camera axes in ego: z forward, x right, y down; and the same turned half around the vertical.
CAMERA_QUATS = {"CAM_FRONT": [0.5, -0.5, 0.5, -0.5], "CAM_BACK": [0.5, -0.5, -0.5, 0.5]}

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TinyNuScenes:
    """Two scenes, three frames, two cameras and a LiDAR in the official layout.

    Attributes:
        root: The data set's root.
    """

    root: Path

    def path(self, table: str) -> Path:
        return self.root / VERSION / f"{table}.json"

    def rows(self, table: str) -> Rows:
        return json.loads(self.path(table).read_text())

    def edit(self, table: str, change: Callable[[Rows], Rows | None]) -> None:
        """Let ``change`` alter the rows in place, or return new ones, and write the table again."""
        rows = self.rows(table)
        self.path(table).write_text(json.dumps(change(rows) or rows))

    def set(self, table: str, token: str, **values: Any) -> None:
        """Set fields of the one row with this token."""
        rows = self.rows(table)
        (row,) = (row for row in rows if row["token"] == token)
        row.update(values)
        self.path(table).write_text(json.dumps(rows))

    def file(self, scene: str, channel: str, frame: int) -> str:
        """Name of a raw file, relative to the root."""
        extension = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        return f"samples/{channel}/{scene}__{channel}__{frame}.{extension}"

    def source(self, dataset: str = "tiny") -> SourceConfig:
        return SourceConfig(dataset=dataset, root=self.root, version=VERSION, licence="CC0-1.0")


def write_tiny_nuscenes(root: Path) -> TinyNuScenes:
    """Write the release; every number is fixed, so two writes are equal."""
    rng = np.random.default_rng(0)
    tables: dict[str, Rows] = {
        "attribute": [],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "category": [{"token": "cat-car", "name": "vehicle.car", "description": ""}],
        "sensor": [{"token": f"sensor-{c}", "channel": c, "modality": "camera"} for c in CAMERAS],
        "calibrated_sensor": [
            {
                "token": f"{scene}/calibration-{c}",
                "sensor_token": f"sensor-{c}",
                "translation": [1.5 if c == "CAM_FRONT" else -0.5, 0.0, 1.5],
                "rotation": CAMERA_QUATS[c],
                "camera_intrinsic": [[25.0, 0.0, 16.0], [0.0, 25.0, 9.0], [0.0, 0.0, 1.0]],
            }
            for scene in SCENES
            for c in CAMERAS
        ],
        "log": [{"token": "log", "logfile": "tiny", "vehicle": "", "date_captured": "", "location": "nowhere"}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/none.png"}],
    }
    tables["sensor"].append({"token": "sensor-LIDAR_TOP", "channel": "LIDAR_TOP", "modality": "lidar"})
    tables["calibrated_sensor"] += [
        {
            "token": f"{scene}/calibration-LIDAR_TOP",
            "sensor_token": "sensor-LIDAR_TOP",
            "translation": [0.9, 0.0, 1.8],
            "rotation": [np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)],
            "camera_intrinsic": [],
        }
        for scene in SCENES
    ]
    for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance"):
        tables[name] = []
    (root / "maps").mkdir(parents=True)
    Image.new("L", (4, 4)).save(root / "maps" / "none.png")
    release = TinyNuScenes(root=root)
    for scene_index, scene in enumerate(SCENES):
        tables["scene"].append(
            {
                "token": scene,
                "log_token": "log",
                "nbr_samples": NUM_FRAMES,
                "first_sample_token": f"{scene}/0",
                "last_sample_token": f"{scene}/{NUM_FRAMES - 1}",
                "name": scene,
                "description": "tiny",
            }
        )
        tables["instance"].append(
            {
                "token": f"{scene}/car",
                "category_token": "cat-car",
                "nbr_annotations": NUM_FRAMES,
                "first_annotation_token": f"{scene}/0/car",
                "last_annotation_token": f"{scene}/{NUM_FRAMES - 1}/car",
            }
        )
        for frame in range(NUM_FRAMES):
            _write_frame(release, tables, scene, frame, 1_000_000 * (scene_index + 1) + 500_000 * frame, rng)
    for name, rows in tables.items():
        release.path(name).parent.mkdir(exist_ok=True)
        release.path(name).write_text(json.dumps(rows))
    return release


def _write_frame(
    release: TinyNuScenes, tables: dict[str, Rows], scene: str, frame: int, time_us: int, rng: np.random.Generator
) -> None:
    sample = f"{scene}/{frame}"
    tables["sample"].append(
        {
            "token": sample,
            "timestamp": time_us,
            "prev": f"{scene}/{frame - 1}" if frame else "",
            "next": f"{scene}/{frame + 1}" if frame + 1 < NUM_FRAMES else "",
            "scene_token": scene,
        }
    )
    for index, channel in enumerate(("LIDAR_TOP", *CAMERAS)):
        token, shot_us = f"{sample}/{channel}", time_us - 10_000 * index
        yaw = 0.3 + 0.1 * frame - 0.002 * index
        tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": shot_us,
                "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                "translation": [600.0 + 2.0 * frame - 0.04 * index, 1600.0 + 0.5 * frame, 0.0],
            }
        )
        is_camera = channel != "LIDAR_TOP"
        file = release.file(scene, channel, frame)
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": f"{scene}/calibration-{channel}",
                "timestamp": shot_us,
                "fileformat": "jpg" if is_camera else "pcd",
                "is_key_frame": True,
                "height": HEIGHT if is_camera else 0,
                "width": WIDTH if is_camera else 0,
                "filename": file,
                "prev": "",
                "next": "",
            }
        )
        path = release.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)) if is_camera else _lidar(rng))
    tables["sample_annotation"].append(
        {
            "token": f"{sample}/car",
            "sample_token": sample,
            "instance_token": f"{scene}/car",
            "visibility_token": "4",
            "attribute_tokens": [],
            "translation": [610.0, 1600.0, 0.8],
            "size": [1.8, 4.5, 1.6],
            "rotation": [float(np.cos(0.15)), 0.0, 0.0, float(np.sin(0.15))],
            "prev": "",
            "next": "",
            "num_lidar_pts": 7,
            "num_radar_pts": 0,
        }
    )


def jpeg_bytes(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _lidar(rng: np.random.Generator) -> bytes:
    xyz = rng.uniform(-20, 20, (50, 3))
    return np.column_stack([xyz, rng.uniform(0, 255, 50), np.zeros(50)]).astype("<f4").tobytes()


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> TinyNuScenes:
    return write_tiny_nuscenes(tmp_path_factory.mktemp("tiny") / "nuscenes")


@pytest.fixture
def tiny(tiny_template: TinyNuScenes, tmp_path: Path) -> TinyNuScenes:
    """A release of one's own, to break."""
    root = tmp_path / "nuscenes"
    shutil.copytree(tiny_template.root, root)
    return TinyNuScenes(root=root)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def tiny_home(home: Home, tiny: TinyNuScenes) -> Home:
    """A home in which the release is registered as ``tiny``."""
    register_source(home, tiny.source())
    return home
