"""The page for when something is wrong names commands, flags and errors that there are."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.run_config import HomeSelection
from storage import errors
from storage.errors import ErrorKind, PipelineError


@pytest.fixture(scope="module")
def page(repository_root: Path) -> str:
    return (repository_root / "docs" / "debugging.md").read_text()


def commands(page: str) -> list[str]:
    """Return the command lines of the page, also those within another command."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [
        found for block in blocks for line in block.splitlines() for found in re.findall(r"distillnerf [^)]+", line)
    ]


def test_every_command_is_one(page: str, tmp_path: Path) -> None:
    HomeSelection(preset="demo").save(tmp_path)
    lines = commands(page)
    assert len(lines) >= 15
    for line in lines:
        _, *arguments = shlex.split(line.replace("HOME", str(tmp_path)))
        cli.parse(arguments)


def test_every_error_of_the_page_is_one(page: str) -> None:
    named = set(re.findall(r"`(\w+Error)`", page))
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, PipelineError)
    }
    assert named == classes - {"PipelineError"}
    kinds = set(re.findall(r"`\[?([a-z]+_[a-z]+(?:_[a-z]+)?)\]?`", page)) & {str(kind) for kind in ErrorKind}
    assert {"target_gate_failed", "store_corrupt", "environment_missing"} <= kinds


def test_every_link_leads_to_a_heading(page: str) -> None:
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == anchors
