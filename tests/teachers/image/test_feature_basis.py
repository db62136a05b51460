"""The streamed PCA is the PCA."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from teachers.image.feature_basis import FeatureBasis, StreamingPca


def vectors(count=400, length=12, seed=0):
    """Correlated vectors with clearly different variances, so that components are determined."""
    random = np.random.default_rng(seed)
    mixing = np.linalg.qr(random.normal(size=(length, length)))[0] * (2.0 ** -np.arange(length))
    return (random.normal(size=(count, length)) @ mixing.T + random.normal(size=length)).astype(np.float32)


def fit(batches, components=5, sample_size=1000, quantile=0.0, seed=0):
    pca = StreamingPca(batches[0].shape[1], components, sample_size=sample_size, seed=seed)
    for batch in batches:
        pca.add(batch)
    return pca.finish(range_quantile=quantile)


def test_it_agrees_with_a_fit_on_everything_at_once():
    data = vectors()
    basis, twin = fit(np.array_split(data, 7)), PCA(5).fit(data.astype(np.float64))
    assert np.allclose(basis.mean, twin.mean_, atol=1e-5)
    assert np.allclose(np.abs(np.sum(basis.components * twin.components_.T, axis=0)), 1, atol=1e-4)
    assert np.allclose(basis.explained_variance_ratio, twin.explained_variance_ratio_, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 399), max_size=6, unique=True), sample_size=st.sampled_from([50, 1000]))
def test_how_the_stream_is_cut_changes_nothing(cuts, sample_size):
    data = vectors()
    whole = fit([data], sample_size=sample_size)
    cut = fit(np.split(data, sorted(cuts)), sample_size=sample_size)
    for name in ("mean", "components", "minimum", "maximum", "explained_variance_ratio"):
        assert np.allclose(getattr(whole, name), getattr(cut, name), atol=2e-5), name


def test_components_are_orthonormal_and_ordered():
    basis = fit([vectors()], components=12)
    assert np.allclose(basis.components.T @ basis.components, np.eye(12), atol=1e-5)
    assert (np.diff(basis.explained_variance_ratio) <= 1e-7).all()
    assert basis.explained_variance_ratio.sum() == pytest.approx(1.0, abs=1e-5)


def test_more_components_restore_more():
    data = vectors()
    errors = []
    for components in range(1, 13):
        basis = fit([data], components=components)
        errors.append(float(((basis.restore(basis.reduce(data)) - data) ** 2).mean()))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 1e-9


def test_the_share_of_variance_kept_is_the_share_restored():
    data = vectors()
    basis = fit([data], components=3)
    lost = ((basis.restore(basis.reduce(data)) - data) ** 2).sum() / ((data - data.mean(axis=0)) ** 2).sum()
    assert 1 - lost == pytest.approx(float(basis.explained_variance_ratio.sum()), abs=1e-4)


def test_the_fitted_data_fill_the_unit_range_exactly():
    reduced = fit([vectors()], components=4).reduce(vectors())
    assert reduced.min(axis=0) == pytest.approx(np.zeros(4), abs=1e-5)
    assert reduced.max(axis=0) == pytest.approx(np.ones(4), abs=1e-5)


def test_a_quantile_range_leaves_the_wanted_share_outside():
    data = vectors(count=5000)
    reduced = fit([data], components=2, sample_size=5000, quantile=0.01).reduce(data)
    assert ((reduced < 0) | (reduced > 1)).mean() == pytest.approx(0.02, abs=0.002)


def test_the_sample_is_drawn_from_the_whole_stream():
    early, late = np.zeros((5000, 2), np.float32), np.ones((5000, 2), np.float32)
    pca = StreamingPca(2, 1, sample_size=500, seed=0)
    pca.add(early)
    pca.add(late)
    assert pca._sample.mean() == pytest.approx(0.5, abs=0.07)


def test_a_basis_survives_its_store():
    basis, group = fit([vectors()]), zarr.create_group(store={})
    basis.write(group)
    back = FeatureBasis.read(group)
    for name in ("mean", "components", "minimum", "maximum", "explained_variance_ratio"):
        assert np.array_equal(getattr(back, name), getattr(basis, name))


def test_too_few_vectors_or_directions_are_refused():
    with pytest.raises(ValueError, match="3 feature vectors: want more than 5"):
        fit([vectors(count=3)])
    with pytest.raises(ValueError, match="does not vary: want at most 1 components"):
        fit([np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32) * np.ones((1, 4), np.float32)], 2)
    with pytest.raises(ValueError, match=r"num_components 5: want within \[1, 4\]"):
        StreamingPca(4, 5, sample_size=10, seed=0)
