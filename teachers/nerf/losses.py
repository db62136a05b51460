"""Losses that the per-scene field is fitted to, as pure functions of compositing weights.

Distances are in one unit throughout (the caller's: scene units or metres); weights along the sample axis sum to at
most one and their sum is the opacity. A ray without a LiDAR return has NaN as its depth and takes no part.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from teachers.nerf.config import DepthForm, LineOfSightForm

_RELATIVE_ERROR_OF_HUBER = 0.05
"""Relative depth error beyond which the loss grows linearly."""


def composite_weights(
    density: Float[Tensor, "rays samples"], interval_lengths: Float[Tensor, "rays samples"]
) -> Float[Tensor, "rays samples"]:
    """Return the compositing weights ``T_i (1 - exp(-sigma_i delta_i))`` (EmerNeRF Eq. 5)."""
    optical = density * interval_lengths
    # Shifted before summing: subtracting an opaque sample from the sum would cancel what lies before it.
    transmittance = torch.exp(-torch.cumsum(F.pad(optical[:, :-1], (1, 0)), dim=-1))
    return transmittance * -torch.expm1(-optical)


def depth_loss(
    termination_depth: Float[Tensor, " rays"],
    lidar_depth: Float[Tensor, " rays"],
    *,
    max_depth: float,
    form: DepthForm = "relative",
) -> Float[Tensor, ""]:
    """Return the mean error of range against LiDAR range (EmerNeRF Eq. A8).

    Rays with a return within ``max_depth`` take part. The loss is zero where there is none.

    EmerNeRF's is ``squared``: the square of the error over a fixed 80 m, which hardly feels half a metre at ten. Depth
    is used and judged by its relative error, so the other form is a Huber loss of that, ``relative``. Huber keeps the
    few returns that a camera cannot see from pulling surfaces apart.
    """
    is_valid = lidar_depth <= max_depth  # false for NaN
    wanted = torch.where(is_valid, lidar_depth, torch.ones_like(lidar_depth))
    if form == "squared":
        return _masked_mean(((termination_depth - wanted) / max_depth).square(), is_valid)
    ratio = termination_depth / wanted
    loss = F.smooth_l1_loss(ratio, torch.ones_like(ratio), beta=_RELATIVE_ERROR_OF_HUBER, reduction="none")
    return _masked_mean(loss, is_valid)


def line_of_sight_loss(
    weights: Float[Tensor, "rays samples"],
    interval_edges: Float[Tensor, "rays edges"],
    lidar_depth: Float[Tensor, " rays"],
    *,
    margin: float,
    form: LineOfSightForm = "overlap",
) -> Float[Tensor, ""]:
    """Return how far the weights of a ray are from a single peak at its return (EmerNeRF Eq. A9).

    A ray should carry no weight before its return and all of it around the return. With ``overlap`` the loss is
    ``before^2 + (1 - near)^2``, of the weight in front of and within ``margin`` of the return. The weight of an
    interval is shared out by overlap, so the loss does not depend on how finely a ray happens to be sampled.

    Urban Radiance Fields and EmerNeRF ask for a ``normal`` peak instead, of a third of the margin: the sum of squares
    of what intervals before the return weigh, and of what those around it weigh too much or too little. That pulls
    weights *away* from a surface that is sharper than the margin, which few samples and a coarse margin make the common
    case. A single sharp peak costs nothing with ``overlap``.
    """
    has_return = torch.isfinite(lidar_depth)
    centre = torch.where(has_return, lidar_depth, torch.zeros_like(lidar_depth))[:, None]
    starts, ends = interval_edges[:, :-1], interval_edges[:, 1:]
    if form == "normal":
        peak = torch.special.ndtr(3.0 * (interval_edges - centre) / margin)
        is_before_end = 0.5 * (starts + ends) < centre + margin
        wanted = torch.where(0.5 * (starts + ends) < centre - margin, 0.0, peak[:, 1:] - peak[:, :-1])
        return _masked_mean(((weights - wanted).square() * is_before_end).sum(dim=-1), has_return)
    lengths = (ends - starts).clamp_min(1e-9)
    before_share = ((centre - margin - starts) / lengths).clamp(0.0, 1.0)
    behind_share = ((ends - centre - margin) / lengths).clamp(0.0, 1.0)
    before = (weights * before_share).sum(dim=-1)
    near = (weights * (1.0 - before_share - behind_share)).sum(dim=-1)
    return _masked_mean(before.square() + (1.0 - near).square(), has_return)


def static_clearance_loss(
    static_weights: Float[Tensor, "rays samples"],
    interval_edges: Float[Tensor, "rays edges"],
    lidar_depth: Float[Tensor, " rays"],
    return_moves: Bool[Tensor, " rays"],
    *,
    margin: float,
) -> Float[Tensor, ""]:
    """Return the squared weight that the static part alone puts along beams whose returns move, the return included.

    The static part must be empty there. Without this loss, a field settles for a ghost of everything that ever stood
    somewhere. Beams to what stands say nothing of either part alone: the line of sight is theirs.
    """
    takes_part = torch.isfinite(lidar_depth) & return_moves
    limit = torch.where(takes_part, lidar_depth + margin, torch.zeros_like(lidar_depth))[:, None]
    starts, ends = interval_edges[:, :-1], interval_edges[:, 1:]
    passed = ((limit - starts) / (ends - starts).clamp_min(1e-9)).clamp(0.0, 1.0)
    return _masked_mean((static_weights * passed).sum(dim=-1).square(), takes_part)


def shadow_loss(shadow: Float[Tensor, "*batch 1"]) -> Float[Tensor, ""]:
    """Return the mean squared shadow ratio (EmerNeRF Eq. A4): light is taken only where colour asks for it."""
    return shadow.square().mean()


def velocity_loss(flow: Float[Tensor, "points 3"], known: Float[Tensor, "points 3"]) -> Float[Tensor, ""]:
    """Return the mean Huber loss of velocities, metres per second, over points whose motion is known (not NaN).

    Colour alone finds the flow of what moves by less than a cell from one frame to the next. At two frames a second
    nothing on a road does, so where a recording says how things move, the flow is told.
    """
    is_known = torch.isfinite(known).all(dim=-1)
    wanted = torch.where(is_known[:, None], known, torch.zeros_like(known))
    return _masked_mean(F.smooth_l1_loss(flow, wanted, reduction="none").mean(dim=-1), is_known)


def sky_loss(opacity: Float[Tensor, " rays"], is_sky: Bool[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of opacity against "not sky" (EmerNeRF Eq. A3)."""
    # Written out: torch's own refuses NaN with an untyped error before the fit can say that it diverged.
    p = opacity.clamp(1e-3, 1.0 - 1e-3)
    return -torch.where(is_sky, 1.0 - p, p).log().mean()


