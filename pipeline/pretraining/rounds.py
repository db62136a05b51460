"""Pretrain in rounds: each starts from the weights of the last one, on every scene that is complete by then."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.pretraining.scenes import complete_scenes, is_held_out
from storage.kinds import Kind
from storage.stores.versioned import Home
from student.config import (
    FeatureHeadFitConfig,
    FitConfig,
    OccupancyFitConfig,
    OptimizerConfig,
    StudentConfig,
    TrainingSetConfig,
)
from student.data.training_set import freeze_training_set, load_training_set
from student.training.fit import fit_student

logger = logging.getLogger(__name__)

PARTITION = "pretrained"
_FILE = "rounds.json"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round that is complete.

    Attributes:
        number: Its number, from 1.
        steps: Optimisation steps.
        seconds: Time that they took; NaN for a round of before it was kept.
        depth_steps: Those of them that fitted depth alone.
        scenes: Scenes learned from.
        checkpoint: Digest of its checkpoint.
        initial: Folder of the checkpoint that it started from; empty for none.
        validation: Figures on the held-out drive.
        occupancy: What the occupancy head learned from; None for a round of before there was one.
        heads: What the heads of features came to rest on; None for a round in which they did not.
    """

    number: int
    steps: int
    depth_steps: int
    scenes: int
    checkpoint: str
    initial: str
    validation: Mapping[str, Any]
    seconds: float = math.nan
    occupancy: Mapping[str, Any] | None = None
    heads: Mapping[str, Any] | None = None


def fit_rounds(home: Home, config: StudentConfig, *, rounds: int, initial: Path | None = None) -> list[Round]:
    """Fit some rounds after those that are complete, and return all that are complete then.

    Args:
        home: Home of the scenes.
        config: The run of each; a round's number is its seed.
        rounds: Number of rounds.
        initial: Checkpoint that the first round of all starts from; None for nothing.
    """
    for _ in range(rounds):
        done = completed_rounds(home)
        number = len(done) + 1
        if done:
            version = home.require(Kind.STUDENT_CHECKPOINT, PARTITION, done[-1].checkpoint)
            initial = home.open_files(version, verify=True)
        name = training_set_name(number)
        if home.latest(Kind.TRAINING_SET, name) is None:  # a round that was stopped keeps its scenes
            freeze_round(home, name, config)
        fit = replace(config.fit, seed=number, initial=None if initial is None else str(initial))
        run = replace(config, fit=fit)
        checkpoint = fit_student(home, PARTITION, run, report, training_set=name)
        frozen = load_training_set(home, name)
        entry = Round(
            number=number,
            steps=checkpoint.metrics["steps"],
            seconds=checkpoint.metrics["fit_seconds"],
            depth_steps=config.fit.depth_steps,
            scenes=sum(bool(scene.train_frames) for scene in frozen.scenes),
            checkpoint=checkpoint.version.digest,
            initial="" if initial is None else str(initial),
            validation=checkpoint.metrics["validation"],
            occupancy=checkpoint.metrics.get("occupancy"),
            heads=checkpoint.metrics.get("heads"),
        )
        _write(home, [*done, entry])
        logger.info("round %d: %s", number, entry.validation)
    return completed_rounds(home)


def training_set_name(number: int) -> str:
    """Return the name of the training set of a round."""
    return f"{PARTITION}-{number:04d}"


def completed_rounds(home: Home) -> list[Round]:
    """Return the rounds that are complete, in order."""
    path = home.root / _FILE
    return [Round(**entry) for entry in json.loads(path.read_text())] if path.is_file() else []


def pretraining_fit(steps: int, depth_steps: int, *, anneal: bool = False) -> FitConfig:
    """Return the budget of one round: a constant rate, and an average of the weights that is published.

    Args:
        steps: Optimisation steps.
        depth_steps: Those of them that fit depth alone.
        anneal: Let the rate fall to a twentieth, as in the round that is shipped: heads of features that a constant
            rate keeps moving come to rest.
    """
    return FitConfig(
        max_steps=steps,
        depth_steps=depth_steps,
        validate_every=steps,
        max_validation_samples=10,
        heads=FeatureHeadFitConfig(steps=2500 if anneal else 0, max_frames=160),
        occupancy=OccupancyFitConfig(steps=500),
        optimizer=OptimizerConfig(
            learning_rate=2.5e-3,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            schedule="cosine" if anneal else "constant",
            warmup_steps=50,
            max_gradient_norm=5.0,
            ema_decay=0.98 if anneal else 0.995,
        ),
    )


def freeze_round(home: Home, name: str, config: StudentConfig) -> None:
    """Freeze the training set of a round: all drives that are complete by now, the held-out ones apart."""
    keys = list(complete_scenes(home, config.data.kinds))
    freeze_training_set(
        home,
        name,
        TrainingSetConfig(
            train_scenes=tuple(key for key in keys if not is_held_out(key)),
            validation_scenes=tuple(key for key in keys if is_held_out(key)),
            kinds=config.data.kinds,
            allow_ungated=(Kind.SCENE_AUDIT,),  # drives are made here, by cameras that are where they say
            on_failed_gate="leave_out",
        ),
    )


def _write(home: Home, rounds: list[Round]) -> None:
    aside = home.root / f".{_FILE}"
    aside.write_text(json.dumps([asdict(entry) for entry in rounds], indent=1) + "\n")
    aside.replace(home.root / _FILE)


def report(stage: str, share: float, figures: Mapping[str, Any]) -> None:
    """Log the progress of a fit."""
    shown = {"loss": "loss {:.4f}", "steps_per_second": "{:.2f} steps/s", "psnr": "PSNR {:.2f}"}
    said = [form.format(figures[name]) for name, form in shown.items() if figures.get(name) is not None]
    logger.info("%s %3.0f%% step %d: %s", stage, 100 * share, figures["step"], ", ".join(said))
