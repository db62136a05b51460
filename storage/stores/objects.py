"""Objects as plain bytes by name, in a folder or below a prefix of a bucket: what a home and its stores are made of.

Both answer alike. A folder keeps the discipline of ``storage.stores.durable``: what was written is on the disk on
return. A bucket keeps what it took, and tells by conditional writes who came first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from storage.stores.durable import SyncAhead, make_folder, sync_all, write_durably


class ObjectFolder(ABC):
    """Objects by name, such as ``snapshots/ZYDW2SXQD5G08JD9DM60``, relative to one place.

    Attributes:
        is_local: Whether the place is a folder, in which locks keep writers apart.
    """

    is_local: ClassVar[bool]

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the path or URL of the place, for people and metadata."""

    @abstractmethod
    def below(self, *names: str) -> "ObjectFolder":
        """Return the place below this one."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return an object whole.

        Raises:
            FileNotFoundError: If it is not there.
        """

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of each object directly in a folder, by the last part of its name."""

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object in one step, durably."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

    @abstractmethod
    def move(self, name: str, target: str) -> None:
        """Give an object another name.

        Raises:
            FileNotFoundError: If it is not there.
        """

    @abstractmethod
    def sync(self, names: Iterable[str]) -> None:
        """Wait until these objects, and their names, are on the disk; a bucket has answered only then anyway."""

    @abstractmethod
    def sync_ahead(self, folder: str) -> Callable[[], set[str]]:
        """Begin to sync what is written into a folder; the result ends that, and returns what needs no sync any more.

        Raises:
            OSError: From the result, if an object could not be synced.
        """


class LocalObjects(ObjectFolder):
    """Objects that are files.

    Args:
        path: The folder.
    """

    is_local: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """Return the path."""
        return str(self.path)

    def below(self, *names: str) -> "LocalObjects":
        """Return a folder below this one; nothing is created."""
        return LocalObjects(self.path.joinpath(*names))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.path / name).read_bytes()

    def sizes(self, folder: str) -> dict[str, int]:
        """Return sizes of the files in a folder; names that begin with a dot, or hold a #, are files being written."""
        below = self.path / folder
        if not below.is_dir():
            return {}
        found = (path for path in below.iterdir() if _is_whole(path.name))
        return {path.name: path.stat().st_size for path in found if path.is_file()}

    def folders(self, folder: str = "") -> list[str]:
        """Return names of folders."""
        below = self.path / folder
        return sorted(path.name for path in below.iterdir() if path.is_dir()) if below.is_dir() else []

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        path = self.path / name
        make_folder(path.parent)
        write_durably(path, content)

    def delete(self, name: str) -> None:
        """Unlink a file."""
        (self.path / name).unlink(missing_ok=True)

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        make_folder((self.path / target).parent)
        (self.path / name).rename(self.path / target)
        sync_all({(self.path / name).parent, (self.path / target).parent})

    def sync(self, names: Iterable[str]) -> None:
        """Sync files, their folders, and the folders of the repository."""
        paths = [self.path / name for name in names]
        sync_all(paths)
        sync_all({*(path.parent for path in paths), self.path, *self.path.parents[:3]})

    def sync_ahead(self, folder: str) -> Callable[[], set[str]]:
        """Sync files in a thread."""
        return SyncAhead(self.path / folder, _is_whole).stop


def _is_whole(name: str) -> bool:
    return not name.startswith(".") and "#" not in name
