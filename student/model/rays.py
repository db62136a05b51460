"""Sampling and compositing along rays of which only the occupied stretches are listed.

Every ray is cut into the same depth bins; each bin holds one coarse sample, and fine samples where the
coarse weights say that something is. A bin without density is not listed at all. Samples of a bin share
its length, each taking what is nearest to it, so lengths are exact and the listed samples of a ray never
overlap.

All lists run ray after ray, near to far. Running sums over the whole list are taken in double precision:
what they cancel may be a million times what is left.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from student.model.gather_sum import segment_sum


class BinSamples(NamedTuple):
    """Samples in listed bins.

    Attributes:
        ray: Ray of each sample, ascending.
        bin: Depth bin of each sample, ascending along a ray.
        distances: Metres along the unit ray, ascending along a ray.
    """

    ray: Int64[Tensor, " samples"]
    bin: Int64[Tensor, " samples"]
    distances: Float[Tensor, " samples"]


def sample_extents(
    samples: BinSamples, edges: Float[Tensor, " edges"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Return where the stretch of ray that each sample stands for begins and ends, metres."""
    begins, ends = edges.index_select(0, samples.bin), edges.index_select(0, samples.bin + 1)
    shares_bin = (samples.ray[1:] == samples.ray[:-1]) & (samples.bin[1:] == samples.bin[:-1])
    between = (samples.distances[1:] + samples.distances[:-1]) / 2
    begins[1:] = torch.where(shares_bin, between, begins[1:])
    ends[:-1] = torch.where(shares_bin, between, ends[:-1])
    return begins, ends


def compositing_weights(
    optical_depth: Float[Tensor, " samples"], ray: Int64[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    """Return the probability that its ray ends in each sample, from density times length (DistillNeRF Eq. 1).

    The weights sum to at most 1 over a ray. They are differentiable.
    """
    if optical_depth.shape[0] == 0:
        return optical_depth
    exact = optical_depth.double()
    before = exact.cumsum(0) - exact
    is_first = torch.ones_like(ray, dtype=torch.bool)
    is_first[1:] = ray[1:] != ray[:-1]
    first = torch.cummax(torch.where(is_first, torch.arange(len(ray), device=ray.device), 0), dim=0).values
    transmittance = torch.exp(before.index_select(0, first) - before)
    return (-torch.expm1(-exact) * transmittance).to(optical_depth.dtype)


@torch.no_grad()
def sample_pdf(
    weights: Float[Tensor, " samples"],
    extents: tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]],
    ray: Int64[Tensor, " samples"],
    *,
    num_rays: int,
    num_draws: int,
    jitter: bool,
    min_opacity: float = 1e-4,
) -> tuple[Int64[Tensor, " draws"], Float[Tensor, " draws"]]:
    """Draw distances along each ray by the inverse of its cumulative weight: importance sampling.

    This is the importance sampling of the second phase (DistillNeRF Sec. 3.1). The weight of a sample is spread evenly
    over its extent. All rays are searched at once: their cumulative weights, each scaled to one, are laid end to end.

    Args:
        weights: Compositing weights of the coarse samples.
        extents: Begin and end of each coarse sample, metres.
        ray: Ray of each coarse sample, ascending.
        num_rays: Rays in all.
        num_draws: Draws per ray.
        jitter: Draw once at random in each of ``num_draws`` equal strata (training) instead of at their
            centres.
        min_opacity: Rays whose weights sum to less get no draw.

    Returns:
        Coarse sample that each draw fell into, and its distance, metres; near to far along each ray.
    """
    totals = segment_sum(weights.double(), ray, num_rays)
    is_drawn = totals > min_opacity
    num_drawn = int(is_drawn.sum())
    kept = is_drawn.index_select(0, ray).nonzero().squeeze(1)
    share = weights.index_select(0, kept).double() / totals.index_select(0, ray.index_select(0, kept))
    cumulative = share.cumsum(0)
    offset = torch.rand(num_drawn, num_draws, device=weights.device) if jitter else weights.new_tensor(0.5)
    strata = torch.arange(num_draws, device=weights.device, dtype=torch.float64)
    turn = torch.arange(num_drawn, device=weights.device, dtype=torch.float64)[:, None]
    quantile = (turn + (strata + offset) / num_draws).reshape(-1)
    hit = torch.searchsorted(cumulative, quantile, right=True).clamp(max=max(0, len(kept) - 1))
    if num_drawn == 0:
        return hit, quantile.to(weights.dtype)
    picked = share.index_select(0, hit)
    fraction = ((quantile - cumulative.index_select(0, hit)).div_(picked.clamp(min=1e-300)) + 1.0).clamp_(0.0, 1.0)
    source = kept.index_select(0, hit)
    begins, ends = (extent.index_select(0, source) for extent in extents)
    return source, begins + fraction.to(weights.dtype) * (ends - begins)


