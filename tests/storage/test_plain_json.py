"""JSON of any origin gives values or a ``ValueError``, quickly."""

import json

import pytest

from storage.plain_json import MAX_DEPTH, parse_json


def test_values_come_back() -> None:
    document = {"a": [1, 2.5, None, True, {"b": "ü"}], "c": {}}
    assert parse_json(json.dumps(document)) == document
    assert parse_json(json.dumps(document).encode("utf-16")) == document


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("closes", [True, False])
def test_a_million_levels_are_an_error(opening: str, closes: bool) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH} levels"):
        parse_json(opening * 1_000_000 + (f"0{closing * 1_000_000}" if closes else ""))


def test_the_limit_of_depth_is_exact() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("content", ["", "{", b"\xff\xff\xff", "[1" + "0" * 5000 + "]"])
def test_what_is_no_json_is_a_value_error(content: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of json's own
        parse_json(content)


def test_constants_can_be_refused() -> None:
    def refuse(name: str) -> float:
        raise ValueError(name)

    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]", parse_constant=refuse)
