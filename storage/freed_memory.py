"""Choose whether the C library gives large freed blocks back to the system or keeps them for the next allocation.

By default each large array is mapped anew, and the system clears it page by page when it is first touched. Programs
that make and free large arrays all the time, such as the fit of a field, spend a sixth of their time there.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_NEVER = -1
_REUSED = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 64 << 20}
# What its own adaptation to large blocks ends at; it stops adapting when anything is set.
_RETURNED = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 0}


def reuse_freed_memory() -> bool:
    """Keep what this process frees for its next allocations.

    The size of the process no longer falls when arrays are freed; the peak is about the same. Call it at process start.

    Returns:
        Whether the C library can do it; only glibc on Linux can.
    """
    return _set(_REUSED)


def return_freed_memory() -> bool:
    """Give large blocks back when they are freed, the default of glibc; return whether the C library can do it."""
    return _set(_RETURNED)


def _set(options: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all([mallopt(option, value) == 1 for option, value in options.items()])


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Stop the garbage collector while many objects are made that are all in use: looking through them takes longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