@torch.no_grad()
def draw_around_peak(
    weights: Float[Tensor, " samples"],
    samples: BinSamples,
    edges: Float[Tensor, " edges"],
    *,
    num_rays: int,
    num_draws: int,
    step: float,
    min_opacity: float = 1e-4,
) -> tuple[Int64[Tensor, " draws"], Float[Tensor, " draws"]]:
    """Place draws at fixed offsets around the heaviest coarse sample of each ray.

    The published code does so where the paper draws by importance (DistillNeRF Sec. 3.1). With an even number the
    window reaches one step farther to the front. Draws in bins that are not listed lie in empty space and are left out.

    Args:
        weights: Compositing weights of the coarse samples.
        samples: The coarse samples, one per listed bin.
        edges: Edges of the bins, metres.
        num_rays: Rays in all.
        num_draws: Draws per ray before any is left out.
        step: Metres between draws.
        min_opacity: Rays whose weights sum to less get no draw.

    Returns:
        Coarse sample whose bin each draw lies in, and its distance, metres; near to far along each ray.
    """
    num_bins = len(edges) - 1
    totals = segment_sum(weights.double(), samples.ray, num_rays)
    largest = weights.new_full((num_rays,), -1.0).scatter_reduce(0, samples.ray, weights, "amax")
    # The nearest of equally heavy samples.
    is_peak = (weights == largest.index_select(0, samples.ray)).nonzero()[:, 0]
    ray = samples.ray.index_select(0, is_peak)
    is_first = torch.ones_like(ray, dtype=torch.bool)
    is_first[1:] = ray[1:] != ray[:-1]
    peak = is_peak[is_first & (totals.index_select(0, ray) > min_opacity)]
    offsets = torch.arange(num_draws, device=edges.device, dtype=edges.dtype) - num_draws // 2
    distances = samples.distances.index_select(0, peak)[:, None] + offsets * step
    distances = distances.clamp(float(edges[0]), float(edges[-1]))
    bins = torch.searchsorted(edges, distances, right=True).sub_(1).clamp_(0, num_bins - 1)
    wanted = (samples.ray.index_select(0, peak)[:, None] * num_bins + bins).view(-1)
    listed = samples.ray * num_bins + samples.bin
    source = torch.searchsorted(listed, wanted).clamp(max=max(0, len(listed) - 1))
    is_listed = (
        (listed.index_select(0, source) == wanted) if len(listed) else torch.zeros_like(wanted, dtype=torch.bool)
    )
    return source[is_listed], distances.view(-1)[is_listed]


class Merge(NamedTuple):
    """Places of coarse and drawn samples in their common order.

    Attributes:
        coarse_place: Place of each coarse sample.
        drawn_place: Place of each draw.
    """

    coarse_place: Int64[Tensor, " samples"]
    drawn_place: Int64[Tensor, " draws"]

    def interleave(self, coarse: Tensor, drawn: Tensor) -> Tensor:
        """Put per-sample values of both kinds into the common order."""
        merged = coarse.new_empty(len(coarse) + len(drawn), *coarse.shape[1:])
        return merged.index_copy_(0, self.coarse_place, coarse).index_copy_(0, self.drawn_place, drawn)


def merge_draws(
    distances: Float[Tensor, " samples"],
    source: Int64[Tensor, " draws"],
    drawn_distances: Float[Tensor, " draws"],
) -> Merge:
    """Order coarse samples and draws by distance without sorting: each draw knows the bin it fell into."""
    is_beyond = drawn_distances >= distances.index_select(0, source)
    num_coarse = len(distances)
    index = torch.arange(num_coarse, device=distances.device)
    per_coarse = torch.bincount(source, minlength=num_coarse)
    beyond = index.new_zeros(num_coarse).index_add_(0, source, is_beyond.long())
    coarse_place = index + per_coarse.cumsum(0) - beyond
    drawn_place = torch.arange(len(source), device=distances.device) + source + is_beyond
    return Merge(coarse_place, drawn_place)
