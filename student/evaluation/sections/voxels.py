"""The scores of one frame's visible voxels, whoever predicted them: a student by its density and words, or a head."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from storage.taxonomy import OCC3D_FREE, OCC3D_STUFF, OCC3D_UNNAMED
from student.evaluation.occupancy_cuts import FrameCuts
from student.evaluation.sections.occupancy import OccupancyScores, horizontal_range, is_above_ground
from student.evaluation.sections.semantics import SemanticScores


def score_occupancy(
    scores: OccupancyScores,
    scene: str,
    voxels: Int64[np.ndarray, " n"],
    labels: UInt8[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    *,
    others: Mapping[str, Bool[np.ndarray, " n"]],
    cuts: FrameCuts | None = None,
    is_observed: Bool[np.ndarray, " n"] | None = None,
) -> None:
    """Score which voxels of a frame are occupied.

    Args:
        scores: Scores to add to.
        scene: Scene key.
        voxels: Flat indices in the Occ3D grid.
        labels: True labels; 17 for free.
        probability: Raw probability of occupancy.
        others: Occupancy by other predictors, by label.
        cuts: Where the frame's probabilities are cut; None for the thresholds of the fit.
        is_observed: Whether the student itself holds each for seen; None if it holds all for seen.
    """
    scores.add(
        scene,
        probability,
        labels != OCC3D_FREE,
        is_above_ground=is_above_ground(voxels),
        horizontal_range=horizontal_range(voxels),
        baselines=others,
        cuts=cuts,
        is_observed=is_observed,
    )


def score_classes(
    scores: SemanticScores,
    scene: str,
    labels: UInt8[np.ndarray, " n"],
    classes: UInt8[np.ndarray, " n"],
    *,
    is_occupied: Bool[np.ndarray, " n"],
    has_all_names: bool,
    others: Mapping[str, UInt8[np.ndarray, " n"]],
    words_of_others: Mapping[str, UInt8[np.ndarray, " n"]],
) -> None:
    """Score which class the voxels of a frame have.

    Args:
        scores: Scores to add to.
        scene: Scene key.
        labels: True labels; 17 for free, 254 for something without a class.
        classes: Best class of each voxel, occupied or free.
        is_occupied: Voxels that the predictor calls occupied.
        has_all_names: Whether 254 tells that a voxel is of none of the named classes, as where boxes name things.
            Otherwise it is left out.
        others: Labels by other predictors.
        words_of_others: Their best class of each voxel, occupied or free.
    """
    scored = np.arange(len(labels)) if has_all_names else np.flatnonzero(labels != OCC3D_UNNAMED)

    def as_named(predicted: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, " _"]:
        # Boxes never say where a wall is: to call free space one is an error of occupancy, and tells nothing of walls.
        is_out_of_reach = np.isin(predicted, OCC3D_STUFF) & has_all_names
        return np.where(is_out_of_reach, np.uint8(OCC3D_UNNAMED), predicted)[scored]

    scores.add(
        scene,
        as_named(np.where(is_occupied, classes, np.uint8(OCC3D_FREE))),
        as_named(classes),
        labels[scored],
        baselines={name: as_named(of) for name, of in others.items()},
        baseline_words={name: as_named(of) for name, of in words_of_others.items()},
    )
