"""Means of several quantities over values that come in clumps, with errors that hold for all of them at once.

Values of one clump err together, so many values in few clumps prove little: one lorry gives hundreds, all misjudged
alike. The error of a mean is that of the sums over clumps. How many errors away chance may carry the *largest* of the
means is read off the very values: the sign of every clump is drawn anew, some thousand times, for all quantities at
once (wild cluster bootstrap). Quantities that go together do not count as several chances then.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm
from scipy.stats import t as student_t

MIN_CLUMPS = 5.0
"""Effective number of clumps (clumps of equal weight that would spread it as evenly) under which nothing is proved."""

_NUM_DRAWS = 4000


def simultaneous_means(
    values: Float[np.ndarray, "quantities values"],
    weight: Float[np.ndarray, " values"],
    clumps: Sequence[Int[np.ndarray, "values _"]],
    *,
    risk: float,
) -> tuple[Float[np.ndarray, " quantities"], Float[np.ndarray, " quantities"]]:
    """Return the weighted mean of each quantity, and its error.

    Args:
        values: One row for each quantity.
        weight: Weight of each value, not negative.
        clumps: Ways to divide the values into clumps; in each, a row of integers names the clump of a value. The
            largest error over the ways counts.
        risk: Probability that any mean of pure chance exceeds its error, (0, 0.5).

    Returns:
        Means, NaN where there is no weight; errors, infinite where there are too few clumps.

    Raises:
        ValueError: If ``risk`` is out of range.
    """
    if not 0.0 < risk < 0.5:
        raise ValueError(f"risk is {risk}, want between 0 and 0.5")
    total = float(weight.sum())
    if total <= 0.0:
        return np.full(len(values), np.nan), np.full(len(values), np.inf)
    means = values @ weight / total
    residual = weight * (values - means[:, None])
    errors = np.zeros(len(values))
    for names in clumps:
        number = np.unique(names, axis=0, return_inverse=True)[1].reshape(-1)
        effective = total**2 / float((np.bincount(number, weight) ** 2).sum())
        if effective < MIN_CLUMPS:
            return means, np.full(len(values), np.inf)
        sums = np.stack([np.bincount(number, row) for row in residual])
        spread = np.linalg.norm(sums, axis=1)
        inflation = math.sqrt(effective / (effective - 1.0))
        errors = np.maximum(errors, _largest(sums, spread, effective, risk) * inflation * spread / total)
    return means, errors


def _largest(
    sums: Float[np.ndarray, "quantities clumps"],
    spread: Float[np.ndarray, " quantities"],
    effective: float,
    risk: float,
) -> float:
    """Return how many errors away chance carries the largest mean, at most, but for the risk."""
    unit = (sums / np.maximum(spread, 1e-300)[:, None]).T.astype(np.float32)
    signs = np.random.default_rng(0).integers(0, 2, (_NUM_DRAWS, len(unit)), np.int8).astype(np.float32) * 2 - 1
    normal = float(np.quantile((signs @ unit).max(axis=1), 1.0 - risk))
    # Few clumps tell their own spread badly: as much more as Student's t is wider than the normal there.
    chance = float(norm.sf(max(normal, 1.0)))
    return max(normal, 1.0) * float(student_t.isf(chance, effective - 1.0) / norm.isf(chance))
