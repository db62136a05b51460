"""The list of wrong edits cannot rot, and a few of them are tried each day."""

import importlib.util
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("mutant_runner", Path(__file__).with_name("run.py"))
assert _spec is not None
assert _spec.loader is not None
runner = importlib.util.module_from_spec(_spec)
sys.modules["mutant_runner"] = runner
_spec.loader.exec_module(runner)
MUTANTS = runner.load_mutants()
_TODAY = datetime.now(UTC).toordinal()


def test_every_mutant_still_edits_one_place_and_names_tests_that_exist():
    assert len(MUTANTS) >= 40
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    for mutant in MUTANTS:
        text = (runner.ROOT / mutant.file).read_text()
        assert text.count(mutant.old) == 1, mutant.name
        assert mutant.old != mutant.new, mutant.name
        compile(
            text.replace(mutant.old, mutant.new), mutant.file, "exec"
        )  # what does not compile is killed by anything
        for test in mutant.tests:
            path, _, function = test.partition("::")
            assert (runner.ROOT / path).is_file(), f"{mutant.name}: {path}"
            assert not function or f"def {function}(" in (runner.ROOT / path).read_text(), f"{mutant.name}: {function}"


def test_mutants_touch_every_package():
    packages = Counter(mutant.file.partition("/")[0] for mutant in MUTANTS)
    assert min(packages[name] for name in ("storage", "teachers", "student")) >= 8
    assert sum(mutant.file.startswith("student/evaluation/") for mutant in MUTANTS) >= 8


def test_all_cheap_mutants_get_their_turn():
    cheap = {mutant.name for mutant in MUTANTS if mutant.cheap}
    seen = {mutant.name for day in range(len(cheap)) for mutant in runner.sample(MUTANTS, 1, _TODAY + day)}
    assert seen == cheap


def test_an_edit_that_changes_nothing_survives_and_is_told():
    harmless = runner.Mutant(
        name="a comment",
        file="storage/geometry/resize.py",
        old="    return values\n",
        new="    return values  # the same\n",
        tests=("tests/storage/geometry/test_resize.py",),
    )
    assert "pytest ended with 0" in runner.survives(harmless)


def test_todays_mutant_is_killed():
    (mutant,) = runner.sample(MUTANTS, 1, _TODAY)
    assert runner.survives(mutant) == "", mutant.name


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant):
    assert runner.survives(mutant) == ""
