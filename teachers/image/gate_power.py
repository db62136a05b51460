"""How often do gates of image teachers stop sound maps, and how often do they let poisoned ones pass?

``python -m teachers.image.gate_power HOME...`` reads the current sky masks and features of every scene of some homes,
judges them as they are and under each poison, and prints as JSON how many scenes each poison was caught in, by which
checks, and the checks that sound maps missed. Nothing is written.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from storage.kinds import FEATURE_SOURCES, Kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from teachers.config import SkyConfig
from teachers.image.extract_depth import DEPTH_LIMITS
from teachers.image.sky_evidence import judge_sky
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of, scene_looks

Poison = Callable[[np.ndarray], np.ndarray]
"""Function of maps over frames, cameras, rows, columns and perhaps channels."""


def _exchange_cameras(maps: np.ndarray) -> np.ndarray:
    return maps[:, [1, 0, *range(2, maps.shape[1])]]


def _first_of_all(maps: np.ndarray) -> np.ndarray:
    return np.broadcast_to(maps[:1, :1], maps.shape).copy()


def _one_of_another_camera(maps: np.ndarray) -> np.ndarray:
    changed = maps.copy()
    changed[1, 0] = maps[1, -1]
    return changed


def _noise(maps: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).random(maps.shape).astype(np.float32)


FEATURE_POISONS: Mapping[str, Poison] = {
    "mirrored": lambda maps: maps[:, :, :, ::-1],
    "upside down": lambda maps: maps[:, :, ::-1],
    "the first image's for all": _first_of_all,
    "two cameras exchanged": _exchange_cameras,
    "frames late by one": lambda maps: np.roll(maps, -1, axis=0),
    "one map is another camera's": _one_of_another_camera,
    "noise": _noise,
    "zero": lambda maps: 0 * maps,
}
"""Poisons of features by name."""

SKY_POISONS: Mapping[str, Poison] = {
    "nowhere": np.zeros_like,
    "everywhere": np.ones_like,
    "inverted": lambda masks: ~masks,
    "mirrored": lambda masks: masks[:, :, :, ::-1],
    "upside down": lambda masks: masks[:, :, ::-1],
    "the first image's for all": _first_of_all,
    "two cameras exchanged": _exchange_cameras,
    "frames late by one": lambda masks: np.roll(masks, -1, axis=0),
    "noise": lambda masks: _noise(masks) > 0.5,
}
"""Poisons of sky masks by name."""


def judged(home: Home, scene: SceneReader, key: str) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """Yield kind, poison (or "clean") and checks of all that image teachers and feature fields made of a scene."""
    version = home.latest(Kind.SKY_MASK, key)
    if version is not None:
        masks = read_target(home.open_arrays(version), Kind.SKY_MASK, "is_sky")
        for poison, change in {"clean": _as_it_is, **SKY_POISONS}.items():
            found = judge_sky(change(masks), scene, max_lidar_on_sky=SkyConfig().max_lidar_on_sky)
            yield Kind.SKY_MASK, poison, found.checks
    for kind, name, limits in _FEATURES:
        version = home.latest(kind, key)
        if version is None or name not in (group := home.open_arrays(version)):
            continue
        maps = read_target(group, kind, name)
        looks = scene_looks(scene, maps.shape[2:4])
        for poison, change in {"clean": _as_it_is, **FEATURE_POISONS}.items():
            checks = appearance_checks(appearance_of(change(maps), scene, looks), limits)
            yield kind if name == "features" else f"{kind}, {name}", poison, checks


def _as_it_is(maps: np.ndarray) -> np.ndarray:
    return maps


_FEATURES: tuple[tuple[Kind, str, AppearanceLimits], ...] = (
    (Kind.DINOV2_FEATURES, "features", AppearanceLimits()),
    (Kind.CLIP_FEATURES, "features", AppearanceLimits()),
    (Kind.DEPTH_ANYTHING_FEATURES, "features", DEPTH_LIMITS),
    *((Kind.TEACHER_FEATURES, source, AppearanceLimits()) for source in FEATURE_SOURCES),
)


def main(homes: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Judge what image teachers made of the scenes of some homes, as it is and poisoned, and print JSON.

    Args:
        homes: Homes with ingested scenes and targets of image teachers.
    """
    found: dict[str, dict[str, Any]] = {}
    for root in homes:
        home = Home(root)
        for _, key in home.array_partitions(Kind.SCENE):
            for kind, poison, checks in judged(home, SceneReader.open(home, key), key):
                row = found.setdefault(
                    f"{kind}: {poison}", {"scenes": 0, "caught": 0, "undecided": 0, "checks": Counter(), "where": []}
                )
                failed = {n: c for n, c in checks.items() if not c["passed"] and "undecided" not in c}
                row["scenes"] += 1
                row["caught"] += bool(failed)
                row["undecided"] += all("undecided" in c for c in checks.values())
                row["checks"].update(failed.keys())
                if poison == "clean" or not failed:
                    shown = failed if poison == "clean" else checks
                    row["where"] += [f"{key}: {n} {c['value']:.3g} {c.get('where', '')}" for n, c in shown.items()]
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    tyro.cli(main)
