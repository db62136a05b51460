"""One Icechunk repository: all of Icechunk's calls are made here, and end in typed errors that name the store.

A version is published in this order, each step on the disk before the next: its objects, committed to a branch of its
own; the record of its content; the branch ``main``; the branch ``current``. What was not recorded is no version.
Branches are only names that lead to versions, so a lost or torn one is mended from the versions by the next writer.
Nothing is collected while a version, or one that was set aside, is reached by no branch.

In a bucket no lock keeps writers of two machines apart. There a version is made by its *commit*, a small object named
by the digest, which only the first of them can create; it names the snapshot, and comes after the record. Whoever comes
later drops what it built. Nothing is collected in a bucket.
"""

import json
import logging
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import icechunk
import zarr
from zarr.core.sync import sync
from zarr.errors import GroupNotFoundError

from storage.digests import bytes_digest
from storage.errors import ErrorKind, HomeUnavailableError, IntegrityError
from storage.stores.content_record import (
    FOLDER,
    ArraySeals,
    CheckedStore,
    ContentRecord,
    RecordingStore,
    arrays_of,
    read_whole,
    seals_of,
)
from storage.stores.durable import ASIDE
from storage.stores.integrity import one_line_text, reading, unreachable, writing
from storage.stores.objects import LocalObjects
from storage.stores.places import ArrayPlace

# Icechunk warns at every open that local commits must not run side by side; ``Home.lock`` sees to that.
icechunk.set_logs_filter("error")

