"""Peak memory of a command and its descendants, measured while it runs."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil

_SECONDS_BETWEEN_SAMPLES = 1.0


class PeakMemory:
    """Sample the memory of this process and its descendants until the block ends.

    Shared memory, such as libraries, counts once where the system gives proportional set sizes; elsewhere resident
    sizes are summed.

    Attributes:
        peak_bytes: Largest sum seen so far, bytes.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._started = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the measurement began."""
        return time.perf_counter() - self._started

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_memory())
            if self._ended.wait(_SECONDS_BETWEEN_SAMPLES):
                return


def tree_memory() -> int:
    """Return the bytes of memory that this process and its descendants use now."""
    root = psutil.Process()
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += _memory(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended meanwhile
    return total


def _memory(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", 0) or full.rss)
