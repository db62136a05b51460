"""What the pages name is there: files, what is defined in them, and other pages."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")

_PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/guides/*.md", "docs/adr/*.md")
_BLOCK = re.compile(r"^```(?:python|bash)\n.*?^```$", re.MULTILINE | re.DOTALL)
_TO_BE_MADE = re.compile(r"^New file `([^`]+)`:$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_NAMED = re.compile(rf"`((?:{'|'.join((*PACKAGES, 'tests'))})/[\w/.-]+)(?:::([\w.]+))?`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def pages(root: Path) -> list[Path]:
    return sorted(path for pattern in _PAGES for path in root.glob(pattern))


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Return the names that a module defines, those of a class's body as ``Class.name``."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef | ast.FunctionDef):  # also of a function that decorates one of its own
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)

    visit(ast.parse(path.read_text()).body, "")
    return frozenset(found)


def missing(root: Path, page: Path) -> list[str]:
    text = page.read_text()
    lost = [target for target in _LINK.findall(text) if not (page.parent / target).exists()]
    made_by_recipes = set(_TO_BE_MADE.findall(text))
    for file, name in _NAMED.findall(_BLOCK.sub("", text)):
        path = root / file
        if file in made_by_recipes:
            continue
        if not path.exists():
            lost.append(file)
        elif name and name not in defined_in(path):
            lost.append(f"{file}::{name}")
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module.partition(".")[0] in PACKAGES:
            path = root / module.replace(".", "/")
            if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
                lost.append(f"python -m {module}")
    return lost


def test_everything_that_a_page_names_is_there(repository_root: Path) -> None:
    lost = {
        str(page.relative_to(repository_root)): names
        for page in pages(repository_root)
        if (names := missing(repository_root, page))
    }
    assert not lost


def test_every_room_is_in_the_architecture(repository_root: Path) -> None:
    rooms = set(_CODE.findall((repository_root / "docs" / "architecture.md").read_text()))
    for package in ("storage", "student", "teachers"):
        for path in (repository_root / package).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                assert path.stem in {*rooms, "__init__"}, path


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("`storage/kinds.py::Kind.SCENE` and `storage/kinds.py`", []),
        ("`storage/kinds.py::Kind.NOWHERE`", ["storage/kinds.py::Kind.NOWHERE"]),
        ("`storage/nowhere.py`", ["storage/nowhere.py"]),
        ("`storage/ingest` and `storage/nowhere`", ["storage/nowhere"]),
        ("New file `storage/new.py`:\n\nThen `storage/new.py::Thing`.", []),
        ("[a page](nowhere.md#part) and [a site](https://nowhere.md)", ["nowhere.md"]),
        ("python -m student.nowhere", ["python -m student.nowhere"]),
    ],
)
def test_what_is_not_there_is_found(repository_root: Path, tmp_path: Path, text: str, lost: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert missing(repository_root, page) == lost


def unplaced(page: str) -> list[str]:
    """Return the rows of tables whose last cell is neither "none" nor a list of places in the code."""
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| topic ")]
    cells = [row.rstrip("| ").rpartition(" | ")[2] for row in rows]
    return [cell for cell in cells if cell != "none" and not all(map(_NAMED.fullmatch, cell.split(", ")))]


def test_every_difference_from_the_paper_names_its_place(repository_root: Path) -> None:
    page = (repository_root / "docs/guides/differences-from-the-paper.md").read_text()
    assert page.count("\n| ") > 50
    assert not unplaced(page)


def test_a_difference_without_a_place_is_found() -> None:
    rows = ["| a | b | c | `student/config.py`, `student/config.py::LossConfig` |", "| a | b | c | none |"]
    assert not unplaced("\n".join(["| topic | where |", "|---|---|", *rows]))
    assert unplaced("| a | b | c | `config.LossConfig` |") == ["`config.LossConfig`"]
