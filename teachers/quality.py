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


def gate(checks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the quality gate of a version: it passes when every check does."""
    return {"passed": all(check["passed"] for check in checks.values()), "checks": dict(checks)}
