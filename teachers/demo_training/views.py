"""Random training views: batches of labelled crops, small and cheap at first, at full size in the end."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from teachers.demo_training.augment import jitter_colours, random_crop
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
        camera_depth: Depth along the optical axis, metres; NaN is sky.
    """

    images: Float[Tensor, "batch 3 height width"]
    semantics: UInt8[Tensor, "batch height width"]
    camera_depth: Float[Tensor, "batch height width"]


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
        images = crop.of(torch.from_numpy(self._training.image[batch]).permute(0, 3, 1, 2)).float() / 255.0
        images = functional.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
        semantics = crop.of(torch.from_numpy(self._training.semantics[batch]))[:, None].float()
        depth = crop.of(torch.from_numpy(self._training.camera_depth[batch]))[:, None].float()
        nearest = {"size": (height, width), "mode": "nearest-exact"}
        return TrainingCrop(
            images=jitter_colours(images, self._generator, strength=self._colour_strength),
            semantics=functional.interpolate(semantics, **nearest)[:, 0].to(torch.uint8),
            camera_depth=functional.interpolate(depth, **nearest)[:, 0],
        )

    def _is_full_size(self, step: int) -> bool:
        return step >= _FULL_SIZE_FROM * self._steps


def reduced_precision() -> torch.autocast:
    """Return the context of forward passes: bfloat16 products, which halve the time on current CPUs."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def fast_attention(model: Model) -> Model:
    """Return the model with attention by plain matrix products.

    On a CPU, the backward pass of the fused kernel takes twice as long at these few hundred tokens.
    """
    model.set_attn_implementation("eager")
    return model
