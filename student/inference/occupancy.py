"""Read the student's density field as a voxel grid (DistillNeRF Sec. 4.3), and score it inside a visibility mask.

The grid is ``storage.geometry.voxel_grid.OCC3D_GRID``, labels are those of ``storage.taxonomy``.
Geometric quality (is something there?) and semantic quality (is it the right thing?) are scored
by separate types, so that neither can hide the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from storage.taxonomy import OCC3D_FREE, OCC3D_UNNAMED

_NEVER = float(np.nextafter(1.0, 2.0))
"""Cut that no probability reaches."""

_OTHER = OCC3D_FREE + 1
SEMANTIC_SIDE = _OTHER + 1
"""Rows and columns of a confusion matrix: 17 classes, free space, and things of another class."""


def occupancy_probability(density: Float[np.ndarray, "*shape"], voxel_size: float) -> Float[np.ndarray, "*shape"]:
    """Return the raw probability that a ray crossing a voxel of this density ends inside it.

    The paper thresholds density itself (DistillNeRF Sec. 4.3). This is monotone in it.

    Args:
        density: Density per metre, non-negative.
        voxel_size: Length of the crossing, metres.

    Returns:
        ``1 - exp(-density * voxel_size)``, not yet calibrated.
    """
    return -np.expm1(-density.astype(np.float64) * voxel_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCounts:
    """Numbers of voxels by prediction and truth, which add up over frames.

    Attributes:
        true_positive: Occupied in both.
        false_positive: Occupied in the prediction only.
        false_negative: Occupied in the truth only.
        true_negative: Free in both.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, predicted: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> "BinaryCounts":
        """Count two flat arrays, already restricted to the visible voxels."""
        return cls(
            true_positive=int(np.sum(predicted & truth)),
            false_positive=int(np.sum(predicted & ~truth)),
            false_negative=int(np.sum(~predicted & truth)),
            true_negative=int(np.sum(~predicted & ~truth)),
        )

    def __add__(self, other: "BinaryCounts") -> "BinaryCounts":
        return BinaryCounts(
            true_positive=self.true_positive + other.true_positive,
            false_positive=self.false_positive + other.false_positive,
            false_negative=self.false_negative + other.false_negative,
            true_negative=self.true_negative + other.true_negative,
        )

    @property
    def num_voxels(self) -> int:
        """Return the number of voxels."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @property
    def iou(self) -> float:
        """Intersection over union of the occupied voxels; NaN when both are empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def precision(self) -> float:
        """Share of predicted voxels that are occupied; NaN when none is predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of occupied voxels that are predicted; NaN when none is occupied."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def false_free(self) -> float:
        """Share of the voxels called free that are occupied; NaN when none is called free."""
        return _ratio(self.false_negative, self.false_negative + self.true_negative)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticCounts:
    """A confusion matrix over the 17 classes, free space, and what is none of the named classes; adds up over frames.

    Attributes:
        matrix: Voxels by true label (rows) and predicted label (columns). The last row and column are of things of
            another class than those that the truth names: to call one of them a car is wrong.
    """

    matrix: Integer[np.ndarray, "19 19"]

    @classmethod
    def empty(cls) -> "SemanticCounts":
        """Return a matrix of zeros."""
        return cls(matrix=np.zeros((SEMANTIC_SIDE, SEMANTIC_SIDE), dtype=np.int64))

    @classmethod
    def of(cls, predicted: UInt8[np.ndarray, " n"], truth: UInt8[np.ndarray, " n"]) -> "SemanticCounts":
        """Count two flat label arrays, already restricted to the visible voxels.

        Raises:
            ValueError: If a label is above 17, and not 254.
        """
        for labels in (truth, predicted):
            if ((labels > OCC3D_FREE) & (labels != OCC3D_UNNAMED)).any():
                raise ValueError(f"labels must be 0 to {OCC3D_FREE}, or {OCC3D_UNNAMED}")
        rows, columns = (np.where(labels == OCC3D_UNNAMED, _OTHER, labels) for labels in (truth, predicted))
        flat = rows.astype(np.int64) * SEMANTIC_SIDE + columns
        return cls(matrix=np.bincount(flat, minlength=SEMANTIC_SIDE**2).reshape(SEMANTIC_SIDE, SEMANTIC_SIDE))

    def __add__(self, other: "SemanticCounts") -> "SemanticCounts":
        return SemanticCounts(matrix=self.matrix + other.matrix)

    def iou_per_class(self) -> Float[np.ndarray, " 17"]:
        """Return each class's IoU: 0 where it is predicted and never true, NaN where it is neither.

        A class that is never true may be what things without a named class are: there it is not counted as predicted.
        """
        hit = np.diag(self.matrix)[:OCC3D_FREE].astype(np.float64)
        in_truth = self.matrix.sum(axis=1)[:OCC3D_FREE]
        union = in_truth + self.matrix.sum(axis=0)[:OCC3D_FREE] - hit
        is_wrong = self.matrix[:_OTHER].sum(axis=0)[:OCC3D_FREE] > 0
        return np.where((in_truth > 0) | is_wrong, hit / np.maximum(union, 1), np.nan)

    def mean_iou(self, classes: Sequence[int]) -> tuple[float, int]:
        """Return the mean IoU over those of ``classes`` that are true or predicted somewhere, and how many are.

        A class that is predicted where none is true counts as 0, as in the benchmarks of Occ3D and Cityscapes, whose
        confusion matrix is summed over all samples first: an invented class has a price. The mean is NaN when none of
        the classes is true or predicted.
        """
        values = self.iou_per_class()[list(classes)]
        counted = values[np.isfinite(values)]
        return (float(counted.mean()) if counted.size else float("nan"), int(counted.size))


def best_iou_threshold(
    probability: Float[np.ndarray, " n"], is_occupied: Bool[np.ndarray, " n"]
) -> tuple[float, float]:
    """Return the threshold with the largest IoU on the given voxels, and that IoU.

    Give it training voxels only, because a threshold chosen on scored voxels flatters the score.

    Args:
        probability: Raw or calibrated probability of occupancy.
        is_occupied: The truth.

    Returns:
        Threshold, to be used as ``probability >= threshold``, and the IoU it reaches here.

    Raises:
        ValueError: If no voxel is occupied.
    """
    num_occupied = int(is_occupied.sum())
    if num_occupied == 0:
        raise ValueError("a threshold needs at least one occupied voxel")
    order = np.argsort(-probability.astype(np.float64), kind="stable")
    ranked = probability[order].astype(np.float64)
    hits = np.cumsum(is_occupied[order])
    is_cut = np.append(ranked[1:] != ranked[:-1], True)
    predicted = np.arange(1, len(ranked) + 1)
    iou = np.where(is_cut, hits / (num_occupied + predicted - hits), -1.0)
    best = int(np.argmax(iou))
    return float(ranked[best]), float(iou[best])


def expected_iou_cut(raw: Float[np.ndarray, " n"], probability: Float[np.ndarray, " n"], *, at_least: float) -> float:
    """Return the raw probability from which calling voxels occupied has the largest expected IoU.

    With voxels in the order of their probabilities ``p``, the first ``k`` share ``sum(p[:k])`` with the truth, and make
    with it ``k + sum(p[k:])``, in expectation. The expectation of the ratio is close to the ratio of expectations where
    voxels are many.

    Args:
        raw: Raw probability of every voxel.
        probability: The same, calibrated; it does not fall where the raw one rises.
        at_least: Calibrated probability below which nothing is called occupied: where nothing is likely, the largest
            expected IoU is had by calling everything occupied.

    Returns:
        Cut, to be used as ``raw >= cut``. It is above 1 if no voxel is likely enough, or none is given.
    """
    order = np.argsort(-raw.astype(np.float64), kind="stable")
    ranked, likely = raw[order].astype(np.float64), probability[order].astype(np.float64)
    expected = np.cumsum(likely)
    is_cut = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)] & (likely >= at_least)
    if not is_cut.any():
        return _NEVER
    iou = expected / (np.arange(1, len(ranked) + 1) + expected[-1] - expected)
    return float(ranked[int(np.argmax(np.where(is_cut, iou, -1.0)))])


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
