"""Parquet tables of a rig manifest: their columns, a strict reader, and a writer for converters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int64

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import from_rotation_translation, quat_wxyz_to_rotation, rotation_to_quat_wxyz
from storage.stores.integrity import machine_faults

_POSE = [pa.field(name, pa.float64(), nullable=False) for name in ("x", "y", "z", "qw", "qx", "qy", "qz")]
_TIME = pa.field("timestamp_us", pa.int64(), nullable=False)
_FRAME = pa.field("frame", pa.int64(), nullable=False)
_REALS = tuple(pa.field(name, pa.float64(), nullable=False) for name in ("length", "width", "height"))

POSES = pa.schema([_TIME, *_POSE])
FRAMES = pa.schema([_FRAME, _TIME, pa.field("lidar_file", pa.string())])
IMAGES = pa.schema([_FRAME, pa.field("camera", pa.string(), False), _TIME, pa.field("file", pa.string(), False)])
_OBJECT = [pa.field(name, pa.string(), nullable=False) for name in ("instance", "category")]
BOXES = pa.schema([_FRAME, *_OBJECT, *_POSE[:3], *_REALS, *_POSE[3:]])
SWEEP = pa.schema(
    [
        *(pa.field(name, pa.float32(), nullable=False) for name in ("x", "y", "z", "intensity")),
        pa.field("time_offset_us", pa.int32()),
    ]
)
"""Columns of one sweep: points in the LiDAR's axes; ``time_offset_us`` (optional) counts from the frame's instant."""

_OPTIONAL = {"lidar_file", "time_offset_us"}
_MAX_QUATERNION_DEFECT = 1e-4

Columns = Mapping[str, np.ndarray]
Values = Sequence[object] | np.ndarray


def read_columns(content: bytes, file: str, schema: pa.Schema) -> Columns:
    """Return the declared columns of a table; text columns are object arrays, and optional columns may be missing.

    Args:
        content: Content of the file.
        file: Name of the file, for errors.
        schema: Columns that it should hold.

    Raises:
        SourceDataError: If the file is not Parquet, or a column is missing, of another type, or holds a null or a
            non-finite number.
    """
    try:
        with machine_faults(file):
            parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            seen = parquet.schema_arrow
            wanted = [field for field in schema if field.name in seen.names]
            _check_fields(seen, schema, file)
            table = parquet.read(columns=[field.name for field in wanted], use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a name of a column
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceDataError(ErrorKind.FILE_CORRUPT, file, f"cannot be read: {reason}") from error
    columns = {field.name: _values(table[field.name], field, file) for field in wanted}
    for name, values in columns.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise SourceDataError(_kind(schema), f"{file}: {name}[{row}]", f"is {values[row]}, want a finite number")
    return columns


def read_poses(content: bytes, file: str) -> tuple[Int64[np.ndarray, " poses"], Float[np.ndarray, "poses 4 4"]]:
    """Return the instants (microseconds) and ego-to-world transforms of a trajectory.

    Raises:
        SourceDataError: See ``read_columns``; also if a quaternion has no unit length.
    """
    columns = read_columns(content, file, POSES)
    return columns["timestamp_us"], transforms_of(columns, file, ErrorKind.POSE_INVALID)


def transforms_of(columns: Columns, file: str, kind: ErrorKind) -> Float[np.ndarray, "rows 4 4"]:
    """Return the transforms in the columns x, y, z, qw, qx, qy, qz.

    Raises:
        SourceDataError: If a quaternion has no unit length; the error has the given kind.
    """
    quats = np.stack([columns[name] for name in ("qw", "qx", "qy", "qz")], axis=-1)
    norms = np.linalg.norm(quats, axis=-1)
    wrong = np.flatnonzero(np.abs(norms - 1.0) > _MAX_QUATERNION_DEFECT)
    if len(wrong):
        row = int(wrong[0])
        message = f"is {quats[row].tolist()} of norm {norms[row]:.6g}, want a unit quaternion"
        raise SourceDataError(kind, f"{file}: qw, qx, qy, qz [{row}]", message)
    translations = np.stack([columns[name] for name in ("x", "y", "z")], axis=-1)
    return from_rotation_translation(quat_wxyz_to_rotation(quats), translations)


def pose_columns(transforms: Float[np.ndarray, "rows 4 4"]) -> dict[str, np.ndarray]:
    """Return transforms as the columns x, y, z, qw, qx, qy, qz."""
    quats = rotation_to_quat_wxyz(transforms[:, :3, :3])
    values = np.concatenate([transforms[:, :3, 3], quats], axis=1)
    return {field.name: values[:, i] for i, field in enumerate(_POSE)}


def write_columns(path: Path, schema: pa.Schema, columns: Mapping[str, Values]) -> None:
    """Write a table; optional columns may be missing.

    Raises:
        ValueError: If a column is missing, unknown or of another type.
    """
    optional = [field for field in schema if field.name in _OPTIONAL and field.name not in columns]
    kept = pa.schema([field for field in schema if field not in optional])
    if set(columns) != set(kept.names):
        raise ValueError(f"{path.name}: columns are {sorted(columns)}, want {kept.names}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        arrays = [pa.array(columns[field.name], field.type) for field in kept]
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    pq.write_table(pa.Table.from_arrays(arrays, schema=kept), path, compression="zstd", write_page_checksum=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSweep:
    """One sweep as recorded.

    Attributes:
        points: x, y, z in the LiDAR's axes (metres), and intensity.
        time_offset_us: Time of each point since the frame's instant; None if all are 0.
    """

    points: Float32[np.ndarray, "points 4"]
    time_offset_us: Int64[np.ndarray, " points"] | None


def read_sweep(content: bytes, file: str) -> RawSweep:
    """Return a sweep.

    Raises:
        SourceDataError: See ``read_columns``; also if the sweep holds no point.
    """
    columns = read_columns(content, file, SWEEP)
    points = np.stack([columns[name] for name in ("x", "y", "z", "intensity")], axis=-1)
    if not len(points):
        raise SourceDataError(ErrorKind.LIDAR_INVALID, file, "holds no point")
    offsets = columns.get("time_offset_us")
    return RawSweep(points=points, time_offset_us=None if offsets is None else offsets.astype(np.int64))


def _check_fields(seen: pa.Schema, schema: pa.Schema, file: str) -> None:
    for field in schema:
        if field.name not in seen.names:
            if field.name in _OPTIONAL:
                continue
            message = f"has no column {field.name!r}, only {seen.names}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)
        if (times := seen.names.count(field.name)) > 1:
            raise SourceDataError(ErrorKind.TABLE_INVALID, file, f"has {times} columns {field.name!r}, want one")
        found = seen.field(field.name).type
        is_text = pa.types.is_string(field.type) and pa.types.is_large_string(found)
        if found != field.type and not is_text:
            message = f"column {field.name!r} holds {found}, want {field.type}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)


def _values(column: pa.ChunkedArray, field: pa.Field, file: str) -> np.ndarray:
    is_text = pa.types.is_string(field.type)
    if column.null_count and not (is_text and field.nullable):
        row = column.is_null().index(True).as_py()
        raise SourceDataError(ErrorKind.TABLE_INVALID, f"{file}: {field.name}[{row}]", "is null, want a value")
    return np.array(column.to_pylist(), dtype=object) if is_text else column.to_numpy()


def _kind(schema: pa.Schema) -> ErrorKind:
    return {id(POSES): ErrorKind.POSE_INVALID, id(SWEEP): ErrorKind.LIDAR_INVALID}.get(
        id(schema), ErrorKind.TABLE_INVALID
    )
