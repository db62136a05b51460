"""Sky segmentation with a Cityscapes-style semantic segmenter: the probability that a pixel shows sky.

Segformer and this project's own network score every class at every pixel. Mask2Former and OneFormer give masks, each
with a score of every class; a pixel's score of a class is the sum over masks, as published.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BitImageProcessorPil,
    Mask2FormerForUniversalSegmentation,
    OneFormerForUniversalSegmentation,
    PreTrainedModel,
    SegformerForSemanticSegmentation,
)

from storage.errors import ErrorKind, IntegrityError
from teachers.config import SkyConfig
from teachers.image.image_batches import normalise, resample, resolve_device
from teachers.image.lite import LiteTeacher
from teachers.image.segmenter import Segmenter, SkyReading
from teachers.image.weights import TeacherModel, WeightsFolder, load_model, load_processor, load_tokenizer

SKY_LABEL = "sky"
FAMILIES: dict[TeacherModel, type[PreTrainedModel]] = {
    TeacherModel.LITE: LiteTeacher,
    TeacherModel.SKY: SegformerForSemanticSegmentation,
    TeacherModel.SKY_MASK2FORMER: Mask2FormerForUniversalSegmentation,
    TeacherModel.SKY_ONEFORMER: OneFormerForUniversalSegmentation,
}
_TASK = "the task is semantic"
_LEAST_PROBABILITY = 1e-12


class SkySegmenter(Segmenter):
    """Semantic segmenter with a class called "sky".

    Args:
        config: Resolution and precision.
        weights: The checkpoint.

    Raises:
        IntegrityError: If the checkpoint has no label "sky", or cannot be loaded.
    """

    families = tuple(FAMILIES)
    multiple = 32
    """Total stride of the encoders. Image sides are multiples of it, so that the grid of every stage is exact."""

    def __init__(self, config: SkyConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._device, self._dtype = resolve_device(config.inference, config.precision)
        model: Any = load_model(FAMILIES[weights.model], weights, device=self._device, dtype=self._dtype)
        self._model = model
        self._processor = load_processor(BitImageProcessorPil, weights)
        labels = model.config.id2label or {}
        self._sky_index = _sky_index(labels, weights)
        self.labels = tuple(labels[index] for index in sorted(labels))
        self._task = self._task_tokens() if weights.model is TeacherModel.SKY_ONEFORMER else None

    @torch.inference_mode()
    def logits(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch labels _ _"]:
        """Return the score of every label at a quarter of the images' size, float32 on the CPU.

        Their softmax over labels is the probability.
        """
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        if self.weights.model in (TeacherModel.LITE, TeacherModel.SKY):
            return self._model(pixels).logits.float().cpu()
        task = {} if self._task is None else {"task_inputs": self._task.expand(len(pixels), -1)}
        output = self._model(pixels, **task)
        scores = class_scores(output.class_queries_logits.float(), output.masks_queries_logits.float())
        return (scores / scores.sum(dim=1, keepdim=True)).clamp_min(_LEAST_PROBABILITY).log().cpu()

    def sky(self, images: UInt8[np.ndarray, "batch rows columns 3"]) -> SkyReading:
        """Return where images show sky: where its probability exceeds the configured threshold."""
        every = self.logits(images).softmax(dim=1)
        height, width = self.config.size
        probability = resample(every[:, self._sky_index, None], height=height, width=width)[:, 0].clamp(0, 1)
        semantics = None
        if self.config.keep_semantics:
            semantics = resample(every, height=height, width=width).argmax(dim=1).to(torch.uint8)
        return SkyReading(probability, probability > self.config.threshold, semantics)

    def _task_tokens(self) -> Int[Tensor, "1 tokens"]:
        tokenizer = load_tokenizer(AutoTokenizer, self.weights)
        length = self._model.config.task_seq_len
        tokens = tokenizer([_TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return (tokens.input_ids * tokens.attention_mask).to(self._device)


def class_scores(
    classes: Float[Tensor, "batch queries labels_and_none"], masks: Float[Tensor, "batch queries height width"]
) -> Float[Tensor, "batch labels height width"]:
    """Return the score of every label at every pixel, from the logits of masks and of their labels."""
    return torch.einsum("bqc,bqhw->bchw", classes.softmax(dim=-1)[..., :-1], masks.sigmoid())


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
