"""The five package names belong to this project alone and resolve under one root."""

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGES = ("assets", "pipeline", "storage", "student", "teachers")


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
