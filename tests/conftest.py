"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files again")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def external_data() -> Path:
    """Real recordings beside the repository, which an outside user does not have."""
    folder = Path(os.environ.get("DISTILLNERF_EXTERNAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}")
    return folder
