"""Between a write and its publication: is all of it there, and if not, leave nothing of it behind."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import icechunk
import zarr

from storage.errors import ErrorKind, IntegrityError


def check_complete(group: zarr.Group, session: icechunk.Session, key: str) -> None:
    """Raise unless every chunk was written in this session, which began with an empty group.

    The session knows what was written; to ask each array would list its part of the store again and again.

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
    """Delete what a write that fails in the body leaves, and first what one left that was killed.

    The caller holds the repository's lock, so nobody else is writing.

    Args:
        repository: Where the body writes.
        is_local: Whether it is a local folder. An object store may have writers on other machines, which no lock keeps
            apart: there, nothing is deleted.
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
