"""Worlds and a small data set shared by the tests of the procedural world."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.keys import SceneKey
from storage.procedural.conditions import Conditions
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.procedural.world.world import World, build_world
from storage.stores.versioned import Home


@pytest.fixture(scope="session")
def street() -> World:
    return build_world("street", 3, conditions=Conditions(lighting="sunny"))


@pytest.fixture(scope="session")
def airside() -> World:
    return build_world("airside", 1, conditions=Conditions(lighting="sunny"))


@dataclass(frozen=True)
class Generated:
    home: Home
    root: Path
    config: ProceduralConfig
    keys: list[SceneKey]


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """Two scenes, one of each theme, three keyframes, images of 160 by 90."""
    folder = tmp_path_factory.mktemp("procedural")
    config = ProceduralConfig(
        num_scenes=2, airside_share=0.5, frames_per_scene=3, image_height=90, image_width=160, seed=5
    )
    home = Home(folder / "home")
    keys = generate_dataset(home, folder / "raw", config)
    return Generated(home=home, root=folder / "raw", config=config, keys=keys)
