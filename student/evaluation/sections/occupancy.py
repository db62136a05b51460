"""Occupancy quality: occupied or free voxels, and the calibration of their probability.

The threshold and the calibration map come from training scenes. Held-out scenes only apply them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from storage.errors import ErrorKind, IntegrityError
from storage.geometry.voxel_grid import OCC3D_GRID
from student.evaluation.calibration import CalibrationMap, calibration_from_json, fit_calibration, reliability
from student.evaluation.occupancy_cuts import FrameCuts
from student.evaluation.occupancy_rays import ONE_PLACE, RAY_THRESHOLDS_M, RayCounts, ray_figure
from student.evaluation.results import NO_GROUND_TRUTH, RAW, Baseline, Figure, Section, figure_of, finite_or_none
from student.inference.occupancy import BinaryCounts, best_iou_threshold
from student.metrics import bootstrap_statistic

_INSIDE = "Voxels of the Occ3D grid that some input camera can see."
ABOVE_GROUND_M = 0.3
"""Height of a voxel's centre in the ego frame, metres, above which flat ground is out of reach."""
DENSITY_ALONE = "its density alone, as published"
TEACHER_DENSITY = "teacher's own density"
"""How a student with an occupancy head would be judged without it, by cuts of its own."""
BY_THRESHOLDS = "Thresholds and calibration were chosen on training scenes."
BY_CUTS = (
    "The calibration was chosen on training scenes; each frame is cut where its own calibrated probabilities promise "
    "the largest IoU."
)

_DEFINITIONS: dict[str, tuple[str, str]] = {
    "iou": ("IoU", "Occupied in both, over occupied in either."),
    "precision": ("precision", "Share of the voxels called occupied that are."),
    "recall": ("recall", "Share of the occupied voxels that were found; one less this share was missed."),
    "false_free": ("falsely free", "Share of the voxels called free that are occupied."),
}
_Counts = dict[str, list[BinaryCounts]]
RANGE_BANDS_M = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0))
"""Bands of horizontal distance from the ego frame's origin, metres."""

PER_BAND, PER_LIMIT = "IoU by range", "RayIoU by error of distance"
_HIDDEN = "Voxels whose state is known, and which no input camera can see."