CURRENT = "current"
COMMITS = "commits"
"""Folder of the commits of a repository in a bucket."""
RECORDED_SCHEMA = 2
"""First schema version whose versions have a record of their content."""
_MAIN = "main"
_DRAFT = "draft-"
_ROOT_SNAPSHOT = "1CECHNKREP0F1RSTCMT0"  # Icechunk gives the empty first snapshot of every repository this id

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that is being written.

    Attributes:
        group: Empty group to fill.
        session: Session of its own branch.
        store: Store below the group, which notes every chunk.
        parent: Snapshot that it is written on top of.
        branch: The branch.
        chunks_before: Chunk objects that were there before.
        stop_syncing: Ends the syncing of chunk objects while they are written, and returns those that are synced.
    """

    group: zarr.Group
    session: icechunk.Session
    store: RecordingStore
    parent: str
    branch: str
    chunks_before: Mapping[str, int]
    stop_syncing: Callable[[], set[str]]


class ArrayRepository:
    """The versions of one partition of arrays.

    Args:
        place: Place of array stores.
        kind: Kind of the versions.
        partition: Their partition.
    """

    def __init__(self, place: ArrayPlace, kind: str, partition: str) -> None:
        self.kind, self.partition, self.key = kind, partition, f"{kind}/{partition}"
        self.objects = place.objects(kind, partition)
        self._place = place
        self._opened: icechunk.Repository | None = None
        self._may_collect = False

    @classmethod
    def find(cls, place: ArrayPlace, kind: str, partition: str) -> "ArrayRepository | None":
        """Return the repository, or None if nothing is stored there."""
        if not place.may_hold(kind, partition):
            return None
        with reading(f"{kind}/{partition}"):
            found = cls(place, kind, partition)
            return found if found._holds_anything() else None

    def _holds_anything(self) -> bool:
        return any(self.objects.sizes(folder) for folder in ("snapshots", FOLDER, "manifests", "chunks"))

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """Read by Icechunk; what it calls lost is damage only if it is lost indeed."""
        try:
            with reading(key):
                yield
        except IntegrityError as error:
            if isinstance(error.__cause__, icechunk.IcechunkError):
                doubt = self._doubt_folder if self.objects.is_local else self._doubt
                doubt(key, error.__cause__)
            raise

    def _doubt_folder(self, key: str, error: BaseException) -> None:
        """Raise if a snapshot that Icechunk calls missing is there: it says so of any that it cannot open.

        Raises:
            OutOfCapacityError: If nothing can be opened.
            HomeUnavailableError: If the disk does not give it, or did not a moment ago.
        """
        told = one_line_text(error)
        if "not found" not in told:
            return
        with reading(key):
            for name in self.objects.sizes("snapshots"):
                if name in told:
                    self.objects.read(f"snapshots/{name}")
                    raise _of_a_moment(key, f"snapshots/{name}") from error

    def _doubt(self, key: str, error: BaseException, record: ContentRecord | None = None) -> None:
        """Raise unless a bucket answers and lacks an object: Icechunk calls a snapshot missing whose server is down.

        Raises:
            StoreUnreachableError: If the bucket does not answer, or everything of the version is there.
        """
        try:
            is_there = record is not None and self.check_whole(record.digest, record.snapshot_id, key)
        except IntegrityError:
            return
        folder = "snapshots" if record is None else "chunks"
        if is_there or any(name in str(error) for name in self.objects.sizes(folder) if name != _ROOT_SNAPSHOT):
            raise unreachable(key, error) from error

    def _repository(self) -> icechunk.Repository:
        if self._opened is None:
            if self.is_branch_lost():
                message = "lost or damaged: its branch main is lost or torn; the next write mends it"
                raise IntegrityError(ErrorKind.STORE_CORRUPT, self.key, message)
            with self._reading(self.key):
                self._opened = icechunk.Repository.open(self._place.storage(self.kind, self.partition))
        return self._opened

    # --- finding ---------------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        """Return the digest of each version, by snapshot; what cannot be read at all is left out.

        A version of an earlier schema has no record, and is told by its snapshot alone.
        """
        with reading(self.key):
            found = self._recorded()
            known = {_ROOT_SNAPSHOT, *found, *self._set_aside_before()}
            others = [name for name in self.objects.sizes("snapshots") if name not in known]
        for snapshot_id in sorted(others):
            metadata = self._readable_metadata(snapshot_id)
            if metadata is not None and "digest" in metadata and not _has_record(metadata):
                found[snapshot_id] = str(metadata["digest"])
        return found

    def find_version(self, digest: str) -> str | None:
        """Return the snapshot of the version with this digest, or None."""
        with reading(self.key):
            recorded = {d: snapshot for snapshot, d in self._recorded().items()}
        if digest in recorded or not self.objects.is_local:
            return recorded.get(digest)
        return next((snapshot for snapshot, d in self.versions().items() if d == digest), None)

    def current(self) -> tuple[str, str] | None:
        """Return digest and snapshot of the version that was asked for last, or None.

        Raises:
            IntegrityError: If the branch is torn.
        """
        snapshot_id = self._branch(CURRENT)
        if snapshot_id is None:
            return None
        with reading(self.key):
            digest = self._recorded().get(snapshot_id)
        if digest is not None:
            return digest, snapshot_id
        metadata = self._metadata(snapshot_id)
        is_version = "digest" in metadata and not _has_record(metadata)
        return (str(metadata["digest"]), snapshot_id) if is_version else None

    def _recorded(self) -> dict[str, str]:
        recorded = _versions_by_name(self.objects.sizes(FOLDER))
        if self.objects.is_local:
            return recorded
        counts = Counter(recorded.values())
        committed = self.objects.sizes(COMMITS)
        return {
            snapshot: digest
            for snapshot, digest in recorded.items()
            if digest in committed and (counts[digest] == 1 or self._committed(digest) == snapshot)
        } | self._uncommitted(recorded, committed)

    def _uncommitted(self, recorded: Mapping[str, str], committed: Collection[str]) -> dict[str, str]:
        """Return versions without a commit: of earlier releases, or copied from a folder. ``main`` leads to them."""
        waiting = {snapshot: digest for snapshot, digest in recorded.items() if digest not in committed}
        main = self._branch(_MAIN) if waiting else None
        reached = set() if main is None else set(self._chain(main)[0])
        return {snapshot: digest for snapshot, digest in waiting.items() if snapshot in reached}

    def _committed(self, digest: str) -> str | None:
        """Return the snapshot of the version that was committed to a bucket under a digest, or None."""
        try:
            return self.objects.read(f"{COMMITS}/{digest}").decode()
        except FileNotFoundError:
            return None

    def _set_aside_before(self) -> dict[str, str]:
        return _versions_by_name(self.objects.sizes(ASIDE))

    def _readable_metadata(self, snapshot_id: str) -> dict[str, Any] | None:
        try:
            return self._metadata(snapshot_id)
        except IntegrityError:
            return None

    def _metadata(self, snapshot_id: str) -> dict[str, Any]:
        repository = self._repository()
        with self._reading(self.key):
            return dict(repository.lookup_snapshot(snapshot_id).metadata)

    # --- reading ---------------------------------------------------------------------------------------------------

    def record(self, digest: str, snapshot_id: str, key: str) -> ContentRecord | None:
        """Return the record of a version's content, or None if there is none.

        Raises:
            IntegrityError: If it is damaged, or another version's.
        """
        with reading(key):
            try:
                stored = self.objects.read(_record_name(digest, snapshot_id))
            except FileNotFoundError:
                return None
        record = ContentRecord.from_bytes(stored, key)
        seen = (record.kind, record.partition, record.digest, record.snapshot_id)
        if seen != (self.kind, self.partition, digest, snapshot_id):
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"its record is that of {'/'.join(seen[:2])}")
        return record

    def has_record(self, snapshot_id: str) -> bool:
        """Return whether there is a record of the content of this snapshot."""
        with reading(self.key):
            return snapshot_id in self._recorded()

    def metadata(self, digest: str, snapshot_id: str, key: str) -> dict[str, Any]:
        """Return what was stored with a version: its provenance and figures as JSON.

        Raises:
            IntegrityError: If its snapshot is lost or damaged.
        """
        record = self.record(digest, snapshot_id, key)
        if record is not None:
            self._check_objects(record, key, ("snapshots",))
        with self._reading(key):
            return self._metadata(snapshot_id)

    def open(self, digest: str, snapshot_id: str, key: str) -> zarr.Group:
        """Open a version for reading; every chunk that is read later must be the recorded one.

        Raises:
            IntegrityError: If the record, the snapshot or a manifest is lost or damaged.
            OutOfCapacityError: If nothing can be opened.
            HomeUnavailableError: If the disk does not give it, or did not a moment ago.
        """
        record = self.record(digest, snapshot_id, key)
        if record is not None:
            self._check_objects(record, key, ("snapshots", "manifests"))
        repository = self._repository()
        try:
            with self._reading(key):
                store = repository.readonly_session(snapshot_id=snapshot_id).store
                checked = store if record is None else CheckedStore(store, record, key, self._on_failure(record, key))
                group = zarr.open_group(checked, mode="r")
        except IntegrityError as error:  # Zarr too calls missing what cannot be opened
            if record is not None and isinstance(error.__cause__, GroupNotFoundError):
                self._check_objects(record, key, ("snapshots", "manifests"))
                raise _of_a_moment(key, "its group") from error
            raise
        if record is None and _has_record(group.attrs):
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, "lost or damaged: the record of its content is lost")
        return group

    def _on_failure(self, record: ContentRecord, key: str) -> Callable[[BaseException], None] | None:
        return None if self.objects.is_local else lambda error: self._doubt(key, error, record)

    def check_whole(self, digest: str, snapshot_id: str, key: str) -> bool:
        """Check that no object of a version is lost, cut or, but for chunks, changed; return whether it has a record.

        Raises:
            IntegrityError: If one is.
        """
        record = self.record(digest, snapshot_id, key)
        if record is None:
            return False
        self._check_objects(record, key, ("snapshots", "manifests"))
        if record.chunk_objects is None:
            return False
        with reading(key):
            seen = self.objects.sizes("chunks")
        for name, size in record.chunk_objects.items():
            if seen.get(name) != size:
                message = f"lost or damaged: chunks/{name} has {seen.get(name)} bytes, want {size}"
                raise IntegrityError(ErrorKind.STORE_CORRUPT, key, message)
        return True

    def _check_objects(self, record: ContentRecord, key: str, folders: tuple[str, ...]) -> None:
        for name, (size, digest) in record.objects.items():
            if not name.startswith(folders):
                continue
            with reading(key):
                try:
                    content = self.objects.read(name)
                except FileNotFoundError:
                    raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"lost or damaged: no object {name}") from None
            if len(content) != size or bytes_digest(content) != digest:
                message = f"lost or damaged: {name} is not what was written"
                raise IntegrityError(ErrorKind.STORE_CORRUPT, key, message)

    def faults(self) -> list[IntegrityError]:
        """Return what is wrong with the repository itself: its branches, and snapshots that are no version's."""
        found: list[IntegrityError] = []

        def add(message: str) -> None:
            found.append(IntegrityError(ErrorKind.STORE_CORRUPT, self.key, message))

        main, current, hint = None, None, "; the next write mends it"
        try:
            current = self._branch(CURRENT)
            self._repository()
            main = self._branch(_MAIN)
        except IntegrityError as error:
            add(error.message.removesuffix(hint) + hint)
        versions = self.versions()
        if current is None and versions and not found:
            add(f"lost or damaged: the branch {CURRENT} is lost{hint}")
        if current not in {None, *versions, *self._set_aside_before()}:
            add(f"lost or damaged: the branch {CURRENT} leads to {current}, no version{hint}")
        if main is not None:
            reached, is_whole = self._chain(main)
            others = {name for branch in self._other_branches() for name in self._chain(branch)[0]}
            if not is_whole:
                add(f"lost or damaged: the history of main ends after {len(reached)} snapshots")
            unreached = sorted(
                digest[:12] for snapshot, digest in versions.items() if snapshot not in {*reached, *others}
            )
            if unreached:
                add(f"lost or damaged: main does not lead to {', '.join(unreached)}; the next write mends what it can")
            for snapshot_id in set(reached) - versions.keys() - self._set_aside_before().keys():
                metadata = self._readable_metadata(snapshot_id) or {}
                if _has_record(metadata):
                    add(f"lost or damaged: version {str(metadata.get('digest'))[:12]} has lost its record")
        with reading(self.key):
            known = {_ROOT_SNAPSHOT, *self._recorded(), *self._set_aside_before()}
            others = [name for name in self.objects.sizes("snapshots") if name not in known]
        if self._opened is not None:
            for snapshot_id in others:
                if self._readable_metadata(snapshot_id) is None:
                    add(f"lost or damaged: snapshot {snapshot_id} cannot be read")
        return found

    def is_branch_lost(self) -> bool:
        """Return whether the branch that leads to every version is lost or torn; ``prepare`` mends it in a folder."""
        return isinstance(self.objects, LocalObjects) and self._whole_branch(_MAIN) is None

    # --- writing ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the repository if there is none, and mend its branches; the caller holds its lock.

        In an object store nothing is mended: locks do not reach writers on other machines.
        """
        with writing(self.key):
            if not self._holds_anything():
                if isinstance(self.objects, LocalObjects) and any(p.is_file() for p in self.objects.path.rglob("*")):
                    self._start_anew()  # only names are left
                else:
                    self._create()
            elif isinstance(self.objects, LocalObjects):
                self._mend(self.objects)
            else:
                self._commit_recorded()

    def _create(self) -> None:
        try:
            self._opened = icechunk.Repository.create(self._place.storage(self.kind, self.partition))
        except icechunk.IcechunkError:
            if self.objects.is_local:
                raise
            self._repository()  # another machine has created it at the same time, or this says what is wrong
        self._may_collect = self._place.is_local
        if isinstance(self.objects, LocalObjects):
            self.objects.sync([f"snapshots/{_ROOT_SNAPSHOT}"])
            self._point(_MAIN, _ROOT_SNAPSHOT)

    def _mend(self, objects: LocalObjects) -> None:
        for branch in (objects.path / "refs").glob(f"branch.{_DRAFT}*"):
            shutil.rmtree(branch, ignore_errors=True)  # of a writer that was killed
        main = self._whole_branch(_MAIN)
        if main is None:
            self._point(_MAIN, _ROOT_SNAPSHOT)
        versions = self.versions()
        reached, is_whole = self._chain(main) if main is not None else ([], False)
        if not is_whole or not versions.keys() <= set(reached):
            chains = {s: self._chain(s) for s in [*reached[:1], *versions, _ROOT_SNAPSHOT]}
            best = max(chains, key=lambda s: (len(versions.keys() & set(chains[s][0])), chains[s][1], s == main))
            reached, is_whole = chains[best]
            if not reached:
                self._start_anew()
                return
            if best != main:
                logger.warning("%s: its branch main was lost or led elsewhere, and leads to %s again", self.key, best)
                self._point(_MAIN, best)
        self._may_collect = is_whole and {*versions, *self._set_aside_before()} <= set(reached)
        if not self._may_collect:
            logger.warning("%s: nothing is deleted here, because a version is out of reach", self.key)

    def _commit_recorded(self) -> None:
        recorded = _versions_by_name(self.objects.sizes(FOLDER))
        for snapshot_id, digest in self._uncommitted(recorded, self.objects.sizes(COMMITS)).items():
            self._committed_first(digest, snapshot_id)

    def _start_anew(self) -> None:
        place = self._place.set_aside(self.kind, self.partition)
        logger.warning("%s: nothing of it can be read; it is set aside as %s and begun anew", self.key, place)
        self._create()

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Begin a version on a branch of its own, which is dropped if the body fails; the caller holds the lock."""
        self.collect()
        repository, branch = self._repository(), f"{_DRAFT}{uuid.uuid4().hex[:12]}"
        with self._reading(self.key):
            parent = repository.lookup_branch(_MAIN)
            repository.create_branch(branch, parent)
        before, stop_syncing = self.objects.sizes("chunks"), self.objects.sync_ahead("chunks")
        try:
            session = repository.writable_session(branch)
            store = RecordingStore(session.store)
            # Chunks that hold only the fill value are written too: a chunk that is not there is then always a loss.
            with zarr.config.set({"array.write_empty_chunks": True}):
                group = zarr.open_group(store, mode="w")
                yield Draft(group, session, store, parent, branch, before, stop_syncing)
        except BaseException:
            with suppress(OSError):
                stop_syncing()
            with suppress(Exception):
                self._drop(branch)
                self.collect()
            raise

    def seals(self, draft: Draft) -> dict[str, ArraySeals]:
        """Return which chunks the arrays of a draft hold.

        Raises:
            IntegrityError: If a chunk was not written.
        """
        return arrays_of(draft.group, draft.store.seals, self.key)

    def publish(self, draft: Draft, digest: str, message: str, metadata: Mapping[str, Any]) -> tuple[str, bool]:
        """Make a draft a version, and return the version's snapshot, and whether it is the draft's.

        In a bucket it is not, if another machine came first.

        Raises:
            IntegrityError: If a chunk was not written; nothing is published then.
        """
        arrays = self.seals(draft)
        synced = draft.stop_syncing()
        snapshot_id = self._commit(draft, message, {"digest": digest, **metadata})
        if draft.store.has_rewritten:
            self.collect()
        chunks = {n: s for n, s in self.objects.sizes("chunks").items() if n not in draft.chunks_before}
        waiting = [*(f"chunks/{name}" for name in chunks.keys() - synced), *(["chunks"] if chunks else [])]
        self.objects.sync([*waiting, f"transactions/{snapshot_id}"])
        are_known = self._may_collect or not draft.store.has_rewritten
        # From here on it may be a version that no branch reaches yet: if a step fails, the next writer mends that.
        may_collect, self._may_collect = self._may_collect, False
        self._record(digest, snapshot_id, arrays, chunks if are_known else None)
        if isinstance(self.objects, LocalObjects):
            self._point(_MAIN, snapshot_id)
            self._may_collect = may_collect
            self._drop(draft.branch)
            return snapshot_id, True
        committed = self._committed_first(digest, snapshot_id)
        if committed != snapshot_id:
            self.objects.delete(_record_name(digest, snapshot_id))
            self._drop(draft.branch)
            return committed, False
        try:
            self._repository().reset_branch(_MAIN, snapshot_id, from_snapshot_id=draft.parent)
            self._drop(draft.branch)
        except icechunk.IcechunkError as error:
            if not _is_conflict(error):
                raise
            # Another machine moved main; the draft's branch stays then, so that something leads to every version.
        return snapshot_id, True

    def _commit(self, draft: Draft, message: str, metadata: Mapping[str, Any]) -> str:
        try:
            return draft.session.commit(message, metadata=dict(metadata))
        except icechunk.IcechunkError as error:
            if not _is_conflict(error):
                raise
            # Nobody else writes to the branch of a draft: it is our own commit, whose answer was lost.
            tip = self._repository().lookup_branch(draft.branch)
            if tip == draft.parent or self._metadata(tip).get("digest") != metadata["digest"]:
                raise
            return tip

    def _committed_first(self, digest: str, snapshot_id: str) -> str:
        from storage.stores.bucket import BucketObjects

        if not isinstance(self.objects, BucketObjects):
            raise TypeError(f"objects is {type(self.objects).__name__}, want those of a bucket")
        if self.objects.create(f"{COMMITS}/{digest}", snapshot_id.encode()):
            return snapshot_id
        return self._committed(digest) or snapshot_id

    def _record(
        self, digest: str, snapshot_id: str, arrays: Mapping[str, ArraySeals], chunks: Mapping[str, int] | None
    ) -> None:
        manifests = (item.id for item in self._repository().lookup_snapshot(snapshot_id).manifests)
        names = [f"snapshots/{snapshot_id}", *(f"manifests/{name}" for name in manifests)]
        self.objects.sync(names)
        contents = {name: self.objects.read(name) for name in names}
        record = ContentRecord(
            kind=self.kind,
            partition=self.partition,
            digest=digest,
            snapshot_id=snapshot_id,
            objects={name: (len(content), bytes_digest(content)) for name, content in contents.items()},
            chunk_objects=chunks,
            arrays=arrays,
        )
        self.objects.write(_record_name(digest, snapshot_id), record.to_bytes())

    def point_current(self, snapshot_id: str) -> None:
        """Make a version the one that was asked for last."""
        if isinstance(self.objects, LocalObjects):
            self._point(CURRENT, snapshot_id)
        else:  # of writers at the same time, the last one counts
            self.objects.write(CURRENT, snapshot_id.encode())

    def set_aside(self, digest: str, snapshot_id: str) -> None:
        """Give up a version that cannot be read, so that it is built again; its objects stay until ``gc`` is asked."""
        name = _record_name(digest, snapshot_id)
        aside = f"{ASIDE}/{name.removeprefix(f'{FOLDER}/')}"
        with writing(self.key):
            if snapshot_id in self._recorded():
                self.objects.move(name, aside)
                if not self.objects.is_local:
                    self.objects.delete(f"{COMMITS}/{digest}")
            else:
                self.objects.write(aside, b"")  # a version without a record is told by its snapshot

    def forget_unreadable(self) -> None:
        """Let go of versions that were set aside and that no branch reaches; the caller holds the lock."""
        with writing(self.key):
            reached, is_whole = self._chain(self._repository().lookup_branch(_MAIN))
            for snapshot_id, digest in self._set_aside_before().items():
                if snapshot_id not in reached and isinstance(self.objects, LocalObjects):
                    (self.objects.path / ASIDE / f"{digest}.{snapshot_id}.json").unlink()
            self._may_collect = is_whole and self.versions().keys() <= set(reached)

    def unreached_bytes(self) -> int:
        """Return the bytes of objects that ``collect`` would delete now; nothing is mended, so it may be more later."""
        main = self._whole_branch(_MAIN)
        if main is None or not isinstance(self.objects, LocalObjects):
            return 0
        reached, is_whole = self._chain(main)
        self._may_collect = is_whole and {*self.versions(), *self._set_aside_before()} <= set(reached)
        return self.collect(dry_run=True)

    def adopt(self, digest: str, snapshot_id: str, key: str) -> None:
        """Read a version of an earlier schema whole, and record its content as it is now.

        Raises:
            IntegrityError: If a chunk is lost or damaged.
        """
        repository = self._repository()
        with reading(key):
            session = repository.readonly_session(snapshot_id=snapshot_id)
            group = zarr.open_group(session.store, mode="r")
            seals = sync(seals_of(session.store))
            arrays = arrays_of(group, seals, key)
            for _, array in group.members(max_depth=None):
                if isinstance(array, zarr.Array):
                    read_whole(array)
            self.collect()
            is_only = self._may_collect and len(self.versions()) == 1
            self._record(digest, snapshot_id, arrays, self.objects.sizes("chunks") if is_only else None)

    def collect(self, *, dry_run: bool = False) -> int:
        """Delete objects that no branch reaches, and return their bytes; 0 where that could hurt a version.

        The caller holds the lock and has called ``prepare``, so nobody else is writing.
        """
        if not self._may_collect:
            return 0
        try:
            with writing(self.key):
                found = self._repository().garbage_collect(datetime.now(UTC), dry_run=dry_run)
        except IntegrityError as error:  # an object of an old version is lost; that must not block a new one
            logger.warning("%s: what is no longer needed stays, because of damage: %s", self.key, error.message)
            self._may_collect = False
            return 0
        return int(found.bytes_deleted)

    # --- branches --------------------------------------------------------------------------------------------------

    def _branch(self, name: str) -> str | None:
        """Return the snapshot that a branch names, or None if there is no such branch."""
        with reading(self.key):
            if not isinstance(self.objects, LocalObjects):
                return self._bucket_branch(name)
            try:
                stored = self.objects.read(_ref_name(name))
            except FileNotFoundError:
                return None
            try:
                return str(json.loads(stored)["snapshot"])
            except (ValueError, KeyError, TypeError):
                message = f"lost or damaged: the branch {name} cannot be read"
                raise IntegrityError(ErrorKind.STORE_CORRUPT, self.key, message) from None

    def _bucket_branch(self, name: str) -> str | None:
        if name == CURRENT:
            with suppress(FileNotFoundError):
                return self.objects.read(CURRENT).decode()
        repository = self._repository()
        with self._reading(self.key):
            return repository.lookup_branch(name) if name in repository.list_branches() else None

    def _other_branches(self) -> list[str]:
        """Return the snapshots of branches of a bucket but ``main``: versions that were published beside another."""
        if self.objects.is_local:
            return []
        repository = self._repository()
        with self._reading(self.key):
            return [repository.lookup_branch(name) for name in repository.list_branches() if name != _MAIN]

    def _whole_branch(self, name: str) -> str | None:
        try:
            return self._branch(name)
        except IntegrityError:
            return None

    def _point(self, name: str, snapshot_id: str) -> None:
        """Let a branch of a folder name a snapshot."""
        # Icechunk writes this file without syncing it: a loss of power would tear what leads to every version.
        self.objects.write(_ref_name(name), json.dumps({"snapshot": snapshot_id}).encode())

    def _drop(self, branch: str) -> None:
        if isinstance(self.objects, LocalObjects):
            shutil.rmtree(self.objects.path / _ref_name(branch).rpartition("/")[0])
        else:
            self._repository().delete_branch(branch)

    def _chain(self, snapshot_id: str) -> tuple[list[str], bool]:
        """Return the snapshots from this one back to the first, and whether none of them is lost.

        Raises:
            OutOfCapacityError: If nothing can be opened.
            HomeUnavailableError: If the disk does not give one, or did not a moment ago.
        """
        repository, found = self._repository(), []
        try:
            with self._reading(self.key):
                for info in repository.ancestry(snapshot_id=snapshot_id):
                    found.append(info.id)
        except IntegrityError:
            return found, False
        return found, True


def _of_a_moment(key: str, what: str) -> HomeUnavailableError:
    """Return the error of something that could not be opened, and is there when it is asked for again."""
    message = f"{what} could not be opened for a moment, and is there; ask again"
    return HomeUnavailableError(ErrorKind.IO_FAILED, key, message)


def _is_conflict(error: icechunk.IcechunkError) -> bool:
    return isinstance(error, icechunk.ConflictError) or "branch update conflict" in str(error)


def _versions_by_name(names: Iterable[str]) -> dict[str, str]:
    parts = (name.removesuffix(".json").split(".") for name in names if name.endswith(".json"))
    return {of[1]: of[0] for of in parts if len(of) == 2}


def _record_name(digest: str, snapshot_id: str) -> str:
    return f"{FOLDER}/{digest}.{snapshot_id}.json"


def _ref_name(branch: str) -> str:
    return f"refs/branch.{branch}/ref.json"


def _has_record(attributes: Mapping[str, Any]) -> bool:
    version = attributes.get("schema_version")
    return isinstance(version, int) and version >= RECORDED_SCHEMA
