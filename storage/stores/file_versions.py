"""Versions that are files: one immutable set of files for each digest, published in one step.

In a folder a version is a folder, and its rename publishes it. In a bucket files are objects named by their SHA-256,
and a version is one small object, the list of its files, which only the first of all writers creates. Its files are
brought to a folder of this machine when they are opened, each compared with its SHA-256; the copy has the same form.
"""

import json
import logging
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.digests import bytes_digest, canonical_json, file_digest
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.keys import check_name
from storage.stores.durable import aside_name, make_folder, move_durably, set_aside, sync_tree, write_durably
from storage.stores.integrity import reading
from storage.stores.objects import LocalObjects, ObjectFolder

if TYPE_CHECKING:
    from storage.stores.bucket import BucketObjects

PARTIAL = ".partial-"
"""Beginning of the name of a folder that is being written."""

PROVENANCE_FILE = "provenance.json"
METRICS_FILE = "metrics.json"
_FOLDER = "artifacts"
_CURRENT = "current"
_MANIFEST_FILE = "files.json"
_CONTENTS = "contents"
_AT_ONCE = 8

logger = logging.getLogger(__name__)


def file_versions(objects: ObjectFolder, root: Path, kind: str, partition: str) -> "FileVersions":
    """Return the file versions of one partition.

    Args:
        objects: Objects of the home.
        root: The home's folder on this machine.
        kind: Kind of the versions.
        partition: Their partition.
    """
    local = LocalFiles(root, kind, partition)
    if isinstance(objects, LocalObjects):
        return local
    from storage.stores.bucket import BucketObjects

    if not isinstance(objects, BucketObjects):
        raise TypeError(f"objects is {type(objects).__name__}, want a folder or a bucket")
    return BucketFiles(objects, local)


def file_partitions(
    objects: ObjectFolder, kind: str | None = None, partition: str | None = None
) -> list[tuple[str, str]]:
    """Return kind and partition of all file versions of a home, filtered by kind and partition if given."""
    with reading(f"{objects.url}/{_FOLDER}"):
        return [
            (k, p)
            for k in objects.folders(_FOLDER)
            if kind in (None, k)
            for p in objects.folders(f"{_FOLDER}/{k}")
            if partition in (None, p)
        ]


class FileVersions(ABC):
    """The file versions of one partition.

    Args:
        root: The home's folder on this machine.
        kind: Kind of the versions.
        partition: Their partition.
    """

    def __init__(self, root: Path, kind: str, partition: str) -> None:
        self.root, self.kind, self.partition = root, kind, partition
        self.name = f"{_FOLDER}/{check_name(kind)}/{check_name(partition)}"
        self.folder = root / self.name

    def begin(self) -> Path:
        """Return a new empty folder on this machine, to be filled and published or removed."""
        make_folder(self.folder)
        aside = self.folder / f"{PARTIAL}{uuid.uuid4().hex}"
        aside.mkdir()
        return aside

    @abstractmethod
    def url(self, digest: str) -> str:
        """Return the path or URL of a version."""

    @abstractmethod
    def holds(self, digest: str) -> bool:
        """Return whether there is a version with this digest."""

    @abstractmethod
    def digests(self) -> list[str]:
        """Return the digests of all versions, sorted."""

    @abstractmethod
    def current(self) -> str | None:
        """Return the digest of the version that was asked for last, or None."""

    @abstractmethod
    def point_current(self, digest: str) -> None:
        """Make a version the one that was asked for last."""

    @abstractmethod
    def read(self, digest: str, name: str) -> str:
        """Return the text of one small file of a version, after checking that it is the recorded one.

        Raises:
            MissingTargetError: If the version is gone.
            IntegrityError: If a file of it is missing or changed.
        """

    @abstractmethod
    def open(self, digest: str, *, verify: bool = False) -> Path:
        """Return the folder of a version on this machine after checking each file's size, and its SHA-256 if asked.

        Raises:
            MissingTargetError: If the version is gone.
            IntegrityError: If a file is missing or changed.
        """

    @abstractmethod
    def check_whole(self, digest: str) -> None:
        """Check a version before it is called there: no file is lost or cut, and on a disk none is changed.

        Raises:
            MissingTargetError: If the version is gone.
            IntegrityError: If a file is missing or changed.
        """

    @abstractmethod
    def publish(self, aside: Path, digest: str) -> bool:
        """Make a filled folder a version; return False if another writer, who came first, published this digest."""

    @abstractmethod
    def set_aside(self, digest: str) -> None:
        """Give up a version that was read and is damaged, so that it is built again; nothing is deleted."""

    def torn(self) -> list[Path]:
        """Return folders that stand in the place of a version, and are none."""
        return []


