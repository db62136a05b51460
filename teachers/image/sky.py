"""Sky segmentation with a Cityscapes-style semantic segmenter: the probability that a pixel shows sky."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

from storage.errors import ErrorKind, IntegrityError
from teachers.config import SkyConfig
from teachers.image.image_batches import normalise, resample, resolve_device
from teachers.image.segmenter import Segmenter, SkyReading
from teachers.image.weights import TeacherModel, WeightsFolder, load_model

SKY_LABEL = "sky"


class SkySegmenter(Segmenter):
    """Segformer with a class called "sky".

    Args:
        config: Resolution and precision.
        weights: The checkpoint.

    Raises:
        IntegrityError: If the checkpoint has no label "sky", or cannot be loaded.
    """

    teacher_model = TeacherModel.SKY
    multiple = 32
    """Total stride of the encoder. Image sides are multiples of it, so that the grid of every stage is exact."""

    def __init__(self, config: SkyConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._device, self._dtype = resolve_device(config.inference, config.precision)
        self._model = load_model(SegformerForSemanticSegmentation, weights, device=self._device, dtype=self._dtype)
        self._processor = SegformerImageProcessorPil.from_pretrained(weights.path, local_files_only=True)
        self._sky_index = _sky_index(self._model.config.id2label or {}, weights)

    @torch.inference_mode()
    def logits(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch labels _ _"]:
        """Return the score of every label at a quarter of the images' size, float32 on the CPU."""
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        return self._model(pixels).logits.float().cpu()

    def sky(self, images: UInt8[np.ndarray, "batch rows columns 3"]) -> SkyReading:
        """Return where images show sky: where its probability exceeds the configured threshold."""
        probability = self.logits(images).softmax(dim=1)[:, self._sky_index, None]
        height, width = self.config.size
        resampled = resample(probability, height=height, width=width)[:, 0].clamp(0, 1)
        return SkyReading(resampled, resampled > self.config.threshold)


def _sky_index(id2label: Mapping[Any, str], weights: WeightsFolder) -> int:
    for index, label in id2label.items():
        if label.strip().lower() == SKY_LABEL:
            return int(index)
    labels = ", ".join(list(id2label.values())[:8])
    raise IntegrityError(
        ErrorKind.WEIGHTS_INVALID,
        str(weights.path / "config.json"),
        f"has no label {SKY_LABEL!r} among its {len(id2label)} ({labels}, ...)",
    )
