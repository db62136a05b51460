"""Everything the student is penalised for.

Every term is a mean over the pixels where its target is defined, and reports how many these were: a term without any is
zero, not NaN, and is seen to be empty. Depth is selected before it is compared, never multiplied by a mask, because NaN
times zero is NaN in the backward pass too.

Differences from the published losses: targets are ranges like the predictions (upstream mixes in ``camera_depth``); the
far set of the teacher term may be empty; sky lowers opacity instead of pulling depth to a made-up distance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from student.config import LossConfig
from student.data.sample import InputTargets, TrainingBatch, ViewTargets
from student.losses.line_of_sight import bin_edges, line_of_sight_error, sample_line_of_sight_error
from student.losses.perceptual import PerceptualDistance
from student.model.types import StudentOutput

_MIN_DEPTH = 1e-5
_TINY = 1e-10
_OPACITY_FLOOR = 1e-6
_EDGE_LOG_STEP = math.log(1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: Their weighted sum, what is descended: the mean over samples.
        sample_totals: Of each sample, detached.
        terms: Each term with its coefficient, detached: the mean over samples.
        counts: Over how many pixels, rays or views of all samples each term was averaged.
    """

    total: Float[Tensor, ""]
    sample_totals: Float[Tensor, " batch"]
    terms: Mapping[str, Float[Tensor, ""]]
    counts: Mapping[str, int]


class _Sum:
    """Weighted terms on their way to :class:`Losses`; what has no coefficient is not computed."""

    def __init__(self, zero: Float[Tensor, ""]) -> None:
        self.total = zero
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, coefficient: float, value: Float[Tensor, ""], count: int) -> None:
        weighted = coefficient * value
        self.total = self.total + weighted
        self.terms[name] = weighted.detach()
        self.counts[name] = count


