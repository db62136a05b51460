"""Which contents that do not belong into a training set are frozen all the same?

``python -m student.experiments.substitutions HOME`` copies the stores of a home with a trained student, publishes wrong
content in the place of each target of one scene, and freezes the training set. Each substitution is tried twice: with
the gate's record of the sound version carried over, and with a gate that vouches for the wrong content, so that only
what the stores themselves show can tell. JSON says what each was refused for.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import zarr

from storage.config_json import config_from_json
from storage.errors import PipelineError
from storage.kinds import KINDS, Kind
from storage.stores.arrays import read_target, write_target
from storage.stores.gate_record import CONTENT, QUALITY
from storage.stores.versioned import Home, StoreVersion, materialize_arrays, reuse
from student.config import TrainingSetConfig
from student.data.training_set import freeze_training_set

Arrays = dict[str, np.ndarray]
"""Arrays of a version, by name."""

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function that makes wrong content of an array, given it and that of another scene."""


@dataclass(frozen=True, slots=True)
class Substitution:
    """Wrong content in the place of a target.

    Attributes:
        kind: Kind of the target.
        changes: What is done to which of its arrays.
        shows: Whether the content itself shows it, whatever a gate says.
    """

    kind: Kind
    changes: Mapping[str, Change]
    shows: bool = True


