"""One spelling of values as JSON, and SHA-256 digests of values, configurations and files."""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np


def canonical_json(value: object) -> str:
    """Return one spelling of ``value``: sorted keys, no spaces, dataclasses and enums resolved.

    Raises:
        ValueError: If a number is not finite; JSON has no form for it.
        TypeError: If a value has no JSON form.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_SCALARS = (str, int, float, bool, type(None))
"""Types of most values, whose spelling needs no look at what else they may be."""


def _plain(value: object) -> object:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {str(k): v if type(v) in _SCALARS else _plain(v) for k, v in cast("dict[Any, Any]", value).items()}
    if kind is list or kind is tuple:
        return [v if type(v) in _SCALARS else _plain(v) for v in cast("list[Any]", value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(v) for v in value)  # type: ignore[type-var]  # JSON scalars of one type
    if isinstance(value, Path):
        return str(value)
    return value


def undefined_as_null(value: Any) -> Any:  # noqa: ANN401 - JSON is untyped
    """Return metrics as plain JSON values, what is not finite as None: JSON has no NaN, an undefined metric is null."""
    if isinstance(value, Mapping):
        return {str(k): undefined_as_null(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [undefined_as_null(v) for v in value]
    if isinstance(value, np.generic | np.ndarray):
        return undefined_as_null(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest_of(value: object) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def config_digest(config: object) -> str:
    """Return the SHA-256 of a configuration dataclass, class name included."""
    return digest_of({"type": type(config).__name__, "value": config})


def config_json(config: object) -> dict[str, Any]:
    """Return a configuration dataclass as plain JSON values."""
    return json.loads(canonical_json(config))


def bytes_digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 (hex) of raw bytes."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path | str) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
