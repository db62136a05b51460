"""What the features of a grid say without the other grid: a density, and a first guess of colour."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from teachers.nerf.config import FieldConfig
from teachers.nerf.perceptron import perceptron

_DENSITY_GAIN = 2.0
"""Factor on the sum of density channels, so that Adam's fixed step crosses the decades of density soon."""


class GridHead(nn.Module):
    """Density and first guess of colour from interpolated features.

    With ``density_channels``, the first channels of every level give the density and the last three are added up to a
    guess of colour; without, all channels give the density and there is no guess.

    Args:
        config: Sizes of the field.
        num_levels: Levels of the grid.
    """

    def __init__(self, config: FieldConfig, num_levels: int) -> None:
        super().__init__()
        self.num_levels, self.channels, self.of_density = num_levels, config.features_per_level, config.density_channels
        self.network = perceptron(num_levels * (self.of_density or self.channels), config.hidden_width, 1)

    def log_density(self, features: Float[Tensor, "points width"]) -> Float[Tensor, "points 1"]:
        """Return the natural logarithm of density, over that of an untrained static branch."""
        if not self.of_density:
            return self.network(features)
        chosen = features.view(-1, self.num_levels, self.channels)[:, :, : self.of_density]
        return self.network(chosen.flatten(1)) + _DENSITY_GAIN * chosen.sum(dim=(1, 2))[:, None]

    def colour_guess(self, features: Float[Tensor, "points width"]) -> Float[Tensor, "points 3"]:
        """Return the guess before the sigmoid; zero where all channels give the density.

        It is linear in the features: of composited features it is the composited guess.
        """
        if not self.of_density:
            return torch.zeros_like(features[:, :1]).expand(-1, 3)
        return features.view(-1, self.num_levels, self.channels)[:, :, -3:].sum(dim=1)
