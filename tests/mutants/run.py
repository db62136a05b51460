"""Apply wrong edits, one by one, in a copy of the project, and see that the tests named for each of them fail.

python tests/mutants/run.py                 # all
python tests/mutants/run.py --sample 3      # a few cheap ones, others each day
python tests/mutants/run.py "a pixel's centre lies at its corner"
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTANTS_FILE = Path(__file__).with_name("mutants.toml")
_COPIED = ("assets", "encoders", "pipeline", "storage", "student", "teachers", "tests", "pyproject.toml")
_FAILED = 1
"""Exit code of pytest when tests ran and some failed. A test that cannot be collected kills nothing."""

_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One wrong edit.

    Attributes:
        name: What is wrong, one phrase.
        file: File that is edited.
        old: Text that occurs once in it.
        new: Text in its place.
        tests: Tests that must fail.
        cheap: Whether its tests need neither a store nor a model.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    cheap: bool = False


def load_mutants() -> tuple[Mutant, ...]:
    """Return all mutants, in the order of the file."""
    entries = tomllib.loads(MUTANTS_FILE.read_text())["mutant"]
    return tuple(Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries)


def sample(mutants: Sequence[Mutant], count: int, day: int) -> list[Mutant]:
    """Return a few cheap mutants; every day others, and all of them in turn."""
    cheap = [mutant for mutant in mutants if mutant.cheap]
    random.Random(0).shuffle(cheap)
    return [cheap[(day * count + i) % len(cheap)] for i in range(min(count, len(cheap)))]


def survives(mutant: Mutant) -> str:
    """Return why a mutant is not killed by its tests; empty if it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        for name in _COPIED:
            _copy(ROOT / name, copy / name)
        target = copy / mutant.file
        text = target.read_text()
        if text.count(mutant.old) != 1:
            return f"the text to edit occurs {text.count(mutant.old)} times in {mutant.file}, want once"
        target.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", *mutant.tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"its tests did not end in {_TIMEOUT_S} s"
    if done.returncode == _FAILED:
        return ""
    return f"pytest ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}"


def _copy(source: Path, target: Path) -> None:
    """Copy the sources of a file or a folder; what is no source is linked, because weights are large."""

    def copy(one: str, other: str) -> None:
        if one.endswith(".py"):
            shutil.copyfile(one, other)
        else:
            Path(other).symlink_to(one)

    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "*.egg-info")
        shutil.copytree(source, target, copy_function=copy, ignore=ignored)
    else:
        copy(str(source), str(target))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants and tell which survive; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants to try; by default all")
    parser.add_argument("--sample", type=int, help="try so many cheap ones, others each day")
    given = parser.parse_args(arguments)
    mutants = load_mutants()
    if unknown := sorted(set(given.names) - {mutant.name for mutant in mutants}):
        parser.error(f"no mutant is called {unknown[0]!r}")
    chosen: Iterable[Mutant] = [mutant for mutant in mutants if not given.names or mutant.name in given.names]
    if given.sample is not None:
        chosen = sample(mutants, given.sample, datetime.now(UTC).toordinal())
    survivors = 0
    for mutant in chosen:
        reason = survives(mutant)
        survivors += bool(reason)
        told = f"SURVIVES  {mutant.name}: {reason}" if reason else f"killed    {mutant.name}"
        sys.stdout.write(told + "\n")
        sys.stdout.flush()
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
