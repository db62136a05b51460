"""Waymo v2 parquet components: their columns, and a reader that never holds a whole file.

A component is ``<component>/<segment>.parquet``. Its value columns are named ``[<Prefix>].<field>``, its keys
``key.<name>``; this module names value columns without the prefix.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.raw_files import resolve_inside
from storage.stores.integrity import machine_faults

_ROWS_PER_BATCH = 16  # images and range images are megabytes each

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnKind:
    """Type of a column.

    Attributes:
        name: Name of the type, for errors.
        arrow_type: Arrow type with which it is written.
        accepts: Tells whether a file's type can be read as this kind; widths may differ.
        optional: Whether the column, or a value in it, may be missing.
    """

    name: str
    arrow_type: pa.DataType
    accepts: Callable[[pa.DataType], bool]
    optional: bool = False


def _is_list_of(item: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    def accepts(seen: pa.DataType) -> bool:
        is_list = pa.types.is_list(seen) or pa.types.is_large_list(seen) or pa.types.is_fixed_size_list(seen)
        return is_list and item(seen.value_type)

    return accepts


def _is_text(seen: pa.DataType) -> bool:
    value = seen.value_type if pa.types.is_dictionary(seen) else seen
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _is_bytes(seen: pa.DataType) -> bool:
    return pa.types.is_binary(seen) or pa.types.is_large_binary(seen)


_TEXT = ColumnKind(name="text", arrow_type=pa.string(), accepts=_is_text)
_BYTES = ColumnKind(name="bytes", arrow_type=pa.binary(), accepts=_is_bytes)
_TIME = ColumnKind(name="integers", arrow_type=pa.int64(), accepts=pa.types.is_integer)
_NUMBER = ColumnKind(name="integers", arrow_type=pa.int8(), accepts=pa.types.is_integer)
_SIZE = ColumnKind(name="integers", arrow_type=pa.int32(), accepts=pa.types.is_integer)
_REAL = ColumnKind(name="reals", arrow_type=pa.float64(), accepts=pa.types.is_floating)
_MATRIX = ColumnKind(
    name="lists of reals", arrow_type=pa.list_(pa.float64(), 16), accepts=_is_list_of(pa.types.is_floating)
)


def _values(item: pa.DataType, accepts: Callable[[pa.DataType], bool]) -> ColumnKind:
    return ColumnKind(name="lists of numbers", arrow_type=pa.list_(item), accepts=_is_list_of(accepts), optional=True)


_SHAPE = ColumnKind(
    name="lists of integers",
    arrow_type=pa.list_(pa.int32(), 3),
    accepts=_is_list_of(pa.types.is_integer),
    optional=True,
)
_FLOATS = _values(pa.float32(), pa.types.is_floating)
_LABELS = _values(pa.int32(), pa.types.is_integer)
_INTS = _values(pa.int32(), lambda seen: pa.types.is_integer(seen) or pa.types.is_floating(seen))


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One kind of component file.

    Attributes:
        prefix: Prefix of its value columns.
        columns: Columns that are read and written here; a file may have more.
    """

    prefix: str
    columns: Mapping[str, ColumnKind]

    def in_file(self, column: str) -> str:
        """Return a column's name in files."""
        return column if column.startswith("key.") else f"[{self.prefix}].{column}"


_SEGMENT = {"key.segment_context_name": _TEXT}
_FRAME = {**_SEGMENT, "key.frame_timestamp_micros": _TIME}
_CAMERA = {"key.camera_name": _NUMBER}
_LASER = {"key.laser_name": _NUMBER}


def _reals(*names: str) -> dict[str, ColumnKind]:
    return dict.fromkeys(names, _REAL)


def _range_image(number: int, values: ColumnKind) -> dict[str, ColumnKind]:
    return {f"range_image_return{number}.values": values, f"range_image_return{number}.shape": _SHAPE}


