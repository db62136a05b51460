"""Writes that a loss of power cannot undo or tear: content first, then the name that leads to it, each synced.

A name is durable only once its folder is synced too. Every pointer is written aside and renamed, so a reader sees the
old content or the new, whole.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

_AHEAD_S = 0.2
_AT_ONCE = 8  # a journal takes waiting syncs together: eight at once cost a quarter of eight in turn

ASIDE = "aside"
"""Folder of a home for what could not be read, as it was found."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[Path]) -> None:
    """Sync many files or folders, several at once."""
    waiting = list(paths)
    if len(waiting) <= 2:
        for path in waiting:
            sync(path)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(sync, waiting))


class SyncAhead:
    """Syncs the files of a folder while others write them, so that little is left to wait for at the end.

    Args:
        folder: Folder in which files get their names once they are whole.
        is_whole: Tells by a file's name whether it has its content already.
    """

    def __init__(self, folder: Path, is_whole: Callable[[str], bool]) -> None:
        self._folder, self._is_whole = folder, is_whole
        self._synced = self._files()
        self._stopped = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> set[str]:
        """Stop, and return the names of files that are on the disk, or were there before.

        Raises:
            OSError: If one could not be synced; the system reports that only once.
        """
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._synced

    def _run(self) -> None:
        try:
            while not self._stopped.wait(_AHEAD_S):
                for name in self._files() - self._synced:
                    sync(self._folder / name)
                    self._synced.add(name)
        except OSError as error:
            self._error = error

    def _files(self) -> set[str]:
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        return {name for name in names if self._is_whole(name)}


def sync_tree(folder: Path) -> None:
    """Sync every file below a folder, then every folder, the given one included."""
    below = sorted(folder.rglob("*"))
    sync_all(path for path in below if path.is_file())
    sync_all([*(path for path in below if path.is_dir()), folder])


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it; each new name is on the disk on return."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync(new.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write or replace a file in one step; its folder must exist."""
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def move_durably(source: Path, target: Path) -> None:
    """Rename a file or folder whose content is synced; both folders' names are on the disk on return."""
    make_folder(target.parent)
    source.rename(target)
    sync_all({source.parent, target.parent})


def set_aside(root: Path, path: Path) -> Path:
    """Move what cannot be read out of the way, below the folder ``aside`` of a home, and return where it lies now."""
    target = root / aside_name(str(path.relative_to(root)))
    move_durably(path, target)
    return target


def aside_name(name: str) -> str:
    """Return a new name below the folder ``aside`` for what has this name in its home."""
    return f"{ASIDE}/{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
