"""Occ3D labels: one ``labels.npz`` for each keyframe, under ``gts/<scene name>/<sample token>/``."""

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.stores.integrity import machine_faults
from storage.taxonomy import OCC3D_FREE

_NAMES = ("semantics", "mask_lidar", "mask_camera")
_MAX_BYTES = 8 * OCC3D_GRID.num_voxels + 4096  # one array of the widest numbers, and its header


@dataclass(frozen=True, slots=True, kw_only=True)
class Occ3dLabels:
    """Semantic occupancy of one keyframe in ``OCC3D_GRID``.

    Attributes:
        semantics: Occ3D classes 0 to 16, 17 where free; axes x (forward), y (left), z (up).
        mask_lidar: Voxels that the LiDAR saw.
        mask_camera: Voxels that some camera saw.
    """

    semantics: UInt8[np.ndarray, "200 200 16"]
    mask_lidar: Bool[np.ndarray, "200 200 16"]
    mask_camera: Bool[np.ndarray, "200 200 16"]


def labels_path(root: Path, scene_name: str, sample_token: str) -> Path:
    """Return the label file of a keyframe under the root of a data set."""
    return root / labels_file(scene_name, sample_token)


def labels_file(scene_name: str, sample_token: str) -> str:
    """Return the label file of a keyframe, relative to the root of a data set."""
    return f"gts/{scene_name}/{sample_token}/labels.npz"


def read_labels(path: Path) -> Occ3dLabels:
    """Read the labels of one keyframe.

    Raises:
        SourceDataError: If the file is missing, or see :func:`parse_labels`.
    """
    if not path.is_file():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(path), "there is no such file of labels")
    return parse_labels(path.read_bytes(), str(path))


def parse_labels(content: bytes, file: str) -> Occ3dLabels:
    """Return the labels of one keyframe.

    Args:
        content: Content of a file of labels.
        file: Name of the file, for errors.

    Raises:
        SourceDataError: If the file is damaged, lacks an array, or an array has another type or shape or unknown
            values.
    """
    arrays = read_arrays(content, file, _NAMES)
    for name in _NAMES:
        _check(file, name, arrays)
    return Occ3dLabels(
        semantics=arrays["semantics"],
        mask_lidar=arrays["mask_lidar"].astype(bool),
        mask_camera=arrays["mask_camera"].astype(bool),
    )


def read_arrays(content: bytes, file: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return those of some arrays that an archive holds.

    Args:
        content: Content of an ``.npz`` file.
        file: Name of the file, for errors.
        names: The arrays.

    Raises:
        SourceDataError: If the file is damaged, or an array unpacks to more than one of the grid can have.
    """
    try:
        with machine_faults(file), zipfile.ZipFile(BytesIO(content)) as archive:
            # Checked before anything is unpacked: a small file can hold a very large array.
            large = [entry for entry in archive.infolist() if entry.file_size > _MAX_BYTES]
            if large:
                message = f"{large[0].filename} unpacks to {large[0].file_size} bytes, want at most {_MAX_BYTES}"
                raise SourceDataError(ErrorKind.FILE_UNSAFE, file, message)
            held = set(archive.namelist())
            return {name: _array(archive.read(f"{name}.npy")) for name in names if f"{name}.npy" in held}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        if isinstance(error, SourceDataError):
            raise
        raise SourceDataError(ErrorKind.FILE_CORRUPT, file, f"is no readable archive of arrays: {error}") from error


def _array(stored: bytes) -> np.ndarray:
    try:
        return np.load(BytesIO(stored), allow_pickle=False)
    except MemoryError:  # of a file that is small: its header lies, and the machine is not at fault
        raise ValueError(f"an array in {len(stored)} bytes claims more values than the memory holds") from None


def write_labels(path: Path, labels: Occ3dLabels) -> None:
    """Write the labels of one keyframe, creating folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        semantics=labels.semantics,
        mask_lidar=labels.mask_lidar.astype(np.uint8),
        mask_camera=labels.mask_camera.astype(np.uint8),
    )


def _check(file: str, name: str, arrays: dict[str, np.ndarray]) -> None:
    if name not in arrays:
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, f"lacks the array {name!r}")
    array, highest = arrays[name], OCC3D_FREE if name == "semantics" else 1
    if array.dtype != np.uint8 or array.shape != OCC3D_GRID.shape:
        message = f"{name} is {array.dtype} {array.shape}, want uint8 {OCC3D_GRID.shape}"
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)
    if array.max() > highest:
        raise SourceDataError(ErrorKind.TABLE_INVALID, file, f"{name} holds {array.max()}, want 0 to {highest}")
