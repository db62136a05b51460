"""Pages name files, functions and pages that there are."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGES = ("assets", "pipeline", "storage", "student", "teachers")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/debugging.md", "docs/extending.md")

_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_function_exists(page: str, repository_root: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", (repository_root / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    made_by_recipes = set(re.findall(r"^New file `([^`]+)`:$", text, re.MULTILINE))
    for code in _CODE.findall(text):
        path, _, name = code.partition("::")
        if not path.startswith(tuple(f"{package}/" for package in PACKAGES)) or path in made_by_recipes:
            continue
        assert (repository_root / path).exists(), code
        assert not name or has_name(repository_root / path, name), code


@pytest.mark.parametrize("page", [*PAGES, "docs/store-format.md"])
def test_every_link_leads_somewhere(page: str, repository_root: Path) -> None:
    text = (repository_root / page).read_text()
    for target in _LINK.findall(text):
        assert ((repository_root / page).parent / target).exists(), target


def test_every_room_is_in_the_architecture(repository_root: Path) -> None:
    rooms = set(_CODE.findall((repository_root / "docs" / "architecture.md").read_text()))
    for package in ("storage", "student", "teachers"):
        for path in (repository_root / package).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                assert path.stem in {*rooms, "__init__"}, path


def has_name(path: Path, dotted: str) -> bool:
    """Return whether a module defines a function, a class, or a method of a class."""
    return dotted in names(path)


@cache
def names(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {node.name, *(f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef))}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found
