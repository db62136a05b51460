"""Fit a student: the training loop, from a frozen training set to a published checkpoint.

A fit that was stopped goes on from its last saved state and, on a CPU, ends with the very bits it would have had.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ErrorKind, StudentDivergedError
from storage.provenance import (
    InputVersion,
    Provenance,
    code_digest,
    config_digest,
    config_json,
    file_digest,
    package_versions,
)
from storage.versioned import Home, Materialized, materialize_files
from student.checkpoint import save_pretrained
from student.config import FitConfig, StudentConfig
from student.data.dataset import FrameDataset
from student.data.loader import LoaderState, TrainingLoader
from student.data.sample import TrainingBatch
from student.data.training_set import TrainingSet, load_training_set
from student.losses import Losses, student_losses
from student.model.distillnerf import DistillNeRF
from student.model_card import write_records
from student.optimization import WeightAverage, build_optimizer, learning_rate
from student.perceptual import PerceptualDistance, perceptual_distance
from student.training_log import TrainingLog
from student.training_state import FitProgress, restore_state, save_state
from student.validation import quality_gate, validate

KIND = "student_checkpoint"

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, float, Mapping[str, Any]], None]
"""Called with a stage, the share of the budget spent, and running figures."""


def fit_student(
    home: Home,
    variant: str,
    config: StudentConfig,
    on_progress: ProgressCallback | None = None,
    *,
    training_set: str | None = None,
) -> Materialized:
    """Return the checkpoint of a variant, fitting it first if it does not exist.

    Args:
        home: Where the training set lies and the checkpoint goes.
        variant: Partition of the checkpoint.
        config: The run.
        on_progress: Called at every logged step with the loss, its terms, steps per second and the time left.
        training_set: Name of the frozen training set; the variant's own by default.

    Raises:
        MissingTargetError: If there is no such training set, or it lacks a kind that the run reads.
        IntegrityError: If a store lost data.
        StudentDivergedError: If a loss or gradient is not finite; its key names the samples of the batch.
    """
    frozen = load_training_set(home, training_set or variant)
    upstream = home.provenance(frozen.version)
    lpips = config.losses.lpips_weights
    provenance = Provenance(
        kind=KIND,
        partition=variant,
        inputs=(InputVersion(frozen.version.kind, frozen.version.partition, frozen.version.digest),),
        config_digest=config_digest(config.determining()),
        code_digest=code_digest(
            "storage.geometry",
            "student.config",
            "student.data",
            "student.fit",
            "student.line_of_sight",
            "student.losses",
            "student.model",
            "student.optimization",
            "student.perceptual",
        ),
        seed=config.fit.seed,
        weights_digests={} if lpips is None else {"lpips": file_digest(lpips)},
        licence=upstream.licence,
        config=config_json(config),
        packages=package_versions("icechunk", "numpy", "torch", "zarr"),
        device=str(_device(config.fit)),
    )
    work = home.work_folder(KIND, variant) / provenance.digest

    def write(folder: Path) -> dict[str, Any]:
        logs = home.root / "logs" / "student" / variant / provenance.digest[:12]
        fit = _Fit(home, frozen, config, work, logs)
        progress = fit.run(on_progress)
        save_pretrained(folder, fit.model, config, variant=variant)
        metrics = _metrics(fit.model, progress, config)
        write_records(folder, home, frozen, variant=variant, provenance=provenance, progress=progress, metrics=metrics)
        return metrics

    done = materialize_files(home, provenance, write)
    shutil.rmtree(work, ignore_errors=True)  # only now: until it is published, the state is all there is
    return done


class _Fit:
    """One fit in this process."""

    def __init__(self, home: Home, frozen: TrainingSet, config: StudentConfig, work: Path, logs: Path) -> None:
        self.config = config
        self.work = work
        self.logs = logs
        self.device = _device(config.fit)
        torch.manual_seed(config.fit.seed)
        self.model = DistillNeRF(config.model).to(self.device)
        self.optimizer = build_optimizer(self.model, config.fit.optimizer)
        decay = config.fit.optimizer.ema_decay
        self.average = None if decay is None else WeightAverage(self.model, decay)
        self.perceptual: PerceptualDistance = perceptual_distance(config.losses.lpips_weights).to(self.device)
        self.progress = restore_state(work, self.model, self.optimizer, self.average) or FitProgress()
        if self.progress.step:
            logger.info("going on from step %d", self.progress.step)
        self.train_data = FrameDataset(home, frozen, "train", config.data, seed=config.fit.seed)
        self.held_out = FrameDataset(home, frozen, "validation", config.data)

    def run(self, on_progress: ProgressCallback | None) -> FitProgress:
        """Train to the end of the budget, leaving the weights to publish in ``model``."""
        fit, progress = self.config.fit, self.progress
        loader = TrainingLoader(
            self.train_data,
            batch_size=self.config.data.batch_size,
            seed=fit.seed,
            num_workers=fit.runtime.num_workers,
            state=LoaderState(samples_delivered=progress.samples_delivered),
        )
        batches: Iterator[TrainingBatch] = iter(loader)
        self.model.train()
        with TrainingLog(self.logs, progress, fit, on_progress) as log:
            started = time.perf_counter() - progress.elapsed_s
            while not _is_over(fit, progress):
                batch = next(batches).to(self.device)
                rate = learning_rate(fit.optimizer, progress.step, share_done(fit, progress))
                losses = self.step(batch, rate)
                progress.step += 1
                progress.samples_delivered = loader.state.samples_delivered
                progress.elapsed_s = time.perf_counter() - started
                log.step(losses, rate, is_last=_is_over(fit, progress))
                if progress.step % fit.validate_every == 0 and not _is_over(fit, progress):
                    log.validation(self.validate())
                if progress.step % fit.runtime.save_every == 0:
                    save_state(self.work, progress, self.model, self.optimizer, self.average)
            log.validation(self.validate())
        if self.average is not None:
            self.average.swap(self.model)
        return progress

    def step(self, batch: TrainingBatch, rate: float) -> Losses:
        """Take one optimisation step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(batch.inputs, batch.cameras)
        losses = student_losses(output, batch, self.config.losses, perceptual=self.perceptual)
        self._require_finite(losses.total, batch, {name: float(term) for name, term in losses.terms.items()})
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.fit.optimizer.max_gradient_norm)
        self._require_finite(norm, batch, {"gradient norm": float(norm)})
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return losses

    def validate(self) -> dict[str, float | None]:
        """Score held-out frames with the weights that would be published now."""
        if self.average is not None:
            self.average.swap(self.model)
        try:
            return validate(
                self.model, self.held_out, max_samples=self.config.fit.max_validation_samples, device=self.device
            )
        finally:
            if self.average is not None:
                self.average.swap(self.model)

    def _require_finite(self, value: Tensor, batch: TrainingBatch, figures: Mapping[str, float]) -> None:
        if not torch.isfinite(value):
            wrong = {name: figure for name, figure in figures.items() if not torch.isfinite(torch.tensor(figure))}
            raise StudentDivergedError(
                ErrorKind.DIVERGED, ", ".join(batch.keys), f"at step {self.progress.step}: {wrong or 'their sum'}"
            )


