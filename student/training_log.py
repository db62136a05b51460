"""What a fit says while it runs: a history that is published, TensorBoard, and a callback with the time left."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from student.config import FitConfig
from student.losses import Losses
from student.training_state import FitProgress


class TrainingLog:
    """Averages losses between logged steps and passes them on.

    Args:
        folder: Of the TensorBoard events.
        progress: The fit's progress; its history grows here.
        fit: Budget and intervals.
        on_progress: Called with "fit", the share done, and running figures.
    """

    def __init__(
        self,
        folder: Path,
        progress: FitProgress,
        fit: FitConfig,
        on_progress: Callable[[str, float, Mapping[str, Any]], None] | None,
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._progress = progress
        self._fit = fit
        self._on_progress = on_progress
        # Steps that were logged after the state that a restarted fit goes on from are hidden.
        self._writer = SummaryWriter(str(folder), purge_step=progress.step + 1 if progress.step else None)
        self._sums: dict[str, float] = {}
        self._num_summed = 0
        self._first_step, self._first_s = progress.step, progress.elapsed_s

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def step(self, losses: Losses, rate: float, *, is_last: bool) -> None:
        """Take in one step; every so many steps, and at the last, an entry is written."""
        terms = {"total": float(losses.total.detach())}
        terms |= {f"loss/{name}": float(value) for name, value in losses.terms.items()}
        terms |= {f"count/{name}": float(count) for name, count in losses.counts.items()}
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_summed += 1
        step = self._progress.step
        if step % self._fit.runtime.log_every and not is_last:
            return
        means = {name: value / self._num_summed for name, value in self._sums.items()}
        self._sums, self._num_summed = {}, 0
        entry = {"step": float(step), "elapsed_s": self._progress.elapsed_s, "learning_rate": rate, **means}
        self._progress.history.append(entry)
        for name, value in entry.items():
            if name not in {"step", "elapsed_s"}:
                self._writer.add_scalar(name, value, step)
        self._report(means)

    def validation(self, figures: Mapping[str, float | None]) -> None:
        """Take in the figures of a validation."""
        if not figures:
            return
        step = self._progress.step
        self._progress.validations.append({"step": float(step), **figures})
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(f"validation/{name}", value, step)
        if self._on_progress is not None:
            self._on_progress("validate", self._share(), {"step": step, **figures})

    def _report(self, means: Mapping[str, float]) -> None:
        if self._on_progress is None:
            return
        step = self._progress.step
        seconds = self._progress.elapsed_s - self._first_s
        per_second = (step - self._first_step) / max(seconds, 1e-9)
        left = (self._fit.max_steps - step) / per_second if per_second else math.inf
        if self._fit.max_seconds is not None:
            left = min(left, self._fit.max_seconds - self._progress.elapsed_s)
        figures = {"step": step, "steps": self._fit.max_steps, "steps_per_second": per_second, "eta_s": max(0.0, left)}
        self._on_progress("fit", self._share(), {**figures, "loss": means["total"], **means})

    def _share(self) -> float:
        return self._progress.step / self._fit.max_steps
