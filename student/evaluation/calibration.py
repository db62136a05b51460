"""Map raw scores to calibrated probabilities, and measure how well calibrated they are.

Calibration maps are fitted on training scenes and applied to held-out scenes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureMap:
    """Logistic recalibration: ``sigmoid(logit(p) / temperature + bias)``.

    Attributes:
        temperature: Divisor of the logit, positive; above 1 softens.
        bias: Term added to the divided logit; it shifts the base rate.
    """

    temperature: float
    bias: float

    def __post_init__(self) -> None:
        """Reject a temperature that is not positive."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def apply(self, probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return calibrated probabilities in [0, 1]."""
        from scipy.special import expit

        return expit(_logit(probability) / self.temperature + self.bias)

    def to_json(self) -> Mapping[str, object]:
        """Return the parameters as a JSON-able mapping."""
        return {"method": "temperature", "temperature": self.temperature, "bias": self.bias}


@dataclass(frozen=True, slots=True, kw_only=True)
class IsotonicMap:
    """Calibration by a non-decreasing, piecewise linear function.

    Attributes:
        knots: Ascending raw probabilities.
        values: Calibrated probability at each knot; outside the knots it is constant.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject knots that are not ascending or values that fall."""
        if not self.knots or len(self.knots) != len(self.values):
            raise ValueError("an isotonic map needs as many values as knots, at least one")
        if np.any(np.diff(self.knots) <= 0) or np.any(np.diff(self.values) < 0):
            raise ValueError("isotonic knots must ascend and values must not fall")

    def apply(self, probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Return calibrated probabilities in [0, 1]."""
        return np.interp(probability.astype(np.float64), self.knots, self.values)

    def to_json(self) -> Mapping[str, object]:
        """Return the parameters as a JSON-able mapping."""
        return {"method": "isotonic", "knots": list(self.knots), "values": list(self.values)}


CalibrationMap = TemperatureMap | IsotonicMap

_MAPS: dict[str, type[CalibrationMap]] = {"temperature": TemperatureMap, "isotonic": IsotonicMap}


def calibration_from_json(record: Mapping[str, object]) -> CalibrationMap:
    """Return the map that ``to_json`` wrote.

    Raises:
        IntegrityError: If the method is unknown, or a parameter is missing, unknown or out of range.
    """
    method = record.get("method")
    if not isinstance(method, str) or method not in _MAPS:
        raise IntegrityError(
            ErrorKind.SCHEMA_UNKNOWN, "calibration.method", f"is {method!r}, want one of {', '.join(_MAPS)}"
        )
    parameters = {name: value for name, value in record.items() if name != "method"}
    return config_from_json(_MAPS[method], parameters, "calibration")


def fit_calibration(
    probability: Float[np.ndarray, " n"],
    is_true: Bool[np.ndarray, " n"],
    *,
    method: Literal["temperature", "isotonic"] = "isotonic",
) -> CalibrationMap:
    """Fit a calibration map on labelled scores.

    Raises:
        ValueError: If there are no scores, or only one outcome occurs.
    """
    if probability.size == 0 or is_true.all() or not is_true.any():
        raise ValueError("calibration needs scores with both outcomes")
    if method == "temperature":
        return _fit_temperature(probability, is_true)
    return _fit_isotonic(probability, is_true)


def _fit_temperature(
    probability: Float[np.ndarray, " n"], is_true: Bool[np.ndarray, " n"], *, steps: int = 50
) -> TemperatureMap:
    """Minimise the log loss, which is convex in slope and bias, by damped Newton steps."""
    from scipy.special import expit

    logit, outcome = _logit(probability), is_true.astype(np.float64)
    design = np.stack([logit, np.ones_like(logit)], axis=1)
    weights = np.array([1.0, 0.0])
    # A slight pull of the slope towards 1 keeps separable data from running to infinity.
    ridge = np.diag([1e-4, 1e-8])
    prior = np.array([1.0, 0.0])
    for _ in range(steps):
        guess = expit(design @ weights)
        gradient = design.T @ (guess - outcome) / len(outcome) + ridge @ (weights - prior)
        curvature = (design * (guess * (1 - guess))[:, None]).T @ design / len(outcome) + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-9:
            break
    slope = max(float(weights[0]), 1e-3)
    return TemperatureMap(temperature=1.0 / slope, bias=float(weights[1]))


def _fit_isotonic(probability: Float[np.ndarray, " n"], is_true: Bool[np.ndarray, " n"]) -> IsotonicMap:
    """Fit levels to the distinct scores, then keep the two ends of each level, which define the same map."""
    from scipy.optimize import isotonic_regression

    knots, inverse = np.unique(probability.astype(np.float64), return_inverse=True)
    count = np.bincount(inverse).astype(np.float64)
    mean = np.bincount(inverse, weights=is_true.astype(np.float64)) / count
    fitted = isotonic_regression(mean, weights=count)
    kept = np.union1d(fitted.blocks[:-1], fitted.blocks[1:] - 1)
    return IsotonicMap(knots=tuple(knots[kept].tolist()), values=tuple(fitted.x[kept].tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Stated probabilities compared with outcomes, in equal-width bins.

    Attributes:
        expected_calibration_error: Mean gap between confidence and frequency, weighted by count.
        brier: Mean squared difference between probability and outcome.
        base_rate: Share of positives. A constant prediction of it has the Brier score ``base_rate * (1 - base_rate)``.
        confidence: Mean stated probability per bin, NaN in an empty one.
        frequency: Share of positives per bin, NaN in an empty one.
        count: Number of samples per bin.
    """

    expected_calibration_error: float
    brier: float
    base_rate: float
    confidence: Float[np.ndarray, " bins"]
    frequency: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]


def reliability(
    probability: Float[np.ndarray, " n"], is_true: Bool[np.ndarray, " n"], *, num_bins: int = 15
) -> Reliability:
    """Measure calibration in ``num_bins`` equal-width bins of [0, 1].

    Raises:
        ValueError: If there are no samples.
    """
    if probability.size == 0:
        raise ValueError("reliability needs at least one sample")
    stated, outcome = probability.astype(np.float64), is_true.astype(np.float64)
    index = np.minimum((stated * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=stated, minlength=num_bins) / count
        frequency = np.bincount(index, weights=outcome, minlength=num_bins) / count
    gap = np.where(count > 0, np.abs(confidence - frequency), 0.0)
    return Reliability(
        expected_calibration_error=float(np.sum(gap * count) / count.sum()),
        brier=float(np.mean((stated - outcome) ** 2)),
        base_rate=float(outcome.mean()),
        confidence=confidence,
        frequency=frequency,
        count=count,
    )


def _logit(probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    from scipy.special import logit

    return logit(np.clip(probability.astype(np.float64), _EPSILON, 1 - _EPSILON))
