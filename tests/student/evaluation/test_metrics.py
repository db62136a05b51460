import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio
from skimage.metrics import structural_similarity as skimage_ssim
from sklearn.metrics import average_precision_score

from student.metrics import (
    average_precision,
    bootstrap_mean,
    bootstrap_statistic,
    depth_error_by_range,
    depth_scores,
    peak_signal_to_noise,
    structural_similarity,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, height=st.integers(7, 40), width=st.integers(7, 40), noise=st.floats(0.0, 0.5))
def test_image_scores_agree_with_scikit_image(seed, height, width, noise):
    generator = np.random.default_rng(seed)
    reference = generator.random((height, width, 3))
    predicted = reference + noise * generator.normal(size=reference.shape)
    expected = skimage_ssim(reference, predicted, data_range=1.0, channel_axis=2)
    assert structural_similarity(predicted, reference) == pytest.approx(expected, abs=1e-9)
    if noise > 1e-3:
        expected = peak_signal_noise_ratio(reference, predicted, data_range=1.0)
        assert peak_signal_to_noise(predicted, reference) == pytest.approx(expected)


def test_psnr_closed_forms():
    image = np.full((8, 8, 3), 0.5)
    assert peak_signal_to_noise(image + 0.1, image) == pytest.approx(20.0)
    assert peak_signal_to_noise(image, image) == float("inf")
    assert np.isnan(peak_signal_to_noise(image[:0], image[:0]))


def test_ssim_of_an_image_with_itself_is_one_and_a_bad_window_is_refused():
    image = np.random.default_rng(0).random((9, 12, 3)).astype(np.float32)
    assert structural_similarity(image, image) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="window"):
        structural_similarity(image, image, window=11)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, factor=st.floats(0.5, 1.9))
def test_depth_scores_of_a_scaled_truth_have_closed_forms(seed, factor):
    reference = np.random.default_rng(seed).uniform(1.0, 40.0, size=(4, 5))
    scores = depth_scores(reference * factor, reference, clip=False)
    assert scores.abs_rel == pytest.approx(abs(factor - 1))
    assert scores.rmse_log == pytest.approx(abs(np.log(factor)))
    assert scores.rmse == pytest.approx(abs(factor - 1) * np.sqrt(np.mean(reference**2)))
    assert scores.sq_rel == pytest.approx((factor - 1) ** 2 * reference.mean())
    ratio = max(factor, 1 / factor)
    if min(abs(ratio - 1.25**k) for k in (1, 2, 3)) > 1e-6:
        expected = [float(ratio < 1.25**k) for k in (1, 2, 3)]
        assert [scores.delta_1, scores.delta_2, scores.delta_3] == expected
    assert scores.num_pixels == 20
    assert scores.coverage == 1.0


def test_depth_is_scored_only_where_the_reference_is_defined_and_in_range():
    reference = np.array([10.0, np.nan, 90.0, 0.0, 20.0])
    predicted = np.array([10.0, 1.0, 1.0, 1.0, np.nan])
    scores = depth_scores(predicted, reference, clip=False)
    assert scores.num_pixels == 2
    assert scores.coverage == 0.5
    # A ray that hit nothing counts as the far end: abstaining must not pay.
    assert scores.abs_rel == pytest.approx((80 - 20) / 20 / 2)


def test_only_the_papers_protocol_clips_predictions():
    reference, predicted = np.array([40.0]), np.array([120.0])
    assert depth_scores(predicted, reference, clip=True).abs_rel == pytest.approx(1.0)
    assert depth_scores(predicted, reference, clip=False).abs_rel == pytest.approx(2.0)


def test_depth_scores_without_a_reference_are_undefined_and_not_zero():
    scores = depth_scores(np.ones(3), np.full(3, np.nan), clip=True)
    assert scores.num_pixels == 0
    assert np.isnan(scores.abs_rel)
    assert np.isnan(scores.coverage)


def test_error_by_range_adds_up_to_the_whole():
    generator = np.random.default_rng(3)
    reference = generator.uniform(0.5, 79.0, size=500)
    predicted = np.clip(reference + generator.normal(size=500), 0.1, 79.9)
    error, count = depth_error_by_range(predicted, reference, np.array([0.0, 10.0, 30.0, 80.0]))
    assert count.sum() == 500
    assert count[0] == np.sum(reference < 10)
    expected = depth_scores(predicted, reference, clip=True).abs_rel
    assert error.sum() / 500 == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(2, 60), levels=st.integers(1, 8))
def test_average_precision_agrees_with_scikit_learn_also_with_ties(seed, size, levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(levels, size=size) / levels
    is_positive = generator.random(size) < 0.4
    is_positive[0] = True
    assert average_precision(scores, is_positive) == pytest.approx(average_precision_score(is_positive, scores))


def test_average_precision_needs_a_positive():
    assert np.isnan(average_precision(np.array([0.1, 0.2]), np.array([False, False])))


def test_bootstrap_resamples_scenes_where_it_can_and_says_so():
    generator = np.random.default_rng(0)
    # Frames of one scene are copies: resampling frames would give a far too narrow interval.
    per_scene = generator.normal(size=8)
    values = np.repeat(per_scene, 20).tolist()
    scenes = [f"scene-{i // 20}" for i in range(160)]
    by_scene = bootstrap_mean(values, scenes)
    by_frame = bootstrap_mean(values, ["one"] * 160)
    assert (by_scene.resampled, by_frame.resampled) == ("scene", "frame")
    assert by_scene.low < by_scene.mean < by_scene.high
    assert by_scene.high - by_scene.low > 2 * (by_frame.high - by_frame.low)
    assert bootstrap_mean(values, scenes) == by_scene  # seeded


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(60):
        values = generator.normal(size=40).tolist()
        interval = bootstrap_mean(values, ["one"] * 40, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    assert hits / 60 >= 0.85


def test_bootstrap_of_few_or_undefined_values_has_no_interval():
    few = bootstrap_mean([1.0, 3.0, float("nan")], ["a", "b", "c"])
    assert (few.mean, few.low, few.high, few.num_values, few.resampled) == (2.0, None, None, 2, "none")
    assert np.isnan(bootstrap_mean([float("nan")], ["a"]).mean)
    with pytest.raises(ValueError, match="2 values for 1 scenes"):
        bootstrap_mean([1.0, 2.0], ["a"])


def test_a_bootstrapped_ratio_is_that_of_the_sums_and_not_the_mean_of_ratios():
    totals = np.array([[1.0, 2.0], [90.0, 100.0]] * 4)
    interval = bootstrap_statistic(totals, ["one"] * 8, lambda t: t[0] / t[1])
    assert interval.mean == pytest.approx(91 / 102)
    assert interval.low < interval.mean <= interval.high <= 0.9 + 1e-9


def test_what_is_not_valid_changes_no_figure():
    random = np.random.default_rng(5)
    reference, predicted = random.random((2, 16, 20, 3))
    is_valid = np.ones((16, 20), bool)
    is_valid[:, 12:] = False
    spoilt = np.where(is_valid[..., None], predicted, 9.0)
    for score in (peak_signal_to_noise, structural_similarity):
        wanted = score(predicted[:, :12], reference[:, :12])
        assert score(spoilt, reference, is_valid) == pytest.approx(wanted)
        assert score(predicted, reference, np.ones_like(is_valid)) == pytest.approx(score(predicted, reference))
        assert np.isnan(score(predicted, reference, np.zeros_like(is_valid)))
