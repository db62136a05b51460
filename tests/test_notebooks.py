"""Notebooks are run as a reader would: every code cell in order, in the notebook's folder, without a home."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

MAX_LINES = 15


def code_cells(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(cells: list[str], path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, code in enumerate(cells, start=1):
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
    return names


def test_a_student_answers_on_images_in_no_store(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository_root / "docs" / "notebooks" / "images-in-no-store.ipynb"
    cells = code_cells(path)
    lines = [
        line for code in cells for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))
    ]
    assert len(lines) <= MAX_LINES
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("DISTILLNERF_HOME", raising=False)
    torch.set_num_threads(1)
    names = run(cells, path)
    heat = names["heat"]
    assert heat.shape[0] == 3
    assert np.nanmax(heat[names["best"]]) > 0.5
    # The terminal fills the upper half of the right camera's image; the ground is no terminal.
    assert np.nanmean(heat[2][:18]) > 3 * np.nanmean(heat[2][24:])
    assert 1000 < names["occupied"].sum() < 200_000
    depth = names["frame"].views.termination_depth
    assert 2.0 < np.nanmedian(depth[1]) < 40.0


@pytest.mark.parametrize(
    "notebook", sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb")), ids=lambda p: p.name
)
def test_a_notebook_is_stored_without_output(notebook: Path) -> None:
    content = json.loads(notebook.read_text())
    assert not [cell["id"] for cell in content["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert content["nbformat"] == 4
