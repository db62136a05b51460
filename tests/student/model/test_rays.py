"""Sampling and compositing on lists of occupied bins."""

import pytest
import torch

from student.model.depth_head import ray_weights
from student.model.rays import (
    BinSamples,
    compositing_weights,
    draw_around_peak,
    merge_draws,
    sample_extents,
    sample_pdf,
)

NUM_RAYS = 7


@pytest.fixture
def edges():
    return torch.linspace(0.5, 20.0, 31)


@pytest.fixture
def coarse(edges) -> BinSamples:
    generator = torch.Generator().manual_seed(0)
    is_listed = torch.rand(NUM_RAYS, len(edges) - 1, generator=generator) < 0.4
    is_listed[2] = False  # a ray through nothing
    is_listed[3] = False
    is_listed[3, 11] = True
    ray, bins = is_listed.nonzero(as_tuple=True)
    jitter = torch.rand(len(ray), generator=generator)
    return BinSamples(ray, bins, edges[bins] + jitter * (edges[bins + 1] - edges[bins]))


def test_weights_sum_to_at_most_one_and_equal_the_dense_formula(coarse):
    density = torch.rand(len(coarse.ray), generator=torch.Generator().manual_seed(1)) * 3
    weights = compositing_weights(density, coarse.ray)
    for ray in range(NUM_RAYS):
        own = coarse.ray == ray
        expected = ray_weights(density[own][None])[0]
        torch.testing.assert_close(weights[own], expected)
        assert weights[own].sum() <= 1 + 1e-6


def test_weights_survive_an_opaque_wall_and_a_long_list():
    # 1e6 opaque samples before: without double precision nothing of the last ray's optical depth is left.
    ray = torch.cat([torch.zeros(1_000_000, dtype=torch.long), torch.ones(3, dtype=torch.long)])
    optical = torch.cat([torch.full((1_000_000,), 1e3), torch.tensor([0.1, 0.2, 0.3])]).requires_grad_()
    weights = compositing_weights(optical, ray)
    torch.testing.assert_close(weights[-3:], ray_weights(torch.tensor([[0.1, 0.2, 0.3]]))[0], atol=1e-5, rtol=1e-5)
    assert float(weights[:1_000_000].detach().sum()) == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(weights.sum(), optical)
    assert torch.isfinite(gradient).all()


def test_weight_gradients_equal_the_dense_formula(coarse):
    density = torch.rand(len(coarse.ray), generator=torch.Generator().manual_seed(1)).requires_grad_()
    probe = torch.randn(len(coarse.ray), generator=torch.Generator().manual_seed(2))
    (ours,) = torch.autograd.grad((compositing_weights(density, coarse.ray) * probe).sum(), density)
    own = [coarse.ray == ray for ray in range(NUM_RAYS)]
    dense = sum((ray_weights(density[mask][None])[0] * probe[mask]).sum() for mask in own)
    (expected,) = torch.autograd.grad(dense, density)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_inverse_cdf_equals_a_dense_search_ray_by_ray(coarse, edges):
    weights = torch.rand(len(coarse.ray), generator=torch.Generator().manual_seed(3))
    weights[::3] = 0.0
    extents = (edges[coarse.bin], edges[coarse.bin + 1])
    source, distances = sample_pdf(weights, extents, coarse.ray, num_rays=NUM_RAYS, num_draws=9, jitter=False)
    assert set(coarse.ray[source].tolist()) == set(range(NUM_RAYS)) - {2}
    for ray in sorted(set(coarse.ray[source].tolist())):
        dense = torch.zeros(len(edges) - 1, dtype=torch.float64)
        dense[coarse.bin[coarse.ray == ray]] = weights[coarse.ray == ray].double()
        cdf = torch.cat([torch.zeros(1, dtype=torch.float64), (dense / dense.sum()).cumsum(0)])
        quantiles = (torch.arange(9, dtype=torch.float64) + 0.5) / 9
        index = (torch.searchsorted(cdf, quantiles, right=True) - 1).clamp(0, len(dense) - 1)
        fraction = (quantiles - cdf[index]) / (cdf[index + 1] - cdf[index])
        expected = edges[index].double() + fraction * (edges[index + 1] - edges[index])
        got = distances[coarse.ray[source] == ray]
        torch.testing.assert_close(got, expected.float(), atol=1e-4, rtol=1e-5)
        assert (weights[source] > 0).all()


