"""Write procedural worlds as Waymo data: TFRecord files with Waymo's own protobuf messages, or parquet components."""

import json
import shutil
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from storage.code import code_digest
from storage.digests import config_digest, config_json, digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.protos import dataset_pb2
from storage.ingest.waymo.scene import (
    BOX_TYPES,
    CAMERAS,
    LASERS,
    OPENCV_TO_WAYMO_CAMERA,
    READOUTS,
    FrameHeader,
    LaserSweep,
    WaymoBox,
    WaymoCamera,
    WaymoLaserMount,
)
from storage.ingest.waymo.tfrecord import write_records
from storage.keys import SceneKey
from storage.procedural.world.mesh import placement
from storage.procedural.world.world import World
from storage.procedural.writers.truth import WorldRecipe
from storage.stores.versioned import Home
from storage.testing.waymo.capture import CapturedFrame, WaymoCapture
from storage.testing.waymo.rig import WaymoRigConfig
from storage.testing.waymo.v2_writer import write_components

MANIFEST = "procedural_manifest.json"
VERSION = "procedural"
_LICENCE = "Apache-2.0"
_EPOCH_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, as the nuScenes twin
_SCENE_SPACING_US = 3_600_000_000
_CAMERA_NUMBER = {name: number for number, name in CAMERAS.items()}
_LASER_NUMBER = {name: number for number, name in LASERS.items()}
_TYPE_NUMBER = {name: number for number, name in BOX_TYPES.items()}
_READOUT_NUMBER = {name: number for number, name in READOUTS.items()}


def generate_waymo_dataset(home: Home, root: Path, config: WaymoRigConfig, *, source_format: str) -> list[SceneKey]:
    """Write a data set, unless it exists already, and register it as a source.

    Scene ``i`` shows the same world as scene ``i`` of the nuScenes data set of an equal ``config.world``, at the same
    instants. Files are written aside and moved to ``root`` when all are complete.

    Args:
        home: Home of the source.
        root: Folder of the files. A root that holds something else is never overwritten.
        config: Settings of the data set.
        source_format: "waymo_v1" or "waymo_v2".

    Returns:
        The keys of the scenes, in order.

    Raises:
        SourceDataError: If ``root`` holds files that this writer did not write.
        ValueError: If the format is another.
    """
    if source_format not in ("waymo_v1", "waymo_v2"):
        raise ValueError(f"source_format is {source_format!r}, want 'waymo_v1' or 'waymo_v2'")
    root, world = root.absolute(), config.world
    digest = digest_of({"config": config_digest(config), "code": code_digest(__name__), "format": source_format})
    if not _is_current(root, digest):
        aside = root.with_name(f".{root.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for index in range(world.num_scenes):
            _write_scene(aside, config, index, source_format)
        files = sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file())
        manifest = {"digest": digest, "config": config_json(config), "files": files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if root.exists():
            shutil.rmtree(root)
        aside.rename(root)
    source = SourceConfig(dataset=world.dataset, format=source_format, root=root, version=VERSION, licence=_LICENCE)
    register_source(home, source)
    return [SceneKey(world.dataset, world.scene_name(i)) for i in range(world.num_scenes)]


def captured_frames(config: WaymoRigConfig, index: int) -> tuple[WaymoCapture, Iterator[CapturedFrame]]:
    """Return the rig and the frames of one scene; each frame is captured on request."""
    world = config.world
    recipe = WorldRecipe(
        theme=world.theme(index),
        seed=world.scene_seed(index),
        duration_s=world.duration_s,
        start_timestamp_us=_EPOCH_US + index * _SCENE_SPACING_US,
    )
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 0x3A1F]))
    world_to_global = placement(
        float(rng.uniform(-3e4, 3e4)), float(rng.uniform(-3e4, 3e4)), 0.0, float(rng.uniform(-np.pi, np.pi))
    )
    capture = WaymoCapture(config, _world(recipe), world_to_global, recipe.start_timestamp_us)
    name = world.scene_name(index)
    frames = (
        capture.capture(world.keyframe_time_us(frame), f"{name}#{frame}", has_labels=frame % config.labelled_every == 0)
        for frame in range(world.frames_per_scene)
    )
    return capture, frames


@lru_cache(maxsize=1)
def _world(recipe: WorldRecipe) -> World:
    """Return a scene's world, cached because each format captures the same world."""
    return recipe.build()


def _is_current(root: Path, digest: str) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    path = root / MANIFEST
    if not path.is_file():
        message = f"holds files but no {MANIFEST}; want an empty or a generated folder"
        raise SourceDataError(ErrorKind.FILE_UNSAFE, str(root), message)
    manifest = json.loads(path.read_text())
    return manifest["digest"] == digest and all((root / name).is_file() for name in manifest["files"])


def _write_scene(root: Path, config: WaymoRigConfig, index: int, source_format: str) -> None:
    name = config.world.scene_name(index)
    capture, frames = captured_frames(config, index)
    if source_format == "waymo_v2":
        write_components(root, name, capture.cameras, capture.lasers, frames)
        return
    context = _context(name, config.world.theme(index), capture.cameras, capture.lasers)
    messages = (encode_frame(frame, context).SerializeToString() for frame in frames)
    write_records(root / f"segment-{name}_with_camera_labels.tfrecord", messages)


