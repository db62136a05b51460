"""Bytes and errors of stored features, on maps whose rank is known."""

import numpy as np
import pytest

from teachers.image.extract_patches import at_rest
from teachers.image.feature_basis import StreamingPca
from teachers.image.trade_off import costs, first_channels


@pytest.fixture(scope="module")
def maps() -> list[np.ndarray]:
    """Smooth maps of twelve channels that span four directions."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 12)).astype(np.float32)
    row, column = np.mgrid[0:8, 0:12]
    made = []
    for _ in range(6):
        phase = rng.uniform(0, 6, (4, 1, 1))
        waves = np.sin(phase + row * rng.uniform(0.2, 0.6, (4, 1, 1)) + column * rng.uniform(0.2, 0.6, (4, 1, 1)))
        made.append((waves.transpose(1, 2, 0) @ directions + 0.3).astype(np.float32))
    return made


def test_eight_bits_are_steps_of_the_range_and_never_leave_it():
    values = np.linspace(-0.5, 1.5, 4001, dtype=np.float32)
    stored = at_rest(values, 8)
    assert stored.dtype == np.float16
    assert len(np.unique(stored)) == 257
    assert np.abs(stored - np.clip(values, 0, 1)).max() <= 0.5 / 256 + 1e-6
    assert np.abs(at_rest(values, 16) - np.clip(values, 0, 1)).max() < 0.0003
    assert np.isnan(at_rest(np.array([np.nan], np.float32), 8)).all(), "the gate counts what is not finite"


def test_as_many_channels_as_directions_restore_them_and_fewer_do_not(maps):
    found = {
        (c.channels, c.bits): c for c in costs(maps[:3], maps[3:], source="dinov2", channels=(2, 4), shares=(1.0,))
    }
    assert 10 * found[4, 16].cosine_error < found[2, 16].cosine_error, "what is left is what the range cuts off"
    assert found[4, 8].cosine_error < found[4, 16].cosine_error + 1e-4
    assert found[2, 16].cosine_error <= found[2, 16].cosine_error_95
    assert found[4, 8].bytes_per_image < found[4, 16].bytes_per_image
    assert found[2, 16].bytes_per_image < found[4, 16].bytes_per_image <= 8 * 12 * 4 * 2 * 1.5


def test_a_coarser_grid_is_judged_on_the_models_own(maps):
    whole, half = (c for c in costs(maps[:3], maps[3:], source="dinov2", channels=(4,)) if c.bits == 16)
    assert (whole.grid, half.grid) == ((8, 12), (4, 6))
    assert half.cosine_error > 10 * whole.cosine_error
    assert half.bytes_per_image < whole.bytes_per_image


def test_the_first_channels_are_the_basis_of_a_smaller_fit(maps):
    bases = []
    for count in (3, 2):
        pca = StreamingPca(12, count, sample_size=10_000, seed=0)
        for of_image in maps:
            pca.add(of_image.reshape(-1, 12))
        bases.append(pca.finish(range_quantile=0.0))
    cut = first_channels(bases[0], 2)
    for name in ("components", "minimum", "maximum", "explained_variance_ratio"):
        np.testing.assert_allclose(getattr(cut, name), getattr(bases[1], name), rtol=1e-5, atol=1e-6)
