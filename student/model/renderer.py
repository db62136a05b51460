"""Render a voxel field: find what is occupied, look closer where it matters, then fetch features once.

Rays are sampled in two phases, coarse and fine (DistillNeRF Sec. 3.1). Most of a ray crosses nothing. So the coarse
pass only asks a table which bins are occupied, the densities of those give weights, fine samples are drawn by inverse
CDF, and only at the very end are features added up, straight from the cells they live in
(:mod:`student.model.gather_sum`). The plain renderer that fetches every feature at every sample is kept as
:func:`student.model.reference.render_rays_densely`; both give the same pictures.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from student.model.config import RendererConfig
from student.model.empty_space import sum_occupancy
from student.model.gather_sum import segment_sum
from student.model.rays import (
    BinSamples,
    compositing_weights,
    draw_around_peak,
    merge_draws,
    sample_extents,
    sample_pdf,
)
from student.model.sparse_voxels import CHILDREN_PER_CELL
from student.model.types import RaySamples
from student.model.voxel_field import LevelRows, PointRows, VoxelField, nearest_rows

_SAMPLES_PER_CHUNK = 2**19
"""Samples looked up at a time: their coordinates then stay in cache."""
_BINS_PER_STRETCH = 8
"""Bins that are skipped together where nothing is near."""
_ENTROPY_FLOOR = 1e-10


class Rays(NamedTuple):
    """Rays in the ego frames of a batch.

    Attributes:
        origins: Metres.
        directions: Unit.
        batch_index: Scene of each ray.
    """

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    batch_index: Int64[Tensor, " rays"]


class RenderedRays(NamedTuple):
    """Features, depth and opacity of rays.

    Attributes:
        features: Weighted sum of features; the rest up to opacity 1 is the sky's.
        termination_depth: Metres; NaN where ``opacity`` is under the configured minimum.
        opacity: Sum of the weights, in [0, 1].
        weight_entropy: ``-sum w log w``.
        samples: Samples in occupied cells; ``ray_index`` counts the rays given.
    """

    features: Float[Tensor, "rays channels"]
    termination_depth: Float[Tensor, " rays"]
    opacity: Float[Tensor, " rays"]
    weight_entropy: Float[Tensor, " rays"]
    samples: RaySamples


def render_rays(
    field: VoxelField,
    rays: Rays,
    edges: Float[Tensor, " edges"],
    config: RendererConfig,
    *,
    training: bool,
) -> RenderedRays:
    """Render features, depth and opacity along rays (DistillNeRF Eq. 2).

    Args:
        field: Field to render.
        rays: Rays to render.
        edges: Edges of the coarse bins along a ray, metres.
        config: Sampling.
        training: Jitter samples within their bins (if configured) and fetch every feature. False is deterministic.
    """
    num_rays = len(rays.origins)
    samples, rows = _place_samples(field, rays, edges, config, jitter=training and config.jitter)
    begins, ends = sample_extents(samples, edges)
    middles = (begins + ends) / 2
    weights = compositing_weights(field.density(rows) * (ends - begins), samples.ray)
    opacity = segment_sum(weights, samples.ray, num_rays)
    depth = segment_sum(weights * middles, samples.ray, num_rays) / opacity.clamp(min=config.min_opacity)
    entropy = segment_sum(-weights * torch.log(weights + _ENTROPY_FLOOR), samples.ray, num_rays)
    return RenderedRays(
        features=_composite_features(field, rows, weights, samples.ray, num_rays, config, training=training),
        termination_depth=torch.where(opacity >= config.min_opacity, depth, torch.nan),
        opacity=opacity.clamp(max=1.0),
        weight_entropy=entropy,
        samples=RaySamples(ray_index=samples.ray, distances=middles, lengths=ends - begins, weights=weights),
    )


def _composite_features(
    field: VoxelField,
    rows: PointRows,
    weights: Tensor,
    ray: Tensor,
    num_rays: int,
    config: RendererConfig,
    *,
    training: bool,
) -> Tensor:
    if training:
        return field.weighted_features(rows, weights, ray, num_rays)
    matters = (weights > config.min_feature_weight).nonzero().squeeze(1)
    return field.weighted_features(_select(rows, matters), _take(weights, matters), _take(ray, matters), num_rays)


@torch.no_grad()
def _place_samples(
    field: VoxelField, rays: Rays, edges: Tensor, config: RendererConfig, *, jitter: bool
) -> tuple[BinSamples, PointRows]:
    """Choose where to sample, and find the cells there. Positions carry no gradient."""
    coarse, coarse_rows = _occupied_bins(field, rays, edges, jitter=jitter)
    if config.num_fine_samples == 0 or len(coarse.ray) == 0:
        return coarse, coarse_rows
    extents = sample_extents(coarse, edges)
    weights = compositing_weights(field.density(coarse_rows) * (extents[1] - extents[0]), coarse.ray)
    num_rays, num_draws = len(rays.origins), config.num_fine_samples
    if config.fine_sampling == "window":
        source, distances = draw_around_peak(
            weights, coarse, edges, num_rays=num_rays, num_draws=num_draws, step=config.window_step
        )
    else:
        source, distances = sample_pdf(
            weights, extents, coarse.ray, num_rays=num_rays, num_draws=num_draws, jitter=jitter
        )
    drawn = BinSamples(coarse.ray.index_select(0, source), coarse.bin.index_select(0, source), distances)
    merge = merge_draws(coarse.distances, source, distances)
    merged = BinSamples(*(merge.interleave(a, b) for a, b in zip(coarse, drawn, strict=True)))
    batch_index = rays.batch_index.index_select(0, drawn.ray)
    drawn_rows = field.locate(_points(rays, drawn), batch_index)
    pairs = zip((*coarse_rows.fine, *coarse_rows.coarse), (*drawn_rows.fine, *drawn_rows.coarse), strict=True)
    fine_rows, fine_weights, level_rows, level_weights = (merge.interleave(a, b) for a, b in pairs)
    return merged, PointRows(LevelRows(fine_rows, fine_weights), LevelRows(level_rows, level_weights))


def _occupied_bins(field: VoxelField, rays: Rays, edges: Tensor, *, jitter: bool) -> tuple[BinSamples, PointRows]:
    """Place one sample in every bin and keep those in occupied cells."""
    num_bins, num_rays = len(edges) - 1, len(rays.origins)
    sums = sum_occupancy(field.grid, field.contraction)
    offset = torch.rand(num_rays, device=edges.device) if jitter else edges.new_full((num_rays,), 0.5)
    # A last stretch with fewer bins is filled up with bins of no length, dropped below.
    padded = torch.cat([edges, edges[-1:].expand(-num_bins % _BINS_PER_STRETCH)])
    begins, lengths = padded[:-1], padded.diff()
    in_stretch = torch.arange(_BINS_PER_STRETCH, device=edges.device)
    step = max(1, _SAMPLES_PER_CHUNK // num_bins)
    kept: list[tuple[Tensor, ...]] = []
    for start in range(0, max(1, num_rays), step):
        chunk = Rays(*(part[start : start + step] for part in rays))
        ends = padded[::_BINS_PER_STRETCH].expand(len(chunk.origins), -1)
        is_occupied = sums.is_stretch_occupied(_points_at(chunk, ends), chunk.batch_index)
        ray, stretch = is_occupied.nonzero(as_tuple=True)
        bins = stretch[:, None] * _BINS_PER_STRETCH + in_stretch
        jittered = offset[start : start + step].index_select(0, ray)[:, None]
        distances = _take(begins, bins) + jittered * _take(lengths, bins)
        through = Rays(*(part.index_select(0, ray) for part in chunk))
        cells = field.grid.shape.cell_coordinates(_points_at(through, distances), field.contraction)
        coarse, child = field.grid.shape.split(cells)
        first_cell = (through.batch_index << 3 * field.grid.shape.coarse_level)[:, None]
        coarse_row = _take(field.grid.coarse_table, coarse + first_cell)
        hit = ((coarse_row >= 0) & (bins < num_bins)).view(-1).nonzero().squeeze(1)
        coarse_row = coarse_row.view(-1).index_select(0, hit).long()
        child = child.reshape(-1).index_select(0, hit)
        kept.append(
            (
                ray.index_select(0, hit // _BINS_PER_STRETCH) + start,
                bins.view(-1).index_select(0, hit),
                distances.view(-1).index_select(0, hit),
                _take(field.grid.child_table.view(-1), coarse_row * CHILDREN_PER_CELL + child).long(),
                coarse_row,
            )
        )
    ray, bin_index, distances, fine_row, coarse_row = (torch.cat(parts) for parts in zip(*kept, strict=True))
    samples = BinSamples(ray, bin_index, distances)
    if field.lookup == "nearest":
        return samples, nearest_rows(fine_row, coarse_row)
    return samples, field.locate(_points(rays, samples), rays.batch_index.index_select(0, ray))


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]``: ``index_select`` is ten times faster than indexing on the CPU."""
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def _points_at(rays: Rays, distances: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays samples 3"]:
    """Return points along rays, one plane of memory per axis: arithmetic on coordinates is then contiguous."""
    planes = rays.origins.T[:, :, None] + rays.directions.T[:, :, None] * distances
    return planes.movedim(0, -1)


def _points(rays: Rays, samples: BinSamples) -> Float[Tensor, "samples 3"]:
    through = (part.index_select(0, samples.ray).T for part in (rays.origins, rays.directions))
    origins, directions = (planes.contiguous() for planes in through)
    return (origins + directions * samples.distances).T


def _select(rows: PointRows, index: Tensor) -> PointRows:
    return PointRows(
        *(LevelRows(level.rows.index_select(0, index), level.weights.index_select(0, index)) for level in rows)
    )
