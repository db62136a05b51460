"""A tiny recording, and homes that know it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.definitions  # noqa: F401 - imported first inside a test, its beta features would warn, which is an error
from pipeline.partitions import add_scene_partitions
from pipeline.run_config import HomeSelection
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.stores.versioned import Home
from tests.storage.conftest import write_tiny_nuscenes

SCENES = ("tiny.scene-0001", "tiny.scene-0002")


@pytest.fixture(scope="session")
def write_recording() -> Callable[[Path], Any]:
    """Write two scenes, three frames and two cameras in the nuScenes layout into a folder."""
    return write_tiny_nuscenes


@pytest.fixture
def recording(tmp_path: Path, write_recording: Callable[[Path], Any]) -> Any:
    """A recording to be broken at will."""
    return write_recording(tmp_path / "recording")


@pytest.fixture
def make_home(recording: Any, tmp_path: Path) -> Callable[..., Home]:
    """Make a home that has the recording registered and its choices made."""

    def make(root: Path | None = None) -> Home:
        return home_that_knows(recording.root, root or tmp_path / "home")

    return make


def home_that_knows(recording: Path, root: Path) -> Home:
    """Return a new home that has a tiny recording registered and its choices made."""
    home = Home(root)
    register_source(home, SourceConfig(dataset="tiny", root=recording, version="v1.0-mini", licence="CC0-1.0"))
    HomeSelection(
        preset="demo",
        overrides=("input_images.height=8", "input_images.width=16"),
        train_scenes=SCENES[:1],
        validation_scenes=SCENES[1:],
    ).save(home.root)
    return home


@pytest.fixture
def prepared_home(make_home: Callable[..., Home]) -> Home:
    """A home whose Dagster instance knows the scenes."""
    from pipeline.instance import open_instance

    home = make_home()
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, SCENES)
    return home
