"""The five package names belong to this project alone and resolve under one root."""

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")

RAISED_BY_A_MACHINE = {"OSError", "Exception", "BaseException", "ArrowException", "SafetensorError"}
BLAMES_DATA = {"SourceDataError", "MissingTargetError", "IntegrityError", "ProvenanceMismatchError"}
ASKS_THE_MACHINE = {"machine_fault", "machine_faults", "reading", "reading_weights", "writing"}


def test_all_packages_resolve_under_one_root() -> None:
    roots = {Path(importlib.util.find_spec(name).origin).parent.parent for name in PACKAGES}
    assert len(roots) == 1


def test_no_other_distribution_owns_a_package_name() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        assert set(owners.get(name, [])) <= {"distillnerf-pipeline"}, f"{name} is also in {owners[name]}"


def test_no_test_folder_shadows_a_package(repository_root: Path) -> None:
    assert not list((repository_root / "tests").rglob("__init__.py"))


def test_no_class_name_is_defined_twice(repository_root: Path) -> None:
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((repository_root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(f"{path.relative_to(repository_root)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_fault_of_the_machine_is_taken_for_damage(repository_root: Path) -> None:
    """Who calls data damaged or missing because of an error that a full disk raises too asks for that first."""
    unasked = []
    for package in PACKAGES:
        for path in sorted((repository_root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Try) or _called(node.body) & ASKS_THE_MACHINE:
                    continue
                blaming = [h for h in node.handlers if _named(h.type) & RAISED_BY_A_MACHINE and _blames_data(h)]
                unasked += [f"{path.relative_to(repository_root)}:{handler.lineno}" for handler in blaming]
    assert unasked == []


def _named(node: ast.AST | None) -> set[str]:
    """Return the last part of every name in an expression; a bare ``except`` takes all there is."""
    if node is None:
        return {"BaseException"}
    found = {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}
    return found | {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _called(body: list[ast.stmt]) -> set[str]:
    calls = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return {name for call in calls for name in _named(call.func)}


def _blames_data(handler: ast.ExceptHandler) -> bool:
    return bool(_called(handler.body) & BLAMES_DATA) and not _called(handler.body) & ASKS_THE_MACHINE