def is_above_ground(flat_index: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return whether voxels of the Occ3D grid are out of reach of flat ground."""
    return OCC3D_GRID.centres_of(flat_index)[:, 2] > ABOVE_GROUND_M


def horizontal_range(flat_index: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the horizontal distance of voxels of the Occ3D grid from the ego frame's origin, metres."""
    return np.linalg.norm(OCC3D_GRID.centres_of(flat_index)[:, :2], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupancyFit:
    """Threshold and calibration, chosen on training scenes.

    Attributes:
        threshold: Raw probability from which a voxel counts as occupied.
        threshold_above_ground: The same, chosen for the voxels that flat ground cannot reach alone. The other one is
            all but chosen by the ground, which makes up most of what is occupied.
        training_iou: IoU that the threshold reaches on the voxels it was chosen on; None if nobody kept it.
        calibration: Map from raw to calibrated probability.
        num_voxels: Number of training voxels that it was fitted on.
    """

    threshold: float
    threshold_above_ground: float
    training_iou: float | None
    calibration: CalibrationMap
    num_voxels: int

    @property
    def thresholds(self) -> FrameCuts:
        """Return the same cuts for every frame."""
        return FrameCuts(self.threshold, self.threshold_above_ground)

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to apply it again."""
        return {
            "threshold": self.threshold,
            "threshold_above_ground": self.threshold_above_ground,
            "training_iou": self.training_iou,
            "calibration": dict(self.calibration.to_json()),
            "num_training_voxels": self.num_voxels,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], key: str) -> "OccupancyFit":
        """Return what ``to_json`` wrote.

        Raises:
            IntegrityError: If a value is missing or of another type.
        """
        numbers = {
            "threshold": "threshold",
            "threshold_above_ground": "threshold_above_ground",
            "training_iou": "training_iou",
            "num_training_voxels": "num_voxels",
        }
        for name in (*numbers, "calibration"):
            wanted = dict if name == "calibration" else int | float
            if not isinstance(record.get(name), wanted):
                raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, f"{key}.{name}", f"is {record.get(name)!r}")
        values = {of: record[name] for name, of in numbers.items()}
        return cls(calibration=calibration_from_json(record["calibration"]), **values)


@dataclass(slots=True, kw_only=True)
class OccupancySample:
    """Sample of voxels with raw probability and truth: a bounded random share of each frame.

    Attributes:
        max_per_frame: Largest number of voxels kept per frame.
        seed: Seed of the choice.
    """

    max_per_frame: int
    seed: int
    _probability: list[np.ndarray] = field(default_factory=list)
    _is_occupied: list[np.ndarray] = field(default_factory=list)
    _is_above_ground: list[np.ndarray] = field(default_factory=list)

    def add(
        self,
        probability: Float[np.ndarray, " n"],
        is_occupied: Bool[np.ndarray, " n"],
        is_above_ground: Bool[np.ndarray, " n"],
    ) -> None:
        """Add the visible voxels of one frame."""
        generator = np.random.default_rng((self.seed, len(self._probability)))
        size = min(self.max_per_frame, len(probability))
        chosen = generator.choice(len(probability), size, replace=False)
        self._probability.append(probability[chosen])
        self._is_occupied.append(is_occupied[chosen])
        self._is_above_ground.append(is_above_ground[chosen])

    @property
    def probability(self) -> Float[np.ndarray, " n"]:
        """Raw probability of every voxel kept."""
        return np.concatenate([np.zeros(0), *self._probability])

    @property
    def is_occupied(self) -> Bool[np.ndarray, " n"]:
        """Truth of every voxel kept."""
        return np.concatenate([np.zeros(0, dtype=bool), *self._is_occupied])

    def fit(self, method: Literal["temperature", "isotonic"]) -> OccupancyFit | None:
        """Choose threshold and calibration; return None unless there are both occupied and free voxels."""
        probability, is_occupied = self.probability, self.is_occupied
        if not is_occupied.any() or is_occupied.all():
            return None
        threshold, iou = best_iou_threshold(probability, is_occupied)
        is_above = np.concatenate(self._is_above_ground)
        stands_something = is_occupied[is_above].any()
        above = best_iou_threshold(probability[is_above], is_occupied[is_above])[0] if stands_something else threshold
        return OccupancyFit(
            threshold=threshold,
            threshold_above_ground=above,
            training_iou=iou,
            calibration=fit_calibration(probability, is_occupied, method=method),
            num_voxels=len(probability),
        )


@dataclass(slots=True, kw_only=True)
class OccupancyScores:
    """Binary occupancy of held-out frames, and how well its probability is calibrated.

    The IoU is the geometric one of (DistillNeRF Tab. 4). Most occupied voxels are ground, whose height a prior knows.
    A second IoU therefore leaves out the voxels that ground can reach, and has a threshold of its own.

    Attributes:
        fit: Threshold and calibration, chosen on training scenes.
        sample: Sample of held-out voxels for the calibration figures.
        seed: Seed of the bootstrap.
    """

    fit: OccupancyFit
    sample: OccupancySample
    seed: int = 0
    _counts: _Counts = field(default_factory=dict)
    _counts_above: _Counts = field(default_factory=dict)
    _decided: list[BinaryCounts] = field(default_factory=list)
    _counts_in_band: dict[int, _Counts] = field(default_factory=dict)
    _counts_hidden: _Counts = field(default_factory=dict)
    _rays: dict[str, list[RayCounts]] = field(default_factory=dict)
    _own_rays: dict[str, list[RayCounts]] = field(default_factory=dict)
    _scenes: list[str] = field(default_factory=list)

    def add(
        self,
        scene: str,
        probability: Float[np.ndarray, " n"],
        is_occupied: Bool[np.ndarray, " n"],
        *,
        is_above_ground: Bool[np.ndarray, " n"],
        horizontal_range: Float[np.ndarray, " n"],
        baselines: Mapping[str, Bool[np.ndarray, " n"]],
        cuts: FrameCuts | None = None,
        is_observed: Bool[np.ndarray, " n"] | None = None,
    ) -> None:
        """Score the visible voxels of one frame.

        Args:
            scene: Scene key, for the bootstrap.
            probability: Raw probability of occupancy.
            is_occupied: Truth.
            is_above_ground: Whether the voxel's centre lies above ``ABOVE_GROUND_M``.
            horizontal_range: Horizontal distance of the voxel, metres.
            baselines: Occupancy by trivial predictors, by label; every call has the same labels.
            cuts: Where the frame's probabilities are cut; None for the thresholds of the fit.
            is_observed: Whether the student itself holds the voxel for seen; what it does not is exported as unknown.
                None if it holds all for seen.
        """
        self._scenes.append(scene)
        cuts = cuts or self.fit.thresholds
        decided = cuts.is_occupied(probability, is_above_ground)
        exported = decided if is_observed is None else decided & is_observed
        self._decided.append(BinaryCounts.of(exported, is_occupied))
        for label, predicted in {"": probability >= cuts.everywhere, **baselines}.items():
            self._counts.setdefault(label, []).append(BinaryCounts.of(predicted, is_occupied))
            for band, (low, high) in enumerate(RANGE_BANDS_M):
                inside = (horizontal_range >= low) & (horizontal_range < high)
                counts = BinaryCounts.of(predicted[inside], is_occupied[inside])
                self._counts_in_band.setdefault(band, {}).setdefault(label, []).append(counts)
        for label, predicted in {"": probability >= cuts.above_ground, **baselines}.items():
            above = BinaryCounts.of(predicted[is_above_ground], is_occupied[is_above_ground])
            self._counts_above.setdefault(label, []).append(above)
        self.sample.add(probability, is_occupied, is_above_ground)

    def add_hidden(
        self,
        probability: Float[np.ndarray, " n"],
        is_occupied: Bool[np.ndarray, " n"],
        *,
        baselines: Mapping[str, Bool[np.ndarray, " n"]],
        cuts: FrameCuts | None = None,
    ) -> None:
        """Score voxels of the frame last added that no camera sees."""
        cuts = cuts or self.fit.thresholds
        for label, predicted in {"": probability >= cuts.everywhere, **baselines}.items():
            counts = self._counts_hidden.setdefault(label, [])
            counts += [BinaryCounts()] * (len(self._scenes) - 1 - len(counts))
            counts.append(BinaryCounts.of(predicted, is_occupied))

    def add_rays(self, counts: Mapping[str, RayCounts], *, own_place: Mapping[str, RayCounts]) -> None:
        """Score the rays of the frame last added, by predictor; "" is the student.

        Args:
            counts: All rays.
            own_place: Those that leave the LiDAR's own place.
        """
        for rows, found in ((self._rays, counts), (self._own_rays, own_place)):
            for label, of in found.items():
                rows.setdefault(label, []).append(of)

    @property
    def num_frames(self) -> int:
        """Return the number of frames scored."""
        return len(self._scenes)

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures of binary occupancy."""
        whole = [self._figure(name, self._counts) for name in _DEFINITIONS]
        above = self._figure("iou", self._counts_above)
        above = replace(
            above,
            name="iou_above_ground",
            label="IoU above the ground",
            definition=f"{above.definition} Only those whose centre lies above {ABOVE_GROUND_M} m in the ego frame, "
            "with a cut that was chosen for such voxels.",
        )
        decided = replace(
            self._figure("iou", {**self._counts, "": self._decided}),
            name="iou_decided",
            label="IoU, as exported",
            definition="Occupied in both, over occupied in either, by the decision that is exported and named: voxels "
            "above the ground have a cut of their own, and none is occupied that the student itself holds for unseen. "
            f"{_INSIDE}",
        )
        bands = tuple(
            replace(
                self._figure("iou", counts),
                name=f"iou_{low:.0f}_{high:.0f}_m",
                label=f"{low:.0f} to {high:.0f} m",
                group=PER_BAND,
            )
            for (low, high), counts in zip(RANGE_BANDS_M, self._counts_in_band.values(), strict=True)
        )
        return (whole[0], above, decided, *whole[1:], *self._hidden_figure(), *self._ray_figures(), *bands)

    def _ray_figures(self) -> tuple[Figure, ...]:
        if not self._rays:
            return ()
        near = "Rays whose first occupied voxel stands right within {}, over those that meet something in either."
        limits = [f"{limit:.0f} m" for limit in RAY_THRESHOLDS_M]
        shared = {"counts": self._rays, "scenes": self._scenes, "seed": self.seed}
        averaged = near.format(f"{', '.join(limits)}, on average")
        mean = ray_figure("ray_iou", "RayIoU", averaged, **shared)
        own = ray_figure(
            "ray_iou_own_place",
            "RayIoU, own place",
            averaged,
            **{**shared, "counts": self._own_rays},
            places=ONE_PLACE,
        )
        of_limits = [
            ray_figure(f"ray_iou_{limit[:-2]}_m", limit, near.format(limit), threshold=index, group=PER_LIMIT, **shared)
            for index, limit in enumerate(limits)
        ]
        return (mean, own, *of_limits)

    def _hidden_figure(self) -> tuple[Figure, ...]:
        if not self._counts_hidden:
            return ()
        missing = [BinaryCounts()] * (len(self._scenes) - len(self._counts_hidden[""]))
        found = self._figure("iou", {label: [*of, *missing] for label, of in self._counts_hidden.items()}, of=_HIDDEN)
        return (replace(found, name="iou_hidden", label="IoU of hidden voxels"),)

    def calibration_curve(self) -> dict[str, Any] | None:
        """Return the reliability diagram's bins, raw and calibrated; None without voxels."""
        if not self._scenes:
            return None
        bins: dict[str, Any] = {}
        for label, probability in (("raw", self.sample.probability), ("calibrated", self._calibrated())):
            found = reliability(probability, self.sample.is_occupied)
            bins[label] = {
                "confidence": found.confidence.tolist(),
                "frequency": found.frequency.tolist(),
                "count": found.count.tolist(),
            }
        return bins

    def _calibrated(self) -> Float[np.ndarray, " n"]:
        return self.fit.calibration.apply(self.sample.probability)

    def _figure(self, name: str, all_counts: _Counts, *, of: str = _INSIDE) -> Figure:
        label, definition = _DEFINITIONS[name]
        own = all_counts[""]
        interval = bootstrap_statistic(
            np.array([_terms(counts) for counts in own]), self._scenes, lambda t: _score(t, name), seed=self.seed
        )
        rivals = [
            Baseline(label=rival, value=finite_or_none(_score(np.sum([_terms(c) for c in counts], axis=0), name)))
            for rival, counts in all_counts.items()
            if rival
        ]
        return figure_of(
            name,
            label,
            interval,
            definition=f"{definition} Counts are summed over all held-out frames. {of}",
            better="lower" if name == "false_free" else "higher",
            counted="voxels",
            count=sum(counts.num_voxels for counts in own),
            # Calling everything occupied finds everything and calls nothing free: no rival.
            baselines=() if name in ("recall", "false_free") else rivals,
        )

    def calibration_figures(self) -> tuple[Figure, ...]:
        """Return the calibration figures of stated probabilities, raw and calibrated."""
        truth = self.sample.is_occupied
        raw, calibrated = reliability(self.sample.probability, truth), reliability(self._calibrated(), truth)
        ece = "Expected calibration error: mean gap between stated probability and frequency over 15 bins."
        brier = "Brier score: mean squared difference between stated probability and outcome."
        base = Baseline(label="always the base rate", value=raw.base_rate * (1 - raw.base_rate))
        return tuple(
            Figure(
                name=name,
                label=label,
                value=finite_or_none(value),
                definition=definition,
                better="lower",
                count=len(truth),
                counted="voxels",
                baselines=rivals,
            )
            for name, label, value, definition, rivals in (
                ("brier", "Brier, calibrated", calibrated.brier, brier, (base, Baseline(label=RAW, value=raw.brier))),
                (
                    "ece",
                    "ECE, calibrated",
                    calibrated.expected_calibration_error,
                    ece,
                    (Baseline(label=RAW, value=finite_or_none(raw.expected_calibration_error)),),
                ),
            )
        )


def occupancy_sections(
    scores: OccupancyScores | None, *, reference: str, decided_by: str = BY_THRESHOLDS
) -> tuple[Section, Section]:
    """Return the sections on binary occupancy and on its calibration.

    Args:
        scores: Scores; None without true voxels.
        reference: What they were judged by, in words.
        decided_by: How it was decided what is occupied, in words.
    """
    figures: tuple[Figure, ...] = ()
    calibration_figures: tuple[Figure, ...] = ()
    chosen = ""
    if scores is not None and scores.num_frames > 0:
        figures, calibration_figures = scores.figures(), scores.calibration_figures()
        if scores.fit.training_iou is not None:
            chosen = f" The best threshold reached an IoU of {scores.fit.training_iou:.3f} on the training scenes."
    binary = Section(
        name="occupancy",
        title="Binary occupancy",
        quality="occupancy",
        reference=reference,
        note=f"{_INSIDE} {decided_by}{chosen}",
        unavailable="" if figures else NO_GROUND_TRUTH,
        figures=figures,
    )
    calibration = Section(
        name="calibration",
        title="Calibration of occupancy",
        quality="calibration",
        reference=reference,
        note=f"{_INSIDE} The calibration map was fitted on training scenes.",
        unavailable="" if figures else NO_GROUND_TRUTH,
        figures=calibration_figures,
    )
    return binary, calibration


def _terms(counts: BinaryCounts) -> list[float]:
    whole = (counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative)
    return [float(term) for term in whole]


def _score(terms: Float[np.ndarray, " 4"], name: str) -> float:
    hit, false_positive, false_negative, free = (int(term) for term in terms)
    counts = BinaryCounts(
        true_positive=hit, false_positive=false_positive, false_negative=false_negative, true_negative=free
    )
    return getattr(counts, name)
