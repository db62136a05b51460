"""Sky segmentation with detectron2's PointRend, as in the published method; optional.

detectron2 is missing from the package index and is therefore no dependency. The weights folder holds PointRend's config
as ``config.yaml`` and the weights as ``model.safetensors``: what ``distillnerf weights convert pointrend`` writes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file

from storage.errors import EnvironmentMissingError, ErrorKind, IntegrityError
from storage.stores.integrity import reading_weights
from storage.taxonomy import CITYSCAPES_LABELS
from teachers.config import SkyConfig
from teachers.image.detectron_config import read_detectron_config
from teachers.image.image_batches import resample, resolve_device
from teachers.image.segmenter import Segmenter, SkyReading
from teachers.image.weights import TeacherModel, WeightsFolder

SKY_CLASS = 10
"""Cityscapes' train id of the sky."""
NUM_CLASSES = len(CITYSCAPES_LABELS)
"""Cityscapes' classes that are trained and scored."""


class PointRendSegmenter(Segmenter):
    """PointRend semantic segmentation with Cityscapes' classes.

    Args:
        config: Resolution and grid; the model runs in float32.
        weights: The checkpoint folder.

    Raises:
        EnvironmentMissingError: If detectron2 or its PointRend project is not installed.
        IntegrityError: If the weights do not fit the config.
    """

    families = (TeacherModel.SKY_POINTREND,)
    labels = CITYSCAPES_LABELS
    multiple = 32

    def __init__(self, config: SkyConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._device, _ = resolve_device(config.inference, config.precision)
        self._model, self._channel_order = _load(weights, self._device)

    @torch.inference_mode()
    def sky(self, images: UInt8[np.ndarray, "batch rows columns 3"]) -> SkyReading:
        """Return where images show sky: where it is the most probable class, as published.

        A cell of a coarser grid is sky if most of its pixels are. The configured threshold is not used.
        """
        ordered = images[..., ::-1] if self._channel_order == "BGR" else images
        pixels = torch.from_numpy(np.ascontiguousarray(ordered)).permute(0, 3, 1, 2).float()
        rows, columns = images.shape[1:3]
        requests = [{"image": image, "height": rows, "width": columns} for image in pixels]
        logits = torch.stack([answer["sem_seg"] for answer in self._model(requests)]).float()
        height, width = self.config.size
        probability, best = logits.softmax(dim=1)[:, SKY_CLASS, None], logits.argmax(dim=1, keepdim=True) == SKY_CLASS
        semantics = None
        if self.config.keep_semantics:
            every = resample(logits.softmax(dim=1), height=height, width=width)
            semantics = every.argmax(dim=1).to(torch.uint8).cpu()
        return SkyReading(
            resample(probability, height=height, width=width)[:, 0].clamp(0, 1).cpu(),
            (resample(best.float(), height=height, width=width)[:, 0] > 0.5).cpu(),
            semantics,
        )


def _load(weights: WeightsFolder, device: torch.device) -> tuple[Any, str]:
    try:
        from detectron2.config import CfgNode, get_cfg  # type: ignore[import-not-found]  # optional
        from detectron2.modeling import build_model  # type: ignore[import-not-found]
        from detectron2.projects.point_rend import add_pointrend_config  # type: ignore[import-not-found]
    except ImportError as error:
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            "detectron2",
            "PointRend needs it and it is not installed; segmenter 'segformer' does without",
        ) from error
    config = weights.path / "config.yaml"
    settings = get_cfg()
    add_pointrend_config(settings)
    try:
        settings.merge_from_other_cfg(CfgNode(read_detectron_config(config).values))  # never its own reader: see there
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        message = f"is no configuration of PointRend: {error}"
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(config), message) from error
    settings.MODEL.DEVICE = str(device)
    if (seen := settings.MODEL.SEM_SEG_HEAD.NUM_CLASSES) != NUM_CLASSES:
        message = f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {seen}, want Cityscapes' {NUM_CLASSES}"
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(config), message)
    model = build_model(settings).eval().requires_grad_(False)
    tensors = weights.path / "model.safetensors"
    try:
        with reading_weights(tensors):
            model.load_state_dict(load_file(tensors), strict=True)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(weights.path), f"cannot be loaded: {error}") from error
    return model, str(settings.INPUT.FORMAT)
