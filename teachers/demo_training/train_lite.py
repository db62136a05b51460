"""Train the decoder of the network for sky and depth on photographs; its encoder, from ImageNet, stays as it is."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import BitImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from encoders.efficientnet import imagenet_weights
from storage.taxonomy import CITYSCAPES_LABELS, CITYSCAPES_VOID, SKY_ID, cityscapes_table
from teachers.demo_training.augment import random_crop
from teachers.demo_training.estrange import Scenery, estranged
from teachers.demo_training.loop import shuffled_batches, train
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.views import crop_images, crop_maps, reduced_precision
from teachers.image.image_batches import normalised
from teachers.image.lite import LiteConfig, LiteReading, LiteTeacher

STEPS = 2400
_BATCH_SIZE = 8
_SIZES = ((128, 224), (160, 256), (224, 384), (160, 288), (128, 288))
"""Sizes of views: recordings have many aspects, and things many sizes."""
_LARGE = 60_000
"""Pixels of a view above which a batch holds fewer."""
_SMALLEST_CROP = 0.45
_NEAREST_M = 1.0
_GRADIENT_WEIGHT = 0.5
_GRADIENT_SCALES = 3
_SKY = CITYSCAPES_LABELS.index("sky")
_SEMANTIC_WEIGHT = 0.5


def lite_processor() -> BitImageProcessorPil:
    """Return the preprocessing: ImageNet's statistics, and nothing else."""
    return BitImageProcessorPil(
        do_resize=False,
        do_center_crop=False,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
    )


def lite_teacher() -> LiteTeacher:
    """Return the network with its encoder from ImageNet and an untrained decoder, with Cityscapes' 19 labels.

    Raises:
        EnvironmentMissingError: If the package that brings the encoder's weights is not installed.
    """
    labels = dict(enumerate(CITYSCAPES_LABELS))
    model = LiteTeacher(LiteConfig(id2label=labels, label2id={label: index for index, label in labels.items()}))
    model.trunk.load_state_dict(imagenet_weights())
    return model


def train_lite(training: RenderSet, *, seed: int, steps: int = STEPS) -> LiteTeacher:
    """Return the network trained on estranged renders: classes of Cityscapes, sky, and inverse depth as ordered.

    Args:
        training: Training images.
        seed: Seed of every random draw.
        steps: Number of updates.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, processor = lite_teacher().train(), lite_processor()
    batches = shuffled_batches(len(training), _BATCH_SIZE, generator)

    def loss_of_step(step: int) -> Tensor:
        seen = scenery_of(training, next(batches), generator)
        images = estranged(seen, generator)
        with reduced_precision():
            reading = model(normalised(images, processor))
        return _loss(reading, seen)

    train("efficientnet_lite0", model.parameters(), loss_of_step, steps=steps, learning_rate=1e-3, weight_decay=0.02)
    return model.eval()


def scenery_of(training: RenderSet, batch: Int[np.ndarray, " batch"], generator: torch.Generator) -> Scenery:
    """Return one random crop of a batch, at a random one of some sizes; at the largest, of fewer images."""
    height, width = size = _SIZES[int(torch.randint(len(_SIZES), (), generator=generator))]
    if height * width > _LARGE:
        batch = batch[: max(1, 5 * len(batch) // 8)]
    stored = (training.image.shape[1], training.image.shape[2])
    crop = random_crop(stored, smallest=_SMALLEST_CROP, generator=generator)
    semantics = crop_maps(training.semantics[batch], crop, size).long()
    return Scenery(
        images=crop_images(training.image[batch], crop, size),
        semantics=semantics,
        instance=crop_maps(training.instance[batch], crop, size).long(),
        camera_depth=crop_maps(training.camera_depth[batch], crop, size),
        is_sky=semantics == SKY_ID,
    )


def _loss(reading: LiteReading, seen: Scenery) -> Float[Tensor, ""]:
    """Return the sum of three terms: class among Cityscapes', sky against all else, and inverse depth."""
    logits, inverse_depth = reading.logits.float(), reading.inverse_depth.float()
    size = logits.shape[-2:]
    labels = functional.interpolate(seen.semantics[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    table = torch.from_numpy(cityscapes_table().astype(np.int64))
    classes = functional.cross_entropy(logits, table[labels], ignore_index=CITYSCAPES_VOID)
    others = torch.cat([logits[:, :_SKY], logits[:, _SKY + 1 :]], dim=1).logsumexp(dim=1)
    share = functional.interpolate(seen.is_sky[:, None].float(), size=size, mode="area")[:, 0]
    sky = functional.binary_cross_entropy_with_logits(logits[:, _SKY] - others, share)
    depth = seen.camera_depth.nan_to_num(nan=float("inf"))[:, None]
    inverse = 1.0 / functional.interpolate(depth, size=size, mode="nearest-exact")[:, 0].clamp_min(_NEAREST_M)
    return _SEMANTIC_WEIGHT * classes + sky + affine_invariant_loss(inverse_depth, inverse)


def affine_invariant_loss(
    predicted: Float[Tensor, "batch height width"], target: Float[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Return the difference of two maps after removing a scale and a shift per image.

    It is the mean absolute difference after each map's median and mean deviation are removed, plus that of the
    gradients at several scales.
    """
    difference = _standardised(predicted) - _standardised(target)
    loss = difference.abs().mean()
    for scale in range(_GRADIENT_SCALES):
        coarse = difference[:, :: 2**scale, :: 2**scale]
        along_rows, along_columns = coarse.diff(dim=1).abs().mean(), coarse.diff(dim=2).abs().mean()
        loss = loss + _GRADIENT_WEIGHT * (along_rows + along_columns)
    return loss


def _standardised(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    median = maps.flatten(1).median(dim=1).values[:, None, None]
    deviation = (maps - median).abs().mean(dim=(1, 2), keepdim=True)
    return (maps - median) / deviation.clamp_min(1e-4)
