"""Only a JSON true is a pass, and a verdict holds for the content that was judged."""

import math
from typing import Any

import pytest

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.stores.gate_record import GateRecord, vouching

GOOD = {"value": 21.0, "threshold": 18.0, "passed": True}
BAD = {"value": None, "threshold": 18.0, "passed": False, "where": "CAM_1"}
OPEN = {"value": None, "threshold": 0.1, "passed": False, "undecided": "no LiDAR"}


def record(passed: Any, **checks: Any) -> GateRecord | None:
    return GateRecord.of({"quality": {"passed": passed, "checks": checks}}, "x/y")


@pytest.mark.parametrize("passed", ["true", "false", "yes", 1, 0, None, [], {}], ids=repr)
def test_a_verdict_that_is_no_boolean_is_damage(passed: Any) -> None:
    with pytest.raises(IntegrityError, match=r"quality\.passed: .*, want true or false"):
        record(passed, psnr=GOOD)
    with pytest.raises(IntegrityError, match=r"quality\.checks\.psnr\.passed: .*, want true or false"):
        record(True, psnr={**GOOD, "passed": passed})


@pytest.mark.parametrize("checks", [{}, {"psnr": BAD}, {"psnr": GOOD, "depth": BAD}, {"depth": OPEN}], ids=len)
def test_a_pass_that_its_own_checks_deny_is_damage(checks: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="is true, but its checks"):
        record(True, **checks)


@pytest.mark.parametrize("quality", ["passed", True, {"passed": True}, {"passed": True, "checks": []}], ids=repr)
def test_a_record_of_another_form_is_damage(quality: Any) -> None:
    with pytest.raises(IntegrityError):
        GateRecord.of({"quality": quality}, "x/y")
    with pytest.raises(IntegrityError, match="want a number or null"):
        record(True, psnr={**GOOD, "value": "21"})


def test_no_record_is_no_verdict() -> None:
    assert GateRecord.of({}, "x/y") is None


def test_what_is_undecided_does_not_hold_a_version_back() -> None:
    found = record(True, psnr=GOOD, depth=OPEN)
    assert found is not None
    found.require_passed("x/y")
    assert [check.failed for check in found.checks] == [False, False]


def test_a_failed_gate_names_what_was_missed() -> None:
    found = record(False, psnr=GOOD, depth=BAD)
    assert found is not None
    assert math.isnan(found.checks[1].value)
    with pytest.raises(MissingTargetError, match="depth is nan, want 18") as caught:
        found.require_passed("x/y")
    assert caught.value.kind is ErrorKind.TARGET_GATE_FAILED


def test_a_failed_gate_says_once_what_to_do() -> None:
    advised = {**BAD, "hint": "look at the picture"}
    found = record(False, depth=advised, sky=advised, psnr={**GOOD, "hint": "nothing to do"})
    assert found is not None
    with pytest.raises(MissingTargetError, match=r"depth is .*; sky is .*\(CAM_1\); look at the picture \[") as caught:
        found.require_passed("x/y")
    assert caught.value.message.count("look at") == 1
    assert "nothing to do" not in caught.value.message


def test_a_gate_vouches_for_the_content_that_it_judged() -> None:
    metrics = {"psnr": 21.0, "quality": {"passed": True, "checks": {"psnr": GOOD}}}
    judged = vouching(metrics, "a" * 64)
    assert vouching(judged, "b" * 64) == judged  # a record that was carried over keeps what it judged
    found = GateRecord.of(judged, "x/y")
    assert found is not None
    found.require_content("a" * 64, "x/y")
    with pytest.raises(IntegrityError, match="its quality gate judged aaaaaaaaaaaa") as caught:
        found.require_content("b" * 64, "x/y")
    assert caught.value.kind is ErrorKind.DIGEST_MISMATCH
    before = GateRecord.of(metrics, "x/y")
    assert before is not None
    with pytest.raises(MissingTargetError, match="does not say which content"):
        before.require_content("a" * 64, "x/y")
    assert vouching({"psnr": 21.0}, "a" * 64) == {"psnr": 21.0}
