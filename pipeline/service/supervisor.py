"""Keep the processes of a service alive: what ends is started again, sooner at first and later if it keeps ending."""

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline.process_tree import end_trees

_LOOK_S = 0.2
_GRACE_S = 20.0
"""Seconds that a process has to end by itself: Dagster's daemon closes what it has open."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait before a process that ended is started again.

    Attributes:
        first_s: Wait after the first end, seconds.
        longest_s: Longest wait; each end in a row doubles it up to here, seconds.
        settled_s: A process that lived as long as this begins anew with the first wait, seconds.
    """

    first_s: float = 1.0
    longest_s: float = 30.0
    settled_s: float = 20.0

    def wait_s(self, ends_in_a_row: int) -> float:
        """Return the wait after so many ends in a row, seconds."""
        return min(self.longest_s, self.first_s * 2 ** (ends_in_a_row - 1))


@dataclass(kw_only=True)
class Service:
    """One process that is to live.

    Attributes:
        name: Name, for people.
        command: Command line.
        ready: File that appears when it can be used; those after it start then. None if nobody waits for it.
    """

    name: str
    command: Sequence[str]
    ready: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _ends: int = field(default=0, init=False)
    _due: float = field(default=0.0, init=False)

    def end(self) -> None:
        """End its process, with all that it started."""
        if self._process is not None and self._process.poll() is None:
            end_trees([psutil.Process(self._process.pid)], grace_s=_GRACE_S)  # nobody else asks for its exit code
            self._process.wait()

    def is_usable(self) -> bool:
        """Return whether those after it may start; the sign of a process that ended does not count."""
        return self._process is not None and (self.ready is None or self.ready.exists())

    def look(self, patience: Patience) -> str | None:
        """Notice if its process ended; return what is to be told then."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        now = time.monotonic()
        self._ends = 1 if now - self._started >= patience.settled_s else self._ends + 1
        wait = patience.wait_s(self._ends)
        self._process, self._due = None, now + wait
        return f"{self.name} ended with code {code}; it starts again in {wait:.0f} s"

    def start_if_due(self, environment: Mapping[str, str], cwd: Path) -> None:
        """Start it if it does not run and its time has come."""
        now = time.monotonic()
        if self._process is not None or now < self._due:
            return
        if self.ready is not None:
            self.ready.unlink(missing_ok=True)  # a killed process left it
        self._started = now
        self._process = subprocess.Popen(
            self.command, env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True
        )


def supervise(
    services: Sequence[Service],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    stop: threading.Event,
    tell: Callable[[str], None],
    patience: Patience | None = None,
) -> None:
    """Keep services alive until asked to stop, or interrupted; then end them, the last one first.

    Args:
        services: Services in the order of their start; each waits until those before it are ready.
        environment: Environment of their processes.
        cwd: Working directory of their processes.
        stop: Set by whoever wants it to end.
        tell: Receives what people should know.
        patience: Waits between starts.
    """
    patience = patience or Patience()
    try:
        while not stop.wait(_LOOK_S):
            for told in filter(None, [service.look(patience) for service in services]):
                tell(told)
            for service in services:
                service.start_if_due(environment, cwd)
                if not service.is_usable():
                    break
    finally:
        for service in reversed(services):
            service.end()
