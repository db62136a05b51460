"""Saved states, as safetensors and JSON, from which a stopped fit continues as if it had never stopped.

A state is a folder named for its step. It is written under another name and then renamed, so that a kill at any moment
leaves a whole state. ``manifest.json`` in it has the step and the SHA-256 of each file: files that were damaged since,
or that belong to different steps, are refused, and the state before is used, which is kept for that. A state holds no
random generators: every step seeds them from the run's seed and its own number.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storage.config_json import config_from_json
from storage.digests import file_digest
from storage.errors import ErrorKind, HomeUnavailableError, IntegrityError
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults
from student.config import FitConfig
from student.training.optimization import WeightAverage

_NUM_KEPT = 2
_TENSORS, _CONTENT, MANIFEST = "state.safetensors", "state.json", "manifest.json"

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FitProgress:
    """Progress of a fit.

    Attributes:
        step: Optimisation steps taken.
        samples_delivered: Samples taken from the loader.
        elapsed_s: Wall-clock time spent over all starts, seconds.
        history: One entry per logged step: step, elapsed_s, learning_rate and each loss.
        validations: One entry per validation.
    """

    step: int = 0
    samples_delivered: int = 0
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float | None]] = field(default_factory=list)


def share_done(fit: FitConfig, progress: FitProgress) -> float:
    """Return the share of the budget that is spent, in [0, 1]: the greater of the shares of steps and of time."""
    of_time = 0.0 if fit.max_seconds is None else progress.elapsed_s / fit.max_seconds
    return min(1.0, max(progress.step / fit.max_steps, of_time))


def save_state(
    folder: Path,
    progress: FitProgress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
) -> None:
    """Write the state of this step, then drop all but the last two."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    for index, entries in state["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.tensors().items()}
    content = {
        "progress": asdict(progress),
        "gradient_scale": scaler.state_dict(),
        "param_groups": state["param_groups"],
        "average_updates": None if average is None else average.num_updates,
    }
    target = folder / f"step-{progress.step:09d}"
    aside = folder / f".{target.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, aside / _TENSORS)
    (aside / _CONTENT).write_text(json.dumps(content))
    digests = {name: file_digest(aside / name) for name in (_TENSORS, _CONTENT)}
    (aside / MANIFEST).write_text(json.dumps({"step": progress.step, "sha256": digests}))
    # Before it gets its name: otherwise, after a loss of power, the name could stand for half of it.
    for path in (*aside.iterdir(), aside):
        _flush(path)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    os.replace(aside, target)
    _flush(folder)
    for old in _states(folder)[:-_NUM_KEPT]:
        shutil.rmtree(old)


def restore_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
) -> FitProgress | None:
    """Load the last whole state into the given objects; return None where there is none.

    Raises:
        IntegrityError: If there are states, but none that is whole.
        OutOfCapacityError: If memory or file descriptors ran out: no state is at fault.
        HomeUnavailableError: If no state can be read, one of them because the disk failed or may not be read.
    """
    with machine_faults(str(folder)):
        states = _states(folder)
    failed_disk: HomeUnavailableError | None = None
    for state in reversed(states):
        try:
            with machine_faults(str(state)):
                return _restore(state, model, optimizer, scaler, average)
        except HomeUnavailableError as error:
            failed_disk = error
            logger.warning("state %s cannot be read: %s", state, error)
        except (IntegrityError, OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            logger.warning("state %s cannot be read: %s", state, error)
    if failed_disk is not None:
        raise failed_disk  # deleting states would not help
    if states:
        raise IntegrityError(
            ErrorKind.STORE_CORRUPT, str(folder), f"none of {len(states)} states can be read: delete it to start anew"
        )
    return None


def _restore(
    state: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
) -> FitProgress:
    content, tensors = _read(state)
    progress = config_from_json(FitProgress, content["progress"], f"{state / _CONTENT}: progress")
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        index, _, entry = name.partition(".")
        entries.setdefault(int(index), {})[entry] = value
    groups = [{**group, "betas": tuple(group["betas"])} for group in content["param_groups"]]
    model.load_state_dict(_below(tensors, "model."))
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    if average is not None:
        average.num_updates = int(content["average_updates"])
        for name, value in _below(tensors, "average.").items():
            average.average[name].copy_(value)
    if content["gradient_scale"]:
        scaler.load_state_dict(content["gradient_scale"])
    return progress


def _read(state: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state's content and tensors after checking both against its manifest.

    Raises:
        IntegrityError: If a file is not the one that was written for this step.
    """
    manifest = parse_json((state / MANIFEST).read_text())
    for name in (_CONTENT, _TENSORS):
        wanted, seen = manifest["sha256"][name], file_digest(state / name)
        if seen != wanted:
            raise IntegrityError(ErrorKind.DIGEST_MISMATCH, str(state / name), f"SHA-256 {seen}, want {wanted}")
    content = parse_json((state / _CONTENT).read_text())
    steps = {int(state.name.removeprefix("step-")), manifest["step"], content["progress"]["step"]}
    if len(steps) != 1:
        message = f"its name, manifest and progress are of different steps: {sorted(steps)}"
        raise IntegrityError(ErrorKind.DIGEST_MISMATCH, str(state), message)
    return content, load_file(state / _TENSORS)


def _flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{9}", path.name) and path.is_dir())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
