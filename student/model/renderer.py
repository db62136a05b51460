"""Render a voxel field: find what is occupied, look closer where it matters, then fetch features once.

Most of a ray crosses nothing. So the coarse pass only asks a table which bins are occupied, the densities
of those give weights, fine samples are drawn by inverse CDF, and only at the very end are features added
up, straight from the cells they live in (:mod:`student.model.gather_sum`). The plain renderer that fetches
every feature at every sample is kept as :func:`student.model.reference.render_rays_densely`; both give the
same pictures.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from student.model.config import RendererConfig
from student.model.gather_sum import segment_sum
from student.model.rays import (
    BinSamples,
    compositing_weights,
    draw_by_weight,
    merge_draws,
    sample_extents,
)
from student.model.types import RaySamples
from student.model.voxel_field import PointRows, VoxelField, nearest_rows

_SAMPLES_PER_CHUNK = 2**19
"""Samples looked up at a time: their coordinates then stay in cache."""
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
    """What is known of each ray.

    Attributes:
        features: Weighted sum of features; the rest up to opacity 1 is the sky's.
        termination_depth: Metres; NaN where ``opacity`` is under the configured minimum.
        opacity: In [0, 1].
        weight_entropy: ``-sum w log w``.
        samples: In occupied cells; ``ray_index`` counts the rays given.
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
    """Render features, depth and opacity along rays.

    Args:
        field: What to render.
        rays: Where to look.
        edges: Edges of the coarse bins along a ray, metres.
        config: Sampling.
        training: Jitter samples within their bins and fetch every feature. False is deterministic.
    """
    num_rays = len(rays.origins)
    samples, rows = _place_samples(field, rays, edges, config, training=training)
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
    return field.weighted_features(_select(rows, matters), weights[matters], ray[matters], num_rays)


@torch.no_grad()
def _place_samples(
    field: VoxelField, rays: Rays, edges: Tensor, config: RendererConfig, *, training: bool
) -> tuple[BinSamples, PointRows]:
    """Choose where to sample, and find the cells there. Positions carry no gradient."""
    coarse, coarse_rows = _occupied_bins(field, rays, edges, jitter=training)
    if config.num_fine_samples == 0 or len(coarse.ray) == 0:
        return coarse, coarse_rows
    extents = sample_extents(coarse, edges)
    weights = compositing_weights(field.density(coarse_rows) * (extents[1] - extents[0]), coarse.ray)
    source, distances = draw_by_weight(
        weights,
        extents,
        coarse.ray,
        num_rays=len(rays.origins),
        num_draws=config.num_fine_samples,
        jitter=training,
    )
    drawn = BinSamples(coarse.ray[source], coarse.bin[source], distances)
    merge = merge_draws(coarse.distances, source, distances)
    merged = BinSamples(*(merge.interleave(a, b) for a, b in zip(coarse, drawn, strict=True)))
    batch_index = rays.batch_index[drawn.ray]
    drawn_rows = field.locate(_points(rays, drawn), batch_index)
    pairs = zip((*coarse_rows.fine, *coarse_rows.coarse), (*drawn_rows.fine, *drawn_rows.coarse), strict=True)
    fine_rows, fine_weights, level_rows, level_weights = (merge.interleave(a, b) for a, b in pairs)
    row_type = type(coarse_rows.fine)
    return merged, PointRows(row_type(fine_rows, fine_weights), row_type(level_rows, level_weights))


def _occupied_bins(field: VoxelField, rays: Rays, edges: Tensor, *, jitter: bool) -> tuple[BinSamples, PointRows]:
    """Place one sample in every bin and keep those in occupied cells."""
    num_bins = len(edges) - 1
    num_rays = len(rays.origins)
    offset = torch.rand(num_rays, 1, device=edges.device) if jitter else edges.new_full((1, 1), 0.5).expand(num_rays, 1)
    step = max(1, _SAMPLES_PER_CHUNK // num_bins)
    kept: list[tuple[Tensor, ...]] = []
    for start in range(0, max(1, num_rays), step):
        chunk = slice(start, start + step)
        distances = edges[:-1] + offset[chunk] * edges.diff()
        # One plane per axis, seen as points: every operation on coordinates then runs over contiguous memory.
        planes = rays.origins[chunk].T[:, :, None] + rays.directions[chunk].T[:, :, None] * distances
        cells = field.grid.shape.cell_coordinates(planes.movedim(0, -1), field.contraction)
        coarse, child = field.grid.shape.split(cells)
        first_cell = rays.batch_index[chunk, None] << 3 * field.grid.shape.coarse_level
        coarse_row = field.grid.coarse_table[coarse + first_cell]
        ray, bin_index = (coarse_row >= 0).nonzero(as_tuple=True)
        coarse_row = coarse_row[ray, bin_index].long()
        fine_row = field.grid.child_table[coarse_row, child[ray, bin_index].long()].long()
        kept.append((ray + start, bin_index, distances[ray, bin_index], fine_row, coarse_row))
    ray, bin_index, distances, fine_row, coarse_row = (torch.cat(parts) for parts in zip(*kept, strict=True))
    samples = BinSamples(ray, bin_index, distances)
    if field.lookup == "nearest":
        return samples, nearest_rows(fine_row, coarse_row)
    return samples, field.locate(_points(rays, samples), rays.batch_index[ray])


def _points(rays: Rays, samples: BinSamples) -> Float[Tensor, "samples 3"]:
    return rays.origins[samples.ray] + rays.directions[samples.ray] * samples.distances[:, None]


def _select(rows: PointRows, index: Tensor) -> PointRows:
    return PointRows(*(type(level)(level.rows[index], level.weights[index]) for level in rows))
