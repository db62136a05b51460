"""Operating point of a student: the threshold, calibration and temperature that turn scores into decisions.

They come from an evaluation of the same checkpoint, which chose them on training scenes. Without such an evaluation, or
without ground truth in it, defaults are used, and the result says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from student.evaluation.calibration import CalibrationMap, calibration_from_json
from student.evaluation.occupancy_cuts import FrameCuts, best_cuts
from student.evaluation.results import EvaluationResult
from student.evaluation.sections.occupancy import is_above_ground


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Values that turn a student's scores into decisions.

    Attributes:
        threshold: Raw probability from which a voxel counts as occupied where there is no calibration.
        threshold_above_ground: The same for voxels out of reach of flat ground, which all but chooses the other one.
        calibration: Map from raw to calibrated probability; None if none could be fitted.
        temperature: Temperature of the softmax over words.
        temperature_source: Origin of the temperature, in words.
        evaluation: Evaluation that chose them; None for defaults.
    """

    threshold: float
    threshold_above_ground: float
    calibration: CalibrationMap | None
    temperature: float
    temperature_source: str
    evaluation: StoreVersion | None

    def occupied(self, raw: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the probability of occupancy, calibrated if there is a calibration map."""
        return raw if self.calibration is None else self.calibration.apply(raw)

    def cuts(self, raw: Float[np.ndarray, " voxels"], is_observed: Bool[np.ndarray, " voxels"]) -> FrameCuts:
        """Return where a frame is cut: where it promises the largest IoU, or without a calibration at the thresholds.

        Args:
            raw: Raw probability of all voxels of the Occ3D grid, flat.
            is_observed: Voxels that the frame's cameras see.
        """
        if self.calibration is None:
            return FrameCuts(self.threshold, self.threshold_above_ground)
        seen = np.flatnonzero(is_observed)
        return best_cuts(raw[seen], is_above_ground(seen), self.calibration)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "OperatingPoint":
        """Read back what ``to_json`` wrote; the evaluation itself is not looked for."""
        calibration = record["calibration"]
        return cls(
            threshold=float(record["occupancy_threshold"]),
            # Records from before had one threshold for all voxels.
            threshold_above_ground=float(record.get("occupancy_threshold_above_ground", record["occupancy_threshold"])),
            calibration=None if calibration is None else calibration_from_json(calibration),
            temperature=float(record["temperature"]),
            temperature_source=str(record["temperature_source"]),
            evaluation=None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record to store beside any result made with it."""
        return {
            "occupancy_threshold": self.threshold,
            "occupancy_threshold_above_ground": self.threshold_above_ground,
            "calibration": None if self.calibration is None else dict(self.calibration.to_json()),
            "temperature": self.temperature,
            "temperature_source": self.temperature_source,
            "evaluation_digest": None if self.evaluation is None else self.evaluation.digest,
        }


def operating_point_of(
    home: Home, checkpoint: StoreVersion, *, clip_temperature: float, default_threshold: float = 0.5
) -> OperatingPoint:
    """Return the operating point of a checkpoint.

    Args:
        home: Home of the evaluations.
        checkpoint: The student.
        clip_temperature: Temperature that CLIP was trained with; used if no evaluation fitted another.
        default_threshold: Threshold if no evaluation chose one.
    """
    evaluation = evaluation_of(home, checkpoint)
    settings = {} if evaluation is None else dict(EvaluationResult.from_json(home.metrics(evaluation)).settings)
    occupancy: Mapping[str, Any] | None = settings.get("occupancy")
    temperature = settings.get("temperature")
    return OperatingPoint(
        threshold=default_threshold if occupancy is None else float(occupancy["threshold"]),
        threshold_above_ground=default_threshold if occupancy is None else float(occupancy["threshold_above_ground"]),
        calibration=None if occupancy is None else calibration_from_json(occupancy["calibration"]),
        temperature=clip_temperature if temperature is None else float(temperature),
        temperature_source="CLIP checkpoint" if temperature is None else str(settings["temperature_source"]),
        evaluation=evaluation,
    )


def evaluation_of(home: Home, checkpoint: StoreVersion, *, holding: str = "") -> StoreVersion | None:
    """Return an evaluation of this checkpoint on its own split, preferably the variant's current one; None without any.

    Args:
        home: Home of the evaluations.
        checkpoint: The student.
        holding: Name of a file that the evaluation must hold; empty for none.
    """
    current = home.latest(Kind.STUDENT_EVALUATION, checkpoint.partition)
    found = []
    for version in [
        *([] if current is None else [current]),
        *home.versions(Kind.STUDENT_EVALUATION, checkpoint.partition),
    ]:
        result = EvaluationResult.from_json(home.metrics(version))
        holds = not holding or (home.open_files(version) / holding).is_file()
        if result.checkpoint_digest == checkpoint.digest and holds:
            found.append((result.settings.get("protocol") == "paper", version))
    # The full protocol reads images as the student learned from them, so what it chose is preferred.
    return min(found, key=lambda one: one[0], default=(False, None))[1]
