"""Where a student's scores become decisions: the threshold, calibration and temperature to use it with.

They are those that an evaluation of the very same checkpoint chose on training scenes. Without one,
or without ground truth in it, defaults are used, and whoever uses them is told so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from student.evaluation.calibration import CalibrationMap, calibration_from_json
from student.evaluation.results import EvaluationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """How to read a student's scores.

    Attributes:
        threshold: A voxel is called occupied from this raw probability on.
        calibration: From raw to calibrated probability, None where none could be fitted.
        temperature: Temperature of the softmax over words.
        temperature_source: Where it came from.
        evaluation: The evaluation they were chosen by, None for defaults.
    """

    threshold: float
    calibration: CalibrationMap | None
    temperature: float
    temperature_source: str
    evaluation: StoreVersion | None

    def occupied(self, raw: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return the probability of occupancy, calibrated where it can be."""
        return raw if self.calibration is None else self.calibration.apply(raw)

    def to_json(self) -> dict[str, Any]:
        """Return what must be recorded beside anything made with it."""
        return {
            "occupancy_threshold": self.threshold,
            "calibration": None if self.calibration is None else dict(self.calibration.to_json()),
            "temperature": self.temperature,
            "temperature_source": self.temperature_source,
            "evaluation_digest": None if self.evaluation is None else self.evaluation.digest,
        }


def operating_point_of(
    home: Home, checkpoint: StoreVersion, *, clip_temperature: float, default_threshold: float = 0.5
) -> OperatingPoint:
    """Return how a checkpoint is to be used.

    Args:
        home: Where evaluations lie.
        checkpoint: The student.
        clip_temperature: That CLIP was trained with, used where no evaluation fitted another.
        default_threshold: Used where no evaluation chose one.
    """
    evaluation = _evaluation_of(home, checkpoint)
    settings = {} if evaluation is None else dict(EvaluationResult.from_json(home.metrics(evaluation)).settings)
    occupancy: Mapping[str, Any] | None = settings.get("occupancy")
    temperature = settings.get("temperature")
    return OperatingPoint(
        threshold=default_threshold if occupancy is None else float(occupancy["threshold"]),
        calibration=None if occupancy is None else calibration_from_json(occupancy["calibration"]),
        temperature=clip_temperature if temperature is None else float(temperature),
        temperature_source="CLIP checkpoint" if temperature is None else str(settings["temperature_source"]),
        evaluation=evaluation,
    )


def _evaluation_of(home: Home, checkpoint: StoreVersion) -> StoreVersion | None:
    """Return an evaluation of this very checkpoint: the variant's current one where it is, else any."""
    current = home.latest(Kind.STUDENT_EVALUATION, checkpoint.partition)
    candidates = [
        *([] if current is None else [current]),
        *home.versions(Kind.STUDENT_EVALUATION, checkpoint.partition),
    ]
    for version in candidates:
        if EvaluationResult.from_json(home.metrics(version)).checkpoint_digest == checkpoint.digest:
            return version
    return None
