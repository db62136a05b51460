"""The guide to bad input names every kind of fault that ingest can raise, and only flags that there are."""

import dataclasses
import re
from pathlib import Path

import pytest

from storage.errors import ErrorKind
from storage.ingest.raw_scene import IngestConfig

_NO_FAULT_OF_THE_DATA = {ErrorKind.ENVIRONMENT_MISSING}


@pytest.fixture
def guide(repository_root: Path) -> str:
    return (repository_root / "docs" / "guides" / "bad-input.md").read_text()


def test_every_kind_of_fault_is_explained_once(guide: str, repository_root: Path) -> None:
    faults, _, _ = guide.partition("## What the audit finds")
    explained = re.findall(r"^\| `(\w+)` \|", faults, re.MULTILINE)
    sources = [*(repository_root / "storage" / "ingest").rglob("*.py"), repository_root / "storage" / "keys.py"]
    raised = {kind for path in sources for kind in re.findall(r"ErrorKind\.([A-Z_]+)", path.read_text())}
    assert sorted(explained) == sorted({ErrorKind[kind] for kind in raised} - _NO_FAULT_OF_THE_DATA)


def test_every_flag_is_one(guide: str) -> None:
    flags = re.findall(r"--ingest\.([a-z-]+)", guide)
    assert len(flags) >= 4
    assert {flag.replace("-", "_") for flag in flags} <= {field.name for field in dataclasses.fields(IngestConfig)}
