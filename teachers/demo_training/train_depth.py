"""Train the demo Depth Anything on inverse depth, up to one scale and shift per image, and on its edges."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DepthAnythingForDepthEstimation, Dinov2Model, DPTImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from teachers.demo_training import architectures
from teachers.demo_training.loop import train
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.views import ViewSampler, fast_attention, reduced_precision
from teachers.image.image_batches import normalised

STEPS = 1800
_BATCH_SIZE = 8
_MIN_DEPTH = 1.0
_GRADIENT_WEIGHT = 0.5
_GRADIENT_SCALES = 3


def depth_processor() -> DPTImageProcessorPil:
    """Return Depth Anything's own preprocessing, with ImageNet statistics and sides in whole patches."""
    return DPTImageProcessorPil(
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=architectures.PATCH_SIZE,
    )


def train_depth_anything(
    training: RenderSet, backbone: Dinov2Model, *, seed: int, steps: int = STEPS
) -> DepthAnythingForDepthEstimation:
    """Return a Depth Anything trained with a scale- and shift-invariant loss; the inverse depth of the sky is 0.

    Args:
        training: Training images.
        backbone: Trained DINOv2 of the same width, from which training starts, like the published model's.
        seed: Seed of every random draw.
        steps: Number of updates.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = fast_attention(architectures.depth_anything()).train()
    model.backbone.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        torch.nn.init.ones_(
            torch.as_tensor(model.head.conv3.bias)
        )  # the head ends in a ReLU, which must not start out closed
    processor = depth_processor()
    sampler = ViewSampler(
        training,
        batch_size=_BATCH_SIZE,
        multiple=architectures.PATCH_SIZE,
        smallest=0.5,
        steps=steps,
        generator=generator,
    )

    def loss_of_step(step: int) -> Tensor:
        view = sampler.view(sampler.next_batch(step), step)
        with reduced_precision():
            predicted = model(normalised(view.images, processor)).predicted_depth
        inverse = 1.0 / view.camera_depth.nan_to_num(nan=float("inf")).clamp_min(_MIN_DEPTH)
        return affine_invariant_loss(predicted.float(), inverse)

    train("depth_anything", model.parameters(), loss_of_step, steps=steps, learning_rate=1e-3)
    return model.eval()


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
