"""Create, write and read the arrays of a store by name, as ``storage.kinds`` declares them.

Only declared arrays can be created here. ``check_target`` ignores any other array of a group.
"""

from typing import Any

import numpy as np
import zarr
from jaxtyping import Float32

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.kinds import KINDS, ArraySpec
from storage.stores.codecs import COMPRESSED
from storage.stores.integrity import reading

# One frame of all cameras is one chunk: a training sample reads whole frames, and a lost object costs one frame.
_FRAME_AXES = ("frames",)
_CAMERA = "<camera>"
MAX_ELEMENTS = 1 << 34
"""Largest array that is opened; two hundred frames of five cameras of 2.5 megapixels have 8e9 elements."""
MAX_CHUNKS = 1 << 20
"""Largest number of chunks of an array."""


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
        IntegrityError: If it has another dtype or number of axes than declared, or claims to be larger than any.
    """
    spec = _find(kind, name)
    if name not in group:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{kind}/{name}", "the store has no such array")
    array = group[name]
    if not isinstance(array, zarr.Array) or array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.axes):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{kind}/{name}", f"want {spec.dtype} over {spec.axes}")
    if array.size > MAX_ELEMENTS or array.nchunks > MAX_CHUNKS:
        message = f"claims {array.size} elements in {array.nchunks} chunks, want <= {MAX_ELEMENTS} in {MAX_CHUNKS}"
        raise IntegrityError(ErrorKind.STORE_CORRUPT, f"{kind}/{name}", message)
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


def read_features(
    group: zarr.Group, kind: str, selection: tuple[int, ...], *, name: str = "features"
) -> Float32[np.ndarray, "*images grid_height grid_width channels"]:
    """Read the features of one frame, or of one camera of it; NaN where the camera sees its own vehicle.

    Args:
        group: The store.
        kind: Its kind.
        selection: Index of the frame, and of the camera if one image is wanted.
        name: Name of the array of features.

    Raises:
        MissingTargetError: If the store lacks the array.
        IntegrityError: If it has another dtype or number of axes than declared, or has lost data.
    """
    features = read_target(group, kind, name, selection).astype(np.float32)
    if "is_valid" in group:
        features[~read_target(group, kind, "is_valid", selection[1:] or ...)] = np.nan
    return features


def check_target(group: zarr.Group, kind: str) -> None:
    """Check that a group holds every required array of its kind, with the declared dtype and consistent axes.

    Arrays declared for each camera are looked for under every name in the group's attribute ``camera_names``.

    Raises:
        IntegrityError: If an array does not fit; the key names the first one.
    """
    lengths: dict[str, int] = {}
    for declared, spec in KINDS[kind].arrays.items():
        for camera in _cameras(group, kind) if _CAMERA in declared else [""]:
            name = declared.replace(_CAMERA, camera)
            key, array = f"{kind}/{name}", group.get(name)
            if array is None:
                if spec.optional:
                    continue
                raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, "is missing")
            if not isinstance(array, zarr.Array) or array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.axes):
                raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"want {spec.dtype} over {spec.axes}")
            for axis, size in zip(spec.axes, array.shape, strict=True):
                wanted = int(axis) if axis.isdigit() else lengths.setdefault(axis.replace(_CAMERA, camera), size)
                if size != wanted:
                    message = f"axis {axis!r} has length {size}, want {wanted}"
                    raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, message)


def _cameras(group: zarr.Group, kind: str) -> list[str]:
    names = group.attrs.get("camera_names")
    if not isinstance(names, list):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{kind}/camera_names", f"is {names!r}, want a list of names")
    return [str(name) for name in names]


def _find(kind: str, name: str) -> ArraySpec:
    try:
        return KINDS[kind].arrays[name]
    except KeyError:
        raise ValueError(f"no array {name!r} is declared for kind {kind!r}") from None


def _check_shape(spec: ArraySpec, shape: tuple[int, ...], key: str) -> None:
    fits = len(shape) == len(spec.axes) and all(
        not a.isdigit() or int(a) == s for a, s in zip(spec.axes, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{key}: shape {shape} does not fit the axes {spec.axes}")
