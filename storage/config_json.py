"""Read a dataclass back from the JSON that ``storage.digests.config_json`` wrote."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from storage.errors import ErrorKind, IntegrityError

Config = TypeVar("Config")
_ABSENT = "absent"


def added_later(meaning: Any, default: Any = dataclasses.MISSING) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Return a field that files from before do not have.

    Args:
        meaning: What its absence means in them.
        default: Its value in a new configuration; the same if none is given.
    """
    return dataclasses.field(
        default=meaning if default is dataclasses.MISSING else default, metadata={_ABSENT: meaning}
    )


def config_from_json(config_type: type[Config], raw: object, key: str = "config") -> Config:
    """Build a dataclass from plain JSON values; a missing or unknown field, or another type, is an error.

    A field that has a default is still required, because the default may have changed since the file was written,
    unless it says by :func:`added_later` what its absence means. An integer may stand for a float; nothing else is
    converted.

    Args:
        config_type: The dataclass to build.
        raw: Values as ``json.load`` returns them.
        key: Origin of ``raw``, for the error.

    Raises:
        IntegrityError: If a field does not fit; the key is ``key`` with the dotted name of the field.
    """
    try:
        value = _adapter(config_type).validate_json(json.dumps(raw), strict=True)  # as JSON: a list may be a tuple
    except ValidationError as error:
        first = error.errors()[0]
        at = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, at, _told(first)) from error
    _check_fields(value, raw, key)
    return _as_then(value, raw)


@functools.cache
def _adapter(config_type: type) -> Any:  # noqa: ANN401 - beartype does not know pydantic's generic types
    return TypeAdapter(config_type)


def _told(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"is {error['input']!r}, want {error['msg'].removeprefix('Input should be ')}"


def _check_fields(value: object, raw: Any, key: str) -> None:  # noqa: ANN401 - JSON is untyped
    """Refuse missing and unknown fields; pydantic would fill in the first and ignore the second."""
    if dataclasses.is_dataclass(value):
        names = {field.name for field in dataclasses.fields(value)}
        late = {field.name for field in dataclasses.fields(value) if _ABSENT in field.metadata}
        if wrong := sorted((names ^ set(raw)) - (late - set(raw))):
            fate = "is missing" if wrong[0] in names else f"is unknown, want some of {', '.join(sorted(names))}"
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{key}.{wrong[0]}", fate)
        for name in names & set(raw):
            _check_fields(getattr(value, name), raw[name], f"{key}.{name}")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_fields(inner, raw[name], f"{key}.{name}")
    elif isinstance(value, tuple | list):
        for index, inner in enumerate(value):
            _check_fields(inner, raw[index], f"{key}[{index}]")


def _as_then(value: Any, raw: Any) -> Any:  # noqa: ANN401 - JSON is untyped
    """Return a value whose absent fields have the meaning of their absence, in place of today's defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        then = {
            field.name: _as_then(getattr(value, field.name), raw[field.name])
            if field.name in raw
            else field.metadata[_ABSENT]
            for field in dataclasses.fields(value)
        }
        changed = {name: inner for name, inner in then.items() if inner is not getattr(value, name)}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        inner = tuple(_as_then(one, part) for one, part in zip(value, raw, strict=True))
        return value if all(new is old for new, old in zip(inner, value, strict=True)) else inner
    if isinstance(value, Mapping):
        return {name: _as_then(inner, raw[name]) for name, inner in value.items()}
    return value
