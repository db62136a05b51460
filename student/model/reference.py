"""Plain versions of the fast paths, which these must equal and are timed against.

Nothing here is used by the model.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from student.model.config import RendererConfig
from student.model.lifting import LevelFeatures
from student.model.renderer import Rays
from student.model.sparse_conv import ConvolutionMap
from student.model.voxel_field import VoxelField


def pool_points_plainly(
    keys: Int64[Tensor, " points"],
    features: Float[Tensor, "points channels"],
    logits: Float[Tensor, " points"],
    weights: Float[Tensor, " points"],
) -> tuple[Int64[Tensor, " cells"], LevelFeatures]:
    """Pool one level: find unique keys, then add up one weighted feature row per point.

    Returns:
        The sorted keys of the cells, and their weighted means.
    """
    unique, cell = torch.unique(keys, return_inverse=True)
    rows = torch.cat([features, logits[:, None]], dim=1) * weights[:, None]
    total = rows.new_zeros(len(unique), rows.shape[1]).index_add_(0, cell, rows)
    mean = total / weights.new_zeros(len(unique)).index_add_(0, cell, weights)[:, None]
    return unique, LevelFeatures(mean[:, :-1], mean[:, -1])


def sparse_convolution_plainly(
    features: Float[Tensor, "inputs in_channels"],
    weight: Float[Tensor, "taps in_channels out_channels"],
    convolution_map: ConvolutionMap,
    *,
    bias: Float[Tensor, " out_channels"] | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "outputs out_channels"]:
    """Convolve tap by tap: gather the rows of all its pairs, multiply, scatter; then what comes after."""
    kernel_map = convolution_map.forward
    own = torch.arange(kernel_map.num_outputs, device=features.device)
    output = features.new_zeros(kernel_map.num_outputs, weight.shape[2])
    for tap in range(weight.shape[0]):
        pairs = [(block.rows.start, found) for block in kernel_map.blocks for found in block.taps if found.tap == tap]
        input_row = [found.input_row[: len(found.output_row)] for _, found in pairs]
        output_row = [start + found.output_row for start, found in pairs]
        if tap == kernel_map.centre:
            input_row, output_row = [own], [own]
        if pairs or tap == kernel_map.centre:
            output = output.index_add(0, torch.cat(output_row), features[torch.cat(input_row)] @ weight[tap])
    if bias is not None:
        output = output + bias
    return output if after is None else after(output)


class DenseRays(NamedTuple):
    """Rays rendered by the dense renderer.

    Attributes:
        features: Weighted sum of features.
        termination_depth: Metres; NaN where ``opacity`` is under the configured minimum.
        opacity: Sum of the weights, in [0, 1].
        weights: Compositing weight of every sample.
    """

    features: Float[Tensor, "rays channels"]
    termination_depth: Float[Tensor, " rays"]
    opacity: Float[Tensor, " rays"]
    weights: Float[Tensor, "rays samples"]


def render_rays_densely(
    field: VoxelField, rays: Rays, edges: Float[Tensor, " edges"], config: RendererConfig
) -> DenseRays:
    """Render by fetching density and every feature at every sample of every ray, empty or not."""
    num_rays, num_bins = len(rays.origins), len(edges) - 1
    bins = torch.arange(num_bins, device=edges.device).expand(num_rays, -1)
    distances = ((edges[1:] + edges[:-1]) / 2).expand(num_rays, -1)
    density, _ = _fetch_everything(field, rays, distances)
    weights = _dense_weights(density * edges.diff()).detach()  # positions carry no gradient
    total = weights.sum(1, keepdim=True)
    is_drawn = total > 1e-4
    if config.num_fine_samples:
        drawn, drawn_bins = _draw_densely(weights / total.clamp(min=1e-4), edges, config.num_fine_samples)
        # A ray through nothing gets no draw; here all rays have as many samples, so its draws lie nowhere.
        drawn = torch.where(is_drawn, drawn, distances[:, :1])
        drawn_bins = torch.where(is_drawn, drawn_bins, 0)
        distances, order = torch.cat([distances, drawn], dim=1).sort(dim=1, stable=True)
        bins = torch.cat([bins, drawn_bins], dim=1).gather(1, order)
    density, features = _fetch_everything(field, rays, distances)
    begins, ends = edges[bins].clone(), edges[bins + 1].clone()
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    shares_bin = bins[:, 1:] == bins[:, :-1]
    begins[:, 1:] = torch.where(shares_bin, middles, begins[:, 1:])
    ends[:, :-1] = torch.where(shares_bin, middles, ends[:, :-1])
    weights = _dense_weights(density * (ends - begins))
    opacity = weights.sum(1)
    depth = (weights * (begins + ends) / 2).sum(1) / opacity.clamp(min=config.min_opacity)
    return DenseRays(
        features=torch.einsum("rs,rsc->rc", weights, features),
        termination_depth=torch.where(opacity >= config.min_opacity, depth, torch.nan),
        opacity=opacity,
        weights=weights,
    )


def _fetch_everything(field: VoxelField, rays: Rays, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Look up density and features of every sample of every ray."""
    points = rays.origins[:, None] + rays.directions[:, None] * distances[..., None]
    rows = field.locate(points.reshape(-1, 3), rays.batch_index.repeat_interleave(distances.shape[1]))
    parts = [
        (level.features[level_rows.rows] * level_rows.weights[..., None]).sum(1)
        for level, level_rows in ((field.fine, rows.fine), (field.coarse, rows.coarse))
    ]
    features = torch.cat(parts, dim=1).view(*distances.shape, -1)
    return field.density(rows).view(distances.shape), features


def _dense_weights(optical_depth: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays samples"]:
    exact = optical_depth.double()
    transmittance = torch.exp(-torch.cat([torch.zeros_like(exact[:, :1]), exact[:, :-1].cumsum(1)], dim=1))
    return (-torch.expm1(-exact) * transmittance).to(optical_depth.dtype)


def _draw_densely(
    share: Float[Tensor, "rays bins"], edges: Float[Tensor, " edges"], num_draws: int
) -> tuple[Float[Tensor, "rays draws"], Int64[Tensor, "rays draws"]]:
    """Invert each ray's cumulative weight by itself."""
    cumulative = share.double().cumsum(1)
    strata = torch.arange(num_draws, device=share.device, dtype=torch.float64)
    quantile = ((strata + 0.5) / num_draws).expand(len(share), -1).contiguous() * cumulative[:, -1:]
    hit = torch.searchsorted(cumulative, quantile, right=True).clamp(max=share.shape[1] - 1)
    picked = share.double().gather(1, hit)
    fraction = ((quantile - cumulative.gather(1, hit) + picked) / picked.clamp(min=1e-300)).clamp(0.0, 1.0)
    begins = edges[hit]
    return begins + fraction.to(share.dtype) * (edges[hit + 1] - begins), hit
