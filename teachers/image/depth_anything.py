"""Depth Anything, version 1 and 2, relative and metric: the last fusion map of its neck, and its inverse depth.

The student takes the map before the two output convolutions. It holds the model's geometry at eight times the patch
grid, before it is reduced to one unscaled number per pixel.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessorPil

from teachers.config import DepthAnythingConfig
from teachers.image.image_batches import normalise, resample, resolve_device
from teachers.image.weights import (
    TeacherModel,
    WeightsFolder,
    load_model,
    load_processor,
    resolve_weights,
    square_patch_size,
)

_NEAREST_M = 1e-3
"""A metric model's least depth, so that its inverse is finite."""


class DepthAnything:
    """Depth Anything model that gives features and relative inverse depth.

    Args:
        config: Resolution, grid and precision.
        weights: The checkpoint.
    """

    def __init__(self, config: DepthAnythingConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights
        self._device, self._dtype = resolve_device(config.inference, config.precision)
        self._model = load_model(DepthAnythingForDepthEstimation, weights, device=self._device, dtype=self._dtype)
        self._processor = load_processor(DPTImageProcessorPil, weights)

    @classmethod
    def from_config(cls, config: DepthAnythingConfig) -> "DepthAnything":
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, TeacherModel.DEPTH_ANYTHING))

    @property
    def multiple(self) -> int:
        """Return the patch size, pixels."""
        return square_patch_size(self._model.config.patch_size, self.weights)

    @property
    def num_features(self) -> int:
        """Return the number of channels of the fusion map."""
        return int(self._model.config.fusion_hidden_size)

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
    ) -> tuple[Float[Tensor, "batch features _ _"], Float[Tensor, "batch height width"]]:
        """Run the model's own backbone, neck and head, and keep the input of the head.

        It holds the model's geometry before it becomes one number per pixel.
        """
        grid = (pixels.shape[-2] // self.multiple, pixels.shape[-1] // self.multiple)
        maps = self._model.neck(self._model.backbone(pixels).feature_maps, *grid)
        depth = self._model.head(maps, *grid)
        if self._model.config.depth_estimation_type == "metric":
            depth = 1.0 / depth.clamp_min(_NEAREST_M)
        return maps[self._model.config.head_in_index], depth
