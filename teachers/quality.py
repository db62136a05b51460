"""Quality gates: named checks with value and threshold, stored with the version they judge."""

import math
from collections.abc import Mapping
from typing import Any


def at_least(value: float | int, threshold: float | int, *, where: str = "", hint: str = "") -> dict[str, Any]:
    """Return a check that passes when the value reaches the threshold; an undefined value fails.

    Args:
        value: Figure.
        threshold: Least value that passes.
        where: Place of the worst value, for people: a camera, a frame.
        hint: What to do if it fails, one sentence; kept only then.
    """
    return _check(value, threshold, bool(math.isfinite(value) and value >= threshold), where, hint)


def at_most(value: float | int, threshold: float | int, *, where: str = "", hint: str = "") -> dict[str, Any]:
    """Return a check that passes when the value is at most the threshold; an undefined value fails.

    See :func:`at_least` for the rest.
    """
    return _check(value, threshold, bool(math.isfinite(value) and value <= threshold), where, hint)


def undecided(threshold: float | int, reason: str) -> dict[str, Any]:
    """Return a check that nothing can decide, and why: it does not pass, and does not hold the version back."""
    return {"value": math.nan, "threshold": threshold, "passed": False, "undecided": reason}


def gate(checks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the quality gate of a version: it passes when every check that is decided does, and there is one."""
    decided = [check["passed"] for check in checks.values() if "undecided" not in check]
    return {"passed": bool(decided) and all(decided), "checks": dict(checks)}


def _check(value: float | int, threshold: float | int, passed: bool, where: str, hint: str) -> dict[str, Any]:
    check: dict[str, Any] = {"value": value, "threshold": threshold, "passed": passed}
    if where:
        check["where"] = where
    if hint and not passed:
        check["hint"] = hint
    return check
