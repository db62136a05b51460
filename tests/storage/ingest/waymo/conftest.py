"""A tiny procedural Waymo data set in both formats, and everything its writer knows about it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.ingest.run import ingest_scene
from storage.ingest.source import load_source
from storage.keys import SceneKey
from storage.procedural.config import ProceduralConfig
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from storage.testing.waymo import writer as waymo_writer
from storage.testing.waymo.capture import CapturedFrame, WaymoCapture
from storage.testing.waymo.rig import WaymoRigConfig
from storage.testing.waymo.writer import captured_frames, generate_waymo_dataset

WORLD = ProceduralConfig(dataset="waymo", num_scenes=1, airside_share=0.0, frames_per_scene=2, seed=5)
CONFIG = WaymoRigConfig(world=WORLD, image_width=96, top_shape=(24, 180), near_shape=(8, 24), spin_steps=3)
KEY = SceneKey("waymo", "scene-0001")


@dataclass(frozen=True)
class Written:
    """A data set in one format.

    Attributes:
        home: Knows the source.
        root: The files.
        frames: What was written.
        capture: The rig and the world.
        config: What was asked for.
    """

    home: Home
    root: Path
    frames: list[CapturedFrame]
    capture: WaymoCapture
    config: WaymoRigConfig


@pytest.fixture(scope="session")
def captured() -> tuple[WaymoCapture, list[CapturedFrame]]:
    capture, frames = captured_frames(CONFIG, 0)
    return capture, list(frames)


def _write(folder: Path, captured: tuple[WaymoCapture, list[CapturedFrame]], source_format: str) -> Written:
    home = Home(folder / "home")
    with pytest.MonkeyPatch.context() as patch:  # captured once, written twice
        patch.setattr(waymo_writer, "captured_frames", lambda *_: (captured[0], iter(captured[1])))
        keys = generate_waymo_dataset(home, folder / "raw", CONFIG, source_format=source_format)
    assert keys == [KEY]
    assert load_source(home, "waymo").format == source_format
    return Written(home=home, root=folder / "raw", frames=captured[1], capture=captured[0], config=CONFIG)


@pytest.fixture(scope="session")
def v1(captured, tmp_path_factory) -> Written:
    pytest.importorskip("waymo_open_dataset", reason="pip install --no-deps waymo-open-dataset-tf-2-12-0")
    return _write(tmp_path_factory.mktemp("waymo_v1"), captured, "waymo_v1")


@pytest.fixture(scope="session")
def v2(captured, tmp_path_factory) -> Written:
    return _write(tmp_path_factory.mktemp("waymo_v2"), captured, "waymo_v2")


@pytest.fixture(scope="session", params=["v1", "v2"])
def written(request) -> Written:
    """The data set in either format."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def scene(written) -> SceneReader:
    """The data set's only scene, read back."""
    ingest_scene(written.home, KEY)
    return SceneReader.open(written.home, KEY)
