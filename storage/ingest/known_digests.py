"""SHA-256 of raw files that were hashed before, believed while the file system says that nothing has touched them.

A repeated ingest would read every raw file only to see that nothing changed. Beside each digest stands what the file
system said of the file then: size, times of change of content and of inode, inode and device. A digest is used only if
all of them are the same now. A file that was changed within the last moments before it was hashed may be changed once
more without any of them changing, because clocks tick; its digest is not kept, as in git.

The record belongs to this machine and to nobody's provenance: without it, files are hashed again.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from storage.digests import digest_of
from storage.errors import SourceDataError
from storage.keys import check_name
from storage.plain_json import parse_json

VERIFY_RAW_VARIABLE = "DISTILLNERF_VERIFY_RAW"
FOLDER = "raw_digests"
"""Folder of the records, in a home's folder on this machine."""

_SETTLED_NS = 2_000_000_000
"""Age of a file's last change from which on its times tell whether it was changed again; the clocks of some file
systems tick every two seconds."""
_SCHEMA = 1

logger = logging.getLogger(__name__)


def verify_raw_from_environment() -> bool:
    """Return whether the environment says to hash every raw file again.

    Raises:
        ValueError: If the variable is neither 0 nor 1.
    """
    text = os.environ.get(VERIFY_RAW_VARIABLE) or "0"
    if text not in ("0", "1"):
        raise ValueError(f"{VERIFY_RAW_VARIABLE} is {text!r}, want 1 to hash every raw file again, or 0")
    return text == "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What a file system says of a file without reading it.

    Attributes:
        size: Bytes.
        mtime_ns: Time of the last change of the content, nanoseconds. Programs can set it.
        ctime_ns: Time of the last change of the inode, nanoseconds. Programs cannot set it.
        inode: Number of the inode.
        device: Number of the device.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file, or of the file that a link leads to.

        Raises:
            OSError: If there is none.
        """
        found = path.stat()
        return cls(
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            inode=found.st_ino,
            device=found.st_dev,
        )


_FIELDS = tuple(field.name for field in fields(FileState))


class KnownDigests:
    """Digests of the raw files of one scene.

    Args:
        record: File that keeps them; None keeps none.
        verify: Believe no kept digest; what is hashed is kept all the same.
    """

    def __init__(self, record: Path | None = None, *, verify: bool = False) -> None:
        self._record = record
        kept = {} if record is None else _read(record)
        self._kept = kept
        self._known = {} if verify else kept
        self._seen: dict[str, tuple[FileState, str]] = {}

    def digest(self, file: str, path: Path, hash_now: Callable[[], str]) -> str:
        """Return the SHA-256 of a file: the kept one if nothing touched the file since, or else that of its content.

        Args:
            file: Name by which the digest is kept.
            path: The file.
            hash_now: Reads the file and returns its SHA-256; safe to call from several threads, as this is.
        """
        before = None
        with suppress(OSError):  # whoever reads it says what is wrong
            before = FileState.of(path)
        known = self._known.get(file)
        if known is not None and known[0] == before:
            self._seen[file] = known
            return known[1]
        started_ns = time.time_ns()
        digest = hash_now()
        if self._record is not None and before is not None and _is_settled(before, started_ns):
            self._seen[file] = (before, digest)  # of one that changed meanwhile, no state will ever be equal
        return digest

    def save(self) -> None:
        """Keep what is known of the files that were asked for; on a disk that takes nothing, warn."""
        if self._record is None or self._seen == self._kept:
            return
        files = {file: [*astuple(state), digest] for file, (state, digest) in sorted(self._seen.items())}
        text = _spell(files)
        aside = self._record.with_name(f".{self._record.name}-{os.getpid()}")
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text)
            aside.replace(self._record)
        except OSError as error:
            logger.warning("%s: digests of raw files are not kept: %s", self._record, error)
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the record."""
        if self._record is not None:
            with suppress(OSError):
                self._record.unlink(missing_ok=True)


@contextmanager
def known_digests(home_root: Path, kind: str, partition: str) -> Iterator[KnownDigests]:
    """Give the digests of what one partition is made from, and keep what was learned if all goes well.

    A ``SourceDataError`` removes the record: a file that is not what its digest says is hashed the next time.

    Args:
        home_root: A home's folder on this machine.
        kind: Kind of the partition.
        partition: Its key.

    Raises:
        ValueError: If the environment says nothing clear about verification.
    """
    record = home_root / FOLDER / check_name(kind) / f"{check_name(partition)}.json"
    known = KnownDigests(record, verify=verify_raw_from_environment())
    try:
        yield known
    except SourceDataError:
        known.forget()
        raise
    known.save()


def _is_settled(state: FileState, now_ns: int) -> bool:
    return now_ns - max(state.mtime_ns, state.ctime_ns) >= _SETTLED_NS


def _spell(files: dict[str, list[object]]) -> str:
    return json.dumps({"schema": _SCHEMA, "sha256": digest_of(files), "files": files}, separators=(",", ":")) + "\n"


def _read(record: Path) -> dict[str, tuple[FileState, str]]:
    """Return what a record says; nothing if it is missing or damaged, or cannot be read now."""
    try:
        return _parse(record.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # it only saves time
        logger.warning("%s is not used: %s; raw files are hashed again", record, error)
        return {}


def _parse(text: str) -> dict[str, tuple[FileState, str]]:
    document = parse_json(text)
    files = document["files"]
    if document["schema"] != _SCHEMA or document["sha256"] != digest_of(files):
        raise ValueError("it is of another release, or damaged")
    return {
        file: (FileState(**dict(zip(_FIELDS, values, strict=True))), digest)
        for file, (*values, digest) in files.items()
    }
