"""Logs of processes, bounded in size: a full one is set aside, and the one that was set aside before it is dropped."""

import contextlib
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 16 << 20
"""Size from which on a log is full; with the one set aside, a log takes about twice as much."""


def open_log(path: Path) -> BinaryIO:
    """Open a log to append to; a full one becomes ``<name>.old`` first.

    A process that has it open goes on in the old one: who writes for long opens it again from time to time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # there is none yet, or another process has just set it aside
        if path.stat().st_size >= MAX_BYTES:
            path.replace(path.with_name(f"{path.name}.old"))
    return path.open("ab")
