"""Versioned stores: find a version by its digest, or build it aside and publish it in one step.

Two forms share one rule. *Arrays* (scenes, targets) are one Icechunk repository per kind and partition; a commit
publishes a version. *Files* (weights, reports) are one immutable folder per digest; a rename publishes a version. In
both, readers see nothing of a build that crashed before its last step, and old versions stay readable. The pointer
``current`` names the version that the last materialisation asked for. This need not be the newest one: a change may
have been reversed.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import icechunk
import zarr

from storage.digests import canonical_json, file_digest, undefined_as_null
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.keys import check_name
from storage.kinds import KINDS, StoreForm
from storage.stores import catalog
from storage.stores.arrays import check_target
from storage.stores.integrity import reading
from storage.stores.places import array_place
from storage.stores.provenance import InputVersion, Provenance, joined_licences
from storage.stores.unpublished import check_complete, no_leftovers

# Icechunk warns at every open that local commits must not run side by side; ``Home.lock`` sees to that.
icechunk.set_logs_filter("error")

SCHEMA_VERSION = 1
_CURRENT = "current"
_PROVENANCE_FILE = "provenance.json"
_METRICS_FILE = "metrics.json"
_MANIFEST_FILE = "files.json"


@dataclass(frozen=True, slots=True)
class StoreVersion:
    """One immutable version of one store.

    Attributes:
        kind: Kind of the version, for example ``teacher_depth``.
        partition: Its partition, usually a scene key.
        digest: Digest of its provenance, which is Dagster's data version.
        snapshot_id: Icechunk snapshot, or the folder's digest for files.
        form: Arrays or files.
    """

    kind: str
    partition: str
    digest: str
    snapshot_id: str
    form: StoreForm

    def __str__(self) -> str:
        return f"{self.kind}/{self.partition}@{self.digest[:12]}"

    @property
    def as_input(self) -> InputVersion:
        """Return what the provenance of something made from this version names."""
        return InputVersion(self.kind, self.partition, self.digest)


@dataclass(frozen=True, slots=True)
class Materialized:
    """Result of a find-or-build call.

    Attributes:
        version: Version that now exists.
        reused: Whether it existed already.
        metrics: JSON values stored with it; undefined numbers are None.
    """

    version: StoreVersion
    reused: bool
    metrics: dict[str, Any]


class Home:
    """Root of everything that a run writes.

    Args:
        root: Local folder for artifacts, the catalogue, locks and working state.
        store_url: Place of array stores: ``s3://bucket/prefix``, or None for ``<root>/stores``. Credentials, region and
            endpoint of S3 come from the AWS_* environment variables.

    Raises:
        ValueError: If ``store_url`` has another form.
    """

    def __init__(self, root: Path | str, *, store_url: str | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self.store_url = store_url
        self._arrays = array_place(self.root, store_url)

    def __repr__(self) -> str:
        return f"Home({str(self.root)!r}, store_url={self.store_url!r})"

    # --- where things are ------------------------------------------------------------------------------------------

    def url(self, version: StoreVersion) -> str:
        """Return the URL or path of a version, for people and metadata."""
        if version.form is StoreForm.FILES:
            return str(self._artifact_folder(version.kind, version.partition) / version.digest)
        return self._arrays.url(version.kind, version.partition)

    def work_folder(self, kind: str, partition: str) -> Path:
        """Return a folder for resumable, unpublished state of one partition; the caller deletes it when done."""
        folder = self.root / "work" / check_name(kind) / check_name(partition)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _artifact_folder(self, kind: str, partition: str) -> Path:
        return self.root / "artifacts" / check_name(kind) / check_name(partition)

    def repository(self, kind: str, partition: str) -> icechunk.Repository | None:
        """Open the Icechunk repository of a partition; None if it does not exist."""
        if not self._arrays.may_hold(kind, partition):
            return None
        storage = self._arrays.storage(kind, partition)
        with reading(f"{kind}/{partition}"):
            return icechunk.Repository.open(storage) if icechunk.Repository.exists(storage) else None

    @contextmanager
    def lock(self, kind: str, partition: str) -> Iterator[None]:
        """Hold the lock of one partition while writing: local Icechunk commits are not safe side by side."""
        path = self.root / "locks" / check_name(kind) / f"{check_name(partition)}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path):
            yield

    # --- finding ---------------------------------------------------------------------------------------------------

    def find(self, kind: str, partition: str, digest: str) -> StoreVersion | None:
        """Return the version with this digest, or None."""
        folder = self._artifact_folder(kind, partition) / check_name(digest)
        if (folder / _PROVENANCE_FILE).is_file():
            return StoreVersion(kind, partition, digest, digest, StoreForm.FILES)
        return next((v for v in self._array_versions(kind, partition) if v.digest == digest), None)

    def latest(self, kind: str, partition: str) -> StoreVersion | None:
        """Return the version that the last materialisation asked for, or None."""
        pointer = self._artifact_folder(kind, partition) / _CURRENT
        if pointer.is_file():
            return self.find(kind, partition, pointer.read_text().strip())
        repository = self.repository(kind, partition)
        if repository is None or _CURRENT not in repository.list_branches():
            return None
        return _array_version(repository, kind, partition, repository.lookup_branch(_CURRENT))

    def require(self, kind: str, partition: str, digest: str | None = None) -> StoreVersion:
        """Return the version with this digest, or the current one.

        Raises:
            MissingTargetError: If there is none.
        """
        found = self.latest(kind, partition) if digest is None else self.find(kind, partition, digest)
        if found is None:
            wanted = "a version" if digest is None else f"version {digest[:12]}"
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING, f"{kind}/{partition}", f"{wanted} was never materialised under {self.root}"
            )
        return found

    def versions(self, kind: str | None = None, partition: str | None = None) -> list[StoreVersion]:
        """List every version, read from the stores instead of the catalogue."""
        found = []
        for owner in self._arrays.partitions(kind, partition):
            found += self._array_versions(*owner)
        for path in sorted((self.root / "artifacts").glob(f"{kind or '*'}/{partition or '*'}/*/{_PROVENANCE_FILE}")):
            folder = path.parent
            if not folder.name.startswith("."):
                owner = folder.parent.parent.name, folder.parent.name
                found.append(StoreVersion(*owner, folder.name, folder.name, StoreForm.FILES))
        return found

    def _array_versions(self, kind: str, partition: str) -> list[StoreVersion]:
        repository = self.repository(kind, partition)
        if repository is None:
            return []
        return [
            StoreVersion(kind, partition, str(info.metadata["digest"]), info.id, StoreForm.ARRAYS)
            for info in repository.ancestry(branch="main")
            if "digest" in info.metadata
        ]

    # --- reading ---------------------------------------------------------------------------------------------------

    def open_arrays(self, version: StoreVersion) -> zarr.Group:
        """Open a version for reading; later writes do not change it.

        Raises:
            MissingTargetError: If the repository is gone.
            IntegrityError: If the snapshot is gone or was written by an unknown schema.
        """
        repository = self.repository(version.kind, version.partition)
        if repository is None:
            raise MissingTargetError(ErrorKind.STORE_MISSING, str(version), f"no store at {self.url(version)}")
        with reading(str(version)):
            session = repository.readonly_session(snapshot_id=version.snapshot_id)
            group = zarr.open_group(session.store, mode="r")
        _check_schema(str(version), group.attrs.get("schema_version"))
        return group

    def open_files(self, version: StoreVersion, *, verify: bool = False) -> Path:
        """Return the folder of a version after checking that each file has its recorded size (and SHA-256 if asked).

        Raises:
            MissingTargetError: If the folder is gone.
            IntegrityError: If a file is missing or changed.
        """
        folder = self._artifact_folder(version.kind, version.partition) / version.digest
        if not (folder / _MANIFEST_FILE).is_file():
            raise MissingTargetError(ErrorKind.STORE_MISSING, str(version), f"no artifact at {folder}")
        for name, recorded in json.loads((folder / _MANIFEST_FILE).read_text()).items():
            path = folder / name
            seen = path.stat().st_size if path.is_file() else None
            if seen != recorded["bytes"]:
                raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"has {seen} bytes, want {recorded['bytes']}")
            if verify and (digest := file_digest(path)) != recorded["sha256"]:
                raise IntegrityError(
                    ErrorKind.DIGEST_MISMATCH, str(path), f"SHA-256 {digest}, want {recorded['sha256']}"
                )
        return folder

    def provenance(self, version: StoreVersion) -> Provenance:
        """Return the provenance of a version."""
        if version.form is StoreForm.FILES:
            return Provenance.from_json((self.open_files(version) / _PROVENANCE_FILE).read_text())
        return Provenance.from_json(str(self._commit(version)["provenance"]))

    def metrics(self, version: StoreVersion) -> dict[str, Any]:
        """Return the JSON values stored with a version."""
        if version.form is StoreForm.FILES:
            return json.loads((self.open_files(version) / _METRICS_FILE).read_text())
        return json.loads(str(self._commit(version)["metrics"]))

    def licence_of(self, inputs: Iterable[InputVersion]) -> str:
        """Return the licence of a version that is made from these inputs.

        Raises:
            MissingTargetError: If an input is gone.
        """
        found = (self.require(i.kind, i.partition, i.digest) for i in inputs)
        return joined_licences(self.provenance(version).licence for version in found)

    def catalog_entry(self, version: StoreVersion) -> catalog.Entry:
        """Return the catalogue's record of a version, read from its store."""
        return catalog.Entry(
            provenance=self.provenance(version),
            snapshot_id=version.snapshot_id,
            form=version.form,
            metrics=self.metrics(version),
        )

    def _commit(self, version: StoreVersion) -> dict[str, Any]:
        repository = self.repository(version.kind, version.partition)
        if repository is None:
            raise MissingTargetError(ErrorKind.STORE_MISSING, str(version), f"no store at {self.url(version)}")
        with reading(str(version)):
            return repository.lookup_snapshot(version.snapshot_id).metadata


