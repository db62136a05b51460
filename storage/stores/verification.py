"""Read back every byte of a home, what no reader has asked for included, and compare its stores with its catalogue."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import zarr

from storage.errors import ErrorKind, HomeUnavailableError, IntegrityError, OutOfCapacityError, PipelineError
from storage.kinds import StoreForm
from storage.stores import catalog
from storage.stores.content_record import read_whole
from storage.stores.integrity import reading
from storage.stores.versioned import Home, StoreVersion

Finding = Literal["whole", "without record", "damaged", "store at fault", "not read", "lost", "not in the catalogue"]
"""What was found of a version or a store.

``not read`` says that the machine failed, such as out of file descriptors, and nothing of what is stored. ``lost`` is
listed in the catalogue and in no store.
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of one version, or of one store.

    Attributes:
        finding: What was found.
        key: The version or store.
        message: What is wrong; empty for what is whole.
        version: The version, if it is one that the stores list.
    """

    finding: Finding
    key: str
    message: str = ""
    version: StoreVersion | None = None


def verify_home(home: Home, kind: str | None = None, partition: str | None = None) -> Iterator[Verified]:
    """Verify every version, store and row of the catalogue, going on after whatever is damaged.

    Args:
        home: Home to verify.
        kind: Verify versions of this kind only.
        partition: Verify versions of this partition only.
    """
    errors: list[PipelineError] = []
    versions = home.versions(kind, partition, on_error=errors.append)
    for owner in home.array_partitions(kind, partition):
        try:
            repository = home.repository(*owner)
            errors += [] if repository is None else repository.faults()
        except PipelineError as error:
            errors.append(error)
    for error in {(error.key, error.message): error for error in errors}.values():
        yield Verified("not read" if _is_of_machine(error) else "store at fault", error.key, error.message)
    for version in versions:
        yield _verify(home, version)
    for folder in home.torn_folders(kind, partition):
        yield Verified("damaged", str(folder), "lost or damaged: it has no provenance")
    listed = {
        (row["kind"], row["partition"], row["digest"])
        for row in catalog.versions(home.objects).to_pylist()
        if kind in (None, row["kind"]) and partition in (None, row["partition"])
    }
    stored = {(version.kind, version.partition, version.digest) for version in versions}
    unread = {error.key for error in errors if _is_of_machine(error)}
    for owner, part, digest in sorted(listed - stored):
        if f"{owner}/{part}" not in unread:
            yield Verified("lost", f"{owner}/{part}@{digest[:12]}", "is in the catalogue and not in the stores")
    for owner, part, digest in sorted(stored - listed):
        message = "'distillnerf catalog rebuild' lists it"
        yield Verified("not in the catalogue", f"{owner}/{part}@{digest[:12]}", message)


def _verify(home: Home, version: StoreVersion) -> Verified:
    try:
        verify_version(home, version)
        is_recorded = version.form is StoreForm.FILES or home.repository_of(version).has_record(version.snapshot_id)
    except PipelineError as error:
        found: Finding = "not read" if _is_of_machine(error) else "damaged"
        if found == "damaged" and _is_headless(home, version):
            found = "store at fault"  # which is mended with all that it holds
        return Verified(found, str(version), error.message, version)
    if is_recorded:
        return Verified("whole", str(version), version=version)
    message = "only its chunks are checked, not where they stand; 'distillnerf catalog verify --record' records it"
    return Verified("without record", str(version), message, version)


def _is_headless(home: Home, version: StoreVersion) -> bool:
    """Return whether a version cannot be opened because its store has lost a branch."""
    try:
        repository = None if version.form is StoreForm.FILES else home.repository(version.kind, version.partition)
        return repository is not None and repository.is_branch_lost()
    except PipelineError:
        return False


def mend_stores(home: Home, kind: str | None = None, partition: str | None = None) -> list[PipelineError]:
    """Mend the branches of stores as the next write would, and return the errors of those that cannot be mended.

    Nothing is built. A store of which nothing can be read is set aside whole.

    Args:
        home: Home of the stores.
        kind: Mend stores of this kind only.
        partition: Mend stores of this partition only.
    """
    errors = []
    for owner in home.array_partitions(kind, partition):
        try:
            repository = home.repository(*owner)
            if repository is not None and repository.is_branch_lost():
                with home.lock(*owner):
                    repository.prepare()
        except PipelineError as error:
            errors.append(error)
    return errors


def verify_version(home: Home, version: StoreVersion) -> int:
    """Read a version whole, and return the number of bytes of its content.

    Args:
        home: Home that holds the version.
        version: Version to read. Arrays are decoded chunk by chunk, each checked by its codec, its object's checksum
            and the record of the version; files are compared with their recorded SHA-256.

    Raises:
        MissingTargetError: If the version is gone.
        IntegrityError: If anything is lost or damaged.
        OutOfCapacityError: If memory or file descriptors ran out.
        HomeUnavailableError: If the disk failed, or may not be read.
    """
    provenance = home.provenance(version)
    seen = (provenance.kind, provenance.partition, provenance.digest)
    if seen != (version.kind, version.partition, version.digest):
        message = f"holds what belongs to {seen[0]}/{seen[1]}@{seen[2][:12]}"
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(version), message)
    home.metrics(version)
    if version.form is StoreForm.FILES:
        folder = home.open_files(version, verify=True)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    home.repository_of(version).check_whole(version.digest, version.snapshot_id, str(version))
    with reading(str(version)):
        arrays = _arrays(home.open_arrays(version))
    return sum(_read_array(array, f"{version}/{name}") for name, array in arrays)


def _is_of_machine(error: PipelineError) -> bool:
    return isinstance(error, OutOfCapacityError | HomeUnavailableError)


def _arrays(group: zarr.Group) -> list[tuple[str, zarr.Array]]:
    return sorted((name, member) for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array))


def _read_array(array: zarr.Array, key: str) -> int:
    with reading(key):
        read_whole(array)
    return int(array.nbytes)
