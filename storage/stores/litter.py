"""What killed writers leave in a home, and its removal.

Only what nobody can ask for is litter: folders and files under a name that is used while writing, objects of a store
that no version needs, the resumable state of versions that are published. No version is ever litter, so whatever a
checkpoint's bill of materials names stays. Each place is looked at under its lock, so what a living writer holds stays.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage.errors import PipelineError, StoreLockedError
from storage.stores.durable import ASIDE
from storage.stores.file_versions import PARTIAL
from storage.stores.integrity import writing
from storage.stores.locks import held, is_held
from storage.stores.versioned import WORK, Home

_BEING_WRITTEN = re.compile(r"\..+-[0-9a-f]{32}|[^#]+#\d+")
"""Names under which ``durable`` and Icechunk write a file before its real name."""

Sort = Literal["unfinished version", "unfinished file", "unreachable objects", "finished work", "set aside", "in use"]
"""What was found. What is ``in use`` belongs to a living writer, and stays."""


@dataclass(frozen=True, slots=True)
class Litter:
    """One piece of litter.

    Attributes:
        sort: What it is.
        place: Its path relative to the home, or its store.
        num_bytes: Its size.
    """

    sort: Sort
    place: str
    num_bytes: int


def sweep(home: Home, *, dry_run: bool, aside: bool = False) -> Iterator[Litter]:
    """Find litter, remove it unless asked not to, and yield each piece.

    Args:
        home: Home to sweep.
        dry_run: Remove nothing.
        aside: Take also what was set aside because it could not be read.
    """
    owners = {(path.parent.name, path.name) for top in ("artifacts", WORK) for path in _folders(home.root / top)}
    for kind, partition in sorted(owners | set(home.array_partitions())):
        yield from _sweep_partition(home, kind, partition, dry_run=dry_run, aside=aside)
    yield from _sweep_index(home, dry_run=dry_run)
    if not home.objects.is_local:
        yield from _sweep_shared_work(home, dry_run=dry_run)
    if aside and (home.root / ASIDE).is_dir():
        yield _removed(home, "set aside", home.root / ASIDE, dry_run=dry_run)


def _sweep_partition(home: Home, kind: str, partition: str, *, dry_run: bool, aside: bool) -> Iterator[Litter]:
    lock = home.lock_file(kind, partition)
    with ExitStack() as stack:
        try:
            if dry_run:
                if is_held(lock):
                    yield Litter("in use", f"{kind}/{partition}", 0)
                    return
            else:
                lock.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(lock, f"{kind}/{partition}", 0.0))
        except StoreLockedError:
            yield Litter("in use", f"{kind}/{partition}", 0)
            return
        artifacts = home.root / "artifacts" / kind / partition
        for path in sorted(artifacts.glob(f"{PARTIAL}*")):
            yield _removed(home, "unfinished version", path, dry_run=dry_run)
        work = home.root / WORK / kind / partition
        for path in sorted(work.glob("[!.]*")):
            if _is_published(home, kind, partition, path.name):
                yield _removed(home, "finished work", path, dry_run=dry_run)
        for top in (artifacts, work, home.root / "stores" / kind / partition):
            for path in _being_written(top):
                yield _removed(home, "unfinished file", path, dry_run=dry_run)
        freed = _unreachable(home, kind, partition, dry_run=dry_run, aside=aside)
        if freed:
            yield Litter("unreachable objects", f"stores/{kind}/{partition}", freed)


def _unreachable(home: Home, kind: str, partition: str, *, dry_run: bool, aside: bool) -> int:
    try:
        repository = home.repository(kind, partition)
        if repository is None:
            return 0
        if dry_run:
            return repository.unreached_bytes()
        if repository.faults():
            return 0
        repository.prepare()
        if aside:
            repository.forget_unreadable()
        return repository.collect()
    except PipelineError:  # damage is for 'catalog verify' to name, and for the next write to mend
        return 0


def _is_published(home: Home, kind: str, partition: str, name: str) -> bool:
    """Return whether a folder of work is named for a version, or the beginning of its digest, that is there."""
    if not re.fullmatch(r"[0-9a-f]{16,64}", name):
        return False
    try:
        return any(version.digest.startswith(name) for version in home.versions(kind, partition))
    except PipelineError:
        return False


def _sweep_shared_work(home: Home, *, dry_run: bool) -> Iterator[Litter]:
    """Sweep copies of states from the bucket whose version is published; whoever still fits it drops it when done."""
    objects = home.objects
    for kind in objects.folders(WORK):
        for partition in objects.folders(f"{WORK}/{kind}"):
            for name in objects.folders(f"{WORK}/{kind}/{partition}"):
                if not _is_published(home, kind, partition, name):
                    continue
                place = f"{WORK}/{kind}/{partition}/{name}"
                states = [f"{place}/{state}" for state in objects.folders(place)]
                sizes = {f"{state}/{file}": n for state in states for file, n in objects.sizes(state).items()}
                for file in () if dry_run else sizes:
                    objects.delete(file)
                yield Litter("finished work", f"{objects.url}/{place}", sum(sizes.values()))


def _sweep_index(home: Home, *, dry_run: bool) -> Iterator[Litter]:
    lock = home.root / "locks" / "catalog.lock"
    if not lock.parent.is_dir():
        return
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(held(lock, "catalog", 10.0))
        leftovers = [path for path in home.root.glob(".*") if _BEING_WRITTEN.fullmatch(path.name)]
        for path in [*_being_written(home.root / "catalog"), *leftovers]:
            yield _removed(home, "unfinished file", path, dry_run=dry_run)


def _folders(top: Path) -> list[Path]:
    return [path for path in top.glob("*/*") if path.is_dir()]


def _being_written(top: Path) -> list[Path]:
    return sorted(p for p in top.rglob("*") if _BEING_WRITTEN.fullmatch(p.name) and p.is_file())


def _removed(home: Home, sort: Sort, path: Path, *, dry_run: bool) -> Litter:
    found = Litter(sort, str(path.relative_to(home.root)), _size(path))
    if not dry_run:
        with writing(found.place):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return found


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
