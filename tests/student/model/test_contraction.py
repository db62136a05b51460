"""Contraction is a bijection that keeps order; depth bins have the published counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student.model.config import ContractionConfig, DepthBinsConfig
from student.model.contraction import contract, contract_axis, depth_bin_edges

CONFIGS = st.builds(
    ContractionConfig,
    inner_range_xy=st.floats(1.0, 100.0),
    inner_range_z=st.floats(1.0, 20.0),
    inner_ratio=st.floats(0.1, 0.99),
)
COORDINATES = st.floats(-1e4, 1e4)


@settings(deadline=None)  # the first call compiles type checks
@given(CONFIGS, st.tuples(COORDINATES, COORDINATES, COORDINATES))
def test_all_of_space_falls_inside_the_cube(config, point):
    assert (contract(torch.tensor([point], dtype=torch.float64), config).abs() < 1).all()


@settings(deadline=None)  # the first call compiles type checks
@given(CONFIGS, COORDINATES, st.floats(1e-3, 100.0))
def test_contraction_is_strictly_increasing_along_each_axis(config, start, step):
    low = contract(torch.full((1, 3), start, dtype=torch.float64), config)
    high = contract(torch.full((1, 3), start + step, dtype=torch.float64), config)
    assert (high > low).all()


@settings(deadline=None)  # the first call compiles type checks
@given(CONFIGS, COORDINATES)
def test_contraction_is_odd(config, value):
    points = torch.full((1, 3), value, dtype=torch.float64)
    torch.testing.assert_close(contract(-points, config), -contract(points, config))


def test_pieces_meet_with_the_published_formula():
    config = ContractionConfig()
    x = torch.tensor([-200.0, -50.0, -3.0, 0.0, 49.999, 50.001, 120.0], dtype=torch.float64)
    inner = 0.8 * x / 50
    outer = x.sign() * (1 - 50 * 0.2 / x.abs().clamp(min=1e-9))
    expected = torch.where(x.abs() < 50, inner, outer)
    torch.testing.assert_close(contract_axis(x, config.inner_range_xy, config.inner_ratio), expected)


def test_gradients_are_finite_from_the_origin_to_far_away():
    points = torch.tensor([[0.0, 0.0, 0.0], [50.0, -50.0, 6.4], [1e6, -1e6, 1e6]], requires_grad=True)
    (gradient,) = torch.autograd.grad(contract(points, ContractionConfig()).sum(), points)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("bins", "count", "last"),
    [
        (DepthBinsConfig(), 286, 117.92),
        (DepthBinsConfig(step=0.4), 143, None),
        (DepthBinsConfig(spacing="linear", far=50.0), 250, 50.0),
        (DepthBinsConfig(spacing="logarithmic", near=0.5, far=80.0, num_bins=64), 64, 80.0),
    ],
)
def test_bins_have_the_published_counts(bins, count, last):
    edges = depth_bin_edges(bins, ContractionConfig())
    assert len(edges) == count + 1
    assert (edges.diff() > 0).all()
    assert edges[0] == pytest.approx(bins.near)
    if last is not None:
        assert float(edges[-1]) == pytest.approx(last, abs=0.01)


@pytest.mark.parametrize(
    "wrong", [{"inner_ratio": 1.0}, {"inner_ratio": 0.0}, {"inner_range_xy": 0.0}, {"inner_range_z": -1.0}]
)
def test_a_map_that_is_no_bijection_is_rejected(wrong):
    with pytest.raises(ValueError, match="inner"):
        ContractionConfig(**wrong)