class LocalFiles(FileVersions):
    """File versions that are folders of a home."""

    def url(self, digest: str) -> str:
        """Return the folder's path."""
        return str(self.folder / digest)

    def holds(self, digest: str) -> bool:
        """Look for the folder's provenance."""
        return (self.folder / check_name(digest) / PROVENANCE_FILE).is_file()

    def digests(self) -> list[str]:
        """List folders with provenance."""
        return [path.name for path in self._folders() if (path / PROVENANCE_FILE).is_file()]

    def torn(self) -> list[Path]:
        """Return folders without provenance."""
        return [path for path in self._folders() if not (path / PROVENANCE_FILE).is_file()]

    def _folders(self) -> list[Path]:
        with reading(str(self.folder)):
            found = self.folder.iterdir() if self.folder.is_dir() else ()
            return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))

    def current(self) -> str | None:
        """Read the pointer."""
        pointer = self.folder / _CURRENT
        return (pointer.read_text().strip() if pointer.is_file() else "") or None

    def point_current(self, digest: str) -> None:
        """Write the pointer."""
        write_durably(self.folder / _CURRENT, digest.encode())

    def read(self, digest: str, name: str) -> str:
        """Read a file, once the sizes of all are right."""
        with reading(self._key(digest)):
            return (self.open(digest) / name).read_text()

    def open(self, digest: str, *, verify: bool = False) -> Path:
        """Compare files with the manifest."""
        folder = self.folder / digest
        if not (folder / _MANIFEST_FILE).is_file():
            raise MissingTargetError(ErrorKind.STORE_MISSING, self._key(digest), f"no artifact at {folder}")
        with reading(self._key(digest)):
            manifest = json.loads((folder / _MANIFEST_FILE).read_text())
            for name, recorded in manifest.items():
                path = folder / name
                _check_size(str(path), path.stat().st_size if path.is_file() else None, recorded)
                if verify:
                    _check_digest(str(path), file_digest(path), recorded)
        return folder

    def check_whole(self, digest: str) -> None:
        """Compare every file with its SHA-256."""
        self.open(digest, verify=True)

    def publish(self, aside: Path, digest: str) -> bool:
        """Sync and rename the folder; the caller holds the lock, so nobody else comes first."""
        (aside / _MANIFEST_FILE).write_text(canonical_json(manifest_of(aside)))
        sync_tree(aside)
        if (self.folder / digest).exists():  # torn so that it is not found by its provenance
            logger.warning("%s: is torn; it is set aside and built again", self._key(digest))
            set_aside(self.root, self.folder / digest)
        move_durably(aside, self.folder / digest)
        return True

    def set_aside(self, digest: str) -> None:
        """Move the folder away."""
        set_aside(self.root, self.folder / digest)

    def _key(self, digest: str) -> str:
        return f"{self.kind}/{self.partition}@{digest[:12]}"