def student_losses(
    output: StudentOutput,
    batch: TrainingBatch,
    config: LossConfig,
    *,
    perceptual: PerceptualDistance | None = None,
    step: int = 0,
) -> Losses:
    """Return every loss of a batch: the mean of its samples', each averaged over its own pixels.

    So a batch may be divided over processes and accumulated steps in any way, as the published one is over eight
    devices of one sample each.

    Args:
        output: What the student rendered.
        batch: What it should have.
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
    """Return the losses of a batch that was taken in parts of the same size."""
    return Losses(
        total=torch.stack([part.total for part in parts]).mean(),
        sample_totals=torch.cat([part.sample_totals for part in parts]),
        terms={name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms},
        counts={name: sum(part.counts[name] for part in parts) for name in parts[0].counts},
    )


def _sample_losses(
    output: StudentOutput, batch: TrainingBatch, config: LossConfig, perceptual: PerceptualDistance | None, step: int
) -> _Sum:
    # Every parameter takes part, whatever the coefficients: processes that share a batch wait for each other's.
    zero = output.opacity.sum() * 0.0
    for unpenalised in (output.image, *output.features.values()):
        zero = zero if unpenalised is None else zero + unpenalised.sum() * 0.0
    total = _Sum(zero)
    is_present = batch.cameras.target_is_present
    if output.image is not None:
        image, is_seen = _with_target_where_unseen(output.image, output.is_seen, batch.view_targets)
        _add_image_terms(total, image, is_seen, is_present, batch.view_targets, config, perceptual)
    if config.feature:
        num_real = batch.view_targets.num_real
        for source, predicted in output.features.items():
            target = batch.view_targets.features[source]
            is_seen = output.is_seen[:, :num_real]
            error, count = feature_error(predicted[:, :num_real], target, is_present[:, :num_real], is_seen)
            total.add(f"feature_{source}", config.feature, error, count)
    _add_depth_terms(total, output, batch, config, step)
    _add_ray_terms(total, output, batch, config, step)
    return total


def _check_grids(output: StudentOutput, batch: TrainingBatch) -> None:
    pairs = {
        "render": (output.termination_depth.shape, batch.view_targets.lidar_depth.shape),
        "depth": (output.coarse_termination_depth.shape, batch.input_targets.lidar_depth.shape),
    }
    for name, (seen, wanted) in pairs.items():
        if seen != wanted:
            raise ValueError(f"the model's {name} grid is {tuple(seen)}, its targets' is {tuple(wanted)}")


# --- images and features -------------------------------------------------------------------------------------------


def _add_image_terms(
    total: _Sum,
    image: Float[Tensor, "batch targets 3 image_height image_width"],
    is_seen: Bool[Tensor, "batch targets image_height image_width"],
    is_present: Bool[Tensor, "batch targets"],
    targets: ViewTargets,
    config: LossConfig,
    perceptual: PerceptualDistance | None,
) -> None:
    num_real = targets.num_real
    is_real, is_virtual = is_present[:, :num_real], is_present[:, num_real:]
    predicted, wanted = image[:, :num_real][is_real], targets.image[is_real]
    seen = is_seen[:, :num_real][is_real].float()
    # The teacher's views are coarser than the student's: compare at the teacher's size, its pixels are areas.
    size = (targets.virtual_image.shape[-2], targets.virtual_image.shape[-1])
    virtual_wanted = targets.virtual_image[is_virtual]
    virtual_predicted = image[:, num_real:][is_virtual]
    virtual_seen = is_seen[:, num_real:][is_virtual].float()
    if virtual_predicted.shape[-2:] != size:
        virtual_predicted = _resized(virtual_predicted, size)
        virtual_seen = _resized(virtual_seen[:, None], size)[:, 0]
    if config.rgb:
        total.add("rgb", config.rgb, *image_error(predicted, wanted, seen))
        if targets.virtual_image.shape[1]:
            total.add("rgb_virtual", config.rgb, *image_error(virtual_predicted, virtual_wanted, virtual_seen))
    if config.perceptual:
        if perceptual is None:
            raise ValueError("config.perceptual is not zero, but no perceptual distance was given")
        # The distance is a mean over the whole image, the unseen part of which adds nothing.
        shares = seen.mean(dim=(1, 2))
        value = (
            perceptual(predicted, wanted).sum() / shares.sum().clamp(min=_TINY) if len(predicted) else predicted.sum()
        )
        total.add("perceptual", config.perceptual, value, len(predicted))


def _with_target_where_unseen(
    image: Float[Tensor, "batch targets 3 image_height image_width"],
    is_seen: Bool[Tensor, "batch targets height width"],
    targets: ViewTargets,
) -> tuple[Tensor, Bool[Tensor, "batch targets image_height image_width"]]:
    """Show the target where the model says nothing, as outside of a fisheye's image circle: no distance sees it.

    Returns:
        The image, and which of its pixels are the model's.
    """
    size = (image.shape[-2], image.shape[-1])
    mask = F.interpolate(is_seen.float(), size=size, mode="nearest") > 0
    if bool(is_seen.all()):
        return image, mask
    virtual = targets.virtual_image.flatten(0, 1)
    virtual = _resized(virtual, size) if virtual.shape[-2:] != size else virtual
    wanted = torch.cat([targets.image, virtual.view(image.shape[0], -1, *image.shape[2:])], dim=1)
    return torch.where(mask[:, :, None], image, wanted), mask


def image_error(
    predicted: Float[Tensor, "n channels height width"],
    target: Float[Tensor, "n channels height width"],
    seen: Float[Tensor, "n height width"],
) -> tuple[Tensor, int]:
    """Return the mean absolute error over the pixels that are seen, and the number of values; 0 of none.

    Args:
        predicted: Equal to the target where nothing is seen.
        target: What it should be.
        seen: Share of each pixel.
    """
    count = predicted.shape[1] * float(seen.sum())
    return (predicted - target).abs().sum() / max(count, 1.0), round(count)


def absolute_error(predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return the mean absolute error and the number of values; 0 of none."""
    return (predicted - target).abs().sum() / max(predicted.numel(), 1), predicted.numel()


def feature_error(
    predicted: Float[Tensor, "batch real channels height width"],
    target: Float[Tensor, "batch real channels grid_height grid_width"],
    is_present: Bool[Tensor, "batch real"],
    is_seen: Bool[Tensor, "batch real height width"],
) -> tuple[Tensor, int]:
    """Return the mean absolute error of feature maps, the target resized bilinearly to the render grid."""
    size = (predicted.shape[-2], predicted.shape[-1])
    guess, wanted, mask = predicted[is_present], _resized(target[is_present], size), is_seen[is_present]
    if not bool(mask.all()):
        guess, wanted = guess.movedim(1, -1)[mask], wanted.movedim(1, -1)[mask]
    return absolute_error(guess, wanted)


def _resized(images: Float[Tensor, "n channels _ _"], size: tuple[int, int]) -> Float[Tensor, "n channels _ _"]:
    if len(images) == 0:  # interpolate refuses it
        return images.new_zeros((0, images.shape[1], *size))
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


# --- depth ---------------------------------------------------------------------------------------------------------


def _add_depth_terms(total: _Sum, output: StudentOutput, batch: TrainingBatch, config: LossConfig, step: int) -> None:
    estimates: dict[str, tuple[Tensor, InputTargets | ViewTargets, float]] = {
        "coarse": (output.coarse_termination_depth, batch.input_targets, 1.0),
        "fine": (output.fine_termination_depth, batch.input_targets, config.fine_depth),
        "rendered": (output.termination_depth, batch.view_targets, 1.0),
    }
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
            output.coarse_weights, output.coarse_distances, reference_depth(batch.input_targets)
        )
        total.add("depth_likelihood", config.depth_likelihood, value, count)


