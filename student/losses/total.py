"""The sum of everything that the student is penalised for.

Every term is a mean over the pixels where its target is defined, and reports how many these were. A term without any is
zero, and its count shows that it is empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from student.config import LossConfig
from student.data.sample import TrainingBatch
from student.losses.depth import add_depth_terms
from student.losses.images import add_image_terms, feature_error, surface_error, with_target_where_unseen
from student.losses.perceptual import PerceptualDistance
from student.losses.rays import add_ray_terms
from student.losses.terms import WeightedSum
from student.model.types import CameraDepth, StudentOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The losses of one batch (DistillNeRF Eq. 4).

    Attributes:
        total: Weighted sum of the terms, averaged over samples: what is descended.
        sample_totals: Weighted sum of each sample, detached.
        terms: Each term with its coefficient, averaged over samples, detached.
        counts: Number of pixels, rays or views of all samples that each term was averaged over.
    """

    total: Float[Tensor, ""]
    sample_totals: Float[Tensor, " batch"]
    terms: Mapping[str, Float[Tensor, ""]]
    counts: Mapping[str, int]


def student_losses(
    output: StudentOutput | CameraDepth,
    batch: TrainingBatch,
    config: LossConfig,
    *,
    perceptual: PerceptualDistance | None = None,
    step: int = 0,
) -> Losses:
    """Return every loss of a batch and their weighted sum (DistillNeRF Eq. 4).

    Each is the mean of the samples' losses, and each sample's is averaged over its own pixels. So a batch may be
    divided over processes and accumulated steps in any way, as the published one is over eight devices of one sample
    each.

    Args:
        output: Views and depths that the student rendered, or the depth of its inputs alone: terms of views are then
            left out.
        batch: Targets of the same views and depths.
        config: Coefficients.
        perceptual: Image distance; needed if its coefficient is not zero and the model renders images.
        step: Steps taken before, which the schedules of losses follow.

    Raises:
        ValueError: If the output's grids are not those of the targets, or ``perceptual`` is missing.
    """
    _check_grids(output, batch)
    parts = [
        _sample_losses(one_output, one, config, perceptual, step)
        for one_output, one in zip(output.split(), batch.split(), strict=True)
    ]
    totals = torch.stack([part.total for part in parts])
    return Losses(
        total=totals.mean(),
        sample_totals=totals.detach(),
        terms={name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms},
        counts={name: sum(part.counts[name] for part in parts) for name in parts[0].counts},
    )


def merge(parts: Sequence[Losses]) -> Losses:
    """Return the losses of a batch (DistillNeRF Eq. 4) that was taken in parts of the same size."""
    return Losses(
        total=torch.stack([part.total for part in parts]).mean(),
        sample_totals=torch.cat([part.sample_totals for part in parts]),
        terms={name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms},
        counts={name: sum(part.counts[name] for part in parts) for name in parts[0].counts},
    )


def _sample_losses(
    output: StudentOutput | CameraDepth,
    batch: TrainingBatch,
    config: LossConfig,
    perceptual: PerceptualDistance | None,
    step: int,
) -> WeightedSum:
    total = WeightedSum(output.coarse_opacity.sum() * 0.0)
    if isinstance(output, StudentOutput):
        _add_view_terms(total, output, batch, config, perceptual)
    add_depth_terms(total, output, batch, config, step)
    add_ray_terms(total, output, batch, config, step)
    return total


def _add_view_terms(
    total: WeightedSum,
    output: StudentOutput,
    batch: TrainingBatch,
    config: LossConfig,
    perceptual: PerceptualDistance | None,
) -> None:
    # Every parameter takes part, whatever the coefficients: processes that share a batch wait for each other's.
    for unpenalised in (output.opacity, output.image, *output.features.values(), *output.surface_features.values()):
        total.total = total.total if unpenalised is None else total.total + unpenalised.sum() * 0.0
    is_present = batch.cameras.target_is_present
    if output.image is not None:
        image, is_seen = with_target_where_unseen(output.image, output.is_seen, batch.view_targets)
        add_image_terms(total, image, is_seen, is_present, batch.view_targets, config, perceptual)
    if config.feature:
        num_real = batch.view_targets.num_real
        for source, predicted in output.features.items():
            target = batch.view_targets.features[source]
            is_seen = output.is_seen[:, :num_real]
            error, count = feature_error(predicted[:, :num_real], target, is_present[:, :num_real], is_seen)
            total.add(f"feature_{source}", config.feature, error, count)
    if config.surface_feature and output.has_surface is not None:
        num_real = batch.view_targets.num_real
        for source, predicted in output.surface_features.items():
            target = batch.view_targets.features[source]
            has_surface = output.has_surface[:, :num_real]
            error, count = surface_error(predicted[:, :num_real], target, is_present[:, :num_real], has_surface)
            total.add(f"surface_{source}", config.surface_feature, error, count)


def _check_grids(output: StudentOutput | CameraDepth, batch: TrainingBatch) -> None:
    pairs = {"depth": (output.coarse_termination_depth.shape, batch.input_targets.lidar_depth.shape)}
    if isinstance(output, StudentOutput):
        pairs["render"] = (output.termination_depth.shape, batch.view_targets.lidar_depth.shape)
    for name, (seen, wanted) in pairs.items():
        if seen != wanted:
            raise ValueError(f"the model's {name} grid is {tuple(seen)}, its targets' is {tuple(wanted)}")
