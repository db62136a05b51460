"""Change single fields of a configuration by name: ``dotted.name=value``, checked against the dataclass.

Dagster's run config and the command line both use this, so they refuse a wrong name or type in the same words.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from storage.digests import canonical_json

T = TypeVar("T")


def apply_overrides(config: T, overrides: Sequence[str]) -> T:
    """Return the configuration with each override applied, in order.

    Args:
        config: A frozen dataclass, nested or not.
        overrides: Changes ``dotted.name=value``. The value is read as the field's own type; tuples are written as JSON
            lists, None as ``none``.

    Raises:
        ValueError: If an override has an unknown field, a wrong type or a value out of range; the message names it.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"override {override!r}: want dotted.name=value")
        try:
            config = _replace(config, name.strip().split("."), text.strip())
        except ValueError as error:
            raise ValueError(f"override {override!r}: {error}") from error
    return config


def check_overrides(config_type: type, overrides: Sequence[str]) -> None:
    """Check names and types of overrides before the configuration that they change is known.

    Raises:
        ValueError: If a name or type is wrong; the message names the override.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"override {override!r}: want dotted.name=value")
        try:
            owner = config_type
            *path, last = name.strip().split(".")
            for step in path:
                owner = _dataclass_of(_hint(owner, step), step)
            _read(_hint(owner, last), text.strip())
        except ValueError as error:
            raise ValueError(f"override {override!r}: {error}") from error


def differences(base: Any, changed: Any, prefix: str = "") -> Iterator[str]:  # noqa: ANN401 - any field value
    """Yield the overrides that turn ``base`` into ``changed``, two dataclasses of one type."""
    for field in dataclasses.fields(base):
        before, after = getattr(base, field.name), getattr(changed, field.name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            yield from differences(before, after, f"{prefix}{field.name}.")
        elif before != after:
            yield f"{prefix}{field.name}={_write(after)}"


def _replace(config: Any, path: list[str], text: str) -> Any:  # noqa: ANN401 - any dataclass
    name, *rest = path
    hint = _hint(type(config), name)
    current = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise ValueError(f"{name!r} is {current!r}, which has no field {rest[0]!r}")
        return dataclasses.replace(config, **{name: _replace(current, rest, text)})
    return dataclasses.replace(config, **{name: _read(hint, text)})


def _hint(owner: type, name: str) -> Any:  # noqa: ANN401 - an annotation
    known = [f.name for f in dataclasses.fields(owner)]
    if name not in known:
        raise ValueError(f"{owner.__name__} has no field {name!r}, want one of {', '.join(known)}")
    return typing.get_type_hints(owner)[name]


def _dataclass_of(hint: Any, name: str) -> type:  # noqa: ANN401 - an annotation
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    raise ValueError(f"{name!r} is {hint}, which has no fields")


def _read(hint: Any, text: str) -> Any:  # noqa: ANN401 - annotations and values
    """Read a value as its annotated type; strings come first, so that a name that looks like a number stays a name."""
    dataclass_config = ConfigDict(extra="forbid")
    adapter = TypeAdapter(hint) if _is_dataclass(hint) else TypeAdapter(hint, config=dataclass_config)
    if text.lower() in ("none", "null") and type(None) in typing.get_args(hint):
        return None
    try:
        return adapter.validate_strings(text)
    except ValidationError as as_text:
        try:
            return adapter.validate_json(text)
        except ValidationError:
            raise ValueError(f"{text!r} is no {_spelled(hint)}: {as_text.errors()[0]['msg'].lower()}") from None


def _is_dataclass(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _spelled(hint: Any) -> str:  # noqa: ANN401 - an annotation
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _write(value: Any) -> str:  # noqa: ANN401 - any field value
    if value is None:
        return "none"
    written = canonical_json(value)
    return json.loads(written) if written.startswith('"') else written