class BucketFiles(FileVersions):
    """File versions that are objects of a bucket.

    Args:
        objects: Objects of the home.
        local: Versions of the same partition on this machine: the copies.
    """

    def __init__(self, objects: "BucketObjects", local: LocalFiles) -> None:
        super().__init__(local.root, local.kind, local.partition)
        self._objects, self._local = objects, local

    def url(self, digest: str) -> str:
        """Return the URL of the list of files."""
        return f"{self._objects.url}/{self._manifest_name(digest)}"

    def holds(self, digest: str) -> bool:
        """Look for the list of files."""
        return self._objects.size(self._manifest_name(check_name(digest))) is not None

    def digests(self) -> list[str]:
        """List the lists of files."""
        found = (name for name in self._objects.folders(self.name) if name != _CONTENTS)
        return [digest for digest in found if self.holds(digest)]

    def current(self) -> str | None:
        """Read the pointer."""
        try:
            return self._objects.read(f"{self.name}/{_CURRENT}").decode().strip() or None
        except FileNotFoundError:
            return None

    def point_current(self, digest: str) -> None:
        """Write the pointer; of writers at the same time, the last one counts."""
        self._objects.write(f"{self.name}/{_CURRENT}", digest.encode())

    def read(self, digest: str, name: str) -> str:
        """Read one object, and compare it with its SHA-256."""
        recorded = self._manifest(digest).get(name)
        if recorded is None:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, self._key(digest), f"lost or damaged: it has no {name}")
        content = self._content(recorded, f"{self._key(digest)}/{name}")
        return content.decode()

    def open(self, digest: str, *, verify: bool = False) -> Path:
        """Bring the files to this machine unless they are there; with ``verify`` the bucket's own are read too."""
        manifest = self._manifest(digest)
        if verify:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda item: self._content(item[1], f"{self._key(digest)}/{item[0]}"), manifest.items()))
        try:
            return self._local.open(digest, verify=verify)
        except MissingTargetError:
            pass
        except IntegrityError as error:
            logger.warning(
                "%s: the copy on this machine is damaged, and is fetched again: %s", error.key, error.message
            )
            self._local.set_aside(digest)
        aside = self._local.begin()
        try:
            for name, recorded in manifest.items():
                self._download(recorded, aside / name, f"{self._key(digest)}/{name}")
            (aside / _MANIFEST_FILE).write_text(canonical_json(manifest))
            with suppress(OSError):  # another process of this machine was faster
                aside.rename(self.folder / digest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self._local.open(digest)

    def check_whole(self, digest: str) -> None:
        """Compare the sizes of all objects: a bucket keeps checksums of its own, and ``verify`` reads everything."""
        manifest = self._manifest(digest)
        seen = self._objects.sizes(f"{self.name}/{_CONTENTS}")
        for name, recorded in manifest.items():
            _check_size(f"{self._key(digest)}/{name}", seen.get(recorded["sha256"]), recorded)

    def publish(self, aside: Path, digest: str) -> bool:
        """Put the files, then the list of them, unless it is there; keep the folder as this machine's copy."""
        manifest = manifest_of(aside)
        there = self._objects.sizes(f"{self.name}/{_CONTENTS}")
        missing = {of["sha256"]: name for name, of in manifest.items() if there.get(of["sha256"]) != of["bytes"]}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(
                pool.map(
                    lambda item: self._objects.upload(self._content_name(item[0]), aside / item[1]), missing.items()
                )
            )
        text = canonical_json(manifest)
        if not self._objects.create(self._manifest_name(digest), text.encode()):
            return False
        (aside / _MANIFEST_FILE).write_text(text)
        with suppress(OSError):
            aside.rename(self.folder / digest)
        return True

    def set_aside(self, digest: str) -> None:
        """Move the list of files away, and give up the copy. Damaged content is found by its name, and written anew."""
        for recorded in self._manifest(digest).values():
            name = self._content_name(recorded["sha256"])
            with suppress(FileNotFoundError):
                if bytes_digest(self._objects.read(name)) != recorded["sha256"]:
                    self._objects.move(name, aside_name(name))
        self._objects.move(self._manifest_name(digest), aside_name(self._manifest_name(digest)))
        if (self.folder / digest).exists():
            self._local.set_aside(digest)

    def _manifest(self, digest: str) -> dict[str, dict[str, Any]]:
        try:
            stored = self._objects.read(self._manifest_name(digest))
        except FileNotFoundError:
            message = f"no artifact at {self.url(digest)}"
            raise MissingTargetError(ErrorKind.STORE_MISSING, self._key(digest), message) from None
        with reading(self._key(digest)):
            return json.loads(stored)

    def _content(self, recorded: Mapping[str, Any], key: str) -> bytes:
        try:
            content = self._objects.read(self._content_name(recorded["sha256"]))
        except FileNotFoundError:
            _check_size(key, None, recorded)
            raise
        _check_size(key, len(content), recorded)
        _check_digest(key, bytes_digest(content), recorded)
        return content

    def _download(self, recorded: Mapping[str, Any], path: Path, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._objects.download(self._content_name(recorded["sha256"]), path)
        except FileNotFoundError:
            _check_size(key, None, recorded)
            raise
        _check_size(key, path.stat().st_size, recorded)
        _check_digest(key, file_digest(path), recorded)

    def _manifest_name(self, digest: str) -> str:
        return f"{self.name}/{digest}/{_MANIFEST_FILE}"

    def _content_name(self, sha256: str) -> str:
        return f"{self.name}/{_CONTENTS}/{sha256}"

    def _key(self, digest: str) -> str:
        return f"{self.kind}/{self.partition}@{digest[:12]}"


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _check_size(key: str, seen: int | None, recorded: Mapping[str, Any]) -> None:
    if seen != recorded["bytes"]:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"has {seen} bytes, want {recorded['bytes']}")


def _check_digest(key: str, seen: str, recorded: Mapping[str, Any]) -> None:
    if seen != recorded["sha256"]:
        raise IntegrityError(ErrorKind.DIGEST_MISMATCH, key, f"SHA-256 {seen}, want {recorded['sha256']}")