def distortion_loss(
    weights: Float[Tensor, "rays samples"], interval_edges: Float[Tensor, "rays edges"]
) -> Float[Tensor, ""]:
    """Return the distortion of weights over normalised distances, in linear time (mip-NeRF 360 Eq. 15).

    Samples are sorted, so the double sum over pairs becomes prefix sums of weight and weighted midpoint.
    """
    midpoints = 0.5 * (interval_edges[:, 1:] + interval_edges[:, :-1])
    lengths = interval_edges[:, 1:] - interval_edges[:, :-1]
    weighted = weights * midpoints
    weight_before = torch.cumsum(weights, dim=-1) - weights
    weighted_before = torch.cumsum(weighted, dim=-1) - weighted
    between = 2.0 * (weights * (midpoints * weight_before - weighted_before)).sum(dim=-1)
    within = (weights.square() * lengths).sum(dim=-1) / 3.0
    return (between + within).mean()


def opacity_entropy_loss(opacity: Float[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Return the mean binary entropy of opacity, which asks a ray to hit either something or the sky."""
    p = opacity.clamp(1e-4, 1.0 - 1e-4)
    return -(p * p.log() + (1.0 - p) * (1.0 - p).log()).mean()


def proposal_loss(
    weights: Float[Tensor, "rays samples"],
    interval_edges: Float[Tensor, "rays edges"],
    proposal_weights: Float[Tensor, "rays coarse_samples"],
    proposal_edges: Float[Tensor, "rays coarse_edges"],
) -> Float[Tensor, ""]:
    """Return by how much the field's weights exceed what the proposal allows (mip-NeRF 360 Eq. 13).

    The bound of an interval is the mass of every proposal interval that it touches. No gradient reaches ``weights``.
    """
    weights, interval_edges = weights.detach(), interval_edges.detach().contiguous()
    mass = torch.cat([torch.zeros_like(proposal_weights[:, :1]), torch.cumsum(proposal_weights, dim=-1)], dim=-1)
    edges = proposal_edges.detach().contiguous()
    last = edges.shape[-1] - 1
    first = (torch.searchsorted(edges, interval_edges[:, :-1].contiguous(), right=True) - 1).clamp(0, last)
    end = torch.searchsorted(edges, interval_edges[:, 1:].contiguous(), right=False).clamp(0, last)
    bound = torch.take_along_dim(mass, end, dim=-1) - torch.take_along_dim(mass, first, dim=-1)
    return ((weights - bound).clamp_min(0.0).square() / (weights + 1e-6)).sum(dim=-1).mean()


def _masked_mean(values: Float[Tensor, " rays"], is_valid: Bool[Tensor, " rays"]) -> Float[Tensor, ""]:
    return torch.where(is_valid, values, torch.zeros_like(values)).sum() / is_valid.sum().clamp_min(1)
