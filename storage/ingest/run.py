"""Ingest: from raw files to a published scene store, or to a typed error and a record of it.

Nothing is guessed or repaired. A scene that breaks a rule is quarantined with the reason; the others go on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr

from storage import catalog
from storage.errors import SourceDataError
from storage.ingest.nuscenes_recording import NuScenesRecording
from storage.ingest.raw_scene import IngestConfig, check_raw_scene
from storage.ingest.recording import Recording
from storage.ingest.rig_manifest_recording import RigManifestRecording
from storage.ingest.source import SourceConfig, load_source
from storage.ingest.waymo import open_waymo
from storage.keys import SceneKey
from storage.provenance import Provenance, code_digest, config_digest, config_json, package_versions
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.versioned import Home, Materialized, materialize_arrays

Progress = Callable[[str, float, Mapping[str, Any]], None]

_CODE = (
    "storage.ingest.raw_files",
    "storage.ingest.raw_scene",
    "storage.ingest.recording",
    "storage.ingest.run",
    "storage.scenes",
    "storage.geometry.transforms",
)
_WAYMO_CODE = (
    "storage.geometry.distortion",
    "storage.ingest.undistorted_jpeg",
    "storage.ingest.waymo",
    "storage.ingest.waymo_frames",
    "storage.ingest.waymo_scene",
)
# What else determines a scene of each format: a change of one reader leaves the scenes of the others as they are.
_FORMAT_CODE = {
    "nuscenes": (
        "storage.ingest.nuscenes",
        "storage.ingest.nuscenes_recording",
        "storage.ingest.nuscenes_tables",
    ),
    "waymo_v1": (
        *_WAYMO_CODE,
        "storage.ingest.tfrecord",
        "storage.ingest.waymo_protos",
        "storage.ingest.waymo_v1",
    ),
    "waymo_v2": (*_WAYMO_CODE, "storage.ingest.waymo_components", "storage.ingest.waymo_v2"),
    "manifest": (
        "storage.geometry.distortion",
        "storage.geometry.trajectory",
        "storage.ingest.rig_manifest",
        "storage.ingest.rig_manifest_recording",
        "storage.ingest.rig_manifest_tables",
        "storage.ingest.undistorted_jpeg",
    ),
}
_PACKAGES = ("icechunk", "numpy", "pillow", "zarr")
_FORMAT_PACKAGES = {
    "nuscenes": ("nuscenes-devkit",),
    "waymo_v1": ("protobuf", "waymo-open-dataset-tf-2-12-0"),
    "waymo_v2": ("pyarrow",),
    "manifest": ("pyarrow", "scipy"),
}


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


def open_recording(source: SourceConfig, scene_name: str, config: IngestConfig) -> Recording:
    """Open one scene of a registered source with the reader of its format.

    Raises:
        SourceDataError: If the scene is unknown, or anything that is read before its images is broken.
    """
    if source.format == "nuscenes":
        return NuScenesRecording(source, scene_name, config)
    if source.format == "manifest":
        return RigManifestRecording(source, scene_name, config)
    return open_waymo(source, scene_name, config)


def _ingest(home: Home, scene_key: SceneKey, config: IngestConfig, on_progress: Progress) -> Materialized:
    source = load_source(home, scene_key.dataset)
    recording = open_recording(source, scene_key.scene_name, config)
    raw = recording.raw
    check_raw_scene(raw, config)
    on_progress("hash", 0.0, {"frames": len(raw.timestamp_us)})
    provenance = Provenance(
        kind="scene",
        partition=str(scene_key),
        config_digest=config_digest(config),
        code_digest=code_digest(*_CODE, *_FORMAT_CODE[source.format]),
        sources={**recording.sources(), **raw.row_digests},
        calibration_digest=raw.calibration_digest,
        pose_source=raw.pose_source,
        licence=source.licence,
        config=config_json(config),
        packages=package_versions(*_PACKAGES, *_FORMAT_PACKAGES[source.format]),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        scene = _load(recording, on_progress)
        write_scene(group, scene)
        return _metrics(scene)

    return materialize_arrays(home, provenance, write)


def _load(recording: Recording, on_progress: Progress) -> SceneData:
    raw, jpegs, points = recording.raw, [], []
    for frame, payload in enumerate(recording.payloads()):
        jpegs.append(payload.jpegs)
        points.append(payload.points)
        on_progress("read", (frame + 1) / len(raw.timestamp_us), {"frame": frame})
    return SceneData(
        camera_names=raw.camera_names,
        image_sizes=raw.image_sizes,
        intrinsics=raw.intrinsics,
        fisheye=raw.fisheye,
        is_valid=raw.is_valid,
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
