"""Read a configuration dataclass back from the JSON that was stored with a checkpoint."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import ErrorKind, IntegrityError

Config = TypeVar("Config")


def config_from_json(config_type: type[Config], raw: object, key: str = "config") -> Config:
    """Build a configuration from plain JSON values, strictly: no field may be missing, unknown or of another type.

    A field that has a default is still required: a default that changed since the file was written would otherwise
    change the model silently.

    Args:
        config_type: The dataclass to build.
        raw: What ``json.load`` returned.
        key: Where ``raw`` came from, for the error.

    Raises:
        IntegrityError: Naming the field.
    """
    fields = {field.name for field in dataclasses.fields(config_type)}  # pyright: ignore[reportArgumentType]
    if not isinstance(raw, Mapping):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"is {raw!r}, want an object")
    if wrong := fields ^ set(raw):
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"fields {sorted(wrong)} are missing or unknown")
    hints = typing.get_type_hints(config_type)
    values = {name: _value(hints[name], raw[name], f"{key}.{name}") for name in fields}
    try:
        return config_type(**values)
    except ValueError as error:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, str(error)) from error


def _value(hint: Any, raw: Any, key: str) -> Any:  # noqa: ANN401 - JSON and type hints are untyped
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return config_from_json(typing.cast(type, hint), raw, key)
    if origin in {typing.Union, types.UnionType}:
        if raw is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _value(inner, raw, key)
    if origin is tuple and isinstance(raw, list):
        items = arguments[:1] * len(raw) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(raw):
            return tuple(_value(item, value, f"{key}[{i}]") for i, (item, value) in enumerate(zip(items, raw)))  # noqa: B905 - equal lengths, just checked
    if origin is typing.Literal and raw in arguments:
        return raw
    if hint is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    if hint is Path and isinstance(raw, str):
        return Path(raw)
    if hint in {int, str, bool} and type(raw) is hint:
        return raw
    raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, key, f"is {raw!r}, want {hint}")
