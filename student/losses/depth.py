"""Losses of the depths that rays end at.

Depth is selected before it is compared. Multiplying by a mask would not do: NaN times zero is NaN in the backward pass
too.

Two things differ from the published losses. Targets are ranges like the predictions (upstream mixes in
``camera_depth``), and the far set of the teacher term may be empty.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from student.config import LossConfig
from student.data.sample import InputTargets, TrainingBatch, ViewTargets
from student.losses.terms import WeightedSum, absolute_error
from student.model.types import CameraDepth, StudentOutput

_MIN_DEPTH = 1e-5
_EDGE_LOG_STEP = math.log(1.1)


def add_depth_terms(
    total: WeightedSum, output: StudentOutput | CameraDepth, batch: TrainingBatch, config: LossConfig, step: int
) -> None:
    """Add every term of coarse, fine and, if there is any, rendered depth."""
    estimates: dict[str, tuple[Tensor, InputTargets | ViewTargets, float]] = {
        "coarse": (output.coarse_termination_depth, batch.input_targets, 1.0),
        "fine": (output.fine_termination_depth, batch.input_targets, config.fine_depth),
    }
    if isinstance(output, StudentOutput):
        estimates["rendered"] = (output.termination_depth, batch.view_targets, 1.0)
    for name, (predicted, targets, share) in estimates.items():
        if not share:
            continue
        if config.lidar_depth:
            value, count = lidar_depth_error(predicted, targets.lidar_depth, config)
            total.add(f"lidar_{name}", share * config.lidar_depth, value, count)
        if config.teacher_depth:
            value, count = teacher_depth_error(predicted, targets.teacher_depth, config)
            total.add(f"teacher_{name}", share * config.teacher_depth, value, count)
        if config.depth_edge:
            # The term exists from the first step: processes and records want the same ones throughout.
            coefficient = share * config.teacher_depth * config.depth_edge * (step >= config.depth_edge_from)
            at_edges = torch.where(
                is_depth_edge(targets.teacher_depth, maximum=config.depth_edge_range), targets.teacher_depth, torch.nan
            )
            total.add(f"teacher_edge_{name}", coefficient, *teacher_depth_error(predicted, at_edges, config))
        if config.log_depth:
            value, count = log_depth_error(predicted, reference_depth(targets), maximum=config.max_depth)
            total.add(f"log_{name}", share * config.log_depth, value, count)
    if config.depth_likelihood:
        value, count = depth_likelihood_error(
            output.coarse_weights, bin_midpoints(output.coarse_edges), reference_depth(batch.input_targets)
        )
        total.add("depth_likelihood", config.depth_likelihood, value, count)


def reference_depth(targets: InputTargets | ViewTargets) -> Tensor:
    """Return the best known depth: LiDAR where there is a return, else the teacher's, else NaN."""
    return torch.where(torch.isfinite(targets.lidar_depth), targets.lidar_depth, targets.teacher_depth)


def surface_depth(targets: ViewTargets) -> Float[Tensor, "batch targets height width"]:
    """Return where rays of camera views end, metres; NaN in virtual views, which no features were extracted from."""
    depth = reference_depth(targets).clone()
    depth[:, targets.num_real :] = torch.nan
    return depth


def lidar_depth_error(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: LossConfig
) -> tuple[Tensor, int]:
    """Return the error against LiDAR over the pixels with a return (DistillNeRF Eq. 7), and their number.

    Both depths are clamped to ``max_lidar_range`` and divided by it. The error is squared plus a share of absolute
    error; the paper weighs both alike.
    """
    is_defined = torch.isfinite(predicted) & torch.isfinite(target)
    scale = config.max_lidar_range
    return _normalised_error(predicted[is_defined], target[is_defined], scale, scale, config), int(is_defined.sum())


def teacher_depth_error(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: LossConfig
) -> tuple[Tensor, int]:
    """Return the error against the scene teacher's depth (DistillNeRF Eq. 7), and the number of pixels.

    This is the depth distillation of (DistillNeRF Sec. 3.2). Targets nearer than ``inner_range`` are divided by it,
    farther ones by ``max_depth``. The means of the two sets are added, and an empty set adds nothing.
    """
    is_defined = torch.isfinite(predicted) & torch.isfinite(target)
    total = predicted.new_zeros(())
    for is_in_set, scale in (
        (target < config.inner_range, config.inner_range),
        (target >= config.inner_range, config.max_depth),
    ):
        chosen = is_defined & is_in_set
        total = total + _normalised_error(predicted[chosen], target[chosen], config.max_depth, scale, config)
    return total, int(is_defined.sum())


def is_depth_edge(
    depth: Float[Tensor, "*views height width"], *, maximum: float
) -> Bool[Tensor, "*views height width"]:
    """Return where depth jumps to a neighbour by more than a tenth.

    Args:
        depth: Metres; NaN where unknown. A step to the unknown is no edge.
        maximum: Depth beyond which no pixel is an edge, metres.
    """
    logarithm = depth.log()
    is_edge = torch.zeros_like(depth, dtype=torch.bool)
    down = logarithm.diff(dim=-2).abs() > _EDGE_LOG_STEP
    right = logarithm.diff(dim=-1).abs() > _EDGE_LOG_STEP
    is_edge[..., 1:, :] |= down
    is_edge[..., :-1, :] |= down
    is_edge[..., 1:] |= right
    is_edge[..., :-1] |= right
    return is_edge & (depth <= maximum)


def _normalised_error(
    predicted: Float[Tensor, " n"], target: Float[Tensor, " n"], maximum: float, scale: float, config: LossConfig
) -> Tensor:
    difference = (predicted.clamp(_MIN_DEPTH, maximum) - target.clamp(_MIN_DEPTH, maximum)) / scale
    per_pixel = difference.square() + config.absolute_share * difference.abs()
    return per_pixel.sum() / max(per_pixel.numel(), 1)


def log_depth_error(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], *, maximum: float
) -> tuple[Tensor, int]:
    """Return the mean absolute difference of natural logarithms, and the number of pixels."""
    is_defined = torch.isfinite(predicted) & torch.isfinite(target)
    guess, truth = predicted[is_defined].clamp(0.1, maximum), target[is_defined].clamp(0.1, maximum)
    return absolute_error(guess.log(), truth.log())


def bin_midpoints(edges: Float[Tensor, " edges"]) -> Float[Tensor, " edges-1"]:
    """Return the middle of each bin."""
    return (edges[1:] + edges[:-1]) / 2


def depth_likelihood_error(
    weights: Float[Tensor, "batch cameras bins height width"],
    distances: Float[Tensor, " bins"],
    target: Float[Tensor, "batch cameras height width"],
) -> tuple[Tensor, int]:
    """Return the mean negative log-probability that the ray ends where it does, and the number of pixels.

    The true depth lies between two bin midpoints and is shared between their bins in proportion.
    """
    is_defined = torch.isfinite(target)
    truth = target[is_defined].clamp(distances[0], distances[-1])
    per_pixel = weights.movedim(2, -1)[is_defined]
    upper = torch.searchsorted(distances, truth).clamp(1, len(distances) - 1)
    share = (truth - distances[upper - 1]) / (distances[upper] - distances[upper - 1])
    log_weights = torch.stack([upper - 1, upper], dim=-1)
    log_weights = (per_pixel.gather(-1, log_weights) + 1e-6).log()
    error = -((1 - share) * log_weights[:, 0] + share * log_weights[:, 1])
    return error.sum() / max(error.numel(), 1), error.numel()
