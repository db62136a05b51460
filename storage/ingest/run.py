"""Ingest: from raw files to a published scene store, or to a typed error and a record of it.

Nothing is guessed or repaired. A scene that breaks a rule is quarantined with the reason; the others go on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from storage.digests import config_digest, config_json
from storage.errors import SourceDataError
from storage.ingest.manifest.recording import RigManifestRecording
from storage.ingest.nuscenes.recording import NuScenesRecording
from storage.ingest.raw_scene import IngestConfig, RawScene, check_raw_scene
from storage.ingest.recording import Recording
from storage.ingest.source import SourceConfig, load_source
from storage.ingest.waymo.recording import open_waymo
from storage.keys import SceneKey
from storage.scenes.schema import SceneData, SceneFrame
from storage.scenes.store import write_scene
from storage.stores import catalog
from storage.stores.provenance import Provenance, code_digest, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays

Progress = Callable[[str, float, Mapping[str, Any]], None]

_CODE = (
    "storage.ingest.raw_files",
    "storage.ingest.raw_scene",
    "storage.ingest.read_ahead",
    "storage.ingest.recording",
    "storage.ingest.run",
    "storage.ingest.source_files",
    "storage.scenes",
    "storage.geometry.transforms",
)
_WAYMO_CODE = (
    "storage.geometry.distortion",
    "storage.ingest.undistorted_jpeg",
    "storage.ingest.waymo.recording",
    "storage.ingest.waymo.frames",
    "storage.ingest.waymo.labels",
    "storage.ingest.waymo.panoptic",
    "storage.ingest.waymo.projection",
    "storage.ingest.waymo.scene",
)
# What else determines a scene of each format: a change of one reader leaves the scenes of the others as they are.
_FORMAT_CODE = {
    "nuscenes": (
        "storage.ingest.nuscenes.scene",
        "storage.ingest.nuscenes.recording",
        "storage.ingest.nuscenes.splits",
        "storage.ingest.nuscenes.sweeps",
        "storage.ingest.nuscenes.tables",
    ),
    "waymo_v1": (
        *_WAYMO_CODE,
        "storage.ingest.waymo.tfrecord",
        "storage.ingest.waymo.protos",
        "storage.ingest.waymo.v1",
    ),
    "waymo_v2": (*_WAYMO_CODE, "storage.ingest.waymo.components", "storage.ingest.waymo.v2"),
    "manifest": (
        "storage.geometry.distortion",
        "storage.geometry.trajectory",
        "storage.ingest.manifest.manifest",
        "storage.ingest.manifest.recording",
        "storage.ingest.manifest.tables",
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
    sources = {**recording.sources(), **raw.row_digests}
    on_progress("hash", 1.0, {"sources": len(sources)})
    provenance = Provenance(
        kind="scene",
        partition=str(scene_key),
        config_digest=config_digest(config),
        code_digest=code_digest(*_CODE, *_FORMAT_CODE[source.format]),
        sources=sources,
        calibration_digest=raw.calibration_digest,
        pose_source=raw.pose_source,
        licence=source.licence,
        config=config_json(config),
        packages=package_versions(*_PACKAGES, *_FORMAT_PACKAGES[source.format]),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        tally = _Tally(recording.payloads(), len(raw.timestamp_us), on_progress)
        write_scene(group, _describe(raw), tally)
        return tally.metrics(raw)

    return materialize_arrays(home, provenance, write)


def _describe(raw: RawScene) -> SceneData:
    """Return what is stored of a scene beside its images and points, which come frame by frame."""
    return SceneData(
        camera_names=raw.camera_names,
        image_sizes=raw.image_sizes,
        intrinsics=raw.intrinsics,
        fisheye=raw.fisheye,
        is_valid=raw.is_valid,
        camera_to_ego=raw.camera_to_ego,
        lidar_to_ego=raw.lidar_to_ego,
        timestamp_us=raw.timestamp_us,
        ego_to_world=raw.ego_to_world,
        camera_timestamp_us=raw.camera_timestamp_us,
        camera_ego_to_world=raw.camera_ego_to_world,
        boxes=raw.boxes,
        attributes=raw.attributes,
    )


class _Tally:
    """Hand frames through, and count what is in them."""

    def __init__(self, frames: Iterable[SceneFrame], num_frames: int, on_progress: Progress) -> None:
        self._frames, self._num_frames, self._on_progress = frames, num_frames, on_progress
        self._images = self._jpeg_bytes = self._points = 0

    def __iter__(self) -> Iterator[SceneFrame]:
        for index, frame in enumerate(self._frames):
            self._images += len(frame.jpegs)
            self._jpeg_bytes += sum(map(len, frame.jpegs))
            self._points += len(frame.points)
            yield frame
            self._on_progress("read", (index + 1) / self._num_frames, {"frame": index})

    def metrics(self, raw: RawScene) -> dict[str, Any]:
        duration_us = int(raw.timestamp_us[-1] - raw.timestamp_us[0])
        return {
            "frames": len(raw.timestamp_us),
            "cameras": len(raw.camera_names),
            "images": self._images,
            "jpeg_bytes": self._jpeg_bytes,
            "lidar_points": self._points,
            "boxes": len(raw.boxes.category),
            "duration_s": duration_us * 1e-6,
            "travelled_m": float(np.linalg.norm(np.diff(raw.ego_to_world[:, :3, 3], axis=0), axis=-1).sum()),
        }
