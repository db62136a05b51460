"""Scenes that a home knows and no longer uses: their stores stay, and nothing takes them by itself.

A retired scene has no partition, no sensor adds it again, and commands that take "all scenes" pass it by. Whoever names
it takes it back.
"""

import json
from collections.abc import Iterable

from storage.errors import ErrorKind, IntegrityError
from storage.keys import SceneKey
from storage.plain_json import parse_json
from storage.stores.versioned import Home

_FILE = "retired_scenes.json"


def retired_scenes(home: Home) -> dict[str, str]:
    """Return the reason of each retired scene, by key.

    Raises:
        IntegrityError: If the list was not written by this module.
    """
    try:
        listed = parse_json(home.objects.read(_FILE).decode())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, _FILE, f"is no list of retired scenes: {error}") from error
    if not isinstance(listed, dict) or not all(isinstance(reason, str) for reason in listed.values()):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, _FILE, "is no list of retired scenes: want {key: reason}")
    return listed


def retire(home: Home, keys: Iterable[str], reason: str) -> None:
    """Add scenes to the list of retired ones."""
    _write(home, retired_scenes(home) | {str(SceneKey.parse(key)): reason for key in keys})


def take_back(home: Home, keys: Iterable[str]) -> list[str]:
    """Take scenes off the list of retired ones, and return those that were on it."""
    listed = retired_scenes(home)
    back = [key for key in keys if listed.pop(key, None) is not None]
    if back:
        _write(home, listed)
    return back


def _write(home: Home, listed: dict[str, str]) -> None:
    home.objects.write(_FILE, (json.dumps(listed, indent=2, sort_keys=True) + "\n").encode())