def reuse(home: Home, provenance: Provenance) -> Materialized | None:
    """Return the version with this provenance and make it the current one; None if it has to be built."""
    with home.lock(provenance.kind, provenance.partition):
        return _reuse(home, provenance)


def _reuse(home: Home, provenance: Provenance) -> Materialized | None:
    found = home.find(provenance.kind, provenance.partition, provenance.digest)
    if found is None:
        return None
    if found.form is StoreForm.FILES:
        _replace_text(home._artifact_folder(found.kind, found.partition) / _CURRENT, found.digest)
    else:
        _point_branch(home, found)
    if not catalog.is_listed(home.root, found.digest):  # its writer died between publishing and recording it
        catalog.record(home.root, home.catalog_entry(found))
    return Materialized(found, True, home.metrics(found))


def rebuild_catalog(home: Home) -> int:
    """Make the catalogue of a home again from its stores, and return the number of versions."""
    return catalog.replace(home.root, (home.catalog_entry(version) for version in home.versions()))


def materialize_arrays(
    home: Home, provenance: Provenance, write: Callable[[zarr.Group], Mapping[str, Any]]
) -> Materialized:
    """Return the array version with this provenance, building it first if it does not exist.

    Args:
        home: Home of the version.
        provenance: Provenance of the version; its digest decides whether it exists.
        write: Fills an empty group and returns JSON metrics to be stored with it. Every chunk must be written.

    Raises:
        IntegrityError: If ``write`` left out a chunk or a declared array; nothing is published then.
    """
    kind, partition, digest = provenance.kind, provenance.partition, provenance.digest
    with home.lock(kind, partition):
        existing = _reuse(home, provenance)
        if existing is not None:
            return existing
        started = time.perf_counter()
        repository = icechunk.Repository.open_or_create(home._arrays.storage(kind, partition))
        with no_leftovers(repository, is_local=home._arrays.is_local):
            session = repository.writable_session("main")
            # Chunks that hold only the fill value are written too: a chunk that is not there is then always a loss.
            with zarr.config.set({"array.write_empty_chunks": True}):
                group = zarr.open_group(session.store, mode="w")
                metrics = undefined_as_null(write(group))
                stamped = provenance.finished(time.perf_counter() - started)
                group.attrs.update(
                    {
                        "schema_version": SCHEMA_VERSION,
                        "kind": kind,
                        "provenance": json.loads(stamped.to_json()),
                        "metrics": metrics,
                    }
                )
            if kind in KINDS:
                check_target(group, kind)
            check_complete(group, session, f"{kind}/{partition}")
            snapshot_id = session.commit(
                f"{kind} {partition} {digest[:12]}",
                metadata={"digest": digest, "provenance": stamped.to_json(), "metrics": canonical_json(metrics)},
            )
        version = StoreVersion(kind, partition, digest, snapshot_id, StoreForm.ARRAYS)
        _point_branch(home, version)
    catalog.record(
        home.root, catalog.Entry(provenance=stamped, snapshot_id=snapshot_id, form=version.form, metrics=metrics)
    )
    return Materialized(version, False, metrics)


