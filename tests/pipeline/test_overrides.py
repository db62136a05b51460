"""Overrides by name: read as the field's own type, refused in words that name them."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.overrides import apply_overrides, check_overrides, differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")
    margin: tuple[float, float] = (3.0, 0.8)
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate {self.rate}, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    steps: int = 10
    mode: Literal["slow", "fast"] = "slow"
    is_on: bool = False
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_each_value_is_read_as_its_field_wants() -> None:
    changed = apply_overrides(
        Outer(),
        [
            "steps=30",
            "mode=fast",
            "is_on=true",
            "name=12",
            "inner.rate=1e-3",
            'inner.names=["c"]',
            "inner.margin=[2, 1]",
            "inner.limit=4",
        ],
    )
    inner = Inner(rate=1e-3, names=("c",), margin=(2.0, 1.0), limit=4.0)
    assert changed == Outer(steps=30, mode="fast", is_on=True, name="12", inner=inner)


def test_later_overrides_win_and_none_is_a_value() -> None:
    assert apply_overrides(Outer(), ["steps=1", "steps=2"]).steps == 2
    assert apply_overrides(Outer(inner=Inner(limit=1.0)), ["inner.limit=none"]).inner.limit is None


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("step=3", "no field 'step'"),
        ("steps=three", "'three' is no int"),
        ("steps=3.5", "is no int"),
        ("mode=medium", "'slow', 'fast'"),
        ("inner.rate=-1", "rate -1.0, want > 0"),
        ("inner.margin=[1]", "is no tuple"),
        ("steps.more=1", "no field 'more'"),
        ("inner.nothing=1", "Inner has no field 'nothing'"),
        ("inner=5", "'5' is no Inner"),
        ("steps", "want dotted.name=value"),
        ("=3", "want dotted.name=value"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(override: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="override") as refused:
        apply_overrides(Outer(), [override])
    assert repr(override) in str(refused.value)
    assert complaint in str(refused.value)


def test_names_and_types_are_checked_without_a_configuration() -> None:
    check_overrides(Outer, ["inner.rate=-1", "steps=2"])  # the range is the preset's to judge
    for wrong in ("step=3", "steps=three", "inner.nothing=1", "steps.more=1"):
        with pytest.raises(ValueError, match="override"):
            check_overrides(Outer, [wrong])


@given(
    steps=st.integers(-(10**6), 10**6),
    mode=st.sampled_from(["slow", "fast"]),
    is_on=st.booleans(),
    rate=st.floats(1e-9, 1e9),
    names=st.lists(st.text(max_size=5), max_size=3),
    limit=st.none() | st.floats(-1e6, 1e6),
)
def test_differences_turn_one_configuration_into_the_other(
    steps: int, mode: Literal["slow", "fast"], is_on: bool, rate: float, names: list[str], limit: float | None
) -> None:
    wanted = Outer(steps=steps, mode=mode, is_on=is_on, inner=Inner(rate=rate, names=tuple(names), limit=limit))
    overrides = list(differences(Outer(), wanted))
    assert apply_overrides(Outer(), overrides) == wanted
    json.dumps(overrides)
