"""The files of one scene: each is found and hashed once, and checked against that hash on every later read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from storage.digests import bytes_digest
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.known_digests import KnownDigests
from storage.ingest.raw_files import read_bytes, resolve_inside
from storage.ingest.read_ahead import reading_pool


class SourceFiles:
    """Files below a source's root, read only with the content that the provenance names.

    Args:
        root: Folder below which every file lies.
        link_roots: Further folders that links below it may lead into.
        known: Digests of files that need not be read to be hashed; by default none.
    """

    def __init__(self, root: Path, link_roots: Sequence[Path] = (), known: KnownDigests | None = None) -> None:
        self._root, self._link_roots = root, tuple(link_roots)
        self._known = known or KnownDigests()
        self._paths: dict[str, Path] = {}
        self._digests: dict[str, str] = {}

    def read(self, file: str) -> bytes:
        """Return a file's content; safe to call from several threads.

        Raises:
            SourceDataError: If the file is missing, outside the root or unreadable, or changed since it was first read.
        """
        content = read_bytes(self._path(file), file)
        seen = bytes_digest(content)
        wanted = self._digests.setdefault(file, seen)
        if seen != wanted:
            message = f"SHA-256 is {seen}, was {wanted} when it was hashed: it changed since"
            raise SourceDataError(ErrorKind.DIGEST_MISMATCH, file, message)
        return content

    def digests(self, files: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of each file; one that has been read, or whose digest is known, is not read again.

        Raises:
            SourceDataError: See ``read``.
        """
        wanted = list(dict.fromkeys(files))
        with reading_pool() as pool:
            for _ in pool.map(self._hash, [file for file in wanted if file not in self._digests]):
                pass
        return {file: self._digests[file] for file in wanted}

    def _hash(self, file: str) -> None:
        digest = self._known.digest(file, self._path(file), lambda: bytes_digest(self.read(file)))
        self._digests.setdefault(file, digest)

    def _path(self, file: str) -> Path:
        return self._paths.get(file) or self._paths.setdefault(file, resolve_inside(self._root, file, self._link_roots))
