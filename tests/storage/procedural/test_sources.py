import ast
from pathlib import Path

import pytest

from storage.procedural import sources

PACKAGE = Path(sources.__file__).parent


def imported_from(*starts: str) -> set[str]:
    """Return the modules of the package reached by imports, lazy ones included."""
    found, todo = set(), list(starts)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "storage.procedural":
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("storage.procedural."):
                todo.append(node.module.removeprefix("storage.procedural."))
    return {f"storage.procedural.{name}" for name in found}


@pytest.mark.parametrize(
    ("starts", "declared"),
    [(("render", "world"), sources.WORLD_MODULES), (("run",), sources.DATASET_MODULES)],
)
def test_declared_modules_are_those_imported(starts, declared):
    assert set(declared) == imported_from(*starts)


def test_digests_differ():
    assert sources.world_code_digest() != sources.dataset_code_digest()
