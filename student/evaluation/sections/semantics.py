"""Semantic quality of voxels, whose classes are told by words alone.

Two questions are kept apart: the mean IoU of labelled occupancy, which also pays for wrong geometry,
and the accuracy of the words at voxels that truly are occupied, which does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_FOREGROUND, OCC3D_FREE, OCC3D_NAMES, OCC3D_WITHOUT_OTHERS
from student.evaluation.occupancy_rays import RAY_THRESHOLDS_M, RayCounts, ray_figure
from student.evaluation.results import Baseline, Figure, Section, figure_of, finite_or_none
from student.inference.occupancy import SEMANTIC_SIDE, SemanticCounts
from student.metrics import bootstrap_statistic

_MEANS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "miou_17": ("mIoU, 17 classes", tuple(range(NUM_OCC3D_CLASSES)), "all 17 classes"),
    "miou_15": ("mIoU, 15 classes", OCC3D_WITHOUT_OTHERS, "the 15 classes without 'others' and 'other flat'"),
    "fmiou_12": ("F-mIoU, 12 classes", OCC3D_FOREGROUND, "the 12 foreground classes"),
}
PER_CLASS = "IoU per class"
WITHOUT_LABELS = "No label was trained on."
WITHOUT_NAMES = "not available: nothing that a camera sees is named by boxes or labels"


@dataclass(slots=True, kw_only=True)
class SemanticScores:
    """Zero-shot semantic occupancy of held-out frames: the mIoU and F-mIoU of (DistillNeRF Tab. 4)."""

    seed: int = 0
    _matrices: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _scenes: list[str] = field(default_factory=list)
    _accuracy: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    _rays: dict[str, list[RayCounts]] = field(default_factory=dict)

    def add(
        self,
        scene: str,
        predicted: UInt8[np.ndarray, " n"],
        words: UInt8[np.ndarray, " n"],
        truth: UInt8[np.ndarray, " n"],
        *,
        baselines: Mapping[str, UInt8[np.ndarray, " n"]],
        baseline_words: Mapping[str, UInt8[np.ndarray, " n"]],
    ) -> None:
        """Score the visible voxels of one frame.

        Args:
            scene: Scene key, for the bootstrap.
            predicted: Label of each voxel, 17 where the student calls it free.
            words: Best class of each voxel, occupied or free; 17 where the student has no feature.
            truth: True label, 17 where free, 254 for a class that is not among the named ones.
            baselines: Labels by trivial predictors; every call has the same names.
            baseline_words: Their best class of each voxel, occupied or free.
        """
        self._scenes.append(scene)
        for label, labels in {"": predicted, **baselines}.items():
            self._matrices.setdefault(label, []).append(SemanticCounts.of(labels, truth).matrix)
        is_occupied = truth < OCC3D_FREE
        for label, labels in {"": words, **baseline_words}.items():
            hits = float(np.sum(labels[is_occupied] == truth[is_occupied]))
            self._accuracy.setdefault(label, []).append((hits, float(is_occupied.sum())))

    def add_rays(self, counts: Mapping[str, RayCounts]) -> None:
        """Score the rays of the frame last added, by predictor; "" is the student."""
        for label, found in counts.items():
            self._rays.setdefault(label, []).append(found)

    def section(self, *, unavailable: str, reference: str) -> Section:
        """Return the section.

        Args:
            unavailable: Reason to give if there are no figures.
            reference: What the scores were judged by, in words.
        """
        figures: tuple[Figure, ...] = ()
        if self._scenes and not self._total("").matrix[:NUM_OCC3D_CLASSES].any():
            unavailable = WITHOUT_NAMES
        elif self._scenes:
            classes = tuple(self._class_figure(index) for index in range(NUM_OCC3D_CLASSES))
            of_true = ("mIoU, true classes", self._true_classes(), "the classes that are true, the same for everybody")
            means = tuple(self._mean_figure(name, *of) for name, of in {**_MEANS, "miou_true_classes": of_true}.items())
            figures = (*means, *self._ray_figure(), self._accuracy_figure(), *classes)
        return Section(
            name="semantic_occupancy",
            title="Semantic occupancy by words",
            quality="semantic",
            reference=reference,
            note=f"{WITHOUT_LABELS} A voxel takes the class whose words are nearest to its CLIP feature.",
            unavailable="" if figures else unavailable,
            figures=figures,
        )

    def _ray_figure(self) -> tuple[Figure, ...]:
        if not self._rays:
            return ()
        limits = ", ".join(f"{limit:.0f}" for limit in RAY_THRESHOLDS_M)
        definition = (
            "Rays whose first occupied voxel has the right class and stands right within a limit, over those that give "
            f"or have the class: mean over the classes that occur and over limits of {limits} m."
        )
        found = ray_figure("ray_miou", "RayIoU", definition, self._rays, self._scenes, seed=self.seed)
        return (found,)

    def _total(self, label: str) -> SemanticCounts:
        return SemanticCounts(matrix=np.sum(self._matrices[label], axis=0))

    def _true_classes(self) -> tuple[int, ...]:
        return tuple(np.flatnonzero(self._total("").matrix[:NUM_OCC3D_CLASSES].sum(axis=1)).tolist())

    def _mean_figure(self, name: str, label: str, classes: tuple[int, ...], which: str) -> Figure:
        flat = np.array([matrix.ravel() for matrix in self._matrices[""]], dtype=np.float64)
        interval = bootstrap_statistic(flat, self._scenes, lambda total: _mean_iou(total, classes), seed=self.seed)
        total = self._total("")
        _, num_present = total.mean_iou(classes)
        num_true = int((total.matrix.sum(axis=1)[list(classes)] > 0).sum())
        rivals = [
            Baseline(label=rival, value=finite_or_none(self._total(rival).mean_iou(classes)[0]))
            for rival in self._matrices
            if rival
        ]
        return figure_of(
            name,
            label,
            interval,
            definition=f"Mean IoU over those of {which} that are true or predicted somewhere: {num_present} of "
            f"{len(classes)} are; {num_true} are true, the others count as zero. Voxels that some camera can see.",
            better="higher",
            counted="classes",
            count=num_present,
            baselines=rivals,
        )

    def _class_figure(self, index: int) -> Figure:
        own = self._total("")
        return Figure(
            name=f"iou.{OCC3D_NAMES[index]}",
            label=OCC3D_NAMES[index].replace("_", " "),
            value=finite_or_none(float(own.iou_per_class()[index])),
            definition="IoU of this class over all held-out frames: 0 where it is predicted and never true, "
            "undefined where it is neither.",
            better="higher",
            count=int(own.matrix[index].sum()),
            counted="true voxels",
            baselines=tuple(
                Baseline(label=rival, value=finite_or_none(float(self._total(rival).iou_per_class()[index])))
                for rival in self._matrices
                if rival
            ),
            group=PER_CLASS,
        )

    def _accuracy_figure(self) -> Figure:
        rivals = [
            Baseline(label=rival, value=finite_or_none(_share(np.sum(pairs, axis=0))))
            for rival, pairs in self._accuracy.items()
            if rival
        ]
        return figure_of(
            "accuracy_where_occupied",
            "accuracy where truly occupied",
            bootstrap_statistic(np.array(self._accuracy[""]), self._scenes, _share, seed=self.seed),
            definition="Share of the truly occupied, visible voxels whose nearest words are right, "
            "whether the student calls them occupied or not: semantics without geometry.",
            better="higher",
            counted="voxels",
            count=int(np.sum(self._accuracy[""], axis=0)[1]),
            baselines=rivals,
        )


def _mean_iou(flat: Float[np.ndarray, " entries"], classes: tuple[int, ...]) -> float:
    return SemanticCounts(matrix=flat.reshape(SEMANTIC_SIDE, SEMANTIC_SIDE).astype(np.int64)).mean_iou(classes)[0]


def _share(pair: Float[np.ndarray, " 2"]) -> float:
    return float(pair[0] / pair[1]) if pair[1] else float("nan")
