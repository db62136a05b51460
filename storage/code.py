"""The code that determines what a producer stores: its import closure within the project, and the closure's digest.

A producer names the module that builds, usually its own ``__name__``. The closure is read from the sources, without
importing them. Modules that cannot change what is stored are left out (``INFRASTRUCTURE``). Imports do not show two
things, and each has a rule:

- A file that a module reads, such as a template, is named in the module's own ``DATA_FILES``.
- A configuration may choose between modules. The roots are then the module that all choices share, which must not
  import the choices, and the module chosen (``code_digest(__name__, reader.__module__)``).
"""

import ast
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from storage.freed_memory import without_garbage_collection
from storage.kinds import KINDS

PACKAGES = ("encoders", "storage", "student", "teachers")
"""Packages whose modules count. Orchestration (``assets``, ``pipeline``) cannot change what is stored."""

PROJECT = Path(__file__).resolve().parents[__name__.count(".")]
"""The folder that holds the packages."""

INFRASTRUCTURE = (
    "storage.stores.catalog",  # an index beside the stores, made again from them
    "storage.code",  # a change of what it answers is itself another digest
    "storage.digests",  # a change of what it answers is itself another digest
    "storage.errors",  # where one is raised, nothing is stored
    "storage.ingest.source_config",  # where recordings lie; what is read there counts by its SHA-256
    "storage.ingest.source",  # registers where recordings lie
    "storage.kinds",  # what it declares for a kind counts for the producers of that kind alone
    "storage.stores.integrity",  # turns what a damaged store raises into typed errors
    "storage.stores.provenance",  # a change of what it answers is itself another digest
    "storage.stores.shared_work",  # carries what a fit saved to another machine, where it is checked as if saved there
    "storage.stores.versioned",  # finds and publishes what producers wrote, and adds its own schema version
    "student.training.torchrun",  # starts the processes of a fit, which read the same configuration
    "student.training.trackers",  # shows a fit to people elsewhere
    "teachers.nerf.progress",  # tells how far a step is
    "teachers.nerf.provenance",  # a change of what it answers is itself another digest
    "teachers.nerf.task",  # hands over a configuration, which counts by its own digest
)
"""Modules that are left out of every closure and not followed.

A module belongs here only if no change in it can change what a producer stores.
"""


@dataclass(frozen=True, slots=True)
class _Source:
    """Digest, imports and data files of one source file.

    Attributes:
        digest: SHA-256 of its syntax tree, without positions, free-standing strings and what only type checkers see.
        imports: Project modules that it imports, or ``module:name`` where the name may be a module or a value.
        data_files: Files named in its ``DATA_FILES``.
    """

    digest: str
    imports: frozenset[str]
    data_files: tuple[Path, ...]


def code_digest(*roots: str, kind: str = "", project: Path = PROJECT) -> str:
    """Return the SHA-256 of all project code that some modules run.

    Comments, docstrings and formatting do not count; module names do. Syntax trees are digested, so two processes agree
    only if they run the same minor version of Python.

    Args:
        roots: Dotted names of the modules that build.
        kind: Kind that they store; its declared arrays are part of the digest.
        project: The folder that holds the packages.

    Raises:
        ValueError: If the file of a root, or of a module that it needs, is missing.
        SyntaxError: If a file is not valid Python.
    """
    digest = hashlib.sha256()
    for name, source in import_closure(*roots, project=project).items():
        digest.update(f"{name} {source.digest}\n".encode())
        for path in source.data_files:
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    if kind in KINDS:
        digest.update(repr(sorted(KINDS[kind].arrays.items())).encode())
    return digest.hexdigest()


def import_closure(*roots: str, project: Path = PROJECT) -> dict[str, _Source]:
    """Return the roots and all modules that they import, by name and sorted.

    Imports within functions count; imports under ``TYPE_CHECKING`` do not. The packages that hold a module count too.

    Raises:
        ValueError: If the file of a root, or of a module that it needs, is missing.
    """
    found: dict[str, _Source] = {}
    waiting = [(root, "a producer") for root in roots]
    with without_garbage_collection():
        while waiting:
            name, wanted_by = waiting.pop()
            if name in found:
                continue
            path = _file_of(name, project)
            if path is None:
                raise ValueError(f"no module {name!r} under {project}, wanted by {wanted_by}")
            stat = os.stat(path)
            found[name] = source = _read(path, stat.st_mtime_ns, stat.st_size)
            needed = _modules_run(source.imports, project) - set(INFRASTRUCTURE)
            waiting += [(module, name) for module in needed]
    return dict(sorted(found.items()))


@cache
def _modules_run(imports: frozenset[str], project: Path) -> frozenset[str]:
    """Return the modules that some imports run, and the packages that hold them."""
    modules = set()
    for imported in imports:
        module, _, value = imported.partition(":")
        if value and _file_of(f"{module}.{value}", project) is not None:
            module = f"{module}.{value}"
        parts = module.split(".")
        modules |= {".".join(parts[: count + 1]) for count in range(len(parts))}
    return frozenset(modules)


@cache
def _file_of(module: str, project: Path) -> Path | None:
    base = project.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _read(path: Path, _mtime_ns: int, _size: int) -> _Source:
    """Return digest, imports and data files of a source file; it is read again only after a change."""
    tree = ast.parse(path.read_bytes(), path)
    speller = _Speller()
    speller.spell(tree)
    declared = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_data_files(node.targets[0])]
    return _Source(
        digest=hashlib.sha256("\n".join(speller.words).encode()).hexdigest(),
        imports=frozenset(speller.imports),
        data_files=tuple(path.parent / name for value in declared for name in ast.literal_eval(value)),
    )


class _Speller:
    """Spells a syntax tree as words, without positions and docstrings, and notes its imports.

    ``ast.dump`` takes three times as long, and loading Dagster's definitions waits for this.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.imports: set[str] = set()
        self._say = self.words.append

    def spell(self, node: Any) -> None:  # noqa: ANN401 - any node of a tree
        """Append the words of a node."""
        say, kind = self._say, node.__class__
        if kind is ast.Name:
            say(f"Name {node.id}")
            return
        if kind is ast.Constant:
            say(f"Constant {node.value!r}")
            return
        if kind is ast.Import or kind is ast.ImportFrom:
            self.imports.update(_imported(node))
        say(kind.__name__)
        for field in kind._fields:
            value = getattr(node, field, None)
            if value is None or field == "ctx":  # a context follows from the place
                continue
            if isinstance(value, ast.AST):
                say(field)
                self.spell(value)
            elif not isinstance(value, list):
                say(f"{field} {value!r}")
            elif value:
                say(field)
                self._spell_each(value)
        say(")")

    def _spell_each(self, nodes: Any) -> None:  # noqa: ANN401
        for node in nodes:
            kind = node.__class__
            if kind is ast.If and _is_for_type_checkers(node.test):
                self._spell_each(node.orelse)
            elif kind is ast.Expr and _is_text(node.value):
                continue  # a docstring, or another string that nothing takes
            elif isinstance(node, ast.AST):
                self.spell(node)
            else:
                self._say(repr(node))
        self._say("]")


def _is_for_type_checkers(test: ast.expr) -> bool:
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")) == "TYPE_CHECKING"


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_data_files(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "DATA_FILES"


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield the project imports of a statement: ``module``, or ``module:name`` where the name may be either."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PACKAGES)
    elif node.module and node.module.partition(".")[0] in PACKAGES:
        yield from (f"{node.module}:{alias.name}" for alias in node.names)
