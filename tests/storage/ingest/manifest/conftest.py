"""A recording small enough to write for every test: a fisheye, a pinhole with a lens, and a LiDAR that turns."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.ingest.manifest.manifest import RIG_MANIFEST_FILE, Mounting, Rig, RigCamera, RigLidar, RigManifest
from storage.ingest.manifest.writer import ImageEntry, write_manifest, write_scene_tables, write_sweep
from storage.ingest.run import ingest_scene
from storage.ingest.source import manifest_source, register_source
from storage.keys import SceneKey
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home

SCENES = ("stand-1", "stand-2")
NUM_FRAMES = 3
START_US = 1_700_000_000_000_000
SPEED = 4.0
SIZES = {"left": (24, 32), "front": (18, 36)}
FORWARD = (0.5, -0.5, 0.5, -0.5)
FISHEYE = {"k1": 0.02, "k2": -0.004, "k3": 0.001, "k4": -0.0002}
LENS = {"k1": -0.1, "k2": 0.01, "p1": 0.0, "p2": 0.001, "k3": 0.0}
RIG = Rig(
    pixel_origin="centre",
    cameras=(
        RigCamera(
            name="left",
            model="fisheye",
            width=32,
            height=24,
            intrinsics={"fx": 9.0, "fy": 9.0, "cx": 15.5, "cy": 11.5},
            distortion=FISHEYE,
            camera_to_ego=Mounting(
                translation_m=(0.5, 1.0, 1.4), rotation_wxyz=(0.7071067811865476, -0.7071067811865476, 0.0, 0.0)
            ),
            valid_mask="masks/left.png",
        ),
        RigCamera(
            name="front",
            model="pinhole",
            width=36,
            height=18,
            intrinsics={"fx": 30.0, "fy": 30.0, "cx": 17.5, "cy": 8.5},
            distortion=LENS,
            camera_to_ego=Mounting(translation_m=(1.5, 0.0, 1.4), rotation_wxyz=FORWARD),
        ),
    ),
    lidar=RigLidar(
        name="roof", lidar_to_ego=Mounting(translation_m=(0.0, 0.0, 2.0), rotation_wxyz=(1.0, 0.0, 0.0, 0.0))
    ),
)


def ego_to_world(times_us: np.ndarray) -> np.ndarray:
    """Driving along world y at a constant speed, from a point far off the origin."""
    poses = np.tile(np.eye(4), (len(times_us), 1, 1))
    poses[:, :2, :2] = [[0, -1], [1, 0]]
    poses[:, :3, 3] = [1000.0, 2000.0, 5.0]
    poses[:, 1, 3] += SPEED * (times_us - START_US) * 1e-6
    return poses


@dataclass(frozen=True, kw_only=True)
class TinyRecording:
    root: Path

    @property
    def document(self) -> dict[str, Any]:
        return json.loads((self.root / RIG_MANIFEST_FILE).read_text())

    def write(self, document: object) -> None:
        (self.root / RIG_MANIFEST_FILE).write_text(json.dumps(document))

    def table(self, name: str, scene: str = SCENES[0]) -> dict[str, list[Any]]:
        return pq.read_table(self.root / scene / f"{name}.parquet").to_pydict()


def write_tiny_recording(root: Path) -> TinyRecording:
    random = np.random.default_rng(0)
    mask = np.full((24, 32), 255, np.uint8)
    mask[20:] = 0
    (root / "masks").mkdir(parents=True)
    Image.fromarray(mask).save(root / "masks" / "left.png")
    frame_times = START_US + 200_000 + 100_000 * np.arange(NUM_FRAMES)
    pose_times = START_US + 50_000 * np.arange(12)
    scenes = []
    for scene in SCENES:
        images = []
        for frame, time in enumerate(frame_times):
            for camera, delay in (("left", -20_000), ("front", 10_000)):
                file = f"{scene}/{camera}/{frame}.jpg"
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (*SIZES[camera], 3), np.uint8)).save(root / file, quality=95)
                images.append(ImageEntry(frame=frame, camera=camera, timestamp_us=int(time) + delay, file=file))
            # One thing that stands still, seen twice while the vehicle drives past it.
            offsets = np.array([-50_000, 40_000])
            poses = ego_to_world(time + offsets) @ RIG.lidar.lidar_to_ego.sensor_to_ego
            seen = np.stack([np.linalg.inv(pose) @ [990.0, 2010.0, 6.0, 1.0] for pose in poses])
            seen[:, 3] = [0.25, 0.5]
            write_sweep(root / scene / "roof" / f"{frame}.parquet", seen, time_offset_us=offsets)
        boxes = SceneBoxes(
            frame_index=np.arange(NUM_FRAMES),
            centre=np.tile([990.0, 2010.0, 6.0], (NUM_FRAMES, 1)),
            size=np.tile([4.0, 2.0, 1.5], (NUM_FRAMES, 1)),
            quat_wxyz=np.tile([1.0, 0.0, 0.0, 0.0], (NUM_FRAMES, 1)),
            category=("belt_loader",) * NUM_FRAMES,
            instance=("loader-7",) * NUM_FRAMES,
            num_lidar_points=np.full(NUM_FRAMES, -1),
        )
        scenes.append(
            write_scene_tables(
                root,
                scene,
                "tug",
                pose_timestamp_us=pose_times,
                ego_to_world=ego_to_world(pose_times),
                frame_timestamp_us=frame_times,
                images=images[::-1],
                lidar_files=[f"{scene}/roof/{frame}.parquet" for frame in range(NUM_FRAMES)],
                boxes=boxes,
                location="apron 3",
            )
        )
    manifest = RigManifest(
        name="apron", version="2026-11", licence="CC0-1.0", rigs={"tug": RIG}, scenes=tuple(scenes), description="tiny"
    )
    write_manifest(root, manifest)
    return TinyRecording(root=root)


@pytest.fixture
def recording(tmp_path) -> TinyRecording:
    return write_tiny_recording(tmp_path / "apron")


@pytest.fixture
def recording_home(recording, tmp_path) -> Home:
    home = Home(tmp_path / "home")
    register_source(home, manifest_source(recording.root))
    return home


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> tuple[TinyRecording, Home, SceneReader]:
    """A recording and its first scene, for tests that only read."""
    folder = tmp_path_factory.mktemp("ingested")
    recording, home = write_tiny_recording(folder / "apron"), Home(folder / "home")
    register_source(home, manifest_source(recording.root))
    ingest_scene(home, SceneKey("apron", SCENES[0]))
    return recording, home, SceneReader.open(home, SceneKey("apron", SCENES[0]))