COMPONENTS: Mapping[str, Component] = {
    "vehicle_pose": Component(
        prefix="VehiclePoseComponent", columns={**_FRAME, "world_from_vehicle.transform": _MATRIX}
    ),
    "camera_calibration": Component(
        prefix="CameraCalibrationComponent",
        columns={
            **_SEGMENT,
            **_CAMERA,
            **_reals(*(f"intrinsic.{n}" for n in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3"))),
            "extrinsic.transform": _MATRIX,
            "width": _SIZE,
            "height": _SIZE,
            "rolling_shutter_direction": _NUMBER,
        },
    ),
    "camera_image": Component(
        prefix="CameraImageComponent",
        columns={
            **_FRAME,
            **_CAMERA,
            "image": _BYTES,
            "pose.transform": _MATRIX,
            **_reals(*(f"velocity.{kind}_velocity.{axis}" for kind in ("linear", "angular") for axis in "xyz")),
            **_reals("pose_timestamp"),
            **_reals(
                *(
                    f"rolling_shutter_params.{name}"
                    for name in ("shutter", "camera_trigger_time", "camera_readout_done_time")
                )
            ),
        },
    ),
    "camera_segmentation": Component(
        prefix="CameraSegmentationLabelComponent",
        columns={**_FRAME, **_CAMERA, "panoptic_label_divisor": _SIZE, "panoptic_label": _BYTES},
    ),
    "lidar_calibration": Component(
        prefix="LiDARCalibrationComponent",
        columns={
            **_SEGMENT,
            **_LASER,
            "extrinsic.transform": _MATRIX,
            **_reals("beam_inclination.min", "beam_inclination.max"),
            "beam_inclination.values": _values(pa.float64(), pa.types.is_floating),
        },
    ),
    "lidar": Component(
        prefix="LiDARComponent",
        columns={**_FRAME, **_LASER, **_range_image(1, _FLOATS), **_range_image(2, _FLOATS)},
    ),
    "lidar_camera_projection": Component(
        prefix="LiDARCameraProjectionComponent",
        columns={**_FRAME, **_LASER, **_range_image(1, _INTS), **_range_image(2, _INTS)},
    ),
    "lidar_segmentation": Component(
        prefix="LiDARSegmentationLabelComponent",
        columns={**_FRAME, **_LASER, **_range_image(1, _LABELS), **_range_image(2, _LABELS)},
    ),
    "lidar_pose": Component(prefix="LiDARPoseComponent", columns={**_FRAME, **_LASER, **_range_image(1, _FLOATS)}),
    "lidar_box": Component(
        prefix="LiDARBoxComponent",
        columns={
            **_FRAME,
            "key.laser_object_id": _TEXT,
            **_reals(*(f"box.{part}.{axis}" for part in ("center", "size") for axis in "xyz"), "box.heading"),
            "type": _NUMBER,
            "num_lidar_points_in_box": _TIME,
        },
    ),
}


class ComponentFile:
    """One component of one segment, its columns checked.

    Attributes:
        key: Path relative to the root, for errors.
        path: Path of the file.
        num_unknown_columns: Number of columns that are not read.
    """

    def __init__(self, root: Path, component: str, segment: str) -> None:
        """Open the file and check its schema.

        Raises:
            SourceDataError: If the file is missing or not Parquet, or a column is missing or of another type.
        """
        self.component = COMPONENTS[component]
        self.key = f"{component}/{segment}.parquet"
        self.path = resolve_inside(root, self.key)
        self._segment = segment
        with self._reading():
            self._file = pq.ParquetFile(self.path)
        schema = self._file.schema_arrow
        self._columns = {}
        for column, kind in self.component.columns.items():
            name = self.component.in_file(column)
            if name not in schema.names:
                if kind.optional:
                    continue
                message = f"has no column {name!r}, only {schema.names}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, self.key, message)
            seen = schema.field(name).type
            if not kind.accepts(seen):
                message = f"column {name!r} holds {seen}, want {kind.name}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, self.key, message)
            self._columns[name] = column
        self.num_unknown_columns = len(schema.names) - len(self._columns)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Yield rows in batches; memory holds one batch.

        Args:
            columns: Columns wanted beside the keys; all by default.

        Raises:
            SourceDataError: If the file is damaged, a value is missing, or a row is of another segment.
        """
        wanted = [
            name
            for name, column in self._columns.items()
            if columns is None or column in columns or column.startswith("key.")
        ]
        batches = self._file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=wanted)
        number = 0
        while True:
            with self._reading():
                batch = next(batches, None)
                rows = None if batch is None else _named_rows(batch, self._columns)
            if rows is None:
                return
            for row in rows:
                self._check(row, number)
                yield row
                number += 1

    def _check(self, row: Row, number: int) -> None:
        for column, value in row.items():
            if value is None and not self.component.columns[column].optional:
                message = f"column {self.component.in_file(column)!r} is missing in row {number}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, self.key, message)
        if row["key.segment_context_name"] != self._segment:
            message = f"row {number} is of segment {row['key.segment_context_name']!r}, want {self._segment!r}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.key, message)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with machine_faults(self.key):
                yield
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SourceDataError(ErrorKind.FILE_CORRUPT, self.key, f"cannot be read: {reason}") from error


def _named_rows(batch: pa.RecordBatch, columns: Mapping[str, str]) -> list[Row]:
    """Return rows as dictionaries; lists of numbers, such as range images, stay numpy arrays."""
    values = {}
    for name in batch.schema.names:
        array = batch.column(name)
        kind = array.type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if is_list:
            values[columns[name]] = [
                None if not item.is_valid else item.values.to_numpy(zero_copy_only=False) for item in array
            ]
        else:
            values[columns[name]] = array.to_pylist()
    return [{column: items[i] for column, items in values.items()} for i in range(batch.num_rows)]