def share_done(fit: FitConfig, progress: FitProgress) -> float:
    """Return the share of the budget that is spent, in [0, 1]: of steps or of time, whichever is greater."""
    of_time = 0.0 if fit.max_seconds is None else progress.elapsed_s / fit.max_seconds
    return min(1.0, max(progress.step / fit.max_steps, of_time))


def _is_over(fit: FitConfig, progress: FitProgress) -> bool:
    return share_done(fit, progress) >= 1.0


def _device(fit: FitConfig) -> torch.device:
    device = fit.runtime.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)


def _metrics(model: nn.Module, progress: FitProgress, config: StudentConfig) -> dict[str, Any]:
    last = progress.history[-1] if progress.history else {}
    validation = progress.validations[-1] if progress.validations else {}
    metrics: dict[str, Any] = {
        "steps": progress.step,
        "samples": progress.samples_delivered,
        "fit_seconds": progress.elapsed_s,
        "steps_per_second": progress.step / max(progress.elapsed_s, 1e-9),
        "parameters": sum(p.numel() for p in model.parameters()),
        "stopped_by": "steps" if progress.step >= config.fit.max_steps else "seconds",
        "loss": last.get("total"),
        "losses": {name: value for name, value in last.items() if name.startswith("loss/")},
        "validation": validation,
    }
    quality = quality_gate(validation)
    return metrics if quality is None else {**metrics, "quality": quality}
