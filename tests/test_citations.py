"""Every step of the method cites its source in one form, and every equation of the sources is accounted for.

``docs/guides/equations.md`` is the table: each equation, what it says, and where it is implemented. Citations are read
from docstrings without importing anything.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")
SOURCES = ("DistillNeRF", "EmerNeRF", "mip-NeRF 360", "LSS", "Kannala-Brandt")
LOSS_MODULES = ("student/losses/*.py", "teachers/nerf/losses.py")
LOSS_TYPES = {"Losses", "PerceptualDistance", "tuple[Tensor, int]", "Float[Tensor, '']"}

# One bracket holds one citation, in one line, so that it can be searched for.
CITATION = re.compile(rf"\(({'|'.join(map(re.escape, SOURCES))}) ((?:Eq|Sec|Tab)\. [A-Z]?\.?\d+(?:\.\d+)*)\)")
OTHER_SPELLING = re.compile(
    r"\b(?:eqs?|equations?|secs?|sections?|tabs?|tables?)\b\.?\s*[(§]?\s*(?-i:[A-Z]?)\.?\d|§\s*\d|paper'?s?'?\s+equation",
    re.IGNORECASE,
)

_ROW = re.compile(r"^\| ((?:Eq|Sec|Tab)\. \S+) \| (.+?) \|(?: (.+?) \|)?$", re.MULTILINE)
_OWN_ROW = re.compile(r"^\| `([\w.]+)` \| .+ \|$", re.MULTILINE)
_LEFT_OUT = "left out: "
_OWN = "Losses of our own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page of equations.

    Attributes:
        places: Cell that says where, by source and place; None for a section or table of the source.
        own_losses: Losses that no source states.
    """

    places: dict[tuple[str, str], str | None] = field(default_factory=dict)
    own_losses: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, text: str) -> "Page":
        page = cls()
        for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
            if heading == _OWN:
                page.own_losses.update(_OWN_ROW.findall(body))
            else:
                page.places.update({(heading, place): where or None for place, _, where in _ROW.findall(body)})
        return page


@dataclass(frozen=True, slots=True, kw_only=True)
class Cited:
    """A module, class or function with the citations of its docstring."""

    name: str
    citations: frozenset[tuple[str, str]]
    is_loss: bool


@pytest.fixture(scope="module")
def page(repository_root: Path) -> Page:
    return Page.read((repository_root / "docs" / "guides" / "equations.md").read_text())


@pytest.fixture(scope="module")
def cited(repository_root: Path) -> list[Cited]:
    return [item for path in _sources(repository_root) for item in _cited(path, repository_root)]


def test_every_equation_is_implemented_where_the_page_says(page: Page, cited: list[Cited]) -> None:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in cited:
        for citation in item.citations:
            found[citation].add(item.name)
    equations = {place: where for place, where in page.places.items() if place[1].startswith("Eq.")}
    wanted = {place: f"`{'`, `'.join(sorted(found[place]))}`" if found[place] else _LEFT_OUT for place in equations}
    wrong = {
        place: {"page": equations[place], "code": want}
        for place, want in wanted.items()
        if not (str(equations[place]).startswith(want) if want == _LEFT_OUT else equations[place] == want)
    }
    assert not wrong


def test_only_known_places_are_cited(page: Page, repository_root: Path) -> None:
    by_file = {str(path.relative_to(repository_root)): path.read_text() for path in _sources(repository_root)}
    found = {(citation, file) for file, text in by_file.items() for citation in CITATION.findall(text)}
    assert not {(citation, file) for citation, file in found if citation not in page.places}
    never = page.places.keys() - {citation for citation, _ in found}
    assert not {place for place in never if not str(page.places[place]).startswith(_LEFT_OUT)}
    assert {source for source, _ in page.places} == set(SOURCES)


def test_every_loss_cites_its_source(page: Page, cited: list[Cited]) -> None:
    losses = {item.name: item for item in cited if item.is_loss}
    without = {name for name, item in losses.items() if not item.citations}
    assert without == page.own_losses
    assert len(losses) > len(without) > 0


def test_citations_are_spelt_in_one_way(repository_root: Path) -> None:
    others = [
        (str(path.relative_to(repository_root)), match.group())
        for path in _sources(repository_root)
        for match in OTHER_SPELLING.finditer(CITATION.sub("", path.read_text()))
    ]
    assert not others


@pytest.mark.parametrize(
    "text",
    ["Eq. (7)", "(Eq. 7)", "eq. 7", "equation 7", "DistillNeRF Eq. 7", "(DistillNeRF, Eq. 7)", "(DistillNeRF eq. 7)",
     "(DistillNeRF Eqs. 6 and 7)", "(DistillNeRF Eq.\n7)", "section 3.2", "Sec. 3.2 of the paper", "Table 2", "§ 4",
     "the paper's equation"],
)  # fmt: skip
def test_other_spellings_are_recognised(text: str) -> None:
    assert OTHER_SPELLING.search(CITATION.sub("", text))


def _sources(root: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def _cited(path: Path, root: Path) -> Iterator[Cited]:
    relative = path.relative_to(root)
    parts = relative.with_suffix("").parts[1:]
    module = ".".join(parts[:-1] if parts[-1:] == ("__init__",) else parts)
    holds_losses = any(relative.match(pattern) for pattern in LOSS_MODULES)

    def walk(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str, is_public: bool) -> Iterator[Cited]:
        is_loss = holds_losses and is_public and not LOSS_TYPES.isdisjoint(_types(node))
        text = ast.get_docstring(node) or ""
        yield Cited(name=name, citations=frozenset(CITATION.findall(text)), is_loss=is_loss)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                # A loss's methods need no citation beside their class's.
                is_open = isinstance(node, ast.Module) and not child.name.startswith("_")
                yield from walk(child, f"{name}.{child.name}", is_open)

    yield from walk(ast.parse(path.read_text()), module, False)


def _types(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> set[str]:
    """Return what a function returns, or what a class is."""
    if isinstance(node, ast.ClassDef):
        return {node.name, *map(ast.unparse, node.bases)}
    return {ast.unparse(node.returns)} if isinstance(node, ast.FunctionDef) and node.returns else set()
