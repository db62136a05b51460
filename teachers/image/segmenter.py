"""Common part of all sky segmenters."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from teachers.config import SkyConfig
from teachers.image.weights import TeacherModel, WeightsFolder, resolve_weights

Model = TypeVar("Model", bound="Segmenter")


class Segmenter(ABC):
    """Model that tells the sky from everything else.

    Args:
        config: Resolution, grid and precision.
        weights: The checkpoint.
    """

    teacher_model: ClassVar[TeacherModel]
    multiple: ClassVar[int]
    """Number of pixels of which the image sides must be multiples."""

    def __init__(self, config: SkyConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights

    @classmethod
    def from_config(cls: type[Model], config: SkyConfig) -> Model:
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, cls.teacher_model))

    @abstractmethod
    def sky_probability(self, images: UInt8[np.ndarray, "batch rows columns 3"]) -> Float[Tensor, "batch height width"]:
        """Return the probability of sky on the configured grid, in [0, 1], float32 on the CPU."""
