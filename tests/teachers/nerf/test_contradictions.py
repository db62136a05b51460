"""Rendered depth that the LiDAR contradicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachers.nerf.contradictions import contradicts, untrusted_pixels


def test_too_near_and_too_far_contradict_alike_and_undefined_never() -> None:
    rendered = np.array([10.0, 10.0, 10.0, 10.0, np.nan])
    measured = np.array([10.0, 12.9, 13.1, 7.6, 10.0])
    assert contradicts(rendered, measured, ratio=1.3).tolist() == [False, False, True, True, False]


def test_a_return_speaks_for_its_surroundings_up_to_the_next_return() -> None:
    depth = np.full((5, 12), 20.0)
    pixel, measured = np.array([2 * 12 + 2, 2 * 12 + 6]), np.array([1.5, 20.5])
    untrusted = untrusted_pixels(depth, pixel, measured, ratio=1.3, reach=3.0)
    assert untrusted[2].tolist() == [True] * 4 + [untrusted[2, 4]] + [False] * 7  # the middle may go either way
    assert not untrusted[:, 5:].any()
    assert not untrusted[0, 5]


def test_a_return_says_nothing_beyond_its_reach() -> None:
    untrusted = untrusted_pixels(np.full((5, 12), 20.0), np.array([2 * 12 + 6]), np.array([1.5]), ratio=1.3, reach=1.0)
    assert untrusted.sum() == 5  # the pixel and its four neighbours
    assert untrusted[2, 5:8].all()


@pytest.mark.parametrize("reach", [0.0, 2.0])
def test_without_returns_everything_is_trusted(reach: float) -> None:
    nothing = np.zeros(0, np.int64)
    assert not untrusted_pixels(np.ones((4, 4)), nothing, np.zeros(0), ratio=1.3, reach=reach).any()


@given(seed=st.integers(0, 2**32 - 1), reach=st.floats(0, 5))
def test_every_contradicted_pixel_is_untrusted_and_no_agreeing_one(seed: int, reach: float) -> None:
    random = np.random.default_rng(seed)
    depth = random.uniform(1, 50, (9, 11))
    pixel = np.sort(random.choice(depth.size, 20, replace=False))
    measured = depth.reshape(-1)[pixel] * np.exp(random.normal(0, 0.4, 20))
    untrusted = untrusted_pixels(depth, pixel, measured, ratio=1.3, reach=reach).reshape(-1)
    assert (untrusted[pixel] == contradicts(depth.reshape(-1)[pixel], measured, ratio=1.3)).all()
