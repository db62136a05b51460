"""Writes that a loss of power cannot undo or tear: content first, then the name that leads to it, each synced.

A name is durable only once its folder is synced too. Every pointer is written aside and renamed, so a reader sees the
old content or the new, whole.
"""

import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

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
    target = root / ASIDE / path.relative_to(root)
    target = target.with_name(f"{target.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}")
    move_durably(path, target)
    return target
