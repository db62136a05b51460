"""Docstrings are sentences: none begins with a word that only continues another one, such as "Of" or "Likewise"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")

_OPENING = re.compile(r"(?:Of|The same of|Likewise|And|But|As)\b")
_ENTRY = re.compile(r"\s+\*{0,2}[\w.]+: (.*)")
_LISTS = ("Args:", "Attributes:", "Raises:")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring and of every string below an assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def descriptions(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and beginning of everything that a docstring describes: its subject, then each entry of a list."""
    yield 0, text.lstrip()
    in_list = False
    for number, line in enumerate(text.split("\n")):
        if line.strip() in _LISTS:
            in_list = True
        elif not line.strip():
            in_list = False
        elif in_list and (entry := _ENTRY.match(line)):
            yield number, entry[1]


def fragments(source: str) -> list[str]:
    """Return the descriptions of a module that begin without a subject, as ``line: text``."""
    return [
        f"{first + number}: {described.splitlines()[0]}"
        for first, text in docstrings(ast.parse(source))
        for number, described in descriptions(text)
        if _OPENING.match(described)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_docstring_begins_without_its_subject(package: str, repository_root: Path) -> None:
    found = [
        f"{path.relative_to(repository_root)}:{fragment}"
        for path in sorted((repository_root / package).rglob("*.py"))
        for fragment in fragments(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Seed of every random choice.\n\nAs nuScenes does, in a later paragraph.", []),
        ("Assets by name.\n\nArgs:\n    seed: Seed of every draw.\n    others: Asset keys.", []),
        ("Of every random choice.", ["1: Of every random choice."]),
        ("As in ``SceneData``.", ["1: As in ``SceneData``."]),
        ("Say it.\n\nArgs:\n    a: Seed.\n    b: Likewise of\n        c.", ["5: Likewise of"]),
        ("Say it.\n\nRaises:\n    OSError: As ``read`` does.", ["4: As ``read`` does."]),
    ],
)
def test_openings_are_recognised(docstring: str, found: list[str]) -> None:
    assert fragments(f'"""{docstring}"""') == found
