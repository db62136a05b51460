"""Crossed voxels against dense samples."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from storage.geometry.voxel_rays import crossed_voxels


@settings(max_examples=60, deadline=None)
@given(
    start=arrays(np.float64, 3, elements=st.floats(-5, 20)),
    ends=arrays(np.float64, (4, 3), elements=st.floats(-10, 30)),
)
def test_crossed_voxels_are_those_that_dense_samples_fall_into(start, ends):
    found = {tuple(v) for v in crossed_voxels(start, ends)}
    samples = start + np.linspace(0, 1, 4001)[:, None, None] * (ends - start)
    clear = np.all(np.abs(samples - np.round(samples)) > 1e-6, axis=-1)
    dense = {tuple(v) for v in np.floor(samples[clear]).astype(int)}
    assert dense <= found
    # What samples miss is cut so shortly that a sample falls between: all crossed voxels lie within rounding of a ray.
    for voxel in found - dense:
        centre = np.array(voxel) + 0.5
        outside = np.abs(samples - centre).max(axis=-1) - 0.5
        assert outside.min() < 0.02
