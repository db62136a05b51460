"""Check that a write is complete before it is published, and delete what a failed write leaves."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import icechunk
import zarr

from storage.errors import ErrorKind, IntegrityError


def check_complete(group: zarr.Group, session: icechunk.Session, key: str) -> None:
    """Check that every chunk was written in this session, which must have begun with an empty group.

    The session lists what was written; asking each array would list the store once for each of them.

    Raises:
        IntegrityError: If a chunk is missing.
    """
    written = {path.lstrip("/"): len(chunks) for path, chunks in session.status().updated_chunks.items()}
    for name, array in group.members(max_depth=None):
        if not isinstance(array, zarr.Array):
            continue
        wanted = math.prod(-(-n // size) for n, size in zip(array.shape, array.shards or array.chunks, strict=True))
        if (seen := written.get(array.path, 0)) < wanted:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, f"{key}/{name}", f"{seen} of {wanted} chunks were written")


@contextmanager
def no_leftovers(repository: icechunk.Repository, *, is_local: bool) -> Iterator[None]:
    """Delete what an earlier, killed write left, then run the body and delete what it leaves if it fails.

    The caller holds the repository's lock, so nobody else is writing.

    Args:
        repository: Repository that the body writes.
        is_local: Whether it is a local folder. In an object store nothing is deleted: locks do not reach writers on
            other machines.
    """

    def collect() -> None:
        if is_local:
            repository.garbage_collect(datetime.now(UTC))

    collect()
    try:
        yield
    except BaseException:
        collect()
        raise
