"""Benchmark of ingest against merely decoding the images: hashing, checks and storage should cost little."""

import io
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from storage.ingest.manifest.manifest import Mounting, Rig, RigCamera, RigLidar, RigManifest
from storage.ingest.manifest.writer import ImageEntry, write_manifest, write_scene_tables, write_sweep
from storage.ingest.run import ingest_scene
from storage.ingest.source import manifest_source, register_source
from storage.keys import SceneKey
from storage.stores.versioned import Home

_HEIGHT, _WIDTH, _NUM_CAMERAS, _NUM_POINTS = 900, 1600, 6, 34_000  # of a nuScenes keyframe
_RUNS = 5
_KEY = SceneKey("bench", "drive")


def bench_ingest(num_frames: int = 20) -> dict[str, Any]:
    """Ingest a recording of nuScenes' size with two workers, in turns with decoding the same JPEGs in one thread.

    Returns:
        Frames a second of both (medians), the ratio, bytes stored per frame, and the process's peak memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "recording"
        images = write_recording(root, num_frames)
        source = manifest_source(root)
        ours, reference, metrics = [], [], {}
        stored = 0
        for run in range(_RUNS + 1):
            home = Home(Path(folder) / f"home-{run}")
            register_source(home, source)
            begin = time.perf_counter()
            made = ingest_scene(home, _KEY)
            middle = time.perf_counter()
            for path in images:
                with Image.open(path) as image:
                    image.load()
            end = time.perf_counter()
            metrics = made.metrics
            stored = sum(path.stat().st_size for path in home.root.rglob("*") if path.is_file())
            if run > 0:
                ours.append(num_frames / (middle - begin))
                reference.append(num_frames / (end - middle))
    return {
        "name": "ingest",
        "ratio": median(ours) / median(reference),
        "ours": median(ours),
        "reference": median(reference),
        "unit": "frames/s",
        "runs": _RUNS,
        "details": {
            "frames": num_frames,
            "cameras": _NUM_CAMERAS,
            "height": _HEIGHT,
            "width": _WIDTH,
            "source_bytes_per_frame": metrics["jpeg_bytes"] / num_frames + _NUM_POINTS * 16,
            "stored_bytes_per_frame": stored / num_frames,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }


def write_recording(root: Path, num_frames: int) -> list[Path]:
    """Write a drive of six 1600 x 900 cameras and a LiDAR; return its images."""
    random = np.random.default_rng(0)
    files = [f"drive/{camera}/{frame}.jpg" for frame in range(num_frames) for camera in range(_NUM_CAMERAS)]
    encoded = [_encode(random) for _ in range(_NUM_CAMERAS)]
    for index, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        # A comment of its own after the end marker: every file has another digest, and decodes at the same cost.
        (root / file).write_bytes(encoded[index % _NUM_CAMERAS] + index.to_bytes(4, "little"))
    instants = 1_700_000_000_000_000 + 500_000 * np.arange(num_frames)
    sweeps = [f"drive/roof/{frame}.parquet" for frame in range(num_frames)]
    for sweep in sweeps:
        write_sweep(root / sweep, random.uniform(-50, 50, (_NUM_POINTS, 4)))
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, 0, 3] = 2.0 * np.arange(num_frames)
    images = [
        ImageEntry(
            frame=i // _NUM_CAMERAS,
            camera=f"{i % _NUM_CAMERAS}",
            timestamp_us=int(instants[i // _NUM_CAMERAS]),
            file=file,
        )
        for i, file in enumerate(files)
    ]
    scene = write_scene_tables(
        root,
        "drive",
        "rig",
        pose_timestamp_us=instants,
        ego_to_world=poses,
        frame_timestamp_us=instants,
        images=images,
        lidar_files=sweeps,
    )
    write_manifest(root, RigManifest(name="bench", version="1", licence="none", rigs={"rig": _rig()}, scenes=(scene,)))
    return [root / file for file in files]


def _rig() -> Rig:
    mounting = Mounting(translation_m=(1.0, 0.0, 1.6), rotation_wxyz=(0.5, -0.5, 0.5, -0.5))
    intrinsics = {"fx": 1260.0, "fy": 1260.0, "cx": 800.0, "cy": 450.0}
    cameras = tuple(
        RigCamera(
            name=f"{i}", model="pinhole", width=_WIDTH, height=_HEIGHT, intrinsics=intrinsics, camera_to_ego=mounting
        )
        for i in range(_NUM_CAMERAS)
    )
    return Rig(pixel_origin="corner", cameras=cameras, lidar=RigLidar(name="roof", lidar_to_ego=mounting))


def _encode(random: np.random.Generator) -> bytes:
    """Return an image with edges and some texture, of about the size of a photograph of a street."""
    coarse = Image.fromarray(random.integers(0, 256, (_HEIGHT // 12, _WIDTH // 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + random.integers(-6, 7, (_HEIGHT, _WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
