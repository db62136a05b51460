"""A record of what a version's objects hold, kept beside them, which binds content to its place.

A chunk ends with a checksum of itself. That says whether it is whole, not whether it belongs where it is found: a
manifest with one flipped bit names no chunk, and is read as fill value, or names another chunk. The record therefore
keeps, outside all of them, the seal of each chunk by array and coordinate, and size and SHA-256 of the snapshot and the
manifests of the version. It is itself checked by its first line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import google_crc32c
import icechunk
import numpy as np
import zarr
from jaxtyping import UInt8
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from storage.digests import bytes_digest, canonical_json, digest_of
from storage.errors import ErrorKind, IntegrityError
from storage.stores.integrity import ChunkError

FOLDER = "records"
_CHUNK = "/c/"
_CHECKSUM_BYTES = 4
_BYTES_AT_ONCE = 64 << 20
_SEAL = np.dtype([("bytes", "<u4"), ("checksum", "<u4")])


@dataclass(frozen=True, slots=True)
class ArraySeals:
    """Size and checksum of each chunk of one array.

    Attributes:
        grid: Number of chunks along each axis.
        seals: One element for each chunk, in C order.
    """

    grid: tuple[int, ...]
    seals: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRecord:
    """What the objects of one version hold.

    Attributes:
        kind: Kind of the version.
        partition: Its partition.
        digest: Digest of its provenance.
        snapshot_id: Its Icechunk snapshot.
        objects: Size and SHA-256 of its snapshot and manifests, by object name.
        chunk_objects: Size of each chunk object, by name; None if it was not known which ones are the version's.
        arrays: Seals of the chunks of each array, by path.
    """

    kind: str
    partition: str
    digest: str
    snapshot_id: str
    objects: Mapping[str, tuple[int, str]]
    chunk_objects: Mapping[str, int] | None
    arrays: Mapping[str, ArraySeals]

    def to_bytes(self) -> bytes:
        """Write as JSON after a line with its SHA-256."""
        content = canonical_json(
            {
                "kind": self.kind,
                "partition": self.partition,
                "digest": self.digest,
                "snapshot_id": self.snapshot_id,
                "objects": self.objects,
                "chunk_objects": self.chunk_objects,
                "arrays": {
                    path: {"grid": array.grid, "seals": array.seals.tobytes().hex()}
                    for path, array in self.arrays.items()
                },
            }
        ).encode()
        return bytes_digest(content).encode() + b"\n" + content

    @classmethod
    def from_bytes(cls, stored: bytes, key: str) -> "ContentRecord":
        """Read back what ``to_bytes`` wrote.

        Raises:
            IntegrityError: If it is damaged.
        """
        checksum, _, content = stored.partition(b"\n")
        if bytes_digest(content).encode() != checksum:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, "the record of its content is damaged")
        raw = json.loads(content)
        arrays = {
            path: ArraySeals(tuple(array["grid"]), np.frombuffer(bytes.fromhex(array["seals"]), _SEAL))
            for path, array in raw.pop("arrays").items()
        }
        objects = {name: (size, digest) for name, (size, digest) in raw.pop("objects").items()}
        return cls(**raw, objects=objects, arrays=arrays)

    def seal_at(self, key: str) -> tuple[int, int] | None:
        """Return size and checksum of the chunk at a key of the store; None if the key is no chunk's."""
        path, found, place = key.rpartition(_CHUNK)
        if not found and key.endswith(_CHUNK[:-1]):
            path, place = key.removesuffix(_CHUNK[:-1]), ""
        array = self.arrays.get(path)
        coordinates = place.split("/") if place else []
        if array is None or not all(c.isdigit() for c in coordinates) or len(coordinates) != len(array.grid):
            return None
        index = 0
        for coordinate, size in zip(coordinates, array.grid, strict=True):
            if int(coordinate) >= size:
                return None
            index = index * size + int(coordinate)
        return int(array.seals["bytes"][index]), int(array.seals["checksum"][index])


def content_digest(arrays: Mapping[str, ArraySeals]) -> str:
    """Return the SHA-256 of which chunks the arrays of a version hold, and where."""
    return digest_of({path: {"grid": a.grid, "seals": bytes_digest(a.seals.tobytes())} for path, a in arrays.items()})


def seal_of(stored: UInt8[np.ndarray, " bytes"]) -> tuple[int, int]:
    """Return size and checksum of a stored chunk.

    A chunk that ends with the checksum of its own content keeps that one: comparing it costs nothing, and the codec
    compares it with the content at each read. Any other chunk gets the checksum of all its bytes.
    """
    own = len(stored) >= _CHECKSUM_BYTES and google_crc32c.value(stored[:-_CHECKSUM_BYTES]) == _tail(stored)
    return len(stored), _tail(stored) if own else google_crc32c.value(stored)


def is_sealed(stored: UInt8[np.ndarray, " bytes"], seal: tuple[int, int]) -> bool:
    """Return whether a stored chunk is the one with this seal, as far as its codec does not tell by itself."""
    size, checksum = seal
    return len(stored) == size and (_tail(stored) == checksum or google_crc32c.value(stored) == checksum)


