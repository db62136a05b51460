"""Losses of rendered images and feature maps."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from student.config import LossConfig
from student.data.sample import ViewTargets
from student.losses.perceptual import PerceptualDistance
from student.losses.terms import WeightedSum, absolute_error, squared_error

_TINY = 1e-10


def add_image_terms(
    total: WeightedSum,
    image: Float[Tensor, "batch targets 3 image_height image_width"],
    is_seen: Bool[Tensor, "batch targets image_height image_width"],
    is_present: Bool[Tensor, "batch targets"],
    targets: ViewTargets,
    config: LossConfig,
    perceptual: PerceptualDistance | None,
) -> None:
    """Add the terms of rendered images (DistillNeRF Eq. 6), of cameras and of virtual views (DistillNeRF Sec. 3.2).

    Pixels of virtual views that are not valid take no part.

    Raises:
        ValueError: If a perceptual distance is wanted but not given.
    """
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
        virtual_predicted = resized(virtual_predicted, size)
        virtual_seen = resized(virtual_seen[:, None], size)[:, 0]
    is_valid = targets.virtual_is_valid[is_virtual]
    virtual_predicted = torch.where(is_valid[:, None], virtual_predicted, virtual_wanted)
    virtual_seen = virtual_seen * is_valid
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


def with_target_where_unseen(
    image: Float[Tensor, "batch targets 3 image_height image_width"],
    is_seen: Bool[Tensor, "batch targets height width"],
    targets: ViewTargets,
) -> tuple[Tensor, Bool[Tensor, "batch targets image_height image_width"]]:
    """Show the target where the model says nothing, as outside of a fisheye's image circle.

    Such pixels have no distance from their target, and no gradient.

    Returns:
        The image, and which of its pixels are the model's.
    """
    size = (image.shape[-2], image.shape[-1])
    mask = F.interpolate(is_seen.float(), size=size, mode="nearest") > 0
    if bool(is_seen.all()):
        return image, mask
    # What is not valid must not reach its neighbours when the target is resized.
    virtual = torch.where(targets.virtual_is_valid[:, :, None], targets.virtual_image, 0.0).flatten(0, 1)
    virtual = resized(virtual, size) if virtual.shape[-2:] != size else virtual
    wanted = torch.cat([targets.image, virtual.view(image.shape[0], -1, *image.shape[2:])], dim=1)
    return torch.where(mask[:, :, None], image, wanted), mask


def image_error(
    predicted: Float[Tensor, "n channels height width"],
    target: Float[Tensor, "n channels height width"],
    seen: Float[Tensor, "n height width"],
) -> tuple[Tensor, int]:
    """Return the mean absolute error over the pixels that are seen (DistillNeRF Eq. 6), and the number of values.

    The paper names this term L1 and writes the norm of L2; it is L1 here. The error of no values is 0.

    Args:
        predicted: Rendered image, equal to the target where nothing is seen.
        target: Image that should be seen.
        seen: Share of each pixel that is seen.
    """
    count = predicted.shape[1] * float(seen.sum())
    return (predicted - target).abs().sum() / max(count, 1.0), round(count)


def feature_error(
    predicted: Float[Tensor, "batch real channels height width"],
    target: Float[Tensor, "batch real channels grid_height grid_width"],
    is_present: Bool[Tensor, "batch real"],
    is_seen: Bool[Tensor, "batch real height width"],
) -> tuple[Tensor, int]:
    """Return the mean absolute error of feature maps (DistillNeRF Eq. 9), and the number of values.

    The target is resized bilinearly to the render grid.
    """
    return absolute_error(*_seen_features(predicted, target, is_present, is_seen))


def surface_error(
    predicted: Float[Tensor, "batch real channels height width"],
    target: Float[Tensor, "batch real channels grid_height grid_width"],
    is_present: Bool[Tensor, "batch real"],
    has_surface: Bool[Tensor, "batch real height width"],
) -> tuple[Tensor, int]:
    """Return the mean squared error of features of places that pixels end in, and the number of values.

    It is least for the mean of what a place may be. The absolute error is least for the median, in which a class that
    is never the likeliest of all has no share.
    """
    return squared_error(*_seen_features(predicted, target, is_present, has_surface))


def _seen_features(predicted: Tensor, target: Tensor, is_present: Tensor, is_seen: Tensor) -> tuple[Tensor, Tensor]:
    size = (predicted.shape[-2], predicted.shape[-1])
    guess, wanted, mask = predicted[is_present], resized(target[is_present], size), is_seen[is_present]
    if bool(mask.all()):
        return guess, wanted
    return guess.movedim(1, -1)[mask], wanted.movedim(1, -1)[mask]


def resized(images: Float[Tensor, "n channels _ _"], size: tuple[int, int]) -> Float[Tensor, "n channels _ _"]:
    """Return images or maps of another size, as every loss compares them: bilinear, antialiased."""
    if len(images) == 0:  # interpolate refuses it
        return images.new_zeros((0, images.shape[1], *size))
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
