"""Names of stored versions for people: ``kind/partition``, ``kind/partition@digest``, a folder, or a student's name."""

import json
from pathlib import Path
from typing import get_args

from storage.errors import ErrorKind, MissingTargetError
from storage.stores.versioned import Home, StoreVersion
from student.config import Variant

_MIN_DIGEST_PREFIX = 6


def find_version(home: Home, text: str) -> StoreVersion:
    """Return the version that a text names.

    Args:
        home: Home to search.
        text: ``kind/partition`` for its current version, ``kind/partition@digest`` with at least six digits of the
            digest, the folder of an artifact or a file in it, or the variant of a student for its checkpoint.

    Raises:
        MissingTargetError: If no version fits, or several digests begin with the digits given.
        ValueError: If the text has none of these forms.
    """
    if text in get_args(Variant):
        return home.require("student_checkpoint", text)
    path = Path(text)
    if path.exists():
        return _of_folder(home, path if path.is_dir() else path.parent)
    name, _, digest = text.partition("@")
    kind, slash, partition = name.partition("/")
    if not slash or not kind or not partition:
        raise ValueError(f"{text!r}: want kind/partition, kind/partition@digest, a folder, or a student's variant")
    if not digest:
        return home.require(kind, partition)
    if len(digest) < _MIN_DIGEST_PREFIX:
        raise ValueError(f"{text!r}: want at least {_MIN_DIGEST_PREFIX} digits of the digest")
    matches = [v for v in home.versions(kind, partition) if v.digest.startswith(digest)]
    if len(matches) != 1:
        raise MissingTargetError(ErrorKind.STORE_MISSING, text, f"{len(matches)} versions begin so, want one")
    return matches[0]


def _of_folder(home: Home, folder: Path) -> StoreVersion:
    record = folder / "provenance.json"
    if not record.is_file():
        raise ValueError(f"{folder} holds no provenance.json: want the folder of an artifact")
    raw = json.loads(record.read_text())
    return home.require(raw["kind"], raw["partition"], folder.resolve().name)
