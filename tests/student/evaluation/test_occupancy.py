import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, precision_score, recall_score

from storage.geometry.voxel_grid import OCC3D_GRID, VoxelGrid
from storage.taxonomy import OCC3D_FOREGROUND, OCC3D_FREE, OCC3D_WITHOUT_OTHERS
from student.evaluation.calibration import IsotonicMap
from student.evaluation.occupancy_cuts import FrameCuts, best_cuts
from student.evaluation.operating_point import OperatingPoint
from student.evaluation.sections.occupancy import is_above_ground
from student.inference.occupancy import (
    BinaryCounts,
    SemanticCounts,
    best_iou_threshold,
    expected_iou_cut,
    occupancy_probability,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_a_voxels_centre_and_all_its_samples_lie_in_that_voxel(seed):
    generator = np.random.default_rng(seed)
    index = generator.integers(0, OCC3D_GRID.shape, size=(20, 3))
    back, is_inside = OCC3D_GRID.index_of(OCC3D_GRID.centres(index))
    assert is_inside.all()
    np.testing.assert_array_equal(back, index)
    samples = OCC3D_GRID.sample_points(index, 3)
    assert samples.shape == (20, 27, 3)
    back, is_inside = OCC3D_GRID.index_of(samples.reshape(-1, 3))
    assert is_inside.all()
    np.testing.assert_array_equal(back.reshape(20, 27, 3), np.repeat(index[:, None], 27, axis=1))
    np.testing.assert_allclose(samples.mean(axis=1), OCC3D_GRID.centres(index))


def test_the_grid_is_occ3ds():
    top = OCC3D_GRID.centres(np.array([[199, 199, 15]]))[0] + 0.2
    np.testing.assert_allclose(top, [40.0, 40.0, 5.4])
    points = np.array([[-40.0, -40.0, -1.0], [40.0, 0.0, 0.0], [0.0, 0.0, -1.01], [np.nan, 0.0, 0.0]])
    assert OCC3D_GRID.index_of(points)[1].tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="positive"):
        VoxelGrid(minimum=OCC3D_GRID.minimum, voxel_size=0.0, shape=OCC3D_GRID.shape)


def test_class_groups_have_the_published_sizes():
    assert (len(OCC3D_WITHOUT_OTHERS), len(OCC3D_FOREGROUND)) == (15, 12)


def test_probability_of_density_is_the_opacity_of_one_voxel():
    density = np.array([0.0, 1.0, 1e9])
    expected = [0.0, 1 - np.exp(-0.4), 1.0]
    np.testing.assert_allclose(occupancy_probability(density, 0.4), expected)
    assert occupancy_probability(np.array([1e-12]), 0.4)[0] > 0  # expm1, not 1 - exp


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, split=st.integers(1, 199))
def test_binary_counts_agree_with_scikit_learn_and_add_up(seed, split):
    generator = np.random.default_rng(seed)
    predicted, truth = generator.random(200) < 0.5, generator.random(200) < 0.3
    predicted[0] = truth[0] = True
    counts = BinaryCounts.of(predicted, truth)
    assert counts.iou == pytest.approx(jaccard_score(truth, predicted))
    assert counts.precision == pytest.approx(precision_score(truth, predicted))
    assert counts.recall == pytest.approx(recall_score(truth, predicted))
    assert counts.num_voxels == 200
    parts = BinaryCounts.of(predicted[:split], truth[:split]) + BinaryCounts.of(predicted[split:], truth[split:])
    assert parts == counts


def test_empty_counts_are_undefined_and_not_zero():
    assert np.isnan(BinaryCounts().iou)
    assert np.isnan(BinaryCounts().precision)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_class_iou_agrees_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth = generator.choice([0, 4, 11, OCC3D_FREE], size=300).astype(np.uint8)
    predicted = np.where(generator.random(300) < 0.5, truth, generator.choice([4, 9, 17], size=300)).astype(np.uint8)
    counts = SemanticCounts.of(predicted, truth)
    expected = jaccard_score(truth, predicted, labels=[0, 4, 11], average=None)
    iou = counts.iou_per_class()
    np.testing.assert_allclose(iou[[0, 4, 11]], expected)
    # Class 9 is predicted but never true: that costs. Class 2 is neither: undefined, and left out of the mean.
    assert iou[9] == 0
    assert np.isnan(iou[2])
    mean, num_counted = counts.mean_iou(range(17))
    assert num_counted == 4
    assert mean == pytest.approx(
        jaccard_score(truth, predicted, labels=[0, 4, 9, 11], average="macro", zero_division=0)
    )
    foreground = [index for index in (0, 4, 9, 11) if index in OCC3D_FOREGROUND]
    assert counts.mean_iou(OCC3D_FOREGROUND) == (pytest.approx(iou[foreground].mean()), len(foreground))
    doubled = counts + counts + SemanticCounts.empty()
    np.testing.assert_allclose(doubled.iou_per_class(), iou)


