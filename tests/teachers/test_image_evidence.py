"""Maps that follow their images pass, and every way of mixing them up is told."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.image.gate_power import FEATURE_POISONS, SKY_POISONS
from teachers.image.sky_evidence import judge_sky
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of, compare

FRAMES, CAMERAS, HEIGHT, WIDTH = 4, 3, 48, 80
CAUGHT_BY = {
    "mirrored": "turned",
    "upside down": "turned",
    "the first image's for all": "explained_by_images",
    "two cameras exchanged": "misplaced",
    "frames late by one": "delayed",
    "one map is another camera's": "misplaced_once",
    "noise": "explained_by_images",
    "zero": "explained_by_images",
}


def horizon(frame: int, camera: int) -> np.ndarray:
    return (14 + 8 * np.sin(0.1 * np.arange(WIDTH) + 2 * camera + 0.8 * frame)).astype(int)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    rows = np.arange(HEIGHT)[:, None]
    return np.stack([[rows < horizon(f, c) for c in range(CAMERAS)] for f in range(FRAMES)])


@pytest.fixture(scope="module")
def images(masks: np.ndarray) -> np.ndarray:
    """Bright, even sky above a world of dark blots, other ones for each camera, that move by a cell a frame."""
    random = np.random.default_rng(0)
    coarse = random.random((CAMERAS, 6, 12, 3))
    world = np.kron(coarse, np.ones((1, 8, 10, 1))) * 0.8 + 0.2 * random.random((CAMERAS, HEIGHT, 120, 3))
    shown = np.stack([world[:, :, 4 * f : 4 * f + WIDTH] for f in range(FRAMES)]) / 2
    shown[masks] = (0.75, 0.82, 0.94)
    return (255 * shown).astype(np.uint8)


@pytest.fixture(scope="module")
def drive(tmp_path_factory, make_scene, publish, images: np.ndarray) -> SceneReader:
    def encoded(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=98)
        return buffer.getvalue()

    home = Home(tmp_path_factory.mktemp("drive"))
    data = make_scene(sizes=((HEIGHT, WIDTH),) * CAMERAS, frames=FRAMES)
    jpegs = tuple(tuple(encoded(image) for image in frame) for frame in images)
    return SceneReader.open(home, publish(home, replace(data, jpegs=jpegs)))


@pytest.fixture(scope="module")
def features(images: np.ndarray) -> np.ndarray:
    """What a model makes of the images: no linear function of them, with noise of its own."""
    random = np.random.default_rng(1)
    cells = (images / 255).reshape(FRAMES, CAMERAS, 12, 4, 20, 4, 3).mean(axis=(3, 5))
    mixed = np.tanh(3 * (cells - 0.4) @ random.normal(size=(3, 6)))
    return (mixed + random.normal(0, 0.3, mixed.shape)).astype(np.float16)


def missed(checks: dict) -> set[str]:
    return {name for name, check in checks.items() if not check["passed"] and "undecided" not in check}


def test_maps_that_follow_their_images_pass(drive: SceneReader, features: np.ndarray) -> None:
    found = appearance_of(features, drive)
    assert found is not None
    checks = appearance_checks(found, AppearanceLimits(), "clip_")
    assert not missed(checks)
    names = ("explained_by_images", "turned", "misplaced", "delayed", "misplaced_once")
    assert set(checks) == {f"clip_{name}" for name in names}
    assert found.explained > 0.5


@pytest.mark.parametrize("name", FEATURE_POISONS)
def test_a_poison_is_caught(drive: SceneReader, features: np.ndarray, name: str) -> None:
    checks = appearance_checks(appearance_of(FEATURE_POISONS[name](features), drive), AppearanceLimits())
    assert CAUGHT_BY[name] in missed(checks)
    assert all(checks[check]["hint"] for check in missed(checks))


def test_the_wrong_map_is_named(drive: SceneReader, features: np.ndarray) -> None:
    found = appearance_of(FEATURE_POISONS["one map is another camera's"](features), drive)
    assert found is not None
    assert found.misplaced_once.where == "frame 1, CAM_0"


def test_an_image_that_leads_the_fit_astray_is_no_wrong_map() -> None:
    """One camera looks like nothing else, and its maps hold little: any other image does less harm than its own."""
    random = np.random.default_rng(3)
    looks = random.normal(size=(5, 6, 12, 20, 4)).astype(np.float32)
    maps = looks @ random.normal(size=(4, 3)) + random.normal(0, 0.5, (5, 6, 12, 20, 3))
    looks[:, 2] *= 4.0
    maps[:, 2] *= 0.3
    found = compare(maps.astype(np.float32), looks, tuple("ABCDEF"))
    assert found is not None
    assert not missed(appearance_checks(found, AppearanceLimits()))
    exchanged = maps[:, [1, 0, 2, 3, 4, 5]].astype(np.float32)
    assert "misplaced" in missed(appearance_checks(compare(exchanged, looks, tuple("ABCDEF")), AppearanceLimits()))


def test_what_shows_too_little_is_undecided(drive: SceneReader, features: np.ndarray) -> None:
    alike = np.tile(np.random.default_rng(0).random((12, 20, 2), np.float32), (FRAMES, CAMERAS, 1, 1, 1))
    maps = features.astype(np.float32)
    for found in (compare(maps, alike, drive.camera_names), compare(maps[:1], alike[:1], drive.camera_names)):
        checks = appearance_checks(found, AppearanceLimits())
        assert all("undecided" in check for check in checks.values())


@pytest.fixture
def judge(drive: SceneReader) -> Callable[[np.ndarray], set[str]]:
    return lambda masks: missed(judge_sky(masks, drive, max_lidar_on_sky=0.05).checks)


def test_sky_where_it_is_passes(judge: Callable[[np.ndarray], set[str]], masks: np.ndarray) -> None:
    assert not judge(masks)


@pytest.mark.parametrize("name", SKY_POISONS)
def test_a_poisoned_sky_is_caught(judge: Callable[[np.ndarray], set[str]], masks: np.ndarray, name: str) -> None:
    found = judge(SKY_POISONS[name](masks))
    assert found
    if name == "nowhere":
        assert found == {"apparent_sky_covered"}
