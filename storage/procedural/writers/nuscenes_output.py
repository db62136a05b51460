"""Writer of a recorded scene as nuScenes files: keyframes, sweeps between them, boxes, map prior, Occ3D labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from storage.ingest.nuscenes.occ3d import labels_path, write_labels
from storage.procedural.config import ProceduralConfig
from storage.procedural.sensing.rigs import rig_cameras
from storage.procedural.sensing.sensors import LIDAR_NAME, lidar_to_ego
from storage.procedural.world.world import World
from storage.procedural.writers.nuscenes_writer import (
    MAP_METRES_PER_PIXEL,
    Row,
    SceneWriter,
    SensorMount,
    shared_rows,
    write_tables,
)
from storage.procedural.writers.recorder import CapturedView, RecordedFrame, RecordedScene, TimedSweep
from storage.taxonomy import occ3d_table

Rows = dict[str, list[Row]]
_MAP_SIZE_M = 500.0
_DRIVEABLE = 11


class NuscenesOutput:
    """Writes one scene, keyframe by keyframe."""

    def __init__(self, root: Path, config: ProceduralConfig, scene: RecordedScene) -> None:
        """Begin the scene under ``root``."""
        self._root, self._config, self._scene = root, config, scene
        self._writer = SceneWriter(
            root=root,
            name=scene.name,
            log_name=scene.log_name,
            location=scene.location,
            description=scene.description,
            mounts=_mounts(config),
        )

    def add_frame(self, frame: RecordedFrame) -> None:
        """Write a keyframe and the sweeps that lead to it: images, points, boxes, Occ3D labels."""
        writer, start_us = self._writer, self._scene.start_timestamp_us
        sample = writer.add_frame(start_us + frame.time_us)
        for exposure in frame.between:
            self._add_image(sample, exposure, is_key_frame=False)
        for sweep in frame.sweeps_between:
            self._add_sweep(sample, sweep, is_key_frame=False)
        for exposure in frame.exposures:
            self._add_image(sample, exposure, is_key_frame=True)
        self._add_sweep(sample, frame.sweep, is_key_frame=True)
        for annotation in frame.annotations:
            writer.add_annotation(sample, annotation)
        write_labels(labels_path(self._root, writer.name, sample), frame.labels)

    def finish(self) -> Rows:
        """Return the rows of the scene's tables."""
        self._writer.finish(_driveable_mask(self._scene.world, self._scene.world_to_global))
        return self._writer.rows

    def _add_image(self, sample: str, exposure: CapturedView, *, is_key_frame: bool) -> None:
        self._writer.add_image(
            sample,
            exposure.name,
            self._scene.start_timestamp_us + exposure.camera.time_us,
            self._scene.world_to_global @ exposure.ego_to_world,
            exposure.view.image,
            quality=self._config.jpeg_quality,
            is_key_frame=is_key_frame,
        )

    def _add_sweep(self, sample: str, sweep: TimedSweep, *, is_key_frame: bool) -> None:
        self._writer.add_sweep(
            sample,
            LIDAR_NAME,
            self._scene.start_timestamp_us + sweep.time_us,
            self._scene.world_to_global @ sweep.ego_to_world,
            sweep.sweep,
            is_key_frame=is_key_frame,
        )


def write_nuscenes_tables(root: Path, config: ProceduralConfig, scenes: Sequence[Rows]) -> None:
    """Write the thirteen tables of all scenes."""
    write_tables(root / config.version, [shared_rows(_mounts(config)), *scenes])


def _mounts(config: ProceduralConfig) -> tuple[SensorMount, ...]:
    cameras = tuple(
        SensorMount(
            channel=c.name,
            sensor_to_ego=c.camera_to_ego(),
            intrinsics=c.intrinsics(config.image_height, config.image_width),
        )
        for c in rig_cameras(config)
    )
    return (SensorMount(channel=LIDAR_NAME, sensor_to_ego=lidar_to_ego(), intrinsics=None), *cameras)


def _driveable_mask(world: World, world_to_global: Float[np.ndarray, "4 4"]) -> Bool[np.ndarray, "rows columns"]:
    """Return the map prior: a mask of driveable ground in global coordinates, y upwards."""
    size = round(_MAP_SIZE_M / MAP_METRES_PER_PIXEL)
    mesh = world.static_mesh
    flat = (occ3d_table()[mesh.class_id] == _DRIVEABLE) & (np.abs(mesh.corners[..., 2]).max(axis=1) < 0.1)
    corners = mesh.corners[flat].reshape(-1, 3) @ world_to_global[:3, :3].T + world_to_global[:3, 3]
    pixels = corners[:, :2] / MAP_METRES_PER_PIXEL
    pixels[:, 1] = size - pixels[:, 1]
    canvas = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(canvas)
    for triangle in pixels.reshape(-1, 6):
        draw.polygon(triangle.tolist(), fill=1)
    return np.asarray(canvas) > 0