def test_labels_outside_the_convention_are_refused():
    with pytest.raises(ValueError, match="0 to 17"):
        SemanticCounts.of(np.array([18], dtype=np.uint8), np.array([0], dtype=np.uint8))
    assert np.isnan(SemanticCounts.empty().mean_iou(range(17))[0])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, levels=st.integers(2, 40))
def test_the_threshold_found_is_the_best_of_all(seed, levels):
    generator = np.random.default_rng(seed)
    is_occupied = generator.random(120) < 0.3
    is_occupied[0] = True
    probability = np.round(np.clip(0.4 * is_occupied + generator.random(120) * 0.6, 0, 1) * levels) / levels
    threshold, iou = best_iou_threshold(probability, is_occupied)
    assert BinaryCounts.of(probability >= threshold, is_occupied).iou == pytest.approx(iou)
    for other in np.unique(probability):
        assert BinaryCounts.of(probability >= other, is_occupied).iou <= iou + 1e-12


def test_a_threshold_without_an_occupied_voxel_is_refused():
    with pytest.raises(ValueError, match="occupied"):
        best_iou_threshold(np.array([0.5]), np.array([False]))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, levels=st.integers(2, 40))
def test_no_other_cut_promises_a_larger_iou(seed, levels):
    generator = np.random.default_rng(seed)
    raw = np.round(generator.random(60) ** 2 * levels) / levels
    probability = 0.9 * raw**2 + 0.05

    def promised(cut):
        return probability[raw >= cut].sum() / ((raw >= cut).sum() + probability[raw < cut].sum())

    found = promised(expected_iou_cut(raw, probability, at_least=0.0))
    assert found == pytest.approx(max(promised(cut) for cut in np.unique(raw)))
    bounded = expected_iou_cut(raw, probability, at_least=0.5)
    assert (probability[raw >= bounded] >= 0.5).all()


def test_what_is_promised_is_what_comes_true_on_average():
    generator = np.random.default_rng(0)
    raw = np.concatenate([generator.beta(6, 2, 300), generator.beta(1, 8, 1700)])
    truths = generator.random((200, len(raw))) < raw

    def mean_iou(cut):
        return np.mean([BinaryCounts.of(raw >= cut, truth).iou for truth in truths])

    found = mean_iou(expected_iou_cut(raw, raw, at_least=0.0))
    assert found > max(mean_iou(cut) for cut in np.linspace(0.05, 0.95, 40)) - 0.002
    assert found > mean_iou(0.5) + 0.005


def test_where_nothing_is_likely_nothing_is_called_occupied():
    raw = np.full(1000, 0.02)
    assert not (raw >= expected_iou_cut(raw, raw, at_least=0.1)).any()
    assert (raw >= expected_iou_cut(raw, raw, at_least=0.0)).all()  # all of it promises 0.02, any part less
    assert expected_iou_cut(np.zeros(0), np.zeros(0), at_least=0.1) > 1.0


def test_each_place_is_cut_by_what_is_seen_there():
    doubling = IsotonicMap(knots=(0.0, 0.5), values=(0.0, 1.0))
    raw = np.array([0.5, 0.49, 0.48, 0.3, 0.29, 0.01, 0.01])
    is_above = np.arange(7) > 2
    cuts = best_cuts(raw, is_above, doubling)
    assert cuts == FrameCuts(everywhere=0.29, above_ground=0.29)
    cuts = best_cuts(np.append(raw, np.full(40, 0.2)), np.append(is_above, np.zeros(40, bool)), doubling)
    assert (cuts.everywhere, cuts.above_ground) == (0.2, 0.29)
    np.testing.assert_array_equal(
        FrameCuts(0.4, 0.2).is_occupied(np.array([0.3, 0.3, 0.4]), np.array([True, False, False])), [True, False, True]
    )


def test_an_operating_point_looks_at_observed_voxels_alone():
    raw, is_observed = np.full(OCC3D_GRID.num_voxels, 0.35), np.zeros(OCC3D_GRID.num_voxels, bool)
    above = np.flatnonzero(is_above_ground(np.arange(OCC3D_GRID.num_voxels)))
    is_observed[above[:10]] = True
    raw[above[:10]] = [0.5] * 4 + [0.36] * 6
    values = {"temperature": 1.0, "temperature_source": "", "evaluation": None}
    knots = IsotonicMap(knots=(0.3, 0.5), values=(0.01, 0.95))
    point = OperatingPoint(threshold=0.9, threshold_above_ground=0.4, calibration=knots, **values)
    cuts = point.cuts(raw, is_observed)
    np.testing.assert_array_equal(cuts.is_occupied(raw[above[:10]], np.ones(10, bool)), [True] * 4 + [False] * 6)
    point = OperatingPoint(threshold=0.9, threshold_above_ground=0.2, calibration=None, **values)
    assert point.cuts(raw, is_observed) == FrameCuts(0.9, 0.2)