def reference_depth(targets: InputTargets | ViewTargets) -> Tensor:
    """Return the best known depth: LiDAR where there is a return, the teacher elsewhere, NaN where neither is."""
    return torch.where(torch.isfinite(targets.lidar_depth), targets.lidar_depth, targets.teacher_depth)


def lidar_depth_error(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: LossConfig
) -> tuple[Tensor, int]:
    """Return the error against LiDAR over the pixels with a return, and their number.

    Both depths are clamped to ``max_lidar_range`` and divided by it; squared plus a share of absolute error.
    """
    is_defined = torch.isfinite(predicted) & torch.isfinite(target)
    scale = config.max_lidar_range
    return _normalised_error(predicted[is_defined], target[is_defined], scale, scale, config), int(is_defined.sum())


def teacher_depth_error(
    predicted: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: LossConfig
) -> tuple[Tensor, int]:
    """Return the error against the teacher, and the number of pixels.

    Targets nearer than ``inner_range`` are divided by it, farther ones by ``max_depth``; the two means are added. An
    empty set adds nothing.
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
        depth: Metres; NaN where unknown, which is no edge.
        maximum: Farther pixels are none either, metres.
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


# --- along rays ----------------------------------------------------------------------------------------------------


def _add_ray_terms(total: _Sum, output: StudentOutput, batch: TrainingBatch, config: LossConfig, step: int) -> None:
    # Coarse depth is defined wherever an input pixel has a ray, rendered depth only where the ray hits something.
    is_camera = torch.isfinite(output.coarse_termination_depth)
    is_view = output.is_seen & batch.cameras.target_is_present[:, :, None, None]
    if config.weight_entropy:
        weights = output.coarse_weights + _TINY
        coarse = -(weights * weights.log()).sum(dim=2)
        total.add("entropy_coarse", config.weight_entropy, *_masked_mean(coarse, is_camera))
        total.add("entropy_rendered", config.weight_entropy, *_masked_mean(output.weight_entropy, is_view))
    estimates = {
        "coarse": (output.coarse_opacity, is_camera, batch.input_targets),
        "fine": (output.fine_opacity, is_camera, batch.input_targets),
        "rendered": (output.opacity, is_view, batch.view_targets),
    }
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
            bin_edges(output.coarse_distances),
            reference_depth(batch.input_targets),
            epsilon=epsilon,
        )
        total.add("line_of_sight_coarse", config.line_of_sight, error, count)
        error, count = sample_line_of_sight_error(output.samples, reference_depth(batch.view_targets), epsilon=epsilon)
        total.add("line_of_sight_rendered", config.line_of_sight, error, count)


def line_of_sight_epsilon(config: LossConfig, step: int) -> float:
    """Return the half width of the surface at a step, metres."""
    (wide, narrow), (first, last) = config.line_of_sight_epsilon, config.line_of_sight_steps
    done = min(1.0, max(0.0, (step - first) / (last - first)))
    return wide + (narrow - wide) * done


def _expand(is_present: Bool[Tensor, "batch views"], like: Tensor) -> Bool[Tensor, "batch views height width"]:
    return is_present[:, :, None, None].expand(like.shape)


def _masked_mean(values: Float[Tensor, "*shape"], is_counted: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    chosen = values[is_counted]
    return chosen.sum() / max(chosen.numel(), 1), chosen.numel()


def solid_error(opacity: Float[Tensor, "*shape"], is_solid: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return the cross-entropy of opacity against 1, and the number of rays that should hit something."""
    chosen = opacity[is_solid].clamp(min=_OPACITY_FLOOR)
    return -chosen.log().sum() / max(chosen.numel(), 1), chosen.numel()


def sky_error(opacity: Float[Tensor, "*shape"], is_sky: Bool[Tensor, "*shape"]) -> tuple[Tensor, int]:
    """Return ``log(1 + optical depth)`` of the rays that should leave the scene, and their number.

    Optical depth, ``-log(1 - opacity)``, is the cross-entropy of opacity against 0. Its gradient with respect to the
    logarithm of density is the optical depth itself, a hundred or more for an untrained field, which would drown every
    other loss in the clipped gradient; with the logarithm it is at most 1, and the same near 0.
    """
    transmittance = (1.0 - opacity[is_sky]).clamp(min=_OPACITY_FLOOR)
    error = torch.log1p(-transmittance.log().clamp(max=0.0))
    return error.sum() / max(error.numel(), 1), error.numel()
