"""Reports of a running fit: the published history, trackers, and a callback with the time left."""

import math
from collections.abc import Mapping, Sequence
from types import TracebackType

from storage.progress import ProgressCallback
from student.config import FitConfig
from student.training.state import FitProgress, share_done
from student.training.trackers import Tracker
from student.training.validation import Validation


class TrainingLog:
    """Averages losses between logged steps and passes them on.

    Args:
        trackers: Trackers that get the curves; they are closed at the end.
        progress: Progress of the fit; entries are added to its history.
        fit: Budget and logging interval.
        on_progress: Function called with a stage ("fit" or "validate"), the share done, and running figures.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        progress: FitProgress,
        fit: FitConfig,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._progress = progress
        self._fit = fit
        self._on_progress = on_progress
        self._trackers = trackers
        self._sums: dict[str, float] = {}
        self._num_summed = 0
        self._first_step, self._first_s = progress.step, progress.elapsed_s

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()

    def step(self, figures: Mapping[str, float], rate: float, *, is_last: bool) -> None:
        """Add one step's "total", terms and counts; write an entry at the logging interval and at the last step."""
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_summed += 1
        step = self._progress.step
        if step % self._fit.runtime.log_every and not is_last:
            return
        means = {name: value / self._num_summed for name, value in self._sums.items()}
        self._sums, self._num_summed = {}, 0
        curves = {"learning_rate": rate, **means}
        self._progress.history.append({"step": float(step), "elapsed_s": self._progress.elapsed_s, **curves})
        for tracker in self._trackers:
            tracker.scalars(step, curves)
        self._report(means)

    def validation(self, found: Validation) -> None:
        """Record the figures and pictures of a validation."""
        if not found.figures:
            return
        step = self._progress.step
        self._progress.validations.append({"step": float(step), **found.figures})
        curves = {f"validation/{name}": value for name, value in found.figures.items() if value is not None}
        for tracker in self._trackers:
            tracker.scalars(step, curves)
            for key, picture in found.pictures.items():
                tracker.picture(step, f"validation/{key}", picture)
        if self._on_progress is not None:
            self._on_progress("validate", self._share(), {"step": step, **found.figures})

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
        return share_done(self._fit, self._progress)