# --- messages --------------------------------------------------------------------------------------------------------


def encode_frame(captured: CapturedFrame, context: Any) -> Any:  # noqa: ANN401 - generated classes
    """Return the ``Frame`` message of a captured frame."""
    header, content = captured.header, captured.content
    frame = dataset_pb2().Frame()
    frame.context.CopyFrom(context)
    frame.timestamp_micros = header.timestamp_us
    frame.pose.transform.extend(header.ego_to_global.reshape(-1).tolist())
    for name, jpeg in content.jpegs.items():
        message = frame.images.add()
        _encode_image(message, header, name, jpeg)
        if (divisor := header.exposures[name].panoptic_divisor) is not None:
            message.camera_segmentation_label.panoptic_label = content.panoptics[name]
            message.camera_segmentation_label.panoptic_label_divisor = divisor
    for sweep in content.sweeps:
        _encode_laser(frame.lasers.add(), sweep)
    for box in header.boxes:
        _encode_box(frame.laser_labels.add(), box)
    for name, rectangles in header.projected.items():
        labels = frame.projected_lidar_labels.add(name=_CAMERA_NUMBER[name])
        for instance, (left, top, right, bottom) in rectangles.items():
            label = labels.labels.add(id=f"{instance}_{name}")
            label.box.center_x, label.box.center_y = (left + right) / 2, (top + bottom) / 2
            label.box.length, label.box.width = right - left, bottom - top
    return frame


def _context(name: str, theme: str, cameras: dict[str, WaymoCamera], lasers: dict[str, WaymoLaserMount]) -> Any:  # noqa: ANN401
    context = dataset_pb2().Context(name=name)
    context.stats.location = f"procedural-{theme}"
    for camera in cameras.values():
        message = context.camera_calibrations.add(name=_CAMERA_NUMBER[camera.name])
        k = camera.intrinsics
        message.intrinsic.extend([k[0, 0], k[1, 1], k[0, 2], k[1, 2], *camera.lens.coefficients])
        waymo_camera_to_ego = camera.camera_to_ego @ OPENCV_TO_WAYMO_CAMERA.T
        message.extrinsic.transform.extend(waymo_camera_to_ego.reshape(-1).tolist())
        message.height, message.width = camera.size
        message.rolling_shutter_direction = _READOUT_NUMBER[camera.readout]
    for mount in lasers.values():
        message = context.laser_calibrations.add(name=_LASER_NUMBER[mount.name])
        message.beam_inclinations.extend(mount.inclinations.tolist())
        message.beam_inclination_min, message.beam_inclination_max = mount.inclination_range
        message.extrinsic.transform.extend(mount.laser_to_ego.reshape(-1).tolist())
    return context


def _encode_image(message: Any, header: FrameHeader, name: str, jpeg: bytes) -> None:  # noqa: ANN401
    exposure = header.exposures[name]
    message.name, message.image = _CAMERA_NUMBER[name], jpeg
    message.pose.transform.extend(exposure.ego_to_global.reshape(-1).tolist())
    fields = ("v_x", "v_y", "v_z", "w_x", "w_y", "w_z")
    for field, value in zip(fields, exposure.velocity.tolist(), strict=True):
        setattr(message.velocity, field, value)
    message.pose_timestamp, message.shutter = exposure.pose_timestamp, exposure.shutter
    message.camera_trigger_time, message.camera_readout_done_time = exposure.trigger, exposure.readout_done


def _encode_laser(message: Any, sweep: LaserSweep) -> None:  # noqa: ANN401
    module = dataset_pb2()
    message.name = _LASER_NUMBER[sweep.name]
    for target, one in zip((message.ri_return1, message.ri_return2), sweep.returns, strict=False):
        target.range_image_compressed = _matrix(module.MatrixFloat, one.values)
        if one.projection is not None:
            target.camera_projection_compressed = _matrix(module.MatrixInt32, one.projection)
        if one.labels is not None:
            target.segmentation_label_compressed = _matrix(module.MatrixInt32, one.labels)
    if sweep.pixel_pose is not None:
        message.ri_return1.range_image_pose_compressed = _matrix(module.MatrixFloat, sweep.pixel_pose)


def _encode_box(message: Any, box: WaymoBox) -> None:  # noqa: ANN401
    message.box.center_x, message.box.center_y, message.box.center_z = box.centre.tolist()
    message.box.length, message.box.width, message.box.height = box.size.tolist()
    message.box.heading = box.heading
    message.type, message.id = _TYPE_NUMBER[box.category], box.instance
    message.num_lidar_points_in_box = box.num_lidar_points


def _matrix(message_class: Any, values: np.ndarray) -> bytes:  # noqa: ANN401
    message = message_class()
    message.shape.dims.extend(values.shape)
    message.data.extend(values.reshape(-1).tolist())
    return zlib.compress(message.SerializeToString(), 6)
