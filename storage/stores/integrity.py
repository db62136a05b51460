"""One typed error for every failure of a store: of what was read or written, or of the machine under it.

Every call of Icechunk, and every write into a home, passes through ``reading`` or ``writing``. A full disk, a failing
one, a file system that may not be written and a process out of file descriptors say nothing about what is stored, so
they are told apart from damage first, wherever the text or number of the fault comes from.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icechunk

from storage.errors import (
    ErrorKind,
    HomeUnavailableError,
    IntegrityError,
    OutOfCapacityError,
    PipelineError,
    StoreUnreachableError,
)

# What a lost object (Icechunk), a shortened chunk (ValueError) and a damaged one (RuntimeError, OSError) are met as.
_CORRUPTION = (icechunk.IcechunkError, ValueError, RuntimeError, OSError)

_CAPACITY = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_UNAVAILABLE = {
    errno.EROFS: ErrorKind.READ_ONLY,
    errno.EACCES: ErrorKind.PERMISSION_DENIED,
    errno.EPERM: ErrorKind.PERMISSION_DENIED,
    errno.EIO: ErrorKind.IO_FAILED,
    errno.ESTALE: ErrorKind.IO_FAILED,
    errno.ENODEV: ErrorKind.IO_FAILED,
    errno.ETIMEDOUT: ErrorKind.IO_FAILED,
}
_OS_ERROR = re.compile(r"os error (\d+)")  # how Rust, and so Icechunk and safetensors, spells a number of the system
# How torch does: "...: Too many open files (24)".
_TORCH_ERROR = re.compile(r": ([A-Z][^:\n]*) \((\d+)\)$", re.MULTILINE)
_TORCH_MEMORY = re.compile(r"DefaultCPUAllocator: .* tried to allocate (\d+) bytes")
_BROKEN_LINE = re.compile(
    r"\s*\n *\| (?=\S)"
)  # Icechunk breaks its lines as a terminal would, within a number's name too


_OUTAGE = re.compile(
    "dispatch failure|timed? ?out|connection (refused|reset|closed)|SlowDown|ServiceUnavailable|InternalError|throttl",
    re.IGNORECASE,
)
"""How Icechunk tells that an object store did not answer."""


class ChunkError(IntegrityError):
    """One chunk is lost, or another stands in its place; ``reading`` puts the reader's key in place of the chunk's."""


def machine_fault(key: str, error: BaseException) -> PipelineError | None:
    """Return the typed error for a fault of the machine, or None if the error or its causes tell of none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PipelineError):
            return None
        if _is_full_memory(seen):
            return OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, key, "the memory is full")
        number = _system_number(seen)
        if number in _CAPACITY:
            return OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, key, _of_system(seen, number))
        if number in _UNAVAILABLE:
            return HomeUnavailableError(_UNAVAILABLE[number], key, _of_system(seen, number))
        if isinstance(seen, icechunk.IcechunkError) and _OUTAGE.search(one_line_text(seen)):
            return unreachable(key, seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _is_full_memory(error: BaseException) -> bool:
    """Return whether memory ran out; more than the machine has is asked for by nobody but a file that is wrong."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a device
        return True
    asked = _TORCH_MEMORY.search(str(error))
    return asked is not None and int(asked[1]) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def machine_faults(key: str) -> Iterator[None]:
    """Turn faults of the machine into typed errors with this key, before anybody takes them for damage; others pass.

    Raises:
        OutOfCapacityError: If disk, memory or file descriptors ran out.
        HomeUnavailableError: If the disk failed, or may not be used.
    """
    try:
        yield
    except Exception as error:
        fault = machine_fault(key, error)
        if fault is not None:
            raise fault from error
        raise


@contextmanager
def reading_weights(path: Path) -> Iterator[None]:
    """Do what :func:`machine_faults` does, for a library that says of every file it cannot open that there is none.

    Args:
        path: A safetensors file.
    """
    with machine_faults(str(path)):
        path.open("rb").close()
        yield


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Turn a store's exception over lost or damaged bytes into an ``IntegrityError`` with this key.

    Raises:
        IntegrityError: If the body failed to read; a lost chunk is an error, not its fill value.
        OutOfCapacityError: If memory or file descriptors ran out.
        HomeUnavailableError: If the disk failed, or may not be read, or an object store does not answer.
    """
    try:
        yield
    except ChunkError as error:
        raise IntegrityError(error.kind, key, error.message) from error
    except PipelineError:
        raise
    except BaseException as error:
        fault = machine_fault(key, error)
        if fault is not None:
            raise fault from error
        if isinstance(error, _CORRUPTION) or is_panic(error):
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"lost or damaged: {first_line(error)}") from error
        raise


@contextmanager
def writing(key: str) -> Iterator[None]:
    """Turn faults of the machine and of Icechunk into typed errors with this key; all other exceptions pass.

    Raises:
        OutOfCapacityError: If disk, memory or file descriptors ran out.
        HomeUnavailableError: If the disk failed, or may not be written.
        IntegrityError: If Icechunk refuses what is there already.
    """
    try:
        yield
    except PipelineError:
        raise
    except BaseException as error:
        fault = machine_fault(key, error)
        if fault is not None:
            raise fault from error
        if isinstance(error, icechunk.IcechunkError) or is_panic(error):
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"cannot be written: {first_line(error)}") from error
        raise


def is_panic(error: BaseException) -> bool:
    """Return whether Rust code behind Python gave up; its exception is no ``Exception`` and has no importable class."""
    return type(error).__name__ == "PanicException"


def unreachable(key: str, error: BaseException) -> StoreUnreachableError:
    """Return the error of a store that does not answer, with the reason that the client gives in one line."""
    message = f"the store does not answer, and nothing is known of what it holds; ask again later ({first_line(error)})"
    return StoreUnreachableError(ErrorKind.STORE_UNREACHABLE, key, message)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says anything."""
    return next((line.strip() for line in one_line_text(error).splitlines() if line.strip()), type(error).__name__)


def one_line_text(error: BaseException) -> str:
    """Return an error's text without the breaks that Icechunk puts into its lines."""
    return _BROKEN_LINE.sub(" ", str(error))


def _system_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(one_line_text(error))
    if found is None and isinstance(error, RuntimeError) and (of_torch := _TORCH_ERROR.search(str(error))):
        number = int(of_torch[2])
        return number if of_torch[1] == os.strerror(number) else None
    return int(found[1]) if found else None


def _of_system(error: BaseException, number: int) -> str:
    place = error.filename if isinstance(error, OSError) and error.filename else None
    return os.strerror(number) + ("" if place is None else f": {place}")
