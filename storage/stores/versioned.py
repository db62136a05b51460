"""Versioned stores: find a version by its digest, or build it aside and publish it in one step.

Two forms share one rule. *Arrays* (scenes, targets) are one Icechunk repository per kind and partition; a commit
publishes a version. *Files* (weights, reports) are one immutable folder per digest; a rename publishes a version. In
both, readers see nothing of a build that crashed before its last step, and old versions stay readable. The pointer
``current`` names the version that the last materialisation asked for. This need not be the newest one: a change may
have been reversed.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from storage.digests import canonical_json, undefined_as_null
from storage.errors import ErrorKind, IntegrityError, MissingTargetError, PipelineError
from storage.keys import check_name
from storage.kinds import KINDS, StoreForm
from storage.stores import catalog
from storage.stores.arrays import check_target
from storage.stores.content_record import content_digest
from storage.stores.file_versions import (
    METRICS_FILE,
    PROVENANCE_FILE,
    FileVersions,
    file_partitions,
    file_versions,
)
from storage.stores.gate_record import GateRecord, vouching
from storage.stores.integrity import reading, writing
from storage.stores.locks import held, lock_timeout_from_environment
from storage.stores.objects import LocalObjects
from storage.stores.places import array_place, home_place
from storage.stores.provenance import InputVersion, Provenance, joined_licences
from storage.stores.repository import ArrayRepository

logger = logging.getLogger(__name__)

WORK = "work"
"""Folder of a home, or prefix of a bucket, for resumable, unpublished state."""
SCHEMA_VERSION = 2
_UNRECORDED_SCHEMA = 1  # without a record of its content


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


class NothingBuiltError(PipelineError):
    """A version that was asked for would have to be built, or chosen anew, of a home that was opened to look only.

    Nobody is shown it: whoever looks goes the usual way then.
    """


class Home:
    """Root of everything that a run writes.

    Args:
        place: Folder, ``s3://bucket/prefix``, or the folder that this machine has for a home in a bucket. Credentials,
            region and endpoint of S3 come from the AWS_* environment variables.
        store_url: Place of array stores if they live elsewhere: ``s3://bucket/prefix``.
        lock_timeout_s: Longest wait for another writer, seconds; by default what the environment says, or no limit.
        builds: Whether a version that is asked for and is not the current one is built, or made the current one. If
            not, that is a ``NothingBuiltError``.

    Raises:
        ValueError: If a URL has another form.

    Attributes:
        root: Folder of the home. Of a home in a bucket, this machine's: ``Home(root)`` opens the same home.
        objects: Everything that the home is made of, by name.
    """

    def __init__(
        self,
        place: Path | str,
        *,
        store_url: str | None = None,
        lock_timeout_s: float | None = None,
        builds: bool = True,
    ) -> None:
        self.builds = builds
        self.lock_timeout_s = lock_timeout_from_environment() if lock_timeout_s is None else lock_timeout_s
        self.root, self.objects = home_place(place)
        self.store_url = store_url
        self._arrays = array_place(self.objects, store_url)

    def __repr__(self) -> str:
        return f"Home({self.address!r}, store_url={self.store_url!r})"

    @property
    def address(self) -> str:
        """Return what opens the same home on any machine: its folder or URL."""
        return self.objects.url

    def exists(self) -> bool:
        """Return whether anything was ever written there."""
        if isinstance(self.objects, LocalObjects):
            return self.root.is_dir()
        return bool(self.objects.folders() or self.objects.sizes(""))

    # --- where things are ------------------------------------------------------------------------------------------

    def url(self, version: StoreVersion) -> str:
        """Return the URL or path of a version, for people and metadata."""
        if version.form is StoreForm.FILES:
            return self.files(version.kind, version.partition).url(version.digest)
        return self._arrays.url(version.kind, version.partition)

    def work_folder(self, kind: str, partition: str) -> Path:
        """Return a folder for resumable, unpublished state of one partition; the caller deletes it when done.

        Raises:
            OutOfCapacityError: If the disk is full.
            HomeUnavailableError: If the home cannot be written.
        """
        folder = self.root / WORK / check_name(kind) / check_name(partition)
        with writing(f"{kind}/{partition}"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def files(self, kind: str, partition: str) -> FileVersions:
        """Return the file versions of a partition."""
        return file_versions(self.objects, self.root, kind, partition)

    def repository(self, kind: str, partition: str) -> ArrayRepository | None:
        """Return the repository of a partition; None if nothing is stored there."""
        return ArrayRepository.find(self._arrays, kind, partition)

    @contextmanager
    def lock(self, kind: str, partition: str) -> Iterator[None]:
        """Hold the lock of one partition while writing: local Icechunk commits are not safe side by side.

        Raises:
            StoreLockedError: If another process still holds it after ``lock_timeout_s``.
        """
        path = self.lock_file(kind, partition)
        with writing(f"{kind}/{partition}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with held(path, f"{kind}/{partition}", self.lock_timeout_s):
                yield

    def lock_file(self, kind: str, partition: str) -> Path:
        """Return the file that is locked while a partition is written."""
        return self.root / "locks" / check_name(kind) / f"{check_name(partition)}.lock"

    # --- finding ---------------------------------------------------------------------------------------------------

    def find(self, kind: str, partition: str, digest: str) -> StoreVersion | None:
        """Return the version with this digest, or None."""
        if self.files(kind, partition).holds(digest):
            return StoreVersion(kind, partition, digest, digest, StoreForm.FILES)
        repository = self.repository(kind, partition)
        snapshot_id = None if repository is None else repository.find_version(digest)
        return None if snapshot_id is None else StoreVersion(kind, partition, digest, snapshot_id, StoreForm.ARRAYS)

    def latest(self, kind: str, partition: str) -> StoreVersion | None:
        """Return the version that the last materialisation asked for, or None."""
        with reading(f"{kind}/{partition}"):
            digest = self.files(kind, partition).current()
            if digest is not None:
                return self.find(kind, partition, digest)
        repository = self.repository(kind, partition)
        current = None if repository is None else repository.current()
        return None if current is None else StoreVersion(kind, partition, *current, StoreForm.ARRAYS)

    def require(self, kind: str, partition: str, digest: str | None = None) -> StoreVersion:
        """Return the version with this digest, or the current one.

        Raises:
            MissingTargetError: If there is none.
        """
        found = self.latest(kind, partition) if digest is None else self.find(kind, partition, digest)
        if found is None:
            message = self._why_missing(kind, partition, digest)
            raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{kind}/{partition}", message)
        return found

    def _why_missing(self, kind: str, partition: str, digest: str | None) -> str:
        """Say of a version that is not found whether it was lost, or never made."""
        wanted = "a version" if digest is None else f"version {digest[:12]}"
        with suppress(PipelineError):  # what cannot be read tells nothing
            if digest is None and (there := self.versions(kind, partition)):
                return f"has {len(there)} versions and lost which of them is in use: ask for it again to choose one"
            of = {"kind": kind, "partition": partition} | ({} if digest is None else {"digest": digest})
            if any(of.items() <= row.items() for row in catalog.versions(self.objects).to_pylist()):
                return f"{wanted} was made and is lost: `distillnerf catalog verify` says what is left; make it again"
        return f"{wanted} was never materialised under {self.address}"

    def versions(
        self,
        kind: str | None = None,
        partition: str | None = None,
        *,
        on_error: Callable[[PipelineError], None] | None = None,
    ) -> list[StoreVersion]:
        """List every version, read from the stores instead of the catalogue.

        Args:
            kind: List versions of this kind only.
            partition: List versions of this partition only.
            on_error: Takes the error of a repository that cannot be listed; without it, the first one is raised.
        """
        found = []
        for owner in self.array_partitions(kind, partition):
            try:
                repository = self.repository(*owner)
                listed = {} if repository is None else repository.versions()
            except PipelineError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            found += [StoreVersion(*owner, digest, snapshot, StoreForm.ARRAYS) for snapshot, digest in listed.items()]
        for owner in file_partitions(self.objects, kind, partition):
            digests = self.files(*owner).digests()
            found += [StoreVersion(*owner, digest, digest, StoreForm.FILES) for digest in digests]
        return found

    def torn_folders(self, kind: str | None = None, partition: str | None = None) -> list[Path]:
        """Return folders of files that stand in the place of a version, and are none."""
        owners = file_partitions(self.objects, kind, partition)
        return [path for owner in owners for path in self.files(*owner).torn()]

    def array_partitions(self, kind: str | None = None, partition: str | None = None) -> list[tuple[str, str]]:
        """Return kind and partition of each repository that may be there."""
        return self._arrays.partitions(kind, partition)

    def point_current(self, version: StoreVersion) -> None:
        """Make a version the one that was asked for last; the caller holds the lock."""
        if version.form is StoreForm.FILES:
            self.files(version.kind, version.partition).point_current(version.digest)
        else:
            self.repository_of(version).point_current(version.snapshot_id)

    # --- reading ---------------------------------------------------------------------------------------------------

    def open_arrays(self, version: StoreVersion) -> zarr.Group:
        """Open a version for reading; later writes do not change it.

        Raises:
            MissingTargetError: If the repository is gone.
            IntegrityError: If the snapshot is gone or was written by an unknown schema.
        """
        group = self.repository_of(version).open(version.digest, version.snapshot_id, str(version))
        _check_schema(str(version), group.attrs.get("schema_version"))
        return group

    def repository_of(self, version: StoreVersion) -> ArrayRepository:
        """Return the repository of an array version.

        Raises:
            MissingTargetError: If it is gone.
        """
        repository = self.repository(version.kind, version.partition)
        if repository is None:
            raise MissingTargetError(ErrorKind.STORE_MISSING, str(version), f"no store at {self.url(version)}")
        return repository

    def open_files(self, version: StoreVersion, *, verify: bool = False) -> Path:
        """Return the folder of a version after checking that each file has its recorded size (and SHA-256 if asked).

        Files of a bucket are brought to a folder of this machine, each compared with its SHA-256.

        Raises:
            MissingTargetError: If the folder is gone.
            IntegrityError: If a file is missing or changed.
        """
        return self.files(version.kind, version.partition).open(version.digest, verify=verify)

    def provenance(self, version: StoreVersion) -> Provenance:
        """Return the provenance of a version."""
        if version.form is StoreForm.FILES:
            with reading(str(version)):
                return Provenance.from_json(self._text(version, PROVENANCE_FILE))
        return Provenance.from_json(str(self._commit(version)["provenance"]))

    def metrics(self, version: StoreVersion) -> dict[str, Any]:
        """Return the JSON values stored with a version."""
        if version.form is StoreForm.FILES:
            with reading(str(version)):
                return json.loads(self._text(version, METRICS_FILE))
        return json.loads(str(self._commit(version)["metrics"]))

    def gate(self, version: StoreVersion) -> GateRecord | None:
        """Return what the quality gate of a version said, or None if none was run.

        Raises:
            IntegrityError: If a verdict is not a JSON boolean, or contradicts its own checks.
        """
        return GateRecord.of(self.metrics(version), str(version))

    def content_digest(self, version: StoreVersion) -> str:
        """Return the digest of what the arrays of a version hold.

        Empty for files, whose SHA-256 is compared where they are read, and for a version of an earlier schema.
        """
        if version.form is StoreForm.FILES:
            return ""
        record = self.repository_of(version).record(version.digest, version.snapshot_id, str(version))
        return "" if record is None else content_digest(record.arrays)

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

    def _text(self, version: StoreVersion, name: str) -> str:
        return self.files(version.kind, version.partition).read(version.digest, name)

    def _commit(self, version: StoreVersion) -> dict[str, Any]:
        return self.repository_of(version).metadata(version.digest, version.snapshot_id, str(version))


def reuse(home: Home, provenance: Provenance) -> Materialized | None:
    """Return the version with this provenance and make it the current one; None if it has to be built.

    Raises:
        NothingBuiltError: If the home builds nothing, and the version is not there, whole and the current one.
    """
    with home.lock(provenance.kind, provenance.partition):
        return _reuse(home, provenance)


def _reuse(home: Home, provenance: Provenance) -> Materialized | None:
    if not home.builds:
        return _look_up(home, provenance)
    repository = home.repository(provenance.kind, provenance.partition)
    if repository is not None:
        repository.prepare()
    found = home.find(provenance.kind, provenance.partition, provenance.digest)
    if found is None:
        return None
    try:
        check_readable(home, found)
        metrics = home.metrics(found)
    except (IntegrityError, MissingTargetError) as error:
        logger.warning("%s: %s; it is set aside and built again", found, error.message)
        give_up(home, found)
        return None
    home.point_current(found)
    if not catalog.is_listed(home.objects, found.digest):  # its writer died between publishing and recording it
        catalog.record(home.objects, home.catalog_entry(found))
    return Materialized(found, True, metrics)


def _look_up(home: Home, provenance: Provenance) -> Materialized:
    """Return the version with this provenance if there is nothing to do about it.

    Raises:
        NothingBuiltError: If it is not there, not whole, not the current one, or not in the catalogue.
    """
    kind, partition, digest = provenance.kind, provenance.partition, provenance.digest
    found = home.latest(kind, partition)
    if found is None or found.digest != digest or not catalog.is_listed(home.objects, digest):
        raise NothingBuiltError(ErrorKind.TARGET_MISSING, f"{kind}/{partition}", f"version {digest[:12]} is not in use")
    try:
        check_readable(home, found)
        return Materialized(found, True, home.metrics(found))
    except (IntegrityError, MissingTargetError) as error:
        raise NothingBuiltError(error.kind, error.key, error.message) from error


def check_readable(home: Home, version: StoreVersion) -> None:
    """Check that a version is whole enough to be called there: no file or object of it is lost or cut.

    Files are compared with their SHA-256. Chunks of arrays are not: their readers do that. A version of an earlier
    schema is read whole once, and recorded. The caller holds the lock.

    Raises:
        IntegrityError: If anything is lost or damaged.
        MissingTargetError: If nothing of it is left.
    """
    if version.form is StoreForm.FILES:
        home.files(version.kind, version.partition).check_whole(version.digest)
        if home.provenance(version).digest != version.digest:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, str(version), "its provenance is another version's")
        return
    repository = home.repository_of(version)
    if not repository.check_whole(version.digest, version.snapshot_id, str(version)):
        repository.adopt(version.digest, version.snapshot_id, str(version))


def give_up(home: Home, version: StoreVersion) -> None:
    """Set a version aside that cannot be read, so that asking for it builds it again; nothing is deleted."""
    if version.form is StoreForm.FILES:
        with writing(str(version)):
            home.files(version.kind, version.partition).set_aside(version.digest)
    else:
        home.repository_of(version).set_aside(version.digest, version.snapshot_id)


def rebuild_catalog(home: Home, on_error: Callable[[PipelineError], None] | None = None) -> int:
    """Make the catalogue of a home again from its stores, and return the number of versions.

    Args:
        home: Home of the versions; others may go on writing it.
        on_error: Takes the error of a version that cannot be listed; without it, the first one is raised.
    """

    def entries() -> Iterator[catalog.Entry]:
        for version in home.versions(on_error=on_error):
            try:
                yield home.catalog_entry(version)
            except PipelineError as error:
                if on_error is None:
                    raise
                on_error(error)

    return catalog.replace(home.objects, entries())


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
        repository = ArrayRepository(home._arrays, kind, partition)
        repository.prepare()
        with repository.draft() as draft:
            metrics = undefined_as_null(write(draft.group))
            metrics = vouching(metrics, content_digest(repository.seals(draft)))
            stamped = provenance.finished(time.perf_counter() - started)
            draft.group.attrs.update(
                {
                    "schema_version": SCHEMA_VERSION,
                    "kind": kind,
                    "provenance": json.loads(stamped.to_json()),
                    "metrics": metrics,
                }
            )
            if kind in KINDS:
                check_target(draft.group, kind)
            snapshot_id, is_ours = repository.publish(
                draft,
                digest,
                f"{kind} {partition} {digest[:12]}",
                {
                    "schema_version": SCHEMA_VERSION,
                    "provenance": stamped.to_json(),
                    "metrics": canonical_json(metrics),
                },
            )
        version = StoreVersion(kind, partition, digest, snapshot_id, StoreForm.ARRAYS)
        if not is_ours:
            return _of_another_writer(home, version)
        home.point_current(version)
        catalog.record(
            home.objects, catalog.Entry(provenance=stamped, snapshot_id=snapshot_id, form=version.form, metrics=metrics)
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
    files = home.files(kind, partition)
    with home.lock(kind, partition):
        existing = _reuse(home, provenance)
        if existing is not None:
            return existing
        started = time.perf_counter()
        aside = files.begin()
        try:
            metrics = undefined_as_null(write(aside))
            stamped = provenance.finished(time.perf_counter() - started)
            (aside / PROVENANCE_FILE).write_text(stamped.to_json())
            (aside / METRICS_FILE).write_text(canonical_json(metrics))
            is_ours = files.publish(aside, digest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        version = StoreVersion(kind, partition, digest, digest, StoreForm.FILES)
        if not is_ours:
            return _of_another_writer(home, version)
        files.point_current(digest)
        catalog.record(
            home.objects, catalog.Entry(provenance=stamped, snapshot_id=digest, form=version.form, metrics=metrics)
        )
    return Materialized(version, False, metrics)


def _of_another_writer(home: Home, version: StoreVersion) -> Materialized:
    """Return a version that somebody on another machine published while it was built here."""
    logger.warning("%s: another machine published it first; what was built here is dropped", version)
    home.point_current(version)
    entry = home.catalog_entry(version)
    catalog.record(home.objects, entry)
    return Materialized(version, True, dict(entry.metrics))


def _check_schema(key: str, seen: object) -> None:
    if seen not in (_UNRECORDED_SCHEMA, SCHEMA_VERSION):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"schema version {seen!r}, want {SCHEMA_VERSION}")
