"""The evaluations of a student over time: which ones compare, and whether the newest became worse.

Every evaluation is a version of its own, so the history is the list of versions and nothing is kept beside them. Two
evaluations compare if they were made with one configuration and scored the same scenes with the same number of frames.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage.kinds import Kind
from storage.stores import catalog
from storage.stores.versioned import Home, StoreVersion
from student.evaluation.results import EvaluationResult, Figure

CHIEF_FIGURES = (
    "reconstruction.psnr",
    "reconstruction.ssim",
    "next_frame.psnr",
    "lateral_truth.psnr",
    "depth_lidar.abs_rel",
    "depth_truth.abs_rel",
    "sky.iou",
    "occupancy.iou",
    "occupancy.iou_above_ground",
    "semantic_occupancy.miou_17",
    "calibration.brier",
    "calibration.ece",
    "text_query.mean_average_precision",
    "features.psnr_clip",
)
"""The chief figures of each quality, which a command prints when it ends and which the nightly check watches."""

MARGIN = 0.1
"""Relative change that counts where a figure has no interval, or one of resampled frames, which is too narrow."""

Change = Literal["better", "kept", "worse", "lost", "first"]
"""Change of a figure since the best comparable evaluation; ``lost`` if it is undefined now, ``first`` without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One evaluation of the history.

    Attributes:
        digest: Digest of the evaluation.
        made_at: When it was made, ISO 8601.
        config_digest: Digest of its configuration.
        gate_passed: Whether the gate of its checkpoint passed; None if the checkpoint has none or is gone.
        result: What it found.
    """

    digest: str
    made_at: str
    config_digest: str
    gate_passed: bool | None
    result: EvaluationResult

    def compares_with(self, other: "EvaluationRecord") -> bool:
        """Return whether both were made with one configuration on the same scenes and number of frames."""
        return (self.config_digest, sorted(self.result.scenes), self.result.num_frames) == (
            other.config_digest,
            sorted(other.result.scenes),
            other.result.num_frames,
        )

    def figures(self) -> dict[str, Figure]:
        """Return the chief figures that are defined, by name."""
        found = {name: figure for name, _, figure in self.result.main_figures()}
        return {name: found[name] for name in CHIEF_FIGURES if name in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureChange:
    """A chief figure of the newest evaluation beside the best of the earlier ones.

    Attributes:
        name: Name of the figure.
        change: What became of it.
        now: The figure now; None if it is lost.
        before: The figure of the best earlier evaluation; None for the first one.
        checkpoint: Digest of the checkpoint that had it; empty for the first one.
    """

    name: str
    change: Change
    now: Figure | None
    before: Figure | None
    checkpoint: str = ""


def evaluation_history(home: Home, variant: str) -> list[EvaluationRecord]:
    """Return the evaluations of a variant on its held-out frames, oldest first."""
    rows = catalog.versions(home.objects).to_pylist()
    passed = {row["digest"]: row["gate_passed"] for row in rows if row["kind"] == Kind.STUDENT_CHECKPOINT}
    records = []
    for row in rows:
        if (row["kind"], row["partition"]) != (Kind.STUDENT_EVALUATION, variant):
            continue
        metrics: dict[str, Any] = json.loads(row["metrics"])
        result = EvaluationResult.from_json({name: value for name, value in metrics.items() if name != "quality"})
        records.append(
            EvaluationRecord(
                digest=row["digest"],
                made_at=row["created_at"],
                config_digest=row["config_digest"],
                gate_passed=passed.get(result.checkpoint_digest),
                result=result,
            )
        )
    return sorted(records, key=lambda record: record.made_at)


def changes_since(records: Sequence[EvaluationRecord], evaluation: StoreVersion) -> list[FigureChange]:
    """Compare an evaluation with the best of the earlier comparable ones, figure by figure.

    The best ones, and not the last one, so that a student cannot become worse a little every night. A figure is worse
    if its interval lies wholly beyond the earlier one. Where there is no interval, or one of frames, it must also have
    changed by ``MARGIN``.

    Args:
        records: The history, oldest first.
        evaluation: The evaluation to judge.
    """
    current = next(record for record in records if record.digest == evaluation.digest)
    earlier = [
        record
        for record in records[: records.index(current)]
        if record.compares_with(current) and record.gate_passed is not False
    ]
    now = current.figures()
    known = [name for name in CHIEF_FIGURES if name in now or any(name in record.figures() for record in earlier)]
    return [_change(name, now.get(name), earlier) for name in known]


def _change(name: str, now: Figure | None, earlier: Sequence[EvaluationRecord]) -> FigureChange:
    having = [(record, figure) for record in earlier if (figure := record.figures().get(name)) is not None]
    if not having:
        return FigureChange(name=name, change="first", now=now, before=None)
    sign = 1 if having[0][1].better == "higher" else -1
    record, before = max(having, key=lambda pair: sign * (pair[1].value or 0.0))
    change: Change = "lost" if now is None else _compare(now, before)
    return FigureChange(name=name, change=change, now=now, before=before, checkpoint=record.result.checkpoint_digest)


def _compare(now: Figure, before: Figure) -> Change:
    assert now.value is not None
    assert before.value is not None
    gain = now.value - before.value if now.better == "higher" else before.value - now.value
    if gain == 0:
        return "kept"
    has_intervals = None not in (now.low, now.high, before.low, before.high)
    is_apart = not has_intervals or _are_apart(now, before)
    is_honest = has_intervals and "frame" not in (now.resampled, before.resampled)
    if not is_apart or (not is_honest and abs(gain) < MARGIN * abs(before.value)):
        return "kept"
    return "better" if gain > 0 else "worse"


def _are_apart(now: Figure, before: Figure) -> bool:
    assert now.low is not None
    assert now.high is not None
    assert before.low is not None
    assert before.high is not None
    return now.low > before.high or now.high < before.low
