"""The one reader from JSON to dataclasses: what it takes, and what it refuses by name."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.config_json import added_later, config_from_json
from storage.digests import canonical_json, config_json
from storage.errors import ErrorKind, IntegrityError


class Form(StrEnum):
    ROUND = "round"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    count: int = 3
    size: float

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner
    several: tuple[Inner, ...] = ()
    pair: tuple[float, int]
    word: Literal["a", "b"] = "a"
    form: Form
    path: Path | None = None
    is_on: bool
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)


VALUE = Outer(
    inner=Inner(size=0.1),
    several=(Inner(size=2.0), Inner(count=0, size=-1e-300)),
    pair=(1e22, 7),
    form=Form.ROUND,
    path=Path("/a/b"),
    is_on=True,
    by_name={"x": Inner(size=1.0)},
    anything={"a": 1.0, "b": [1, None, {"c": "3"}]},
)


def written(**changes: object) -> dict[str, Any]:
    return {**config_json(VALUE), **changes}


def test_what_was_written_is_read_back() -> None:
    read = config_from_json(Outer, json.loads(json.dumps(written())))
    assert read == VALUE
    assert canonical_json(read) == canonical_json(VALUE)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_every_bit(number: float) -> None:
    read = config_from_json(Inner, {"count": 0, "size": number})
    assert (read.size, math.copysign(1, read.size)) == (number, math.copysign(1, number))


def test_an_integer_may_stand_for_a_float() -> None:
    size = config_from_json(Inner, {"count": 1, "size": 2}).size
    assert (size, type(size)) == (2.0, float)


@pytest.mark.parametrize(
    ("raw", "key", "message"),
    [
        (3, "file", "is 3, want an object"),
        (written(inner=None), "file.inner", "is None, want an object"),
        (written(inner={"size": 1.0}), "file.inner.count", "is missing"),
        (written(inner={"count": 1}), "file.inner.size", "is missing"),
        (written(inner={"count": 1, "size": 1.0, "colour": 0}), "file.inner.colour", "is unknown, want some of count"),
        (written(several=[{"count": 1, "size": 1.0}, {"size": 1.0}]), "file.several[1].count", "is missing"),
        (written(by_name={"x": {"size": 1.0}}), "file.by_name.x.count", "is missing"),
        (written(inner={"count": "3", "size": 1.0}), "file.inner.count", "is '3', want a valid integer"),
        (written(inner={"count": 3.0, "size": 1.0}), "file.inner.count", "is 3.0, want a valid integer"),
        (written(inner={"count": True, "size": 1.0}), "file.inner.count", "is True, want a valid integer"),
        (written(inner={"count": 1, "size": "1.0"}), "file.inner.size", "is '1.0', want a valid number"),
        (written(inner={"count": 1, "size": False}), "file.inner.size", "is False, want a valid number"),
        (written(inner={"count": -1, "size": 1.0}), "file.inner", "count must not be negative, got -1"),
        (written(pair=[1.0]), "file.pair[1]", "is missing"),
        (written(word="c"), "file.word", "is 'c', want 'a' or 'b'"),
        (written(form="square"), "file.form", "is 'square', want 'round'"),
        (written(is_on=1), "file.is_on", "is 1, want a valid boolean"),
        (written(extra=1), "file.extra", "is unknown"),
        ({name: value for name, value in written().items() if name != "word"}, "file.word", "is missing"),
    ],
)
def test_a_bad_field_is_named(raw: object, key: str, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        config_from_json(Outer, raw, "file")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.SCHEMA_UNKNOWN, key)
    assert message in caught.value.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    name: str
    width: int = added_later(0)
    height: int = 3


def test_a_field_that_came_later_may_be_absent_and_means_what_it_says():
    assert config_from_json(Grown, {"name": "a", "height": 3}) == Grown(name="a", width=0, height=3)
    assert config_from_json(Grown, {"name": "a", "height": 3, "width": 5}).width == 5
    with pytest.raises(IntegrityError, match="height: is missing"):
        config_from_json(Grown, {"name": "a", "width": 5})
    with pytest.raises(IntegrityError, match="depth: is unknown"):
        config_from_json(Grown, {"name": "a", "height": 3, "depth": 1})


@dataclass(frozen=True, kw_only=True)
class Wheel:
    name: str = "a"
    rate: float = added_later(1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Cart:
    wheel: Wheel = field(default_factory=Wheel)
    several: tuple[Wheel, ...] = ()


def test_a_default_that_is_newer_than_a_file_does_not_change_what_the_file_means():
    assert Wheel().rate == 2.0
    old = {"wheel": {"name": "b"}, "several": [{"name": "c"}, {"name": "d", "rate": 3.0}]}
    assert config_from_json(Cart, old) == Cart(
        wheel=Wheel(name="b", rate=1.0), several=(Wheel(name="c", rate=1.0), Wheel(name="d", rate=3.0))
    )
    new = {"wheel": {"name": "b", "rate": 2.0}, "several": []}
    assert config_from_json(Cart, new) == Cart(wheel=Wheel(name="b"))