def test_jittered_draws_stay_in_their_strata(coarse, edges):
    torch.manual_seed(0)
    only = BinSamples(*(field[coarse.ray == 3] for field in coarse))
    extents = (edges[only.bin], edges[only.bin + 1])
    weights = torch.ones(1)
    _, distances = sample_pdf(weights, extents, only.ray, num_rays=NUM_RAYS, num_draws=8, jitter=True)
    strata = torch.linspace(float(extents[0]), float(extents[1]), 9)
    assert (distances >= strata[:-1]).all()
    assert (distances <= strata[1:]).all()
    assert distances.diff().std() > 0


def test_rays_without_weight_get_no_draw(coarse, edges):
    extents = (edges[coarse.bin], edges[coarse.bin + 1])
    source, distances = sample_pdf(
        torch.zeros(len(coarse.ray)), extents, coarse.ray, num_rays=NUM_RAYS, num_draws=4, jitter=False
    )
    assert len(source) == len(distances) == 0


def test_a_window_lies_around_the_heaviest_sample_and_skips_empty_bins(coarse, edges):
    weights = torch.rand(len(coarse.ray), generator=torch.Generator().manual_seed(4)) * 0.1
    source, distances = draw_around_peak(weights, coarse, edges, num_rays=NUM_RAYS, num_draws=6, step=0.5)
    assert (coarse.ray[source].diff() >= 0).all()
    for ray in range(NUM_RAYS):
        own = (coarse.ray == ray).nonzero()[:, 0]
        got = distances[coarse.ray[source] == ray]
        if len(own) == 0:
            assert len(got) == 0
            continue
        peak = coarse.distances[own[weights[own].argmax()]]
        wanted = (peak + torch.arange(-3, 3) * 0.5).clamp(edges[0], edges[-1])
        bins = torch.searchsorted(edges, wanted, right=True) - 1
        is_listed = torch.isin(bins, coarse.bin[own])
        torch.testing.assert_close(got, wanted[is_listed])
        assert torch.equal(coarse.bin[source[coarse.ray[source] == ray]], bins[is_listed])
    merge = merge_draws(coarse.distances, source, distances)
    merged = merge.interleave(coarse.distances + 100 * coarse.ray, distances + 100 * coarse.ray[source])
    assert (merged.diff() >= 0).all()
    nothing, _ = draw_around_peak(weights * 0, coarse, edges, num_rays=NUM_RAYS, num_draws=6, step=0.5)
    assert len(nothing) == 0


def test_merging_equals_sorting_and_extents_partition_each_bin(coarse, edges):
    weights = torch.rand(len(coarse.ray), generator=torch.Generator().manual_seed(4))
    extents = sample_extents(coarse, edges)
    source, distances = sample_pdf(weights, extents, coarse.ray, num_rays=NUM_RAYS, num_draws=20, jitter=False)
    merge = merge_draws(coarse.distances, source, distances)
    drawn = BinSamples(coarse.ray[source], coarse.bin[source], distances)
    merged = BinSamples(*(merge.interleave(a, b) for a, b in zip(coarse, drawn, strict=True)))
    order = sorted(range(len(merged.ray)), key=lambda i: (int(merged.ray[i]), float(merged.distances[i])))
    assert order == list(range(len(merged.ray)))
    begins, ends = sample_extents(merged, edges)
    assert (begins <= merged.distances + 1e-6).all()
    assert (ends >= merged.distances - 1e-6).all()
    length = torch.zeros(NUM_RAYS, len(edges) - 1).index_put((merged.ray, merged.bin), ends - begins, accumulate=True)
    listed = torch.zeros_like(length, dtype=torch.bool).index_put((merged.ray, merged.bin), torch.tensor(True))
    torch.testing.assert_close(length, torch.where(listed, edges.diff(), 0.0), atol=1e-5, rtol=1e-5)


def test_nothing_listed_composites_to_nothing():
    empty = torch.zeros(0, dtype=torch.long)
    assert compositing_weights(torch.zeros(0), empty).shape == (0,)
