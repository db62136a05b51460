"""Read a detectron2 configuration as plain data: nothing in a file can run, and no file outside its folder is read.

detectron2's own reader allows YAML tags that call functions. Here, a file is a mapping of names to numbers, texts,
lists and mappings, or it is refused. ``_BASE_`` names files whose values it inherits, as detectron2 defines it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.plain_yaml import parse_yaml

MAX_BYTES = 32 * 1024
"""Largest file that is parsed; published ones have 1 kB, a complete one that detectron2 wrote about 9 kB."""
MAX_DEPTH = 32
"""Deepest nesting of values, and longest chain of bases."""

_BASE = "_BASE_"
_PLAIN = (str, int, float, bool, type(None))


class DetectronConfig(NamedTuple):
    """A configuration and where it comes from.

    Attributes:
        values: Plain nested values, bases merged in.
        files: Every file that was read, the configuration itself last.
    """

    values: dict[str, Any]
    files: tuple[Path, ...]


def read_detectron_config(path: Path, *, root: Path | None = None) -> DetectronConfig:
    """Read a configuration with its bases.

    Args:
        path: YAML file.
        root: Folder that all its bases must lie in; the file's own folder by default.

    Raises:
        MissingTargetError: If the file or a base is missing.
        IntegrityError: If a file is too large, no YAML, holds a tag, an alias or another value than plain ones, or
            names a base outside ``root`` or itself.
    """
    return _read(path, (root or path.parent).resolve(), ())


def _read(path: Path, root: Path, above: tuple[Path, ...]) -> DetectronConfig:
    if len(above) == MAX_DEPTH or path.resolve() in above:
        raise _invalid(path, f"{_BASE} leads back to it, or over more than {MAX_DEPTH} files")
    values = _parse(path)
    merged: dict[str, Any] = {}
    files: list[Path] = []
    bases = values.pop(_BASE, [])
    for name in bases if isinstance(bases, list) else [bases]:
        read = _read(_base(path, name, root), root, (*above, path.resolve()))
        merged = _merged(merged, read.values, path)
        files += read.files
    return DetectronConfig(_merged(merged, values, path), (*files, path))


def _base(path: Path, name: object, root: Path) -> Path:
    if not isinstance(name, str):
        raise _invalid(path, f"{_BASE} is {name!r}, want names of files")
    base = path.parent / name
    if not base.resolve().is_relative_to(root):
        raise _invalid(
            path,
            f"{_BASE} {name!r} lies outside {root}: 'distillnerf weights convert pointrend --config-root' names the "
            "folder that holds it, and writes one file without bases",
        )
    return base


def _parse(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(path), "no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise _invalid(path, f"has {size} bytes, want <= {MAX_BYTES}")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise _invalid(path, f"is no plain YAML: {' '.join(str(error).split())}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _invalid(path, f"is no plain YAML: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise _invalid(path, f"holds {type(values).__name__}, want a mapping")
    for value, depth in _walk(values):
        names = value if isinstance(value, Mapping) else ()
        if depth > MAX_DEPTH or not isinstance(value, (*_PLAIN, list, dict)) or any(type(n) is not str for n in names):
            raise _invalid(path, f"holds {str(value)[:80]!r}, want numbers, texts, lists and mappings of names")
    return values


def _walk(root: object) -> Iterator[tuple[object, int]]:
    waiting = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, dict | list) and depth <= MAX_DEPTH:
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a configuration over its base: mappings are merged, anything else replaces."""
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, Mapping) and name in merged:
            if not isinstance(merged[name], Mapping):
                raise _invalid(path, f"{name} is a mapping, in its base it is {merged[name]!r}")
            merged[name] = _merged(merged[name], value, path)
        else:
            merged[name] = value
    return merged


def _invalid(path: Path, message: str) -> IntegrityError:
    return IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), message)
