"""Monocular depth: Depth Anything, version 1 and 2, relative and metric, or this project's own small network.

The student takes the last fusion map, before it becomes one unscaled number per pixel: it holds the model's geometry,
of Depth Anything at eight times the patch grid, of the small network at a quarter of the image's size.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import BaseImageProcessor, BitImageProcessorPil, DepthAnythingForDepthEstimation, DPTImageProcessorPil

from teachers.config import DepthAnythingConfig
from teachers.image.image_batches import normalise, resample, resolve_device
from teachers.image.lite import LiteTeacher
from teachers.image.weights import (
    TeacherModel,
    WeightsFolder,
    load_model,
    load_processor,
    resolve_weights,
    square_patch_size,
)

FAMILIES = (TeacherModel.LITE, TeacherModel.DEPTH_ANYTHING)
"""Families of models that it reads; the first is the shipped one."""

_NEAREST_M = 1e-3
"""A metric model's least depth, so that its inverse is finite."""


class DepthAnything:
    """Model of depth that gives features and relative inverse depth.

    Args:
        config: Resolution, grid and precision.
        weights: The checkpoint, of one of :data:`FAMILIES`.
    """

    multiple: int
    """Number of pixels of which the image sides must be multiples."""
    num_features: int
    """Number of channels of the fusion map."""

    def __init__(self, config: DepthAnythingConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights
        self._device, self._dtype = resolve_device(config.inference, config.precision)
        self._processor: BaseImageProcessor
        self._model: LiteTeacher | DepthAnythingForDepthEstimation
        if weights.model is TeacherModel.LITE:
            self._model = load_model(LiteTeacher, weights, device=self._device, dtype=self._dtype)
            self._processor = load_processor(BitImageProcessorPil, weights)
            self.multiple, self.num_features = LiteTeacher.multiple, self._model.config.widths[-1]
        else:
            self._model = load_model(DepthAnythingForDepthEstimation, weights, device=self._device, dtype=self._dtype)
            self._processor = load_processor(DPTImageProcessorPil, weights)
            self.multiple = square_patch_size(self._model.config.patch_size, weights)
            self.num_features = int(self._model.config.fusion_hidden_size)

    @classmethod
    def from_config(cls, config: DepthAnythingConfig) -> "DepthAnything":
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, *FAMILIES))

    @torch.inference_mode()
    def features_and_inverse_depth(
        self, images: UInt8[np.ndarray, "batch rows columns 3"]
    ) -> tuple[Float[Tensor, "batch grid_height grid_width features"], Float[Tensor, "batch grid_height grid_width"]]:
        """Return the fusion map and the inverse depth, both on the configured grid, float32 on the CPU.

        Larger is nearer. It is defined up to one scale and shift per image, unless the checkpoint's configuration says
        that it is metric: then it is in 1/metres of depth along the optical axis.
        """
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        maps, inverse_depth = self.fusion_map_and_inverse_depth(pixels)
        grid = {"height": self.config.grid_height, "width": self.config.grid_width}
        return resample(maps, **grid).permute(0, 2, 3, 1).cpu(), resample(inverse_depth[:, None], **grid)[:, 0].cpu()

    def fusion_map_and_inverse_depth(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch features _ _"], Float[Tensor, "batch _ _"]]:
        """Run the model, of Depth Anything its own backbone, neck and head, and keep the input of the head."""
        if isinstance(self._model, LiteTeacher):
            reading = self._model(pixels)
            return reading.fusion_map, reading.inverse_depth
        grid = (pixels.shape[-2] // self.multiple, pixels.shape[-1] // self.multiple)
        maps = self._model.neck(self._model.backbone(pixels).feature_maps, *grid)
        depth = self._model.head(maps, *grid)
        if self._model.config.depth_estimation_type == "metric":
            depth = 1.0 / depth.clamp_min(_NEAREST_M)
        return maps[self._model.config.head_in_index], depth
