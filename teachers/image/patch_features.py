"""Common part of all models that give one feature vector per patch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import BaseImageProcessor, BitImageProcessorPil

from storage.kinds import FeatureSource
from teachers.config import PatchFeatureConfig
from teachers.image.image_batches import normalise, resolve_device
from teachers.image.weights import TeacherModel, WeightsFolder, load_processor, resolve_weights

Model = TypeVar("Model", bound="PatchFeatureModel")


class PatchFeatureModel(ABC):
    """Foundation model that gives one feature vector per patch.

    Args:
        config: Resolution, precision, and which features.
        weights: The checkpoint.
    """

    feature_source: ClassVar[FeatureSource]
    families: ClassVar[tuple[TeacherModel, ...]]
    """Families of models that it reads; the first is the shipped one."""

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights
        self._device, self._dtype = resolve_device(config.inference, config.precision)
        # Of a processor only the scaling of colours is used, which all of them write in one way.
        self._processor: BaseImageProcessor = load_processor(BitImageProcessorPil, weights)

    @classmethod
    def from_config(cls: type[Model], config: PatchFeatureConfig) -> Model:
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, *cls.families))

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Return the patch size, pixels."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Return the length of a feature vector."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the model's attributes to store beside a scene's features."""
        return {}

    @abstractmethod
    def embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the features of every patch of normalised images."""

    @torch.inference_mode()
    def dense_features(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """Return the features of every patch, or every stride, float32 on the CPU.

        Args:
            images: Their sides are multiples of the patch size.

        Raises:
            ValueError: If the configured stride does not divide the patch size.
        """
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        maps = overlapping(self.embed, pixels, patch_size=self.multiple, stride=self.config.stride).float()
        return (functional.normalize(maps, dim=1) if self.config.unit_length else maps).cpu()


def overlapping(
    embed: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "batch 3 height width"],
    *,
    patch_size: int,
    stride: int | None,
) -> Float[Tensor, "batch features rows columns"]:
    """Return features every ``stride`` pixels: those of the image shifted by each smaller step, interleaved.

    Every pass is of the size that the model was asked for, so any model can be seen through sliding windows. What a
    shift moves in from outside is mirrored. Feature ``n`` lies at ``(n + 0.5) * stride``, to half a pixel.

    Args:
        embed: Function that returns the features of every patch.
        pixels: Images.
        patch_size: Side of a patch, pixels.
        stride: Distance of neighbouring features, pixels; None for the patch size.

    Raises:
        ValueError: If the stride does not divide the patch size.
    """
    stride = stride or patch_size
    if patch_size % stride:
        raise ValueError(f"stride {stride}: want one that divides the patch size, {patch_size} pixels")
    steps, extra = patch_size // stride, patch_size - stride
    if steps == 1:
        return embed(pixels)
    height, width = pixels.shape[-2:]
    before = extra // 2
    padded = functional.pad(pixels, (before, extra - before, before, extra - before), mode="reflect")
    shifted = [
        embed(padded[..., down : down + height, right : right + width])
        for down in range(0, patch_size, stride)
        for right in range(0, patch_size, stride)
    ]
    stacked = torch.stack(shifted, dim=-1).unflatten(-1, (steps, steps))
    return stacked.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
