"""Places of array stores: a local folder or a prefix of a bucket, with one Icechunk repository for each store.

Both hold a repository at ``<kind>/<partition>``.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import icechunk

from storage.errors import ErrorKind, IntegrityError
from storage.keys import check_name, is_name
from storage.stores.bucket import SCHEME, BucketObjects, split_url
from storage.stores.durable import set_aside
from storage.stores.integrity import reading
from storage.stores.objects import LocalObjects, ObjectFolder

STORE_URL_VARIABLE = "DISTILLNERF_STORE_URL"


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


def array_place(root: Path, store_url: str | None) -> ArrayPlace:
    """Return the place of a home's array stores.

    Args:
        root: Folder of the home.
        store_url: ``s3://bucket/prefix``, or None for ``<root>/stores``.

    Raises:
        ValueError: If the URL has another form.
    """
    if store_url is None:
        return _Folder(root / "stores")
    return _Bucket(*split_url(store_url))


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

    Credentials, region and endpoint come from the AWS_* environment variables and files, which Icechunk and Arrow read
    alike. Buckets are addressed by path, which servers other than Amazon's need.
    """

    bucket: str
    prefix: str
    is_local: ClassVar[bool] = False

    def _key(self, *names: str) -> str:
        return "/".join(name for name in (self.prefix, *names) if name)

    def url(self, kind: str, partition: str) -> str:
        return f"{SCHEME}{self.bucket}/{self._key(kind, partition)}"

    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        key = self._key(check_name(kind), check_name(partition))
        return icechunk.s3_storage(bucket=self.bucket, prefix=key, from_env=True, force_path_style=True)

    def objects(self, kind: str, partition: str) -> ObjectFolder:
        return BucketObjects(self.bucket, self._key(check_name(kind), check_name(partition)))

    def may_hold(self, kind: str, partition: str) -> bool:
        return True

    def set_aside(self, kind: str, partition: str) -> str:
        message = "nothing of it can be read; move its prefix away, then ask again"
        raise IntegrityError(ErrorKind.STORE_CORRUPT, self.url(kind, partition), message)

    def names(self, *above: str) -> list[str]:
        found = BucketObjects(self.bucket, self._key(*above)).folders()
        return [name for name in found if is_name(name)]
