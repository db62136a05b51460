"""The type checker of the tests: beartype, on the first calls of each function in a process and on a share of the rest.

A function that is called a hundred thousand times is small, and a check of its arguments takes longer than it does.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import beartype

FIRST_CALLS = 200
SHARE_OF_THE_REST = 50


def first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its annotations enforced in its first calls, and then in every fiftieth."""
    checked, calls = beartype(function), 0

    @wraps(function)
    def sometimes_checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_checked = calls <= FIRST_CALLS or calls % SHARE_OF_THE_REST == 0
        return (checked if is_checked else function)(*args, **kwargs)

    return sometimes_checked