def materialize_files(home: Home, provenance: Provenance, write: Callable[[Path], Mapping[str, Any]]) -> Materialized:
    """Return the file version with this provenance, building it first if it does not exist.

    Args:
        home: Home of the version.
        provenance: Provenance of the version; its digest decides whether it exists.
        write: Fills an empty folder and returns JSON metrics to be stored with it.
    """
    kind, partition, digest = provenance.kind, provenance.partition, provenance.digest
    folder = home._artifact_folder(kind, partition)
    with home.lock(kind, partition):
        existing = _reuse(home, provenance)
        if existing is not None:
            return existing
        started = time.perf_counter()
        aside = folder / f".partial-{uuid.uuid4().hex}"
        aside.mkdir(parents=True)
        try:
            metrics = undefined_as_null(write(aside))
            stamped = provenance.finished(time.perf_counter() - started)
            (aside / _PROVENANCE_FILE).write_text(stamped.to_json())
            (aside / _METRICS_FILE).write_text(canonical_json(metrics))
            manifest = {
                str(path.relative_to(aside)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in sorted(aside.rglob("*"))
                if path.is_file()
            }
            (aside / _MANIFEST_FILE).write_text(canonical_json(manifest))
            os.rename(aside, folder / digest)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _replace_text(folder / _CURRENT, digest)
    version = StoreVersion(kind, partition, digest, digest, StoreForm.FILES)
    catalog.record(home.root, catalog.Entry(provenance=stamped, snapshot_id=digest, form=version.form, metrics=metrics))
    return Materialized(version, False, metrics)


def _array_version(repository: icechunk.Repository, kind: str, partition: str, snapshot_id: str) -> StoreVersion | None:
    metadata = repository.lookup_snapshot(snapshot_id).metadata
    if "digest" not in metadata:
        return None
    return StoreVersion(kind, partition, str(metadata["digest"]), snapshot_id, StoreForm.ARRAYS)


def _point_branch(home: Home, version: StoreVersion) -> None:
    repository = home.repository(version.kind, version.partition)
    if repository is None:
        raise MissingTargetError(ErrorKind.STORE_MISSING, str(version), "the repository vanished while it was written")
    if _CURRENT not in repository.list_branches():
        repository.create_branch(_CURRENT, version.snapshot_id)
    elif repository.lookup_branch(_CURRENT) != version.snapshot_id:
        repository.reset_branch(_CURRENT, version.snapshot_id)


def _replace_text(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    aside.write_text(text)
    os.replace(aside, path)


def _check_schema(key: str, seen: object) -> None:
    if seen != SCHEMA_VERSION:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"schema version {seen!r}, want {SCHEMA_VERSION}")
