"""The mean of values that come in clumps, with its error.

Values of one clump err together, so many values in few clumps prove little. The variance of the mean is that of the
sums over clumps (cluster-robust). Its degrees of freedom are the effective number of clumps: the number of clumps of
equal weight that would spread the weight as evenly.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student_t


class ClusteredMean:
    """Weighted means over the same clumps.

    Args:
        weight: Weight of each value, not negative.
        clumps: Ways to divide the values into clumps; in each, a row of integers names the clump of a value. The
            largest error over the ways counts.
        risk: Probability that a mean of pure chance exceeds its error, (0, 0.5).

    Raises:
        ValueError: If ``risk`` is out of range.
    """

    def __init__(
        self, weight: Float[np.ndarray, " values"], clumps: Sequence[Int[np.ndarray, "values _"]], *, risk: float
    ) -> None:
        if not 0.0 < risk < 0.5:
            raise ValueError(f"risk is {risk}, want between 0 and 0.5")
        self._weight = weight
        self._total = float(weight.sum())
        self._divisions: list[tuple[np.ndarray, float]] = []
        for names in clumps:
            number = np.unique(names, axis=0, return_inverse=True)[1].reshape(-1)
            by_clump = np.bincount(number, weight)
            effective = self._total**2 / max(float((by_clump**2).sum()), 1e-300)
            # With two clumps or fewer there is no spread to measure.
            factor = float(student_t.isf(risk, effective - 1.0)) if effective > 2.0 else math.inf
            self._divisions.append((number, factor * math.sqrt(effective / max(effective - 1.0, 1e-9))))

    def of(self, values: Float[np.ndarray, " values"]) -> float:
        """Return the weighted mean; NaN where there is no weight."""
        return float((self._weight * values).sum() / self._total) if self._total > 0.0 else math.nan

    def error(self, values: Float[np.ndarray, " values"]) -> float:
        """Return the error that chance exceeds with probability ``risk``; infinite where there are too few clumps."""
        if self._total <= 0.0:
            return math.inf
        residual = self._weight * (values - self.of(values))
        return max(
            factor * math.sqrt(float((np.bincount(number, residual) ** 2).sum())) / self._total
            if math.isfinite(factor)
            else math.inf
            for number, factor in self._divisions
        )
