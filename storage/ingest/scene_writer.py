"""Write an opened recording as a scene store, in the same way for every format."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import zarr

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.ingest.frame_checks import FrameChecks
from storage.ingest.raw_scene import IngestConfig, RawScene, check_raw_scene
from storage.ingest.recording import Recording
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.schema import SceneData, SceneFrame
from storage.scenes.store import write_scene
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays

_PACKAGES = ("icechunk", "numpy", "pillow", "simplejpeg", "zarr")


def materialize_scene(
    home: Home,
    scene_key: SceneKey,
    source: SourceConfig,
    recording: Recording,
    config: IngestConfig,
    *,
    reader_module: str,
    reader_packages: tuple[str, ...],
    on_progress: ProgressCallback,
) -> Materialized:
    """Return the scene store of a recording, writing it if it does not exist.

    Args:
        home: Home of the scene.
        scene_key: The scene.
        source: Source of the recording.
        recording: The opened scene.
        config: Parts to ingest and limits.
        reader_module: Module of the format's reader; its code, with its imports, is part of the scene's code digest.
        reader_packages: Distributions that the reader reads with.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        SourceDataError: If anything in the scene is missing, broken or inconsistent. Nothing is published.
    """
    raw = recording.raw
    check_raw_scene(raw, config)
    on_progress("hash", 0.0, {"frames": len(raw.timestamp_us)})
    sources = {**recording.sources(), **raw.row_digests}
    on_progress("hash", 1.0, {"sources": len(sources)})
    provenance = Provenance(
        kind=Kind.SCENE,
        partition=str(scene_key),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, reader_module, kind=Kind.SCENE),
        sources=sources,
        calibration_digest=raw.calibration_digest,
        pose_source=raw.pose_source,
        licence=source.licence,
        config=config_json(config),
        packages=package_versions(*_PACKAGES, *reader_packages),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        tally = _Tally(recording.payloads(), raw, on_progress)
        write_scene(group, _describe(raw), tally)
        return tally.metrics()

    return materialize_arrays(home, provenance, write)


def _describe(raw: RawScene) -> SceneData:
    """Return the stored scene without its images and points, which follow frame by frame."""
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
    """Passes frames on when they are checked, counting their images, bytes and points."""

    def __init__(self, frames: Iterable[SceneFrame], raw: RawScene, on_progress: ProgressCallback) -> None:
        self._frames, self._raw, self._on_progress = frames, raw, on_progress
        self._checks = FrameChecks(raw)
        self._images = self._jpeg_bytes = self._points = 0

    def __iter__(self) -> Iterator[SceneFrame]:
        for index, frame in enumerate(self._frames):
            self._checks.check(frame)
            self._images += len(frame.jpegs)
            self._jpeg_bytes += sum(map(len, frame.jpegs))
            self._points += len(frame.points)
            yield frame
            self._on_progress("read", (index + 1) / len(self._raw.timestamp_us), {"frame": index})

    def metrics(self) -> dict[str, Any]:
        raw = self._raw
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
            "repeated_at_rest": self._checks.repeated_at_rest,
        }
