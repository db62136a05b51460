"""Common part of all sky segmenters."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from teachers.config import SkyConfig
from teachers.image.weights import TeacherModel, WeightsFolder, resolve_weights

Model = TypeVar("Model", bound="Segmenter")


class SkyReading(NamedTuple):
    """What a segmenter says about a batch, on the configured grid, on the CPU.

    Attributes:
        probability: Probability of sky, in [0, 1], float32.
        is_sky: The mask.
        semantics: Index of the most probable label; None unless the configuration asks for it.
    """

    probability: Float[Tensor, "batch height width"]
    is_sky: Bool[Tensor, "batch height width"]
    semantics: UInt8[Tensor, "batch height width"] | None = None


class Segmenter(ABC):
    """Model that tells the sky from everything else.

    Args:
        config: Resolution, grid and precision.
        weights: The checkpoint.
    """

    families: ClassVar[tuple[TeacherModel, ...]]
    """Families of models that it reads; the first is the shipped one, if there is any."""
    labels: tuple[str, ...]
    """Names of the model's labels, in order."""
    multiple: ClassVar[int]
    """Number of pixels of which the image sides must be multiples."""

    def __init__(self, config: SkyConfig, weights: WeightsFolder) -> None:
        self.config, self.weights = config, weights

    @classmethod
    def from_config(cls: type[Model], config: SkyConfig) -> Model:
        """Resolve the weights and load the model."""
        return cls(config, resolve_weights(config.weights, *cls.families))

    @abstractmethod
    def sky(self, images: UInt8[np.ndarray, "batch rows columns 3"]) -> SkyReading:
        """Return where images show sky."""
