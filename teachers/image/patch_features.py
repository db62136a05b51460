"""Common part of all models that give one feature vector per patch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from storage.kinds import FeatureSource
from teachers.config import PatchFeatureConfig
from teachers.image.image_batches import resolve_device
from teachers.image.weights import TeacherModel, WeightsFolder, resolve_weights

Model = TypeVar("Model", bound="PatchFeatureModel")


class PatchFeatureModel(ABC):
    """Foundation model that gives one feature vector per patch.

    Args:
        config: Resolution and precision.
        weights: The checkpoint.
    """

    feature_source: ClassVar[FeatureSource]
    teacher_model: ClassVar[TeacherModel]

    def __init__(self, config: PatchFeatureConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights
        self._device, self._dtype = resolve_device(config.inference, config.precision)

    @classmethod
    def from_config(cls: type[Model], config: PatchFeatureConfig) -> Model:
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, cls.teacher_model))

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
    def dense_features(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[Tensor, "batch features patch_rows patch_columns"]:
        """Return the features of every patch, float32 on the CPU. The images' sides are multiples of the patch size."""
