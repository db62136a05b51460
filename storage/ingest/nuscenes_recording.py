"""A nuScenes scene as a recording: every file held against its table and its digest."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest.nuscenes import read_raw_scene
from storage.ingest.nuscenes_tables import load_tables
from storage.ingest.raw_files import (
    check_jpeg,
    parse_nuscenes_labels,
    parse_nuscenes_lidar,
    read_bytes,
    resolve_inside,
)
from storage.ingest.raw_scene import IngestConfig, RawScene
from storage.ingest.read_ahead import read_ahead
from storage.ingest.recording import FramePayload
from storage.ingest.source import SourceConfig
from storage.provenance import bytes_digest, file_digest
from storage.scenes.schema import UNLABELLED

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
            others = [sweep.file for row in self.raw.other_sweeps for sweep in row]
            labels = [file for file in self.raw.lidar_label_files if file]
            images = [file for row in self.raw.image_files for file in row]
            files = list(dict.fromkeys([*images, *self.raw.lidar_files, *others, *labels]))
            paths = [resolve_inside(self._source.root, file) for file in files]
            with ThreadPoolExecutor(_num_workers()) as pool:
                self._digests = dict(zip(files, pool.map(file_digest, paths), strict=True))
        return self._digests

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images, verbatim, and points in frame order."""
        frames = range(len(self.raw.timestamp_us))
        with ThreadPoolExecutor(_num_workers()) as pool:
            yield from read_ahead(pool, frames, self._images, self._frame)

    def _images(self, frame: int) -> list[Callable[[], bytes]]:
        images = zip(self.raw.image_files[frame], self.raw.image_sizes, strict=True)
        return [partial(self._jpeg, file, size) for file, size in images]

    def _frame(self, frame: int, jpegs: tuple[bytes, ...]) -> FramePayload:
        raw, own = self.raw, self.raw.lidar_files[frame]
        points = [self._points(own)]
        labels = None
        if raw.lidar_label_files and (file := raw.lidar_label_files[frame]):
            labels = parse_nuscenes_labels(self._content(file), file, num_points=len(points[0]))
        world_to_reference = invert_se3(raw.ego_to_world[frame])
        for sweep in raw.other_sweeps[frame] if raw.other_sweeps else ():
            other = self._points(sweep.file)
            other = other[~_on_vehicle(other)]  # the vehicle went on: its own outline would be smeared
            moved = apply_se3(world_to_reference @ sweep.ego_to_world, other[:, :3].astype(np.float64))
            points.append(np.concatenate([moved.astype(np.float32), other[:, 3:]], axis=1))
        merged = np.concatenate(points)
        if labels is not None:
            labels = np.concatenate([labels, np.full(len(merged) - len(labels), UNLABELLED, np.uint8)])
        return FramePayload(jpegs=jpegs, points=merged, labels=labels)

    def _points(self, file: str) -> Float32[np.ndarray, "points 4"]:
        """Return a sweep in the ego frame of its own instant."""
        sensor = parse_nuscenes_lidar(self._content(file), file)
        ego = apply_se3(self.raw.lidar_to_ego, sensor[:, :3].astype(np.float64))
        return np.concatenate([ego.astype(np.float32), sensor[:, 3:]], axis=1)

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


def _on_vehicle(points_ego: Float32[np.ndarray, "points 4"]) -> Bool[np.ndarray, " points"]:
    """Return which points lie on the recording vehicle itself (a Renault Zoe; the origin is below its rear axle)."""
    return (points_ego[:, 0] > -1.2) & (points_ego[:, 0] < 4.0) & (np.abs(points_ego[:, 1]) < 1.2)


def _num_workers() -> int:
    return min(_MAX_WORKERS, os.cpu_count() or 1)
