"""A nuScenes scene as a recording: every file held against its table and its digest."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3
from storage.ingest.nuscenes import read_raw_scene
from storage.ingest.nuscenes_tables import load_tables
from storage.ingest.raw_files import check_jpeg, parse_nuscenes_lidar, read_bytes, resolve_inside
from storage.ingest.raw_scene import IngestConfig, RawScene
from storage.ingest.recording import FramePayload
from storage.ingest.source import SourceConfig
from storage.provenance import bytes_digest, file_digest

_MAX_WORKERS = 4  # decoding releases the interpreter lock; more than a few threads only compete for the disk


class NuScenesRecording:
    """One scene of a nuScenes release.

    Attributes:
        raw: What its tables say.
    """

    def __init__(self, source: SourceConfig, scene_name: str, config: IngestConfig) -> None:
        """Read the tables.

        Raises:
            SourceDataError: If the scene is unknown, or one of its rows is missing or holds a wrong value.
        """
        self._source, self._config = source, config
        self.raw: RawScene = read_raw_scene(load_tables(source.root, source.version), scene_name, config)
        self._digests: dict[str, str] | None = None

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of every image and sweep."""
        if self._digests is None:
            files = [file for row in self.raw.image_files for file in row] + list(self.raw.lidar_files)
            paths = [resolve_inside(self._source.root, file) for file in files]
            with ThreadPoolExecutor(_num_workers()) as pool:
                self._digests = dict(zip(files, pool.map(file_digest, paths), strict=True))
        return self._digests

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images, verbatim, and points in frame order."""
        raw = self.raw
        with ThreadPoolExecutor(_num_workers()) as pool:
            for images, sweep in zip(raw.image_files, raw.lidar_files, strict=True):
                jpegs = tuple(pool.map(self._jpeg, images, raw.image_sizes))
                sensor = parse_nuscenes_lidar(self._content(sweep), sweep)
                ego = apply_se3(raw.lidar_to_ego, sensor[:, :3].astype(np.float64))
                yield FramePayload(jpegs=jpegs, points=np.concatenate([ego.astype(np.float32), sensor[:, 3:]], axis=1))

    def _content(self, file: str) -> bytes:
        data = read_bytes(resolve_inside(self._source.root, file), file)
        wanted = self.sources()[file]
        if (seen := bytes_digest(data)) != wanted:
            message = f"SHA-256 is {seen}, was {wanted} a moment ago: it changed while it was read"
            raise SourceDataError(ErrorKind.DIGEST_MISMATCH, file, message)
        return data

    def _jpeg(self, file: str, size: tuple[int, int]) -> bytes:
        data = self._content(file)
        check_jpeg(data, file, width=size[1], height=size[0], max_pixels=self._config.max_image_pixels)
        return data


def _num_workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)
