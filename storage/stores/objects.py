"""The objects of one Icechunk repository as plain bytes, in a folder or below a prefix of a bucket."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from pyarrow import fs

from storage.stores.durable import SyncAhead, make_folder, sync_all, write_durably


class ObjectFolder(ABC):
    """Objects by name, such as ``snapshots/ZYDW2SXQD5G08JD9DM60``, relative to their repository."""

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
    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object in one step, durably."""

    @abstractmethod
    def move(self, name: str, target: str) -> None:
        """Give an object another name."""

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
        path: Folder of the repository.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        path = self.path / name
        make_folder(path.parent)
        write_durably(path, content)

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


class BucketObjects(ObjectFolder):
    """Objects of a bucket.

    Args:
        filesystem: Arrow's view of the bucket.
        base: Bucket and prefix of the repository.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self.filesystem, self.base = filesystem, base

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
            return stream.read()

    def sizes(self, folder: str) -> dict[str, int]:
        """Return sizes of the objects below a prefix."""
        found = self.filesystem.get_file_info(fs.FileSelector(f"{self.base}/{folder}", allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type is fs.FileType.File}

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        with self.filesystem.open_output_stream(f"{self.base}/{name}") as stream:
            stream.write(content)

    def move(self, name: str, target: str) -> None:
        """Copy an object, then delete it."""
        self.filesystem.move(f"{self.base}/{name}", f"{self.base}/{target}")

    def sync(self, names: Iterable[str]) -> None:
        """Do nothing: what a bucket took, it keeps."""

    def sync_ahead(self, folder: str) -> Callable[[], set[str]]:
        """Do nothing."""
        return set


def _is_whole(name: str) -> bool:
    return not name.startswith(".") and "#" not in name
