"""Objects of a bucket of S3, or of any server that speaks like it, by ``obstore``.

Credentials, region and endpoint come from the ``AWS_*`` environment variables alone, and appear in no message. Every
call is retried with backoff while the server refuses, is slow or overloaded, or its answer is lost; then it ends in a
``StoreUnreachableError``, which says nothing about what is stored.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from storage.errors import ErrorKind, HomeUnavailableError, MissingTargetError, StoreUnreachableError
from storage.stores.integrity import unreachable
from storage.stores.objects import ObjectFolder

SCHEME = "s3://"
PATIENCE_VARIABLE = "DISTILLNERF_STORE_PATIENCE_S"
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
_PATIENCE_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


def split_url(url: str, want: str = "s3://bucket/prefix") -> tuple[str, str]:
    """Return bucket and prefix of a URL; the prefix may be empty.

    Raises:
        ValueError: If the URL has another form.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise ValueError(f"{url!r}: want {want}")
    return bucket, prefix.strip("/")


def patience_from_environment() -> float:
    """Return for how long a request is retried, seconds.

    Raises:
        ValueError: If the variable is no number above 0.
    """
    text = os.environ.get(PATIENCE_VARIABLE)
    if not text:
        return _PATIENCE_S
    try:
        patience = float(text)
    except ValueError:
        patience = 0.0
    if not patience > 0:
        raise ValueError(f"{PATIENCE_VARIABLE} is {text!r}, want seconds, more than 0")
    return patience


def tries_within(patience_s: float) -> int:
    """Return how often a request is sent if each wait is twice the one before, up to the longest, within a time."""
    tries, wait, waited = 1, _FIRST_WAIT_S, 0.0
    while waited + wait <= patience_s:
        tries, waited, wait = tries + 1, waited + wait, min(2 * wait, _LONGEST_WAIT_S)
    return tries


class BucketObjects(ObjectFolder):
    """Objects below a prefix of a bucket.

    Args:
        bucket: Name of the bucket.
        prefix: Beginning of the names, without slashes at its ends; may be empty.
    """

    is_local: ClassVar[bool] = False

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self._patience_s = patience_from_environment()
        patience = timedelta(seconds=self._patience_s)
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            # The whole request may take long, because a checkpoint is large; a stalled one is given up.
            client_options={
                "allow_http": os.environ.get(ENDPOINT_VARIABLE, "").startswith("http://"),
                "timeout": timedelta(hours=1),
                "read_timeout": patience / 4,  # of one read: a request that is not answered is sent again
                "connect_timeout": patience / 4,
            },
            retry_config={
                "max_retries": tries_within(patience.total_seconds()),
                "retry_timeout": patience,
                "backoff": {
                    "init_backoff": timedelta(seconds=_FIRST_WAIT_S),
                    "max_backoff": timedelta(seconds=_LONGEST_WAIT_S),
                    "base": 2,
                },
            },
            virtual_hosted_style_request=False,  # addressed by path, which servers other than Amazon's need
        )

    @property
    def url(self) -> str:
        """Return the URL."""
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def below(self, *names: str) -> "BucketObjects":
        """Return a longer prefix of the same bucket."""
        return BucketObjects(self.bucket, "/".join(name for name in (self.prefix, *names) if name))

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with self._asking(name):
            return bytes(self._store.get(name).bytes())

    def download(self, name: str, path: Path) -> None:
        """Write an object's content into a new file.

        Raises:
            FileNotFoundError: If the object is not there.
        """
        with self._asking(name), path.open("wb") as file:
            for part in self._store.get(name).stream(min_chunk_size=8 << 20):
                file.write(part)

    def size(self, name: str) -> int | None:
        """Return the size of an object, bytes, or None if it is not there."""
        try:
            with self._asking(name):
                return self._store.head(name)["size"]
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """Return sizes of the objects in a folder."""
        with self._asking(folder):
            found = self._store.list_with_delimiter(folder or None)["objects"]
        return {meta["path"].rpartition("/")[2]: meta["size"] for meta in found}

    def folders(self, folder: str = "") -> list[str]:
        """Return names of folders: a bucket has none without objects in them."""
        with self._asking(folder):
            found = self._store.list_with_delimiter(folder or None)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        with self._asking(name):
            self._store.put(name, content)

    def upload(self, name: str, path: Path) -> None:
        """Put a file's content; large files go in parts."""
        with self._asking(name):
            self._store.put(name, path)

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless there is one of this name, and return whether the one that is there now is this one.

        Of many writers, one gets True, or all whose content is the same. A repeated request whose first answer was
        lost finds its own object, and gets True too.
        """
        begun = time.monotonic()
        while True:
            try:
                with self._asking(name):
                    self._store.put(name, content, mode="create")
            except FileExistsError:
                return self.read(name) == content
            except StoreUnreachableError:  # the client itself does not repeat this request when its answer is late
                if time.monotonic() - begun >= self._patience_s:
                    raise
            else:
                return True

    def delete(self, name: str) -> None:
        """Delete an object."""
        with self._asking(name):
            self._store.delete(name)

    def move(self, name: str, target: str) -> None:
        """Copy an object, then delete it."""
        with self._asking(name):
            self._store.copy(name, target)
            self._store.delete(name)

    def sync(self, names: Iterable[str]) -> None:
        """Do nothing: what a bucket took, it keeps."""

    def sync_ahead(self, folder: str) -> Callable[[], set[str]]:
        """Do nothing."""
        return set

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        key = f"{self.url}/{name}".rstrip("/")
        try:
            yield
        except AlreadyExistsError as error:
            raise FileExistsError(key) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            message = "the store refuses the credentials of the environment (AWS_ACCESS_KEY_ID and its neighbours)"
            raise HomeUnavailableError(ErrorKind.PERMISSION_DENIED, key, message) from error
        except (FileNotFoundError, BaseError) as error:
            if "NoSuchBucket" in str(error):
                raise MissingTargetError(ErrorKind.STORE_MISSING, f"{SCHEME}{self.bucket}", "no such bucket") from error
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(key) from error
            raise unreachable(key, error) from error
