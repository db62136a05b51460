"""Where array stores live: a local folder or a prefix of a bucket, with one Icechunk repository each.

Both lay repositories out as ``<kind>/<partition>``.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import icechunk
from pyarrow import fs

from storage.errors import ErrorKind, MissingTargetError
from storage.keys import check_name, is_name
from storage.stores.integrity import reading

STORE_URL_VARIABLE = "DISTILLNERF_STORE_URL"
_SCHEME = "s3://"


def store_url_from_environment() -> str | None:
    """Return where array stores live if not under the home: what every command takes for its default."""
    return os.environ.get(STORE_URL_VARIABLE) or None


class ArrayPlace(ABC):
    """A place of array stores.

    Attributes:
        is_local: Whether it is a local folder, where the locks of a home keep writers apart.
    """

    is_local: ClassVar[bool]

    @abstractmethod
    def url(self, kind: str, partition: str) -> str:
        """Return where a repository lives, for people and metadata."""

    @abstractmethod
    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        """Return how Icechunk reaches a repository.

        Raises:
            SourceDataError: If a name cannot stand in a path.
        """

    @abstractmethod
    def may_hold(self, kind: str, partition: str) -> bool:
        """Tell whether it is worth while to look for a repository here."""

    @abstractmethod
    def names(self, *above: str) -> list[str]:
        """Return the kinds that are here, or with a kind its partitions, sorted.

        What bears no name of ours is left out: a bucket may hold other things too.

        Raises:
            MissingTargetError: If the bucket does not exist.
            IntegrityError: If it cannot be listed.
        """

    def partitions(self, kind: str | None = None, partition: str | None = None) -> list[tuple[str, str]]:
        """Return the (kind, partition) of each repository that may be here, of one kind or partition if asked for."""
        return [
            (k, p)
            for k in (self.names() if kind is None else [kind])
            for p in (self.names(k) if partition is None else [partition])
        ]


def array_place(root: Path, store_url: str | None) -> ArrayPlace:
    """Return where the array stores of a home live.

    Args:
        root: Folder of the home.
        store_url: ``s3://bucket/prefix``, or None for ``<root>/stores``.

    Raises:
        ValueError: If the URL is no such URL.
    """
    if store_url is None:
        return _Folder(root / "stores")
    bucket, _, prefix = store_url.removeprefix(_SCHEME).partition("/")
    if not store_url.startswith(_SCHEME) or not bucket:
        raise ValueError(f"store_url {store_url!r}: want s3://bucket/prefix")
    return _Bucket(bucket, prefix.strip("/"))


@dataclass(frozen=True, slots=True)
class _Folder(ArrayPlace):
    path: Path
    is_local: ClassVar[bool] = True

    def url(self, kind: str, partition: str) -> str:
        return str(self.path / kind / partition)

    def storage(self, kind: str, partition: str) -> icechunk.Storage:
        return icechunk.local_filesystem_storage(str(self.path / check_name(kind) / check_name(partition)))

    def may_hold(self, kind: str, partition: str) -> bool:
        return (self.path / kind / partition).is_dir()  # opening would create the empty folder

    def names(self, *above: str) -> list[str]:
        folder = self.path.joinpath(*above)
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and is_name(p.name)) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class _Bucket(ArrayPlace):
    """A prefix of an S3 bucket.

    Credentials, region and endpoint are those of the AWS_* environment variables and files, which Icechunk and Arrow
    read alike. Buckets are addressed by path, as servers other than Amazon's want it.
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

    def may_hold(self, kind: str, partition: str) -> bool:
        return True

    def names(self, *above: str) -> list[str]:
        url = f"{_SCHEME}{self.bucket}"
        with reading(url):
            # Only a file system that is made from a URL minds AWS_ENDPOINT_URL.
            filesystem, bucket = fs.FileSystem.from_uri(url)
            if filesystem.get_file_info(bucket).type is fs.FileType.NotFound:
                raise MissingTargetError(ErrorKind.STORE_MISSING, url, "no such bucket")
            found = filesystem.get_file_info(
                fs.FileSelector("/".join(n for n in (bucket, self._key(*above)) if n), allow_not_found=True)
            )
        folders = (info.base_name for info in found if info.type is fs.FileType.Directory)
        return sorted(name for name in folders if is_name(name))
