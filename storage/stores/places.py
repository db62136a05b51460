"""Where a home lives, and its array stores: a folder, or a prefix of a bucket.

A home in a bucket has a folder on each machine that works on it, for what only that machine needs: locks, logs,
Dagster's instance, work under way and copies of files. The folder names its bucket (``address``), so that whoever opens
the folder opens the home. Array stores are one Icechunk repository for each kind and partition, ``<kind>/<partition>``.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import icechunk

from storage.digests import bytes_digest
from storage.errors import ErrorKind, IntegrityError
from storage.keys import check_name, is_name
from storage.stores.durable import make_folder, set_aside, write_durably
from storage.stores.integrity import reading
from storage.stores.objects import LocalObjects, ObjectFolder

STORE_URL_VARIABLE = "DISTILLNERF_STORE_URL"
CACHE_VARIABLE = "DISTILLNERF_CACHE"
"""Folder of this machine's folders for homes in buckets; ``~/.cache/distillnerf`` by default."""

_ADDRESS = "address"
_SCHEME = "s3://"


def store_url_from_environment() -> str | None:
    """Return the URL of array stores that the environment names, the default of every command, or None."""
    return os.environ.get(STORE_URL_VARIABLE) or None


class ArrayPlace(ABC):
    """A place of array stores.

    Attributes:
        is_local: Whether it is a local folder, in which a home's locks keep writers apart.
    """

    is_local: ClassVar[bool]

    @abstractmethod
    def url(self, kind: str, partition: str) -> str:
        """Return the URL or path of a repository, for people and metadata."""

    @abstractmethod
    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        """Return the Icechunk storage of a repository.

        Raises:
            SourceDataError: If a name cannot stand in a path.
        """

    @abstractmethod
    def objects(self, kind: str, partition: str) -> ObjectFolder:
        """Return the objects of a repository as plain bytes.

        Raises:
            SourceDataError: If a name cannot stand in a path.
        """

    @abstractmethod
    def may_hold(self, kind: str, partition: str) -> bool:
        """Return whether a repository may exist here, from a cheap look."""

    @abstractmethod
    def set_aside(self, kind: str, partition: str) -> str:
        """Move a repository that cannot be read out of the way, and return its new place.

        Raises:
            IntegrityError: In a bucket, where nobody can be kept from writing meanwhile.
        """

    @abstractmethod
    def names(self, *above: str) -> list[str]:
        """Return the kinds that are stored here or, given a kind, its partitions; sorted.

        Other names are left out: a bucket may hold other things too.

        Raises:
            MissingTargetError: If the bucket does not exist.
            IntegrityError: If it cannot be listed.
        """

    def partitions(self, kind: str | None = None, partition: str | None = None) -> list[tuple[str, str]]:
        """Return kind and partition of each repository that may be here, filtered by kind and partition if given."""
        return [
            (k, p)
            for k in (self.names() if kind is None else [kind])
            for p in (self.names(k) if partition is None else [partition])
        ]


def home_place(place: Path | str) -> tuple[Path, ObjectFolder]:
    """Return a home's folder on this machine, and its objects.

    Args:
        place: ``s3://bucket/prefix``, a folder, or the folder that a machine has for a home in a bucket.

    Raises:
        ValueError: If the URL has another form.
    """
    text = str(place)
    if isinstance(place, str) and text.startswith(_SCHEME):
        from storage.stores.bucket import BucketObjects, split_url

        objects = BucketObjects(*split_url(text))
        name = f"{objects.bucket}-{bytes_digest(objects.url.encode())[:12]}"
        root = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/distillnerf").expanduser().absolute() / name
        _claim(root, objects.url)
        return root, objects
    if text.startswith(f"{_SCHEME[:-1]}"):
        raise ValueError(f"{text!r} is a path; a home in a bucket is named by a text s3://bucket/prefix")
    root = Path(place).expanduser().absolute()
    address = root / _ADDRESS
    if address.is_file():
        from storage.stores.bucket import BucketObjects, split_url

        return root, BucketObjects(*split_url(address.read_text().strip()))
    return root, LocalObjects(root)


def _claim(root: Path, url: str) -> None:
    address = root / _ADDRESS
    if not address.is_file():
        make_folder(root)
        write_durably(address, f"{url}\n".encode())


def array_place(objects: ObjectFolder, store_url: str | None) -> ArrayPlace:
    """Return the place of a home's array stores.

    Args:
        objects: Objects of the home.
        store_url: ``s3://bucket/prefix``, or None for ``stores`` in the home.

    Raises:
        ValueError: If the URL has another form.
    """
    if store_url is None and isinstance(objects, LocalObjects):
        return _Folder(objects.path / "stores")
    from storage.stores.bucket import split_url

    return _Bucket(*split_url(store_url if store_url is not None else objects.below("stores").url))


@dataclass(frozen=True, slots=True)
class _Folder(ArrayPlace):
    path: Path
    is_local: ClassVar[bool] = True

    def url(self, kind: str, partition: str) -> str:
        return str(self.path / kind / partition)

    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        return icechunk.local_filesystem_storage(str(self.path / check_name(kind) / check_name(partition)))

    def objects(self, kind: str, partition: str) -> ObjectFolder:
        return LocalObjects(self.path / check_name(kind) / check_name(partition))

    def may_hold(self, kind: str, partition: str) -> bool:
        return (self.path / kind / partition).is_dir()  # opening would create the empty folder

    def set_aside(self, kind: str, partition: str) -> str:
        return str(set_aside(self.path.parent, self.path / kind / partition))

    def names(self, *above: str) -> list[str]:
        folder = self.path.joinpath(*above)
        with reading(str(folder)):
            return sorted(p.name for p in folder.iterdir() if p.is_dir() and is_name(p.name)) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class _Bucket(ArrayPlace):
    """A prefix of an S3 bucket.

    Credentials, region and endpoint come from the AWS_* environment variables. Buckets are addressed by path, which
    servers other than Amazon's need.
    """

    bucket: str
    prefix: str
    is_local: ClassVar[bool] = False

    def _key(self, *names: str) -> str:
        return "/".join(name for name in (self.prefix, *names) if name)

    def url(self, kind: str, partition: str) -> str:
        return f"{_SCHEME}{self.bucket}/{self._key(kind, partition)}"

    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        key = self._key(check_name(kind), check_name(partition))
        return icechunk.s3_storage(bucket=self.bucket, prefix=key, from_env=True, force_path_style=True)

    def objects(self, kind: str, partition: str) -> ObjectFolder:
        from storage.stores.bucket import BucketObjects

        return BucketObjects(self.bucket, self._key(check_name(kind), check_name(partition)))

    def may_hold(self, kind: str, partition: str) -> bool:
        return True

    def set_aside(self, kind: str, partition: str) -> str:
        message = "nothing of it can be read; move its prefix away, then ask again"
        raise IntegrityError(ErrorKind.STORE_CORRUPT, self.url(kind, partition), message)

    def names(self, *above: str) -> list[str]:
        from storage.stores.bucket import BucketObjects

        found = BucketObjects(self.bucket, self._key(*above)).folders()
        return [name for name in found if is_name(name)]
