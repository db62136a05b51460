"""One way for every reader to say that what is stored does not hold what it should."""

from collections.abc import Iterator
from contextlib import contextmanager

import icechunk

from storage.errors import ErrorKind, IntegrityError

# What a lost object (Icechunk), a shortened chunk (ValueError) and a damaged one (RuntimeError, OSError) are met as.
_CORRUPTION = (icechunk.IcechunkError, ValueError, RuntimeError, OSError)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Turn what a store raises over lost or damaged bytes into an ``IntegrityError`` that names what was read.

    Raises:
        IntegrityError: If the body failed to read. A lost chunk is never read as its fill value.
    """
    try:
        yield
    except _CORRUPTION as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"lost or damaged: {reason}") from error
