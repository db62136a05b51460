"""Where the probabilities of one frame are cut: what is called occupied, and what free.

One threshold for all frames is a compromise between streets and open aprons. A frame's own calibrated probabilities say
what its IoU can be expected to be at each cut, without any label.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from student.evaluation.calibration import CalibrationMap
from student.inference.occupancy import expected_iou_cut

_MIN_PROBABILITY = 0.05


class FrameCuts(NamedTuple):
    """Raw probabilities from which the voxels of one frame count as occupied.

    Attributes:
        everywhere: For all voxels alike; the ground, which makes up most of what is occupied, all but chooses it.
        above_ground: For voxels out of reach of flat ground.
    """

    everywhere: float
    above_ground: float

    def is_occupied(
        self, raw: Float[np.ndarray, " n"], is_above_ground: Bool[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Decide about voxels, each by the cut for its place."""
        return raw >= np.where(is_above_ground, self.above_ground, self.everywhere)


def best_cuts(
    raw: Float[np.ndarray, " n"], is_above_ground: Bool[np.ndarray, " n"], calibration: CalibrationMap
) -> FrameCuts:
    """Return the cuts that promise the largest IoU of a frame's voxels, of all and of those above the ground.

    Args:
        raw: Raw probability of the voxels that the frame's cameras see.
        is_above_ground: Which of them are out of reach of flat ground.
        calibration: Map from raw to calibrated probability.
    """
    probability = calibration.apply(raw)
    everywhere, above_ground = (
        expected_iou_cut(raw[of], probability[of], at_least=_MIN_PROBABILITY)
        for of in (np.ones_like(is_above_ground), is_above_ground)
    )
    return FrameCuts(everywhere, above_ground)
