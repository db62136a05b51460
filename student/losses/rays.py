"""Losses of the weights along a pixel's ray: where they lie, and how much of them there is.

Sky lowers opacity. The published losses pull its depth to a made-up distance instead.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from student.config import LossConfig
from student.data.sample import InputTargets, TrainingBatch, ViewTargets
from student.losses.depth import reference_depth
from student.losses.line_of_sight import (
    line_of_sight_epsilon,
    line_of_sight_error,
    sample_line_of_sight_error,
)
from student.losses.terms import WeightedSum
from student.model.types import CameraDepth, StudentOutput

_TINY = 1e-10
_OPACITY_FLOOR = 1e-6


def add_ray_terms(
    total: WeightedSum, output: StudentOutput | CameraDepth, batch: TrainingBatch, config: LossConfig, step: int
) -> None:
    """Add the terms of weights along rays: entropy, opacity (DistillNeRF Eq. 8), sky, line of sight.

    The entropy of a ray's weights is in the published code alone.
    """
    # Coarse depth is defined wherever an input pixel has a ray, rendered depth only where the ray hits something.
    is_camera = torch.isfinite(output.coarse_termination_depth)
    estimates: dict[str, tuple[Tensor, Tensor, InputTargets | ViewTargets]] = {
        "coarse": (output.coarse_opacity, is_camera, batch.input_targets),
        "fine": (output.fine_opacity, is_camera, batch.input_targets),
    }
    if config.weight_entropy:
        weights = output.coarse_weights + _TINY
        coarse = -(weights * weights.log()).sum(dim=2)
        total.add("entropy_coarse", config.weight_entropy, *_masked_mean(coarse, is_camera))
    if isinstance(output, StudentOutput):
        is_view = output.is_seen & batch.cameras.target_is_present[:, :, None, None]
        estimates["rendered"] = (output.opacity, is_view, batch.view_targets)
        if config.weight_entropy:
            total.add("entropy_rendered", config.weight_entropy, *_masked_mean(output.weight_entropy, is_view))
    for name, (opacity, is_present, targets) in estimates.items():
        is_sky = is_present & targets.is_sky & targets.is_sky_known
        # Unknown pixels of a masked view say nothing; without any mask the published loss makes every ray opaque.
        has_mask = _expand(targets.is_sky_known.flatten(2).any(dim=2), opacity)
        is_solid = is_present & torch.where(has_mask, targets.is_sky_known & ~targets.is_sky, True)
        if config.opacity:
            total.add(f"opacity_{name}", config.opacity, *solid_error(opacity, is_solid))
        if config.sky:
            total.add(f"sky_{name}", config.sky, *sky_error(opacity, is_sky))
    if config.line_of_sight:
        epsilon = line_of_sight_epsilon(config, step)
        error, count = line_of_sight_error(
            output.coarse_weights.movedim(2, -1),
            output.coarse_edges,
            reference_depth(batch.input_targets),
            epsilon=epsilon,
        )
        total.add("line_of_sight_coarse", config.line_of_sight, error, count)
        if isinstance(output, CameraDepth):
            return
        error, count = sample_line_of_sight_error(output.samples, reference_depth(batch.view_targets), epsilon=epsilon)
        total.add("line_of_sight_rendered", config.line_of_sight, error, count)


def _expand(is_present: Bool[Tensor, "batch views"], like: Tensor) -> Bool[Tensor, "batch views height width"]:
    return is_present[:, :, None, None].expand(like.shape)


def _masked_mean(values: Float[Tensor, "*shape"], is_counted: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    chosen = values[is_counted]
    return chosen.sum() / max(chosen.numel(), 1), chosen.numel()


def solid_error(opacity: Float[Tensor, "*shape"], is_solid: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return the cross-entropy of opacity against 1 (DistillNeRF Eq. 8), and the number of rays.

    Only rays that should hit something take part; the paper's all do.
    """
    chosen = opacity[is_solid].clamp(min=_OPACITY_FLOOR)
    return -chosen.log().sum() / max(chosen.numel(), 1), chosen.numel()


def sky_error(opacity: Float[Tensor, "*shape"], is_sky: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return ``log(1 + optical depth)`` of the rays that should leave the scene, and their number.

    Optical depth, ``-log(1 - opacity)``, is the cross-entropy of opacity against 0 (EmerNeRF Eq. A3). Its gradient with
    respect to the logarithm of density is the optical depth itself, a hundred or more for an untrained field, which
    would drown every other loss in the clipped gradient; with the logarithm it is at most 1, and the same near 0.
    """
    transmittance = (1.0 - opacity[is_sky]).clamp(min=_OPACITY_FLOOR)
    error = torch.log1p(-transmittance.log().clamp(max=0.0))
    return error.sum() / max(error.numel(), 1), error.numel()
