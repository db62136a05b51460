"""Read back every byte of a version, the parts included that no reader has asked for yet."""

import zarr

from storage.kinds import StoreForm
from storage.stores.integrity import reading
from storage.stores.versioned import Home, StoreVersion

_BYTES_AT_ONCE = 64 << 20


def verify_version(home: Home, version: StoreVersion) -> int:
    """Read a version whole, and return the number of bytes of its content.

    Args:
        home: Home that holds the version.
        version: Version to read. Arrays are decoded chunk by chunk, each checked by its codec and its object's
            checksum; files are compared with their recorded SHA-256.

    Raises:
        MissingTargetError: If the version is gone.
        IntegrityError: If anything is lost or damaged.
    """
    if version.form is StoreForm.FILES:
        folder = home.open_files(version, verify=True)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(_read_array(array, f"{version}/{name}") for name, array in _arrays(home.open_arrays(version)))


def _arrays(group: zarr.Group) -> list[tuple[str, zarr.Array]]:
    return sorted((name, member) for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array))


def _read_array(array: zarr.Array, key: str) -> int:
    with reading(key):
        if array.ndim == 0 or array.size == 0:
            _ = array[...]
            return array.nbytes
        rows = max(1, _BYTES_AT_ONCE // max(1, array.nbytes // array.shape[0]))
        for start in range(0, array.shape[0], rows):
            _ = array[start : start + rows]
    return array.nbytes
