"""A nuScenes scene as a recording; images are checked against the size in their table, files against their digests.

Points are moved to the ego frame here, and added sweeps to the instant of their frame.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32

from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest.known_digests import KnownDigests
from storage.ingest.nuscenes.scene import read_raw_scene
from storage.ingest.nuscenes.tables import load_tables
from storage.ingest.raw_files import check_jpeg, parse_nuscenes_labels, parse_nuscenes_lidar
from storage.ingest.raw_scene import IngestConfig, RawScene
from storage.ingest.read_ahead import read_ahead
from storage.ingest.recording import FramePayload, Sweep
from storage.ingest.source_config import SourceConfig
from storage.ingest.source_files import SourceFiles
from storage.scenes.schema import UNLABELLED


class NuScenesRecording:
    """One scene of a nuScenes release.

    Attributes:
        raw: Scene as its tables describe it.
    """

    def __init__(
        self, source: SourceConfig, scene_name: str, config: IngestConfig, known: KnownDigests | None = None
    ) -> None:
        """Read the tables.

        Raises:
            SourceDataError: If the scene is unknown, or one of its rows is missing or holds a wrong value.
        """
        self._config, self._files = config, SourceFiles(source.root, source.link_roots, known)
        self.raw: RawScene = read_raw_scene(load_tables(source.root, source.version), scene_name, config)

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of every image, sweep and file of point labels."""
        others = [sweep.file for row in self.raw.other_sweeps for sweep in row]
        labels = [file for file in self.raw.lidar_label_files if file]
        images = [file for row in self.raw.image_files for file in row]
        return self._files.digests([*images, *self.raw.lidar_files, *others, *labels])

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images, verbatim, and points in the ego frame of the reference instant, in frame order."""
        yield from read_ahead(len(self.raw.timestamp_us), self._images, self._sweep)

    def _images(self, frame: int) -> list[Callable[[], bytes]]:
        images = zip(self.raw.image_files[frame], self.raw.image_sizes, strict=True)
        return [partial(self._jpeg, file, size) for file, size in images]

    def _sweep(self, frame: int) -> Sweep:
        raw, own = self.raw, self.raw.lidar_files[frame]
        points = [self._points(own)]
        labels = None
        if raw.lidar_label_files and (file := raw.lidar_label_files[frame]):
            labels = parse_nuscenes_labels(self._files.read(file), file, num_points=len(points[0]))
        world_to_reference = invert_se3(raw.ego_to_world[frame])
        for sweep in raw.other_sweeps[frame] if raw.other_sweeps else ():
            other = self._points(sweep.file)
            other = other[~_on_vehicle(other)]  # the vehicle went on: its own outline would be smeared
            moved = apply_se3(world_to_reference @ sweep.ego_to_world, other[:, :3].astype(np.float64))
            points.append(np.concatenate([moved.astype(np.float32), other[:, 3:]], axis=1))
        merged = np.concatenate(points)
        if labels is not None:
            labels = np.concatenate([labels, np.full(len(merged) - len(labels), UNLABELLED, np.uint8)])
        return merged, labels

    def _points(self, file: str) -> Float32[np.ndarray, "points 4"]:
        """Return a sweep in the ego frame of its own instant."""
        sensor = parse_nuscenes_lidar(self._files.read(file), file)
        ego = apply_se3(self.raw.lidar_to_ego, sensor[:, :3].astype(np.float64))
        return np.concatenate([ego.astype(np.float32), sensor[:, 3:]], axis=1)

    def _jpeg(self, file: str, size: tuple[int, int]) -> bytes:
        data = self._files.read(file)
        check_jpeg(data, file, width=size[1], height=size[0], max_pixels=self._config.max_image_pixels)
        return data


def _on_vehicle(points_ego: Float32[np.ndarray, "points 4"]) -> Bool[np.ndarray, " points"]:
    """Return whether each point lies on the recording vehicle (a Renault Zoe; the origin is below its rear axle)."""
    return (points_ego[:, 0] > -1.2) & (points_ego[:, 0] < 4.0) & (np.abs(points_ego[:, 1]) < 1.2)
