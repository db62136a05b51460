"""Random training views: batches of labelled crops, small and cheap at first, at full size in the end."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from teachers.demo_training.augment import Crop, jitter_colours, random_crop
from teachers.demo_training.loop import shuffled_batches
from teachers.demo_training.renders import RenderSet

Model = TypeVar("Model", bound=PreTrainedModel)

_FULL_SIZE_FROM = 0.85
"""Share of the steps after which views have full size, so that position embeddings fit inference."""
_SMALL = 0.57
"""Size of the views before that, as a share of the full size; they cost a third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCrop:
    """One crop of a batch.

    Attributes:
        images: Images in [0, 1], with jittered colours.
        semantics: Class ids; 255 is sky.
    """

    images: Float[Tensor, "batch 3 height width"]
    semantics: UInt8[Tensor, "batch height width"]


class ViewSampler:
    """Sampler of random views of a render set.

    Args:
        training: Training images.
        batch_size: Images per batch while views are small; half as many at full size.
        multiple: Number of pixels of which the views' sides are multiples.
        smallest: Smallest side of a crop, as a share of the image's.
        colour_strength: Strength of the colour changes, 0 to 1.
        steps: Number of steps of the whole training.
        generator: Random generator of every draw.
    """

    def __init__(
        self,
        training: RenderSet,
        *,
        batch_size: int,
        multiple: int,
        smallest: float,
        colour_strength: float = 1.0,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        self._training, self._batch_size, self._multiple = training, batch_size, multiple
        self._smallest, self._steps, self._generator = smallest, steps, generator
        self._colour_strength = colour_strength
        self._batches = shuffled_batches(len(training), batch_size, generator)

    def next_batch(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the images of the next batch."""
        batch = next(self._batches)
        return batch[: max(1, self._batch_size // 2)] if self._is_full_size(step) else batch

    def view(self, batch: Int[np.ndarray, " batch"], step: int) -> TrainingCrop:
        """Return one random crop of a batch."""
        stored = self._training.image.shape[1:3]
        scale = 1.0 if self._is_full_size(step) else _SMALL
        height, width = (round(side * scale / self._multiple) * self._multiple for side in stored)
        crop = random_crop((stored[0], stored[1]), smallest=self._smallest, generator=self._generator)
        images = crop_images(self._training.image[batch], crop, (height, width))
        return TrainingCrop(
            images=jitter_colours(images, self._generator, strength=self._colour_strength),
            semantics=crop_maps(self._training.semantics[batch], crop, (height, width)).to(torch.uint8),
        )

    def _is_full_size(self, step: int) -> bool:
        return step >= _FULL_SIZE_FROM * self._steps


def crop_images(
    images: UInt8[np.ndarray, "batch rows columns 3"], crop: Crop, size: tuple[int, int]
) -> Float[Tensor, "batch 3 height width"]:
    """Return a crop of images at another size, in [0, 1]."""
    cut = crop.of(torch.from_numpy(images).permute(0, 3, 1, 2)).float() / 255.0
    return functional.interpolate(cut, size=size, mode="bilinear", antialias=True)


def crop_maps(
    maps: Shaped[np.ndarray, "batch rows columns"], crop: Crop, size: tuple[int, int]
) -> Float[Tensor, "batch height width"]:
    """Return a crop of labels or depths at another size, each pixel with the value of the nearest."""
    cut = crop.of(torch.from_numpy(maps.astype(np.float32)))[:, None]
    return functional.interpolate(cut, size=size, mode="nearest-exact")[:, 0]


def reduced_precision() -> torch.autocast:
    """Return the context of forward passes: bfloat16 products, which halve the time on current CPUs."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def fast_attention(model: Model) -> Model:
    """Return the model with attention by plain matrix products.

    On a CPU, the backward pass of the fused kernel takes twice as long at these few hundred tokens.
    """
    model.set_attn_implementation("eager")
    return model