def _sprinkle(value: float, share: float) -> Change:
    def change(own: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.where(np.random.default_rng(0).random(own.shape) < share, own.dtype.type(value), own)

    return change


def _times(factor: float) -> Change:
    return lambda own, _: (own * factor).astype(own.dtype)


def _focal_length(factor: float) -> Change:
    return lambda own, _: own * np.array([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])


def _others(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    return other[: len(own)]


def _exchange_cameras(own: np.ndarray, _: np.ndarray) -> np.ndarray:
    return own[:, [1, 0, *range(2, own.shape[1])]]


def _repeat_frame(own: np.ndarray, _: np.ndarray) -> np.ndarray:
    changed = own.copy()
    changed[0] = own[-1]
    return changed


def _first_of_all(own: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.broadcast_to(own[:1, :1], own.shape).copy()


def _one_undefined(own: np.ndarray, _: np.ndarray) -> np.ndarray:
    changed = own.copy()
    changed.reshape(-1)[0] = np.nan
    return changed


_DEPTH, _VIEWS, _IMAGES, _FEATURES = Kind.TEACHER_DEPTH, Kind.VIRTUAL_VIEWS, Kind.INPUT_IMAGES, Kind.CLIP_FEATURES
_NAN = float("nan")

SUBSTITUTIONS: Mapping[str, Substitution] = {
    "depth: 1 % NaN": Substitution(_DEPTH, {"termination_depth": _sprinkle(_NAN, 0.01)}, False),
    "depth: 1 % zero": Substitution(_DEPTH, {"termination_depth": _sprinkle(0.0, 0.01)}),
    "depth: first frame is the last": Substitution(_DEPTH, {"termination_depth": _repeat_frame}, False),
    "depth: another scene's": Substitution(_DEPTH, {"termination_depth": _others, "opacity": _others}, False),
    "depth: times 1.1": Substitution(_DEPTH, {"termination_depth": _times(1.1)}),
    "depth: two cameras exchanged": Substitution(_DEPTH, {"termination_depth": _exchange_cameras}, False),
    "depth: all NaN": Substitution(_DEPTH, {"termination_depth": _times(_NAN)}),
    "depth: negative": Substitution(_DEPTH, {"termination_depth": _times(-1.0)}),
    "depth: focal length times 1.1": Substitution(_DEPTH, {"intrinsics": _focal_length(1.1)}),
    "sky: inverted": Substitution(Kind.SKY_MASK, {"is_sky": lambda own, _: ~own}),
    "sky: another scene's": Substitution(Kind.SKY_MASK, {"is_sky": _others}, False),
    "features: one NaN": Substitution(_FEATURES, {"features": _one_undefined}),
    "features: all NaN": Substitution(_FEATURES, {"features": _times(_NAN)}),
    "features: zero": Substitution(_FEATURES, {"features": _times(0.0)}),
    "features: the first image's for all": Substitution(_FEATURES, {"features": _first_of_all}),
    "features: another scene's": Substitution(_FEATURES, {"features": _others}, False),
    "features: mirrored": Substitution(_FEATURES, {"features": lambda own, _: own[..., ::-1, :].copy()}, False),
    "views: depth times 1.1": Substitution(_VIEWS, {"termination_depth": _times(1.1)}),
    "views: black": Substitution(_VIEWS, {"image": _times(0.0)}),
    "views: focal length times 1.1": Substitution(_VIEWS, {"intrinsics": _focal_length(1.1)}),
    "images: another scene's": Substitution(_IMAGES, {"image": _others}),
    "images: two cameras exchanged": Substitution(_IMAGES, {"image": _exchange_cameras}),
    "images: focal length times 1.1": Substitution(_IMAGES, {"intrinsics": _focal_length(1.1)}),
}
"""Substitutions by name. What does not show needs the evidence of a gate, or is told by its record alone."""


def substitute(home: Home, substitution: Substitution, key: str, other: str, *, is_forged: bool) -> StoreVersion:
    """Publish wrong content in the place of a target, and return the version that was there before.

    Args:
        home: Home of both scenes; it is changed.
        substitution: What to publish.
        key: Scene whose target it is.
        other: Another scene with a target of the kind.
        is_forged: Whether the gate vouches for the wrong content, instead of for the sound one.
    """
    sound, foreign = (home.require(substitution.kind, scene) for scene in (key, other))
    group, foreign_group = home.open_arrays(sound), home.open_arrays(foreign)
    arrays = {name: read_target(group, sound.kind, name) for name in KINDS[sound.kind].arrays if name in group}
    for name, change in substitution.changes.items():
        arrays[name] = change(arrays[name], read_target(foreign_group, sound.kind, name))
    metrics = home.metrics(sound)
    if is_forged and QUALITY in metrics:
        metrics[QUALITY] = {name: value for name, value in metrics[QUALITY].items() if name != CONTENT}
    provenance = home.provenance(sound)
    tag = f"substituted, forged {is_forged}, {sorted(substitution.changes)}, {id(substitution)}"

    def write(store: zarr.Group) -> dict[str, Any]:
        for name, data in arrays.items():
            write_target(store, sound.kind, name, data)
        return metrics

    materialize_arrays(home, replace(provenance, config_digest=tag), write)
    return sound


def refusal(home: Home, name: str, config: TrainingSetConfig) -> str:
    """Return what freezing a training set is refused for; empty if it is frozen."""
    try:
        freeze_training_set(home, name, config)
    except PipelineError as error:
        return f"{error.kind}: {error.message}"
    return ""


def trials(home: Home, name: str, config: TrainingSetConfig, key: str, other: str) -> Iterator[dict[str, str]]:
    """Yield what each substitution is refused for, with its record carried over and with a forged one."""
    for title, substitution in SUBSTITUTIONS.items():
        if substitution.kind not in config.kinds:
            continue
        row = {"substitution": title}
        for mode in ("carried over", "forged"):
            sound = substitute(home, substitution, key, other, is_forged=mode == "forged")
            row[mode] = refusal(home, name, config)
            reuse(home, home.provenance(sound))
        yield row


@dataclass(frozen=True, slots=True, kw_only=True)
class _SubstitutionArguments:
    """Publish wrong content in the place of targets, and see what a training set takes.

    Attributes:
        home: Home with a frozen training set of at least two scenes; it is copied, and stays as it is.
        variant: The training set.
    """

    home: Annotated[Path, tyro.conf.Positional]
    variant: str = "clip"


def main() -> None:
    """Try every substitution, and print JSON."""
    arguments = tyro.cli(_SubstitutionArguments, description=_SubstitutionArguments.__doc__)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("stores", "artifacts", "catalog"):
            shutil.copytree(arguments.home / part, Path(folder) / part)
        home = Home(folder)
        provenance = home.provenance(home.require(Kind.TRAINING_SET, arguments.variant))
        frozen = config_from_json(TrainingSetConfig, provenance.config, "training_set.config")
        key, other = (*frozen.train_scenes, *frozen.validation_scenes)[:2]
        config = replace(frozen, train_scenes=(key,), validation_scenes=(), on_failed_gate="refuse")
        found = {"clean": refusal(home, arguments.variant, config), "trials": []}
        found["trials"] = list(trials(home, arguments.variant, config, key, other))
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
