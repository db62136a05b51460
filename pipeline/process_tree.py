"""End processes with everything that they started."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

GRACE_S = 10.0
"""Seconds that a process has to end by itself after it was asked to."""


@contextmanager
def ends_children() -> Iterator[None]:
    """End what this process starts in the body, with all descendants, if the body is left by any error.

    Whoever starts a process waits for it; an interrupt ends the waiting, and would leave the process to compute on.
    """
    before = set(psutil.Process().children())
    try:
        yield
    except BaseException:
        end_trees([child for child in psutil.Process().children() if child not in before])
        raise


def end_trees(roots: Sequence[psutil.Process], grace_s: float | None = None) -> None:
    """Ask processes and all their descendants to end, and kill those that have not after a while."""
    grace_s = GRACE_S if grace_s is None else grace_s
    trees = [process for root in roots for process in (root, *_descendants(root))]
    for process in trees:
        _signal(process, psutil.Process.terminate)
    _, alive = psutil.wait_procs(trees, timeout=grace_s)
    for process in alive:
        for late in (process, *_descendants(process)):
            _signal(late, psutil.Process.kill)
    psutil.wait_procs(alive, timeout=GRACE_S)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        send(process)
