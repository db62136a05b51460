"""The five package names belong to this project alone and resolve under one root."""

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
