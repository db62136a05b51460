"""Write captured frames as Waymo v2 parquet components: one file for each component and segment."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.ingest.waymo.components import COMPONENTS
from storage.ingest.waymo.scene import (
    BOX_TYPES,
    CAMERAS,
    LASERS,
    OPENCV_TO_WAYMO_CAMERA,
    READOUTS,
    WaymoCamera,
    WaymoLaserMount,
)
from storage.testing.waymo.capture import CapturedFrame

_CAMERA_NUMBER = {name: number for number, name in CAMERAS.items()}
_LASER_NUMBER = {name: number for number, name in LASERS.items()}
_TYPE_NUMBER = {name: number for number, name in BOX_TYPES.items()}
_READOUT_NUMBER = {name: number for number, name in READOUTS.items()}
_VELOCITY = tuple(f"velocity.{kind}_velocity.{axis}" for kind in ("linear", "angular") for axis in "xyz")

Row = dict[str, Any]


def write_components(
    root: Path,
    segment: str,
    cameras: Mapping[str, WaymoCamera],
    lasers: Mapping[str, WaymoLaserMount],
    frames: Iterator[CapturedFrame],
) -> None:
    """Write all components of one segment; a row group, and memory, holds one frame."""
    key = {"key.segment_context_name": segment}
    _write_all(root, "camera_calibration", segment, [_camera_rows(key, cameras)])
    _write_all(root, "lidar_calibration", segment, [_laser_rows(key, lasers)])
    writers = {
        name: _Writer(root, name, segment)
        for name in COMPONENTS
        if name not in ("camera_calibration", "lidar_calibration")
    }
    try:
        for frame in frames:
            frame_key = {**key, "key.frame_timestamp_micros": frame.header.timestamp_us}
            for name, rows in _frame_rows(frame_key, frame).items():
                writers[name].write(rows)
    finally:
        for writer in writers.values():
            writer.close()


class _Writer:
    """One component's file, written row group by row group."""

    def __init__(self, root: Path, component: str, segment: str) -> None:
        self._prefix, columns = COMPONENTS[component].prefix, COMPONENTS[component].columns
        self._schema = pa.schema([(self._named(name), kind.arrow_type) for name, kind in columns.items()])
        (root / component).mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(root / component / f"{segment}.parquet", self._schema)

    def _named(self, column: str) -> str:
        return column if column.startswith("key.") else f"[{self._prefix}].{column}"

    def write(self, rows: list[Row]) -> None:
        named = [{self._named(column): value for column, value in row.items()} for row in rows]
        self._writer.write_table(pa.Table.from_pylist(named, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _write_all(root: Path, component: str, segment: str, groups: list[list[Row]]) -> None:
    writer = _Writer(root, component, segment)
    for rows in groups:
        writer.write(rows)
    writer.close()


def _camera_rows(key: Row, cameras: Mapping[str, WaymoCamera]) -> list[Row]:
    rows = []
    for camera in cameras.values():
        k, lens = camera.intrinsics, camera.lens
        extrinsic = camera.camera_to_ego @ OPENCV_TO_WAYMO_CAMERA.T
        intrinsic = {"f_u": k[0, 0], "f_v": k[1, 1], "c_u": k[0, 2], "c_v": k[1, 2]}
        intrinsic |= {name: getattr(lens, name) for name in ("k1", "k2", "p1", "p2", "k3")}
        rows.append(
            {
                **key,
                "key.camera_name": _CAMERA_NUMBER[camera.name],
                **{f"intrinsic.{name}": float(value) for name, value in intrinsic.items()},
                "extrinsic.transform": extrinsic.reshape(-1).tolist(),
                "width": camera.size[1],
                "height": camera.size[0],
                "rolling_shutter_direction": _READOUT_NUMBER[camera.readout],
            }
        )
    return rows


def _laser_rows(key: Row, lasers: Mapping[str, WaymoLaserMount]) -> list[Row]:
    return [
        {
            **key,
            "key.laser_name": _LASER_NUMBER[mount.name],
            "extrinsic.transform": mount.laser_to_ego.reshape(-1).tolist(),
            "beam_inclination.min": mount.inclination_range[0],
            "beam_inclination.max": mount.inclination_range[1],
            "beam_inclination.values": mount.inclinations.tolist() if len(mount.inclinations) else None,
        }
        for mount in lasers.values()
    ]


def _frame_rows(key: Row, frame: CapturedFrame) -> dict[str, list[Row]]:
    header, sweeps = frame.header, frame.content.sweeps
    return {
        "vehicle_pose": [{**key, "world_from_vehicle.transform": header.ego_to_global.reshape(-1).tolist()}],
        "camera_image": [_image_row(key, frame, name) for name in header.exposures],
        "camera_segmentation": [
            {
                **key,
                "key.camera_name": _CAMERA_NUMBER[name],
                "panoptic_label_divisor": header.exposures[name].panoptic_divisor,
                "panoptic_label": png,
            }
            for name, png in frame.content.panoptics.items()
        ],
        "lidar": [
            {**key, "key.laser_name": _LASER_NUMBER[s.name], **_range_columns([r.values for r in s.returns])}
            for s in sweeps
        ],
        "lidar_camera_projection": [
            {**key, "key.laser_name": _LASER_NUMBER[s.name], **_range_columns([r.projection for r in s.returns])}
            for s in sweeps
        ],
        "lidar_pose": [
            {**key, "key.laser_name": _LASER_NUMBER[s.name], **_range_columns([s.pixel_pose])}
            for s in sweeps
            if s.pixel_pose is not None
        ],
        "lidar_segmentation": [
            {**key, "key.laser_name": _LASER_NUMBER[s.name], **_range_columns([r.labels for r in s.returns])}
            for s in sweeps
            if s.returns[0].labels is not None
        ],
        "lidar_box": [
            {
                **key,
                "key.laser_object_id": box.instance,
                **{f"box.center.{axis}": float(v) for axis, v in zip("xyz", box.centre, strict=True)},
                **{f"box.size.{axis}": float(v) for axis, v in zip("xyz", box.size, strict=True)},
                "box.heading": box.heading,
                "type": _TYPE_NUMBER[box.category],
                "num_lidar_points_in_box": box.num_lidar_points,
            }
            for box in header.boxes
        ],
    }


def _image_row(key: Row, frame: CapturedFrame, name: str) -> Row:
    exposure = frame.header.exposures[name]
    return {
        **key,
        "key.camera_name": _CAMERA_NUMBER[name],
        "image": frame.content.jpegs[name],
        "pose.transform": exposure.ego_to_global.reshape(-1).tolist(),
        **dict(zip(_VELOCITY, exposure.velocity.tolist(), strict=True)),
        "pose_timestamp": exposure.pose_timestamp,
        "rolling_shutter_params.shutter": exposure.shutter,
        "rolling_shutter_params.camera_trigger_time": exposure.trigger,
        "rolling_shutter_params.camera_readout_done_time": exposure.readout_done,
    }


def _range_columns(returns: list[np.ndarray | None]) -> Row:
    columns: Row = {}
    for number, values in enumerate(returns, start=1):
        columns[f"range_image_return{number}.values"] = None if values is None else values.reshape(-1)
        columns[f"range_image_return{number}.shape"] = None if values is None else list(values.shape)
    return columns
