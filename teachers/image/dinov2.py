"""DINOv2 patch features: the normalised patch tokens of the last layer."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import BitImageProcessorPil, Dinov2Model

from teachers.config import PatchFeatureConfig
from teachers.image.image_batches import normalise
from teachers.image.patch_features import PatchFeatureModel
from teachers.image.weights import TeacherModel, WeightsFolder, load_model, square_patch_size


class Dinov2Features(PatchFeatureModel):
    """DINOv2 model that gives one feature vector per patch.

    Args:
        config: Resolution and precision.
        weights: The checkpoint.
    """

    feature_source = "dinov2"
    teacher_model = TeacherModel.DINOV2

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        super().__init__(config, weights)
        self._model = load_model(Dinov2Model, weights, device=self._device, dtype=self._dtype)
        self._processor = BitImageProcessorPil.from_pretrained(weights.path, local_files_only=True)

    @property
    def multiple(self) -> int:
        """Return the patch size, pixels."""
        return square_patch_size(self._model.config.patch_size, self.weights)

    @property
    def num_features(self) -> int:
        """Return the length of a feature vector."""
        return int(self._model.config.hidden_size)

    @torch.inference_mode()
    def dense_features(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the features of every patch, float32 on the CPU. The images' sides are multiples of the patch size."""
        pixels = normalise(self._processor, images).to(self._device, self._dtype)
        tokens = self._model(pixels).last_hidden_state[:, 1:].float()
        rows, columns = (side // self.multiple for side in pixels.shape[-2:])
        return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2).cpu()
