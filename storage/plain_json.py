"""Parse JSON of any origin: whatever is no JSON of a sensible depth is one kind of error."""

import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
"""Deepest nesting of lists and objects. Nothing here needs more than 20; each level costs readers a call."""


def parse_json(content: str | bytes, *, parse_constant: Callable[[str], Any] | None = None) -> Any:  # noqa: ANN401 - JSON is untyped
    """Return the values of a JSON document.

    Args:
        content: The document; bytes in UTF-8, UTF-16 or UTF-32.
        parse_constant: Called for NaN, Infinity and -Infinity, which are no JSON; by default they become floats.

    Raises:
        ValueError: If it is no JSON, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        document = json.loads(content, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    level, depth = [document], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, dict | list)
    ]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return document
