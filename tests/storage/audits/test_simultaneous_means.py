"""Chance exceeds the errors of several means about as rarely as promised; few clumps prove nothing."""

import math

import numpy as np
import pytest

from storage.audits.simultaneous_means import simultaneous_means

RISK = 0.05


def test_chance_rarely_exceeds_any_error_though_clumps_err_together():
    """Twelve quantities that go together, over thirty clumps of uneven size: naive errors would be exceeded always."""
    rng = np.random.default_rng(0)
    clumps = np.repeat(np.arange(30), rng.integers(5, 60, 30))
    exceeded, naive, trials = 0, 0, 300
    for _ in range(trials):
        shared = rng.normal(size=(4, 30))[:, clumps]
        values = np.repeat(shared, 3, axis=0) + 0.3 * rng.normal(size=(12, len(clumps)))
        means, errors = simultaneous_means(values, np.ones(len(clumps)), [clumps[:, None]], risk=RISK)
        exceeded += bool((means > errors).any())
        naive += bool((means > 2.6 * values.std(axis=1) / math.sqrt(len(clumps))).any())
    assert exceeded / trials <= 2 * RISK
    assert exceeded > 0
    assert naive / trials > 5 * RISK


def test_a_true_effect_is_beyond_chance():
    rng = np.random.default_rng(1)
    clumps = np.repeat(np.arange(30), 20)
    values = np.stack([rng.normal(size=600) + 1.0, rng.normal(size=600)])
    means, errors = simultaneous_means(values, np.ones(600), [clumps[:, None]], risk=0.0025)
    assert means[0] > errors[0]
    assert means[1] < errors[1]


def test_the_coarser_division_counts():
    rng = np.random.default_rng(2)
    fine = np.arange(400)[:, None]
    coarse = fine // 20
    values = rng.normal(size=20)[coarse[:, 0]][None] + 0.1 * rng.normal(size=(1, 400))
    (alone,) = simultaneous_means(values, np.ones(400), [coarse], risk=RISK)[1]
    (both,) = simultaneous_means(values, np.ones(400), [fine, coarse], risk=RISK)[1]
    assert both == alone


def test_few_clumps_prove_nothing():
    clumps = np.array([[0], [0], [1], [2], [3]])
    means, errors = simultaneous_means(np.ones((1, 5)), np.ones(5), [clumps], risk=RISK)
    assert means[0] == 1.0
    assert errors[0] == math.inf


def test_without_weight_there_is_no_mean():
    means, errors = simultaneous_means(np.zeros((2, 0)), np.zeros(0), [np.zeros((0, 1), np.int64)], risk=RISK)
    assert np.isnan(means).all()
    assert np.isinf(errors).all()


@pytest.mark.parametrize("risk", [0.0, 0.5])
def test_a_risk_out_of_range_is_refused(risk):
    with pytest.raises(ValueError, match="want between 0 and"):
        simultaneous_means(np.ones((1, 2)), np.ones(2), [np.arange(2)[:, None]], risk=risk)
