"""The result of an evaluation as data: figures with their definition, count, interval and baselines.

A figure never stands alone: it says what it was measured against, on how much, how sure it is and
what a trivial predictor reaches. A section without a reference says so and holds no figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.config_json import config_from_json
from storage.digests import undefined_as_null
from storage.errors import ErrorKind, IntegrityError
from student.metrics import Interval

SCHEMA = "distillnerf.evaluation/1"
NO_GROUND_TRUTH = "not available: no ground truth"

Quality = Literal["image", "geometric", "occupancy", "semantic", "calibration", "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a predictor that knows nothing of the input reaches on the same data.

    Attributes:
        label: What it predicts.
        value: Its figure, None when undefined.
    """

    label: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        name: Unique within its section, snake case.
        label: For people.
        value: None when undefined, for example a class that never occurs in the truth.
        definition: How it is computed, one sentence.
        better: Which direction is good.
        unit: Empty for a ratio.
        low: Lower end of the 95 % bootstrap interval, None when there is none.
        high: Upper end.
        resampled: What the bootstrap resampled: "scene", "frame" or "none".
        count: How many things it stands on.
        counted: What those are: pixels, frames, voxels.
        baselines: Trivial predictors on the same data.
        group: Table within the section; empty for the main one.
    """

    name: str
    label: str
    value: float | None
    definition: str
    better: Literal["higher", "lower"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    resampled: str = "none"
    count: int = 0
    counted: str = "frames"
    baselines: tuple[Baseline, ...] = ()
    group: str = ""

    @property
    def beats_baselines(self) -> bool | None:
        """Whether it is better than every baseline that is defined; None when there is none."""
        rivals = [b.value for b in self.baselines if b.value is not None]
        if self.value is None or not rivals:
            return None
        return self.value > max(rivals) if self.better == "higher" else self.value < min(rivals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures of one quality against one reference.

    Attributes:
        name: Unique, snake case.
        title: For people.
        quality: What kind of quality this is; kinds are never mixed in one section.
        reference: What was taken as true.
        note: Protocol in one or two sentences.
        unavailable: Why there are no figures; empty when there are.
        figures: In the order of the table.
    """

    name: str
    title: str
    quality: Quality
    reference: str
    note: str = ""
    unavailable: str = ""
    figures: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        """Reject figures without a reference, and an empty section without a reason."""
        if bool(self.unavailable) == bool(self.figures):
            raise ValueError(f"section {self.name!r} needs either figures or the reason why there are none")
        names = [figure.name for figure in self.figures]
        if len(set(names)) != len(names):
            raise ValueError(f"section {self.name!r} holds two figures of one name")

    def figure(self, name: str) -> Figure:
        """Return the figure called ``name``; raise KeyError when there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{self.name}.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One picture of the comparison.

    Attributes:
        column: What it shows: image, depth, sky, features, query.
        path: Path of the file, relative to the evaluation's folder; empty if there is no picture.
        caption: What exactly it is, or why there is nothing.
    """

    column: str
    path: str
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One camera at one held-out frame, as truth, teacher and student see it.

    Attributes:
        scene: Scene key.
        frame: Frame index.
        camera: Camera name.
        rows: (row title, tiles) from top to bottom; tiles are in column order.
    """

    scene: str
    frame: int
    camera: str
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Everything that one evaluation found.

    Attributes:
        variant: The student's variant.
        checkpoint_digest: Digest of the checkpoint that was scored.
        scenes: Held-out scenes.
        num_frames: Frames scored.
        sections: In reading order.
        panels: Pictures.
        curves: Series for plots, by plot name.
        settings: Everything chosen on training scenes: threshold, temperature, calibration map.
        masked: How many targets were masked, by reason.
        timings: Seconds, by stage.
    """

    variant: str
    checkpoint_digest: str
    scenes: tuple[str, ...]
    num_frames: int
    sections: tuple[Section, ...]
    panels: tuple[Panel, ...] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def section(self, name: str) -> Section:
        """Return the section called ``name``; raise KeyError when there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def headline(self) -> dict[str, float]:
        """Return every defined main figure as ``section.figure``: what a summary or a dashboard wants."""
        return {
            f"{section.name}.{figure.name}": figure.value
            for section in self.sections
            for figure in section.figures
            if figure.value is not None and not figure.group
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what is not finite is None."""
        return {"schema": SCHEMA, "headline": self.headline(), **undefined_as_null(asdict(self))}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EvaluationResult":
        """Read back what ``to_json`` returned.

        Raises:
            IntegrityError: If it was written by another schema, or a field is missing, unknown or of another type.
        """
        if record.get("schema") != SCHEMA:
            raise IntegrityError(
                ErrorKind.SCHEMA_UNKNOWN, "evaluation", f"schema {record.get('schema')!r}, want {SCHEMA!r}"
            )
        fields = {k: v for k, v in record.items() if k not in {"schema", "headline", "quality"}}
        return config_from_json(cls, fields, "evaluation")


def figure_of(
    name: str,
    label: str,
    interval: Interval,
    *,
    definition: str,
    better: Literal["higher", "lower"],
    unit: str = "",
    counted: str = "frames",
    count: int | None = None,
    baselines: Sequence[Baseline] = (),
) -> Figure:
    """Return the figure of a bootstrapped mean.

    Args:
        name: Unique within its section.
        label: For people.
        interval: Mean over frames with its interval.
        definition: One sentence.
        better: Which direction is good.
        unit: Empty for a ratio.
        counted: What ``count`` counts.
        count: Things it stands on; the values averaged by default.
        baselines: Trivial predictors on the same data.
    """
    return Figure(
        name=name,
        label=label,
        value=finite_or_none(interval.mean),
        definition=definition,
        better=better,
        unit=unit,
        low=interval.low,
        high=interval.high,
        resampled=interval.resampled,
        count=interval.num_values if count is None else count,
        counted=counted,
        baselines=tuple(baselines),
    )


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is NaN or infinite: JSON has neither."""
    return float(value) if math.isfinite(value) else None
