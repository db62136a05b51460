"""How far a mean may be trusted depends on clumps, not on values."""

import math

import numpy as np
import pytest

from storage.audits.clustered_mean import ClusteredMean

RISK = 0.05


@pytest.mark.parametrize("values_per_clump", [1, 30])
def test_chance_exceeds_the_error_about_as_often_as_the_risk(values_per_clump):
    """Thirty copies of a value prove no more than one: a plain standard error would be exceeded by every third mean."""
    rng = np.random.default_rng(0)
    clumps = np.repeat(np.arange(12), values_per_clump)[:, None]
    mean = ClusteredMean(np.ones(len(clumps)), [clumps], risk=RISK)
    exceeded = 0
    for _ in range(1000):
        values = np.repeat(rng.standard_normal(12), values_per_clump)
        exceeded += mean.of(values) > mean.error(values)
    assert 0.03 <= exceeded / 1000 <= 0.07


def test_the_most_cautious_division_counts():
    values, weight = np.arange(40.0), np.ones(40)
    fine, coarse = np.arange(40)[:, None], (np.arange(40) // 10)[:, None]
    alone = [ClusteredMean(weight, [clumps], risk=RISK).error(values) for clumps in (fine, coarse)]
    assert alone[0] < alone[1]
    assert ClusteredMean(weight, [fine, coarse], risk=RISK).error(values) == alone[1]


def test_one_heavy_clump_is_hardly_more_than_one():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    clumps = np.arange(4)[:, None]
    assert math.isfinite(ClusteredMean(np.ones(4), [clumps], risk=RISK).error(values))
    assert ClusteredMean(np.array([1.0, 1.0, 1.0, 50.0]), [clumps], risk=RISK).error(values) == math.inf


def test_nothing_has_no_mean_and_no_certainty():
    mean = ClusteredMean(np.zeros(0), [np.zeros((0, 2), np.int64)], risk=RISK)
    assert math.isnan(mean.of(np.zeros(0)))
    assert mean.error(np.zeros(0)) == math.inf


@pytest.mark.parametrize("risk", [0.0, 0.5, 1.0])
def test_a_risk_out_of_range_is_refused(risk):
    with pytest.raises(ValueError, match="risk"):
        ClusteredMean(np.ones(2), [np.arange(2)[:, None]], risk=risk)
