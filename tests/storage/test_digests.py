"""Every value has one spelling, however it came to be."""

import enum
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from storage.digests import canonical_json


class Word(enum.StrEnum):
    ONE = "one"


class Number(enum.IntEnum):
    THREE = 3


@dataclass(frozen=True)
class Pair:
    first: object
    second: object


def test_values_are_spelled_by_what_they_mean() -> None:
    plain = {"2": [None, True, 2, 0.5, "é"], "None": {"one": 3}, "True": "/a/b"}
    other = OrderedDict({True: Path("/a/b"), None: {Word.ONE: Number.THREE}, 2: (None, True, 2, 0.5, "é")})
    assert canonical_json(plain) == '{"2":[null,true,2,0.5,"é"],"None":{"one":3},"True":"/a/b"}'
    assert canonical_json(other) == canonical_json(plain)


def test_classes_and_sets_are_spelled_wherever_they_stand() -> None:
    nested = [{"pair": Pair(Word.ONE, (Pair(1, {"b", "a"}),))}]
    assert canonical_json(nested) == '[{"pair":{"first":"one","second":[{"first":1,"second":["a","b"]}]}}]'
