"""Locks between processes that say who holds them, and since when.

The operating system frees a lock when its holder ends, however it ends. Beside the lock lies a note of the holder, for
those who wait; the note of a process that was killed is never believed, because its lock is free.
"""

import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from storage.errors import ErrorKind, StoreLockedError

LOCK_TIMEOUT_VARIABLE = "DISTILLNERF_LOCK_TIMEOUT_S"
_REMIND_S = 60.0

logger = logging.getLogger(__name__)


def lock_timeout_from_environment() -> float | None:
    """Return how long the environment says to wait for a lock, seconds; None is without limit, the default.

    Raises:
        ValueError: If the variable is no number from 0 up.
    """
    text = os.environ.get(LOCK_TIMEOUT_VARIABLE)
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ValueError(f"{LOCK_TIMEOUT_VARIABLE} is {text!r}, want seconds, 0 or more")
    return limit


@contextmanager
def held(path: Path, key: str, timeout_s: float | None) -> Iterator[None]:
    """Hold the lock of a file; while another process holds it, say who that is, and again each minute.

    Args:
        path: The lock's file; its folder must exist.
        key: What is locked, for people.
        timeout_s: Longest wait, seconds; None waits without limit.

    Raises:
        StoreLockedError: If the time is over and the lock is still held; the message names the holder.
    """
    lock = filelock.FileLock(path)
    note = path.with_suffix(".holder")
    _acquire(lock, note, key, timeout_s)
    try:
        with suppress(OSError):  # a full disk keeps nobody from looking for what is there
            note.write_text(_own_note())
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock of this file; looking creates nothing."""
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def _acquire(lock: filelock.BaseFileLock, note: Path, key: str, timeout_s: float | None) -> None:
    begun, wait = time.monotonic(), 0.0
    while True:
        try:
            lock.acquire(timeout=wait, poll_interval=0.05)
        except filelock.Timeout:
            waited = time.monotonic() - begun
            if timeout_s is not None and waited >= timeout_s:
                message = f"waited {waited:.0f} s for {_holder(note)}; {LOCK_TIMEOUT_VARIABLE} sets how long"
                raise StoreLockedError(ErrorKind.LOCKED, key, message) from None
            logger.warning("%s: waiting for %s", key, _holder(note))
            wait = _REMIND_S if timeout_s is None else min(_REMIND_S, timeout_s - waited)
        else:
            return


def _own_note() -> str:
    return json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300],
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _holder(note: Path) -> str:
    try:
        seen = json.loads(note.read_text())
        return f"process {seen['pid']} on {seen['host']} ({seen['command']}), which holds it since {seen['since']}"
    except (OSError, ValueError, KeyError):  # it has just gone, or holds the lock by other means
        return "another process, which holds it"
