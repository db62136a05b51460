import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from storage.errors import IntegrityError
from student.evaluation.calibration import (
    IsotonicMap,
    TemperatureMap,
    calibration_from_json,
    fit_calibration,
    reliability,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def draw(seed, size, distort):
    generator = np.random.default_rng(seed)
    true_probability = generator.random(size)
    is_true = generator.random(size) < true_probability
    return distort(true_probability), is_true


def overconfident(p):
    logit = np.log(p / (1 - p))
    return 1 / (1 + np.exp(-(3.0 * logit + 1.0)))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, size=st.integers(5, 200), levels=st.integers(2, 30))
def test_isotonic_fit_agrees_with_scikit_learn(seed, size, levels):
    generator = np.random.default_rng(seed)
    probability = generator.integers(levels, size=size) / levels
    is_true = generator.random(size) < 0.5
    is_true[:2] = [True, False]
    ours = fit_calibration(probability, is_true, method="isotonic")
    theirs = IsotonicRegression(out_of_bounds="clip").fit(probability, is_true.astype(float))
    assert ours.apply(probability) == pytest.approx(theirs.predict(probability), abs=1e-9)


def test_temperature_fit_finds_what_distorted_the_scores():
    probability, is_true = draw(0, 60_000, overconfident)
    fitted = fit_calibration(probability, is_true, method="temperature")
    # logit(p) = (raw - 1) / 3: temperature 3, bias -1/3.
    assert fitted.temperature == pytest.approx(3.0, rel=0.05)
    assert fitted.bias == pytest.approx(-1 / 3, abs=0.05)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_map_fitted_on_one_half_calibrates_the_other(method):
    probability, is_true = draw(1, 20_000, overconfident)
    fitted = fit_calibration(probability[::2], is_true[::2], method=method)
    before = reliability(probability[1::2], is_true[1::2])
    after = reliability(fitted.apply(probability[1::2]), is_true[1::2])
    assert after.expected_calibration_error < 0.3 * before.expected_calibration_error
    assert after.brier < before.brier


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_maps_keep_order_stay_in_range_and_round_trip(method):
    probability, is_true = draw(2, 500, overconfident)
    fitted = fit_calibration(probability, is_true, method=method)
    grid = np.linspace(0, 1, 101)
    mapped = fitted.apply(grid)
    assert np.all(np.diff(mapped) >= 0)
    assert mapped.min() >= 0
    assert mapped.max() <= 1
    again = calibration_from_json(json.loads(json.dumps(fitted.to_json())))
    np.testing.assert_array_equal(again.apply(grid), mapped)


def test_separable_scores_stay_finite():
    probability = np.array([0.1, 0.2, 0.8, 0.9])
    fitted = fit_calibration(probability, probability > 0.5, method="temperature")
    assert np.isfinite(fitted.apply(probability)).all()


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="both outcomes"):
        fit_calibration(np.array([0.1, 0.9]), np.array([True, True]))
    with pytest.raises(ValueError, match="temperature"):
        TemperatureMap(temperature=0.0, bias=0.0)
    with pytest.raises(ValueError, match="ascend"):
        IsotonicMap(knots=(0.5, 0.2), values=(0.1, 0.2))
    with pytest.raises(IntegrityError, match="is 'magic', want one of temperature, isotonic"):
        calibration_from_json({"method": "magic"})
    with pytest.raises(IntegrityError, match=r"calibration\.bias: is missing"):
        calibration_from_json({"method": "temperature", "temperature": 1.0})
    with pytest.raises(IntegrityError, match="must ascend"):
        calibration_from_json({"method": "isotonic", "knots": [0.5, 0.1], "values": [0.0, 1.0]})


def test_reliability_closed_forms():
    always_half = reliability(np.full(10, 0.5), np.arange(10) < 5, num_bins=4)
    assert always_half.expected_calibration_error == 0.0
    assert always_half.brier == 0.25
    assert always_half.count.tolist() == [0, 0, 10, 0]
    assert np.isnan(always_half.frequency[0])
    wrong = reliability(np.ones(4), np.zeros(4, dtype=bool))
    assert wrong.expected_calibration_error == 1.0
    assert wrong.brier == 1.0
    with pytest.raises(ValueError, match="at least one"):
        reliability(np.zeros(0), np.zeros(0, dtype=bool))
