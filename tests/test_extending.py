"""Every recipe of ``docs/extending.md`` is followed, block by block, on a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")
RECIPES = ("A data set", "A target", "A loss", "An asset", "A family of image teachers", "A teacher")
MOST_FILES_OF_A_TARGET = 5

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^([^\n]+:)\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEW = re.compile(r"New file `(?P<path>[^`]+)`:")
_EDIT = re.compile(r"In `(?P<path>[^`]+)`, (?P<where>above|below|in place of) `(?P<line>[^`]+)`:")
_END = re.compile(r"At the end of `(?P<path>[^`]+)`:")
_COUNT = re.compile(r"^Files: (\d+),", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """One section of the guide: its edits in order, and the program that shows what came of them."""

    edits: tuple[tuple[str, str], ...]
    check: str

    @property
    def files(self) -> set[str]:
        return {
            match["path"]
            for told, _ in self.edits
            for match in [_NEW.match(told) or _EDIT.match(told) or _END.match(told)]
        }


@pytest.fixture(scope="module")
def sections(repository_root: Path) -> dict[str, str]:
    return dict(_SECTION.findall((repository_root / "docs" / "extending.md").read_text()))


@pytest.fixture(scope="module")
def project(sections: dict[str, str], repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with all recipes applied, one after the other: they do not exclude each other."""
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__", "demo_weights")
    for package in PACKAGES:
        shutil.copytree(repository_root / package, root / package, ignore=ignored)
    for title in ("A scene to try things on", *RECIPES):
        for told, code in read_recipe(sections[title]).edits:
            apply_edit(root, told, code)
    return root


def read_recipe(section: str) -> Recipe:
    """Return what a section tells to do; every block of Python says where it goes."""
    blocks = _BLOCK.findall(section)
    assert len(blocks) == section.count("```python")
    checks = [code for told, code in blocks if told.startswith("Check")]
    assert len(checks) <= 1
    return Recipe(tuple((told, code) for told, code in blocks if not told.startswith("Check")), "".join(checks))


def apply_edit(root: Path, told: str, code: str) -> None:
    """Do what the line above a block tells to do with it."""
    if new := _NEW.fullmatch(told):
        path = root / new["path"]
        assert not path.exists(), told
        path.write_text(code)
        return
    if end := _END.fullmatch(told):
        path = root / end["path"]
        path.write_text(path.read_text() + code)
        return
    edit = _EDIT.fullmatch(told)
    assert edit is not None, f"no place: {told}"
    path = root / edit["path"]
    lines = path.read_text().splitlines(keepends=True)
    (at,) = find_line(lines, edit["line"], told)
    begin = at + (edit["where"] == "below")
    end_of_edit = at + (edit["where"] != "above")
    path.write_text("".join([*lines[:begin], code, *lines[end_of_edit:]]))


def find_line(lines: list[str], wanted: str, told: str) -> Iterator[int]:
    found = [index for index, line in enumerate(lines) if line.strip() == wanted]
    assert len(found) == 1, f"{told} the line is there {len(found)} times"
    return iter(found)


@pytest.mark.parametrize("title", RECIPES)
def test_following_a_recipe(title: str, sections: dict[str, str], project: Path, tmp_path: Path) -> None:
    recipe = read_recipe(sections[title])
    assert recipe.edits
    assert "assert" in recipe.check
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    followed = subprocess.run(
        [sys.executable, "-c", recipe.check], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert followed.returncode == 0, followed.stderr


def test_every_section_is_a_recipe(sections: dict[str, str]) -> None:
    assert tuple(title for title in sections if title != "A scene to try things on") == RECIPES


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_touches_as_many_files_as_it_says(title: str, sections: dict[str, str]) -> None:
    (stated,) = _COUNT.findall(sections[title])
    assert len(read_recipe(sections[title]).files) == int(stated)


def test_a_target_touches_few_files(sections: dict[str, str]) -> None:
    assert len(read_recipe(sections["A target"]).files) <= MOST_FILES_OF_A_TARGET
