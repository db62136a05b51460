"""What each kind of target store holds: names, types and axes of its arrays, checked on writing and on reading.

F frames, C cameras, V virtual views; ``h w`` and ``gh gw`` are the pixel and feature grids of the store itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.stores.codecs import COMPRESSED
from storage.stores.integrity import reading

# One frame of all cameras is one chunk: a training sample reads whole frames, and a lost object costs one frame.
_FRAME_AXES = ("frames",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of a target store.

    Attributes:
        dtype: Numpy dtype name at rest.
        axes: Axis names; equal names must have equal length within one store.
        optional: True if a store may lack it.
    """

    dtype: str
    axes: tuple[str, ...]
    optional: bool = False


def _spec(dtype: str, axes: str, *, optional: bool = False) -> ArraySpec:
    return ArraySpec(dtype=dtype, axes=tuple(axes.split()), optional=optional)


_FEATURES = {"features": _spec("float16", "frames cameras grid_height grid_width channels")}
_INTRINSICS = _spec("float64", "cameras 3 3")

_VOXELS = " ".join(map(str, ("frames", *OCC3D_GRID.shape)))

TARGET_SCHEMAS: dict[str, dict[str, ArraySpec]] = {
    "input_images": {
        "image": _spec("uint8", "frames cameras height width 3"),
        "intrinsics": _INTRINSICS,
        "fisheye": _spec("float64", "cameras 4", optional=True),  # stores from before fisheyes hold pinholes alone
    },
    "teacher_depth": {
        "termination_depth": _spec("float16", "frames cameras height width"),
        "opacity": _spec("float16", "frames cameras height width"),
        "intrinsics": _INTRINSICS,
    },
    "virtual_views": {
        "image": _spec("uint8", "frames cameras views height width 3"),
        "termination_depth": _spec("float16", "frames cameras views height width"),
        "opacity": _spec("float16", "frames cameras views height width"),
        "virtual_to_camera": _spec("float64", "views 4 4"),
        "intrinsics": _INTRINSICS,
    },
    "teacher_features": _FEATURES,
    "sky_mask": {
        "is_sky": _spec("bool", "frames cameras height width"),
        "sky_probability": _spec("float16", "frames cameras height width"),
    },
    "depth_anything_features": _FEATURES,
    "dinov2_features": _FEATURES,
    "clip_features": _FEATURES,
    "feature_basis": {
        "mean": _spec("float32", "features"),
        "components": _spec("float32", "features channels"),
        "minimum": _spec("float32", "channels"),
        "maximum": _spec("float32", "channels"),
        "explained_variance_ratio": _spec("float32", "channels"),
    },
    "scene_truth": {
        "termination_depth": _spec("float32", "frames cameras height width"),
        "semantics": _spec("uint8", "frames cameras height width"),
        "instance": _spec("uint16", "frames cameras height width"),
        "occupancy": _spec("uint8", _VOXELS),
        "occupancy_is_visible": _spec("bool", _VOXELS),
        "occupancy_is_scanned": _spec("bool", _VOXELS, optional=True),
    },
    "weak_labels": {
        "voxel_label": _spec("uint8", _VOXELS),
        "voxel_probability": _spec("float16", _VOXELS),
        "pixel_label": _spec("uint8", "frames cameras height width", optional=True),
        "pixel_probability": _spec("float16", "frames cameras height width", optional=True),
    },
}
"""Arrays of each kind. ``scene_truth`` and ``weak_labels`` are never training targets of the student."""


def create_target(group: zarr.Group, kind: str, name: str, shape: tuple[int, ...]) -> zarr.Array:
    """Create one declared array, chunked by frame, to be filled frame by frame.

    Raises:
        ValueError: If the kind has no such array, or the shape does not fit its axes.
    """
    spec = _find(kind, name)
    _check_shape(spec, shape, f"{kind}/{name}")
    chunks = tuple(1 if axis in _FRAME_AXES else max(1, size) for axis, size in zip(spec.axes, shape, strict=True))
    return group.create_array(
        name, shape=shape, dtype=spec.dtype, chunks=chunks, dimension_names=list(spec.axes), compressors=COMPRESSED
    )


def write_target(group: zarr.Group, kind: str, name: str, data: np.ndarray) -> None:
    """Create one declared array and fill it.

    Raises:
        ValueError: If the data does not have the declared dtype and axes.
    """
    spec = _find(kind, name)
    if data.dtype != np.dtype(spec.dtype):
        raise ValueError(f"{kind}/{name}: dtype {data.dtype}, want {spec.dtype}")
    create_target(group, kind, name, data.shape)[...] = data


def open_target(group: zarr.Group, kind: str, name: str) -> zarr.Array:
    """Open one declared array, to be read part by part.

    Raises:
        MissingTargetError: If the store lacks the array.
        IntegrityError: If it has another dtype or number of axes than declared.
    """
    spec = _find(kind, name)
    if name not in group:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{kind}/{name}", "the store has no such array")
    array = group[name]
    if not isinstance(array, zarr.Array) or array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.axes):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{kind}/{name}", f"want {spec.dtype} over {spec.axes}")
    return array


def read_target(group: zarr.Group, kind: str, name: str, selection: Any = ...) -> np.ndarray:  # noqa: ANN401 - any numpy index
    """Read one declared array or a part of it.

    Raises:
        MissingTargetError: If the store lacks the array.
        IntegrityError: If it has another dtype or number of axes than declared, or has lost data.
    """
    array = open_target(group, kind, name)
    with reading(f"{kind}/{name}"):
        return np.asarray(array[selection])


def check_target(group: zarr.Group, kind: str) -> None:
    """Check that a group holds every required array of its kind with consistent axes.

    Raises:
        IntegrityError: Naming the first array that does not fit.
    """
    lengths: dict[str, int] = {}
    for name, spec in TARGET_SCHEMAS[kind].items():
        if name not in group:
            if spec.optional:
                continue
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{kind}/{name}", "is missing")
        array = group[name]
        if not isinstance(array, zarr.Array) or array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.axes):
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{kind}/{name}", f"want {spec.dtype} over {spec.axes}")
        for axis, size in zip(spec.axes, array.shape, strict=True):
            wanted = int(axis) if axis.isdigit() else lengths.setdefault(axis, size)
            if size != wanted:
                raise IntegrityError(
                    ErrorKind.SCHEMA_UNKNOWN, f"{kind}/{name}", f"axis {axis!r} has length {size}, want {wanted}"
                )


def _find(kind: str, name: str) -> ArraySpec:
    try:
        return TARGET_SCHEMAS[kind][name]
    except KeyError:
        raise ValueError(f"no array {name!r} is declared for kind {kind!r}") from None


def _check_shape(spec: ArraySpec, shape: tuple[int, ...], key: str) -> None:
    fits = len(shape) == len(spec.axes) and all(
        not a.isdigit() or int(a) == s for a, s in zip(spec.axes, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{key}: shape {shape} does not fit the axes {spec.axes}")
