"""Ingest: from raw files to a published scene store, or to a typed error and a record of it.

Nothing is guessed or repaired. A scene that breaks a rule is quarantined with the reason; the others go on.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage import catalog
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3
from storage.ingest.nuscenes import read_raw_scene
from storage.ingest.nuscenes_tables import load_tables
from storage.ingest.raw_files import check_jpeg, parse_nuscenes_lidar, read_bytes, resolve_inside
from storage.ingest.raw_scene import IngestConfig, RawScene, check_raw_scene
from storage.ingest.source import SourceConfig, load_source
from storage.keys import SceneKey
from storage.provenance import (
    Provenance,
    bytes_digest,
    code_digest,
    config_digest,
    config_json,
    file_digest,
    package_versions,
)
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.versioned import Home, Materialized, materialize_arrays

Progress = Callable[[str, float, Mapping[str, Any]], None]

_CODE = (
    "storage.ingest.nuscenes",
    "storage.ingest.nuscenes_tables",
    "storage.ingest.raw_files",
    "storage.ingest.raw_scene",
    "storage.ingest.run",
    "storage.scenes",
    "storage.geometry.transforms",
)
_PACKAGES = ("icechunk", "numpy", "nuscenes-devkit", "pillow", "zarr")
_MAX_WORKERS = 4  # decoding releases the interpreter lock; more than a few threads only compete for the disk


def ingest_scene(
    home: Home, scene_key: SceneKey, config: IngestConfig | None = None, *, on_progress: Progress | None = None
) -> Materialized:
    """Return the scene store of one scene, building it from its registered source if it does not exist.

    Args:
        home: Where sources are registered and stores live.
        scene_key: The scene to ingest.
        config: What to take and what to refuse.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        SourceDataError: If the source or anything in the scene is missing, broken or inconsistent. Nothing is
            published, and the reason is recorded in the catalogue's quarantine.
    """
    config = config or IngestConfig()
    try:
        return _ingest(home, scene_key, config, on_progress or (lambda *_: None))
    except SourceDataError as error:
        catalog.quarantine(home.root, str(scene_key), error)
        raise


def _ingest(home: Home, scene_key: SceneKey, config: IngestConfig, on_progress: Progress) -> Materialized:
    source = load_source(home, scene_key.dataset)
    raw = read_raw_scene(load_tables(source.root, source.version), scene_key.scene_name, config)
    check_raw_scene(raw, config)
    on_progress("hash", 0.0, {"frames": len(raw.timestamp_us)})
    file_digests = _file_digests(raw, source.root)
    provenance = Provenance(
        kind="scene",
        partition=str(scene_key),
        config_digest=config_digest(config),
        code_digest=code_digest(*_CODE),
        sources={**file_digests, **raw.row_digests},
        calibration_digest=raw.calibration_digest,
        pose_source=raw.pose_source,
        licence=source.licence,
        config=config_json(config),
        packages=package_versions(*_PACKAGES),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        scene = _load(raw, source, config, file_digests, on_progress)
        write_scene(group, scene)
        return _metrics(scene)

    return materialize_arrays(home, provenance, write)


def _file_digests(raw: RawScene, root: Path) -> dict[str, str]:
    files = [file for row in raw.image_files for file in row] + list(raw.lidar_files)
    paths = [resolve_inside(root, file) for file in files]
    with ThreadPoolExecutor(_num_workers()) as pool:
        return dict(zip(files, pool.map(file_digest, paths), strict=True))


def _load(
    raw: RawScene, source: SourceConfig, config: IngestConfig, file_digests: Mapping[str, str], on_progress: Progress
) -> SceneData:
    """Read every file of a scene, and hold each against its table and its digest."""

    def content(file: str) -> bytes:
        data = read_bytes(resolve_inside(source.root, file), file)
        if (seen := bytes_digest(data)) != file_digests[file]:
            message = f"SHA-256 is {seen}, was {file_digests[file]} a moment ago: it changed while it was read"
            raise SourceDataError(ErrorKind.DIGEST_MISMATCH, file, message)
        return data

    def jpeg(file: str, size: tuple[int, int]) -> bytes:
        data = content(file)
        check_jpeg(data, file, width=size[1], height=size[0], max_pixels=config.max_image_pixels)
        return data

    jpegs, points = [], []
    with ThreadPoolExecutor(_num_workers()) as pool:
        for frame, (images, sweep) in enumerate(zip(raw.image_files, raw.lidar_files, strict=True)):
            jpegs.append(tuple(pool.map(jpeg, images, raw.image_sizes)))
            sensor = parse_nuscenes_lidar(content(sweep), sweep)
            ego = apply_se3(raw.lidar_to_ego, sensor[:, :3].astype(np.float64))
            points.append(np.concatenate([ego.astype(np.float32), sensor[:, 3:]], axis=1))
            on_progress("read", (frame + 1) / len(raw.lidar_files), {"frame": frame})
    return SceneData(
        camera_names=raw.camera_names,
        image_sizes=raw.image_sizes,
        intrinsics=raw.intrinsics,
        camera_to_ego=raw.camera_to_ego,
        timestamp_us=raw.timestamp_us,
        ego_to_world=raw.ego_to_world,
        camera_timestamp_us=raw.camera_timestamp_us,
        camera_ego_to_world=raw.camera_ego_to_world,
        jpegs=tuple(jpegs),
        lidar_points=tuple(points),
        lidar_to_ego=raw.lidar_to_ego,
        boxes=raw.boxes,
        attributes=raw.attributes,
    )


def _metrics(scene: SceneData) -> dict[str, Any]:
    duration_us = int(scene.timestamp_us[-1] - scene.timestamp_us[0])
    return {
        "frames": len(scene.timestamp_us),
        "cameras": len(scene.camera_names),
        "images": sum(len(row) for row in scene.jpegs),
        "jpeg_bytes": sum(len(data) for row in scene.jpegs for data in row),
        "lidar_points": sum(len(points) for points in scene.lidar_points),
        "boxes": len(scene.boxes.category),
        "duration_s": duration_us * 1e-6,
        "travelled_m": float(np.linalg.norm(np.diff(scene.ego_to_world[:, :3, 3], axis=0), axis=-1).sum()),
    }


def _num_workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)
