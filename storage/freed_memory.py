"""What the C library does with freed memory: hand large blocks back to the system, or keep them for the next.

By default each large array is mapped anew, and the system clears it page by page when it is first touched. Programs
that make and free large arrays all the time, such as fitting a field, spend a sixth of their time there.
"""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_NEVER = -1
_REUSED = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 64 << 20}
# What its own adaptation to large blocks ends at; it stops adapting when anything is set.
_RETURNED = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 0}


def reuse_freed_memory() -> bool:
    """Keep what this process frees for its next allocations.

    Its size no longer falls when arrays are freed; the peak is about the same. To be called when a process starts.

    Returns:
        Whether the C library knows how: only glibc on Linux does.
    """
    return _set(_REUSED)


def return_freed_memory() -> bool:
    """Hand large blocks back when they are freed, as glibc does where nothing is said; return whether it knows how."""
    return _set(_RETURNED)


def _set(options: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all([mallopt(option, value) == 1 for option, value in options.items()])
