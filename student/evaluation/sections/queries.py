"""Quality of text queries: heat maps of words against true classes, in images and at points in space.

The paper shows such maps (DistillNeRF Sec. 4.1) without a figure for them. Points are LiDAR returns of known class;
those that a camera sees and those that none sees are scored apart.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from student.evaluation.results import Baseline, Figure, Section, finite_or_none
from student.metrics import average_precision

UNKNOWN_CLASS = 255
"""Label of pixels of unknown class; they are left unscored."""

AP_PER_CLASS, IOU_PER_CLASS = "AP per class", "IoU per class"
_POINTS: dict[bool, tuple[str, str, str]] = {
    True: ("seen", "AP per class, points that a camera sees", "LiDAR returns that some input camera sees"),
    False: ("hidden", "AP per class, points that no camera sees", "LiDAR returns that no input camera sees"),
}
_TEACHER = "teacher's own features"
_FEW = 100
"""True pixels or points below which the figure of a class tells little."""


@dataclass(slots=True, kw_only=True)
class QueryScores:
    """Per-class heat maps of held-out images against true semantics.

    Attributes:
        names: Names of the classes, in the order of the probabilities.
        max_pixels_per_frame: Largest number of pixels kept per frame, chosen at random.
        reference: What names the pixels and points, in words.
        seed: Seed of that choice.
        name: Name of the section.
        title: Title of the section.
        note: What a reader must know of its words.
    """

    names: tuple[str, ...]
    max_pixels_per_frame: int
    reference: str
    seed: int = 0
    name: str = "text_query"
    title: str = "Text queries"
    note: str = "Each class is asked for by its words; the student answers with features rendered from its voxels."
    _student: list[np.ndarray] = field(default_factory=list)
    _teacher: list[np.ndarray] = field(default_factory=list)
    _has_teacher: bool = True
    _truth: list[np.ndarray] = field(default_factory=list)
    _points: dict[bool, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(
        self,
        probability: Float[np.ndarray, "pixels classes"],
        truth: UInt8[np.ndarray, " pixels"],
        *,
        teacher: Float[np.ndarray, "pixels classes"],
    ) -> None:
        """Add the pixels of one frame.

        Args:
            probability: Probability of each class by the student's rendered features; NaN is scored as 0.
            truth: True class index; 254 where it is none of them, 255 where it is unknown.
            teacher: Probability of each class by the features of the image teacher, which saw the image itself. It is
                NaN everywhere for a scene without them: the teacher then has no figure, because it saw other pixels.
        """
        known = np.flatnonzero(truth != UNKNOWN_CLASS)
        generator = np.random.default_rng((self.seed, len(self._truth)))
        if len(known) > self.max_pixels_per_frame:
            known = generator.choice(known, self.max_pixels_per_frame, replace=False)
        self._student.append(np.nan_to_num(probability[known]).astype(np.float32))
        self._has_teacher &= bool(np.isfinite(teacher).any())
        self._teacher.append(np.nan_to_num(teacher[known]).astype(np.float32))
        self._truth.append(truth[known])

    def add_points(
        self,
        probability: Float[np.ndarray, "points classes"],
        truth: UInt8[np.ndarray, " points"],
        *,
        is_seen: Bool[np.ndarray, " points"],
    ) -> None:
        """Add LiDAR returns of one frame.

        Args:
            probability: Probability of each class by the student's features at the point; NaN, where the student holds
                the place for empty, is scored as 0.
            truth: True class index; 254 where it is none of them.
            is_seen: Whether an input camera sees the point.
        """
        for seen in _POINTS:
            of = is_seen == seen
            kept = np.nan_to_num(probability[of]).astype(np.float32), truth[of]
            self._points.setdefault(seen, []).append(kept)

    @property
    def num_frames(self) -> int:
        """Return the number of frames whose pixels were added."""
        return len(self._truth)

    def _point_figures(self) -> tuple[list[Figure], list[Figure]]:
        """Return the means over the classes, and the figures of the classes."""
        means, of_classes = [], []
        for seen, parts in self._points.items():
            name, group, what = _POINTS[seen]
            probability, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
            figures = []
            for index, label in enumerate(self.names):
                is_class = truth == index
                figures.append(
                    Figure(
                        name=f"ap_points_{name}.{label}",
                        label=label.replace("_", " "),
                        value=finite_or_none(average_precision(probability[:, index], is_class)),
                        definition=f"Area under the precision-recall curve of the class's probability over {what}. "
                        "Undefined where the truth never holds the class.",
                        better="higher",
                        count=int(is_class.sum()),
                        counted="true points",
                        baselines=(Baseline(label="chance", value=float(is_class.mean()) if is_class.any() else None),),
                        group=group,
                    )
                )
            means.append(_mean(f"mean_ap_points_{name}", f"mean AP, {name} points", figures, "average precision"))
            of_classes += figures
        return means, of_classes

    def section(self, *, unavailable: str) -> Section:
        """Return the section; ``unavailable`` is the reason to give if there are no figures."""
        figures: tuple[Figure, ...] = ()
        if self._truth:
            means, of_points = self._point_figures()
            student, teacher = np.concatenate(self._student), np.concatenate(self._teacher)
            truth = np.concatenate(self._truth)
            precisions = [self._precision(student, teacher, truth == c, c) for c in range(len(self.names))]
            overlaps = [self._overlap(student, teacher, truth, c) for c in range(len(self.names))]
            figures = (
                _mean("mean_average_precision", "mean AP", precisions, "average precision"),
                _mean("mean_iou", "mean IoU", overlaps, "IoU"),
                *means,
                *precisions,
                *overlaps,
                *of_points,
            )
        return Section(
            name=self.name,
            title=self.title,
            quality="query",
            reference=self.reference,
            note=self.note,
            unavailable="" if figures else unavailable,
            figures=figures,
        )

    def _precision(
        self,
        student: Float[np.ndarray, "pixels classes"],
        teacher: Float[np.ndarray, "pixels classes"],
        is_class: Bool[np.ndarray, " pixels"],
        index: int,
    ) -> Figure:
        present = bool(is_class.any())
        rivals = (
            Baseline(label="chance", value=float(is_class.mean()) if present else None),
            Baseline(label=_TEACHER, value=self._of_teacher(average_precision(teacher[:, index], is_class))),
        )
        return self._figure(
            "ap",
            index,
            average_precision(student[:, index], is_class),
            "Area under the precision-recall curve of the class's probability over held-out pixels.",
            int(is_class.sum()),
            rivals,
            AP_PER_CLASS,
        )

    def _overlap(
        self,
        student: Float[np.ndarray, "pixels classes"],
        teacher: Float[np.ndarray, "pixels classes"],
        truth: UInt8[np.ndarray, " pixels"],
        index: int,
    ) -> Figure:
        is_class = truth == index
        rivals = (Baseline(label=_TEACHER, value=self._of_teacher(_iou(teacher, is_class, index))),)
        return self._figure(
            "iou",
            index,
            _iou(student, is_class, index),
            "IoU of the pixels where this class is the most probable one.",
            int(is_class.sum()),
            rivals,
            IOU_PER_CLASS,
        )

    def _of_teacher(self, value: float) -> float | None:
        return finite_or_none(value) if self._has_teacher else None

    def _figure(
        self,
        quantity: Literal["ap", "iou"],
        index: int,
        value: float,
        definition: str,
        count: int,
        baselines: tuple[Baseline, ...],
        group: str,
    ) -> Figure:
        return Figure(
            name=f"{quantity}.{self.names[index]}",
            label=self.names[index].replace("_", " "),
            value=finite_or_none(value),
            definition=f"{definition} Undefined where the truth never holds the class.",
            better="higher",
            count=count,
            counted="true pixels",
            baselines=baselines,
            group=group,
        )


def _iou(probability: Float[np.ndarray, "pixels classes"], is_class: Bool[np.ndarray, " pixels"], index: int) -> float:
    if not is_class.any():
        return float("nan")
    is_predicted = probability.argmax(axis=1) == index
    return float(np.sum(is_predicted & is_class) / np.sum(is_predicted | is_class))


def _mean(name: str, label: str, figures: list[Figure], quantity: str) -> Figure:
    """Return averages over the classes that occur, for the student and each rival."""
    present = [figure for figure in figures if figure.value is not None]
    rivals = []
    for position, baseline in enumerate(figures[0].baselines):
        values = [v for figure in present if (v := figure.baselines[position].value) is not None]
        rivals.append(Baseline(label=baseline.label, value=float(np.mean(values)) if values else None))
    thin = [f"{figure.label} ({figure.count})" for figure in present if figure.count < _FEW]
    warning = f" Of {', '.join(thin)} there is too little to tell much." if thin else ""
    return Figure(
        name=name,
        label=label,
        value=float(np.mean([f.value for f in present if f.value is not None])) if present else None,
        definition=f"Mean {quantity} over the {len(present)} of {len(figures)} classes that occur in the truth."
        f"{warning}",
        better="higher",
        count=len(present),
        counted="classes present",
        baselines=tuple(rivals),
    )
