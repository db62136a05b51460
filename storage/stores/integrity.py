"""One typed error for every reader of lost or damaged data."""

from collections.abc import Iterator
from contextlib import contextmanager

import icechunk

from storage.errors import ErrorKind, IntegrityError

# What a lost object (Icechunk), a shortened chunk (ValueError) and a damaged one (RuntimeError, OSError) are met as.
_CORRUPTION = (icechunk.IcechunkError, ValueError, RuntimeError, OSError)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Turn a store's exception over lost or damaged bytes into an ``IntegrityError`` with this key.

    Raises:
        IntegrityError: If the body failed to read; a lost chunk is an error, not its fill value.
    """
    try:
        yield
    except _CORRUPTION as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"lost or damaged: {reason}") from error
