"""What a quality gate said, and of which content: read strictly, because a verdict that is misread lets bad data pass.

A version keeps the record of its gate among its metrics, under ``quality``: ``passed``, ``checks`` by name, and
``content``, the digest of what was judged. A record that was copied to other content therefore vouches for nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import ErrorKind, IntegrityError, MissingTargetError

QUALITY = "quality"
"""Name of a gate's record among the metrics of a version."""

CONTENT = "content"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One check of a gate.

    Attributes:
        name: What was measured.
        value: The figure; NaN where it is undefined.
        threshold: Its limit; NaN where it is undefined.
        passed: Whether it was reached; False for a check that was not decided.
        undecided: Why nothing could decide it; empty for a check that was decided.
        where: Place of the worst value.
        hint: What to do about it.
    """

    name: str
    value: float | int
    threshold: float | int
    passed: bool
    undecided: str = ""
    where: str = ""
    hint: str = ""

    @property
    def failed(self) -> bool:
        """Return whether it was decided, and missed."""
        return not self.passed and not self.undecided

    @property
    def side(self) -> str:
        """Return the side of the threshold that passes, "≥" or "≤", as the outcome tells; empty where it does not."""
        if self.undecided or math.isnan(self.value) or self.value == self.threshold:
            return ""
        return "≥" if self.passed == (self.value > self.threshold) else "≤"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """The stored outcome of a gate.

    Attributes:
        passed: The verdict.
        checks: The checks, as they were stored.
        content: Digest of the content that was judged; empty in a record from before it was kept.
    """

    passed: bool
    checks: tuple[GateCheck, ...]
    content: str = ""

    @classmethod
    def of(cls, metrics: Mapping[str, Any], key: str) -> "GateRecord | None":
        """Return the record among the metrics of a version, or None if no gate was run.

        Args:
            metrics: The metrics.
            key: Name of the version, for errors.

        Raises:
            IntegrityError: If a verdict is not a JSON boolean, or contradicts its own checks.
        """
        quality = metrics.get(QUALITY)
        if quality is None:
            return None
        if not isinstance(quality, Mapping):
            raise _broken(key, QUALITY, quality, "an object")
        checks = quality.get("checks")
        if not isinstance(checks, Mapping):
            raise _broken(key, f"{QUALITY}.checks", checks, "an object")
        record = cls(
            passed=_boolean(quality, key, QUALITY),
            checks=tuple(_check(name, check, f"{QUALITY}.checks.{name}", key) for name, check in checks.items()),
            content=str(quality.get(CONTENT, "")),
        )
        decided = [check for check in record.checks if not check.undecided]
        missed = [check.name for check in decided if not check.passed]
        if record.passed and (missed or not decided):
            seen = f"missed {', '.join(missed)}" if missed else "decided nothing"
            raise IntegrityError(ErrorKind.STORE_CORRUPT, key, f"{QUALITY}.passed: is true, but its checks {seen}")
        return record

    def require_passed(self, key: str) -> None:
        """Require the verdict to be good.

        Raises:
            MissingTargetError: If it is not; the message names what was missed, and what to do about it.
        """
        if self.passed:
            return
        missed = [check for check in self.checks if check.failed]
        failed = [
            f"{check.name} is {_spell(check.value)}, want {check.side} {_spell(check.threshold)}".replace("  ", " ")
            + (f" ({check.where})" if check.where else "")
            for check in missed
        ]
        undecided = [f"{check.name} is undecided ({check.undecided})" for check in self.checks if check.undecided]
        hints = dict.fromkeys(check.hint for check in missed if check.hint)
        reason = "; ".join([*(failed or undecided), *hints]) or "no reason recorded"
        raise MissingTargetError(ErrorKind.TARGET_GATE_FAILED, key, f"did not pass its quality gate: {reason}")

    def require_content(self, digest: str, key: str) -> None:
        """Require that a content is the one that was judged.

        Raises:
            MissingTargetError: If the record does not say what was judged.
            IntegrityError: If it was something else.
        """
        if not self.content:
            message = "its quality gate does not say which content it judged: want it built again"
            raise MissingTargetError(ErrorKind.TARGET_UNGATED, key, message)
        if self.content != digest:
            message = (
                f"holds content {digest[:12]}, but its quality gate judged {self.content[:12]}: want it built again"
            )
            raise IntegrityError(ErrorKind.DIGEST_MISMATCH, key, message)


def vouching(metrics: Mapping[str, Any], content: str) -> dict[str, Any]:
    """Return metrics whose gate says which content it judged; a gate that says so already is left as it is."""
    quality = metrics.get(QUALITY)
    if not isinstance(quality, Mapping) or CONTENT in quality:
        return dict(metrics)
    return {**metrics, QUALITY: {**quality, CONTENT: content}}


def _check(name: str, check: Any, place: str, key: str) -> GateCheck:  # noqa: ANN401 - JSON is untyped
    if not isinstance(check, Mapping):
        raise _broken(key, place, check, "an object")
    return GateCheck(
        name=name,
        value=_number(check.get("value"), key, f"{place}.value"),
        threshold=_number(check.get("threshold"), key, f"{place}.threshold"),
        passed=_boolean(check, key, place),
        undecided=str(check.get("undecided", "")),
        where=str(check.get("where", "")),
        hint=str(check.get("hint", "")),
    )


def _boolean(owner: Mapping[str, Any], key: str, place: str) -> bool:
    value = owner.get("passed")
    if not isinstance(value, bool):
        raise _broken(key, f"{place}.passed", value, "true or false")
    return value


def _number(value: Any, key: str, place: str) -> float | int:  # noqa: ANN401 - JSON is untyped
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _broken(key, place, value, "a number or null")
    return value


def _broken(key: str, place: str, seen: object, wanted: str) -> IntegrityError:
    return IntegrityError(ErrorKind.STORE_CORRUPT, key, f"{place}: {seen!r}, want {wanted}")


def _spell(value: float | int) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
