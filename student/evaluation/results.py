"""Result of an evaluation as data: figures with their definition, count, interval and baselines.

A figure states its definition, the number of things it was measured on, its interval and the figures of trivial
predictors. A section without a reference says so and is empty.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storage.config_json import config_from_json
from storage.digests import undefined_as_null
from storage.errors import ErrorKind, IntegrityError
from student.metrics import Interval

SCHEMA = "distillnerf.evaluation/2"
_SCHEMA_1 = "distillnerf.evaluation/1"
NO_GROUND_TRUTH = "not available: no ground truth"
RAW = "raw"
"""Label of what a student says before it is calibrated."""

ONE_SIDED = frozenset({"returns_called_sky"})
"""Figures that see errors of one kind only."""

IMITATIONS = frozenset({"lateral_teacher", "depth_teacher", "features"})
"""Sections that measure how well a teacher is imitated, and no truth."""

TOO_NARROW = "by frame, too narrow"
"""Warning beside an interval of resampled frames: frames of one scene resemble each other."""

Quality = Literal["image", "geometric", "occupancy", "semantic", "calibration", "query"]
Protocol = Literal["full", "paper"]
"""Definition that a figure follows: all held-out frames as a user would save them, or the published evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Figure of another predictor on the same data.

    Attributes:
        label: Name of the predictor.
        value: Its figure; None when undefined.
    """

    label: str
    value: float | None

    @property
    def is_trivial(self) -> bool:
        """Return whether it ignores the frame, so that a student has to beat it.

        A label that names a teacher, a sweep, a density, or what the student itself says before it is calibrated, is of
        a predictor that saw the frame and only stands beside it.
        """
        return self.label != RAW and not any(word in self.label for word in ("teacher", "sweep", "density"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        name: Name in snake case, unique within its section.
        label: Label for readers.
        value: None when undefined, for example a class that never occurs in the truth.
        definition: Definition of the computation, one sentence.
        better: Direction in which it improves.
        unit: Unit; empty for a ratio.
        low: Lower end of the 95 % bootstrap interval; None when there is none.
        high: Upper end of that interval; None when there is none.
        resampled: Unit that the bootstrap resampled: "scene", "frame" or "none".
        count: Number of things that it was measured on.
        counted: Name of those things: pixels, frames, voxels.
        baselines: Trivial predictors on the same data.
        group: Table within the section; empty for the main one.
        protocol: Protocol that the definition belongs to.
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
    protocol: Protocol = "full"

    def spelt_baselines(self) -> str:
        """Return the labels and values of the trivial predictors, those that are defined, for people."""
        return ", ".join(f"{b.label} {b.value:.4g}" for b in self.baselines if b.value is not None)

    @property
    def best_baseline(self) -> "Baseline | None":
        """Return the trivial predictor that is hardest to beat, of those that are defined; None without any.

        A teacher is none: it saw the very frame. A one-sided figure has none: who says nothing at all would win it.
        """
        if self.name in ONE_SIDED:
            return None
        rivals = [b for b in self.baselines if b.value is not None and b.is_trivial]
        best = max if self.better == "higher" else min
        return best(rivals, key=lambda b: b.value or 0.0) if rivals else None

    @property
    def beats_baselines(self) -> bool | None:
        """Return whether it is better than every trivial predictor; None without any."""
        best = self.best_baseline
        if self.value is None or best is None or best.value is None:
            return None
        return self.value > best.value if self.better == "higher" else self.value < best.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures of one quality against one reference.

    Attributes:
        name: Unique name in snake case.
        title: Title for readers.
        quality: Kind of quality; a section has one kind only.
        reference: Reference that was taken as true.
        note: Protocol in one or two sentences.
        unavailable: Reason why the section has no figures; empty if it has.
        figures: Figures, in the order of the table.
    """

    name: str
    title: str
    quality: Quality
    reference: str
    note: str = ""
    unavailable: str = ""
    figures: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        """Reject figures that lack a reference, and empty sections that lack a reason."""
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
        column: Content: image, depth, sky, features or query.
        path: Path of the file, relative to the evaluation's folder; empty if there is nothing to show.
        caption: Description of the picture, or the reason why there is none.
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
class FrameRecord:
    """Chief figures of one scored frame.

    Attributes:
        scene: Scene key.
        frame: Frame index.
        camera: Name of its worst camera, which the picture shows.
        figures: Figures of this frame alone, by ``section.figure``; None when undefined.
        picture: Path of its picture, relative to the evaluation's folder; empty before it is written.
    """

    scene: str
    frame: int
    camera: str
    figures: Mapping[str, float | None]
    picture: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Everything that one evaluation found.

    Attributes:
        variant: The student's variant.
        checkpoint_digest: Digest of the scored checkpoint.
        scenes: Scenes with scored frames.
        num_frames: Number of frames scored.
        scored_on: What was scored and how it was held out, a sentence.
        notes: What a reader must know before believing a figure, a sentence each.
        sections: Sections, in reading order.
        panels: Pictures.
        curves: Series for plots, by plot name.
        settings: Values chosen on training scenes: threshold, temperature, calibration map.
        masked: Number of masked targets, by reason.
        timings: Seconds of each stage.
        worst: The frames with the worst figures, worst first.
    """

    variant: str
    checkpoint_digest: str
    scenes: tuple[str, ...]
    num_frames: int
    sections: tuple[Section, ...]
    scored_on: str = ""
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    worst: tuple[FrameRecord, ...] = ()

    def section(self, name: str) -> Section:
        """Return the section called ``name``; raise KeyError when there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def main_figures(self) -> Iterator[tuple[str, float, Figure]]:
        """Yield every defined main figure, after its name, ``section.figure``, and its value."""
        for section in self.sections:
            for figure in section.figures:
                if figure.value is not None and not figure.group:
                    yield f"{section.name}.{figure.name}", figure.value, figure

    def headline(self) -> dict[str, float]:
        """Return the value of every main figure, for summaries and dashboards."""
        return {name: value for name, value, _ in self.main_figures()}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; None stands for numbers that are not finite."""
        return {"schema": SCHEMA, "headline": self.headline(), **undefined_as_null(asdict(self))}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EvaluationResult":
        """Return the result that ``to_json`` wrote.

        Raises:
            IntegrityError: If it was written by another schema, or a field is missing, unknown or of another type.
        """
        if record.get("schema") == _SCHEMA_1:
            record = _upgraded(record)
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
    protocol: Protocol = "full",
) -> Figure:
    """Return the figure of a bootstrapped mean.

    Args:
        name: Name of the figure, unique within its section.
        label: Label for readers.
        interval: Mean over frames with its interval.
        definition: Definition of the computation, one sentence.
        better: Direction in which it improves.
        unit: Unit; empty for a ratio.
        counted: Name of the things that ``count`` counts.
        count: Number of things that it was measured on; by default the number of averaged values.
        baselines: Trivial predictors on the same data.
        protocol: Protocol that the definition belongs to.
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
        protocol=protocol,
    )


def _upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of the first schema in the present one; what it did not say stays unsaid."""

    def figure(old: Mapping[str, Any]) -> dict[str, Any]:
        return {**old, "protocol": "paper" if str(old["name"]).startswith("paper_") else "full"}

    sections = [{**section, "figures": [figure(f) for f in section["figures"]]} for section in record["sections"]]
    return {**record, "schema": SCHEMA, "sections": sections, "scored_on": "", "notes": [], "worst": []}


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is NaN or infinite: JSON has neither."""
    return float(value) if math.isfinite(value) else None
