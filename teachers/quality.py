"""Quality gates: named checks with value and threshold, stored with the version they judge."""

import math
from collections.abc import Mapping
from typing import Any


def at_least(value: float | int, threshold: float | int) -> dict[str, Any]:
    """Return a check that passes when the value reaches the threshold; an undefined value fails."""
    return {"value": value, "threshold": threshold, "passed": bool(math.isfinite(value) and value >= threshold)}


def at_most(value: float | int, threshold: float | int) -> dict[str, Any]:
    """Return a check that passes when the value is at most the threshold; an undefined value fails."""
    return {"value": value, "threshold": threshold, "passed": bool(math.isfinite(value) and value <= threshold)}


def undecided(threshold: float | int, reason: str) -> dict[str, Any]:
    """Return a check that nothing can decide, and why: it does not pass, and does not hold the version back."""
    return {"value": math.nan, "threshold": threshold, "passed": False, "undecided": reason}


def gate(checks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the quality gate of a version: it passes when every check that is decided does, and there is one."""
    decided = [check["passed"] for check in checks.values() if "undecided" not in check]
    return {"passed": bool(decided) and all(decided), "checks": dict(checks)}