def _tail(stored: UInt8[np.ndarray, " bytes"]) -> int:
    return int.from_bytes(stored[-_CHECKSUM_BYTES:].tobytes(), "little")


def arrays_of(group: zarr.Group, seals: Mapping[str, tuple[int, int]], key: str) -> dict[str, ArraySeals]:
    """Return the seals of all arrays of a group, from those of all its chunks by key of the store.

    Raises:
        IntegrityError: If a chunk is missing.
    """
    found = {}
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array):
            chunks = array.shards or array.chunks
            grid = tuple(-(-n // size) for n, size in zip(array.shape, chunks, strict=True))
            keys = [f"{array.path}/{array.metadata.encode_chunk_key(place)}" for place in np.ndindex(grid)]
            present = [seals[chunk] for chunk in keys if chunk in seals]
            if len(present) < len(keys):
                message = f"{len(present)} of {len(keys)} chunks were written"
                raise IntegrityError(ErrorKind.STORE_CORRUPT, f"{key}/{name}", message)
            found[array.path] = ArraySeals(grid, np.array(present, _SEAL))
    return found


async def seals_of(store: Store) -> dict[str, tuple[int, int]]:
    """Return the seal of every chunk that a store holds, by key."""
    found = {}
    async for key in store.list():
        value = await store.get(key, default_buffer_prototype()) if _is_chunk(key) else None
        if value is not None:
            found[key] = seal_of(_bytes_of(value))
    return found


def read_whole(array: zarr.Array) -> None:
    """Read and decode every chunk of an array, a part at a time."""
    if array.ndim == 0 or array.size == 0:
        _ = array[...]
        return
    rows = max(1, _BYTES_AT_ONCE // max(1, array.nbytes // array.shape[0]))
    for start in range(0, array.shape[0], rows):
        _ = array[start : start + rows]


class RecordingStore(WrapperStore[Store]):
    """Store that notes the seal of every chunk written through it.

    Attributes:
        seals: Size and checksum of each value, by key.
        has_rewritten: Whether a value was written twice; its first object is then nobody's.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seals: dict[str, tuple[int, int]] = {}
        self.has_rewritten = False

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value and note its seal."""
        await self._store.set(key, value)
        if _is_chunk(key):
            self.has_rewritten |= key in self.seals
            self.seals[key] = seal_of(_bytes_of(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values) -> None:  # noqa: ANN001 - as zarr declares it
        await Store._set_many(self, values)

    async def delete(self, key: str) -> None:
        """Delete a value and its seal."""
        await self._store.delete(key)
        self.has_rewritten |= self.seals.pop(key, None) is not None

    async def delete_dir(self, prefix: str) -> None:
        """Delete all values below a prefix, and their seals."""
        await self._store.delete_dir(prefix)
        below = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        for key in [key for key in self.seals if key.startswith(below)]:
            self.has_rewritten = True
            del self.seals[key]

    async def clear(self) -> None:
        """Delete everything."""
        await self._store.clear()
        self.has_rewritten |= bool(self.seals)
        self.seals.clear()


class CheckedStore(WrapperStore[Store]):
    """Store that gives out a chunk only if it is the one that the record has at this place.

    Args:
        store: Store of the version's snapshot.
        record: Record of the version's content.
        key: Name of the version, for errors.
        on_failure: Called with the error of a chunk that could not be read; raises if that says nothing about it.
    """

    def __init__(
        self,
        store: Store,
        record: ContentRecord,
        key: str,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        super().__init__(store)
        self._record, self._key, self._on_failure = record, key, on_failure

    @property
    def unchecked(self) -> Store:
        """Return the store that gives out whatever is there."""
        return self._store

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value.

        Raises:
            ChunkError: If a chunk is lost or is another one.
        """
        try:
            value = await self._store.get(key, prototype, byte_range)
        except icechunk.IcechunkError as error:
            if self._on_failure is not None:
                self._on_failure(error)
            raise
        seal = self._record.seal_at(key)
        if seal is not None:
            whole = value if byte_range is None else await self._store.get(key, prototype)
            if whole is None or not is_sealed(_bytes_of(whole), seal):
                message = f"lost or damaged: the chunk at {key} is {'lost' if whole is None else 'another one'}"
                raise ChunkError(ErrorKind.STORE_CORRUPT, f"{self._key}/{key}", message)
        elif value is not None and _is_chunk(key):
            message = f"lost or damaged: a chunk at {key}, where none was written"
            raise ChunkError(ErrorKind.STORE_CORRUPT, f"{self._key}/{key}", message)
        return value

    async def get_partial_values(self, prototype, key_ranges):  # noqa: ANN001, ANN201 - as zarr declares it
        """Return parts of values, each checked."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(self, requests):  # noqa: ANN001, ANN202 - as zarr declares it
        async for found in Store._get_many(self, requests):
            yield found


def _is_chunk(key: str) -> bool:
    return not key.endswith("zarr.json") and (_CHUNK in key or key.endswith(_CHUNK[:-1]))


def _bytes_of(value: Buffer) -> UInt8[np.ndarray, " bytes"]:
    return np.ascontiguousarray(value.as_numpy_array()).view(np.uint8)
