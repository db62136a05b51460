"""Parameterised space: ego space squeezed, axis by axis, into the cube (-1, 1)^3 (DistillNeRF Eq. 3).

Within the inner range R an axis is linear, ``s = alpha x / R``; outside, ``s = sign(x) (1 - R (1 - alpha) / |x|)``. The
paper contracts by the norm of a point. Here each axis is contracted by itself, so that a grid cell stays a box in ego
space. Both pieces are one expression without a branch: with ``c = clamp(x, -R, R)``,
``s = alpha c / R + (1 - alpha) (x - c) / max(|x|, R)``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from student.model.config import ContractionConfig, DepthBinsConfig


def _inner_ranges(config: ContractionConfig, like: Tensor) -> Float[Tensor, "3"]:
    return like.new_tensor([config.inner_range_xy, config.inner_range_xy, config.inner_range_z])


def contract_axis(
    values: Float[Tensor, "*shape"], inner_range: float | Float[Tensor, "..."], inner_ratio: float
) -> Float[Tensor, "*shape"]:
    """Contract coordinates, or distances, metres, to (-1, 1) (DistillNeRF Eq. 3).

    The map is odd and strictly increasing.
    """
    if isinstance(inner_range, Tensor):
        inner = torch.maximum(torch.minimum(values, inner_range), -inner_range)
        outer = (values - inner) / torch.maximum(values.abs(), inner_range)
    else:
        inner = values.clamp(-inner_range, inner_range)
        outer = (values - inner) / values.abs().clamp_(min=inner_range)
    return inner * (inner_ratio / inner_range) + outer * (1.0 - inner_ratio)


def contract(points_ego: Float[Tensor, "*shape 3"], config: ContractionConfig) -> Float[Tensor, "*shape 3"]:
    """Map points in the ego frame, metres, to contracted coordinates in (-1, 1) (DistillNeRF Eq. 3).

    The map is strictly increasing in every axis, so boxes stay boxes. It is differentiable everywhere.
    """
    return contract_axis(points_ego, _inner_ranges(config, points_ego), config.inner_ratio)


def depth_bin_edges(bins: DepthBinsConfig, contraction: ContractionConfig) -> Float[Tensor, " edges"]:
    """Return the ascending edges of depth bins along a unit ray, metres.

    Contracted bins have equal lengths in the same parameterised space as the voxels (DistillNeRF Sec. 3.1). With the
    published values there are 286 "contracted" bins to 117.9 m, and 250 "linear" bins to 50 m.
    """
    if bins.spacing == "logarithmic":
        exponents = torch.linspace(math.log(bins.near), math.log(bins.far), bins.num_bins + 1, dtype=torch.float64)
        return exponents.exp().float()
    end = min(bins.far, bins.linear_until) if bins.spacing == "contracted" else bins.far
    inner = torch.arange(bins.near, end, bins.step, dtype=torch.float64)
    if bins.spacing == "linear" or bins.far <= bins.linear_until:
        return torch.cat([inner, inner.new_tensor([end])]).float()
    ratio = contraction.inner_ratio
    contracted_far = 1.0 - bins.linear_until * (1.0 - ratio) / bins.far
    contracted_step = ratio * bins.step / bins.linear_until
    outer = torch.arange(ratio, contracted_far, contracted_step, dtype=torch.float64)
    return torch.cat([inner, bins.linear_until * (1.0 - ratio) / (1.0 - outer)]).float()
