"""What the calibration says about how far a pixel's surface is, whatever the image shows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

from student.model.backbone import LEAKY_SLOPE

_NUM_FREQUENCIES = 4
_NUM_GEOMETRY = 3
_USUAL_ANGLE = 1 / 80
"""Angle between neighbouring pixels that counts as 0, radians: that of a map of 100 columns that spans 64 degrees."""


def ray_geometry(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n height width 3"], *, near: float, far: float
) -> Float[Tensor, "n 3 height width"]:
    """Return where each ray goes, in three numbers of the order of 1.

    Args:
        origins: Camera centres in the ego frame, metres.
        directions: Unit directions in the ego frame; NaN where a pixel sees nothing.
        near: Least distance, metres.
        far: Largest distance, metres.

    Returns:
        The sine of the ray's elevation; where it meets the plane z = 0 of the ego frame, as a logarithmic share of the
        way from ``near`` to ``far``, 1 if it does not; and the logarithm of the angle to the ray of a pixel beside it,
        over a usual one. All are 0 where a pixel sees nothing.
    """
    sine = directions[..., 2]
    height = origins[:, 2, None, None].clamp(min=0)
    ground = torch.where(sine < 0, height / (-sine).clamp(min=1e-9), far).clamp(near, far)
    share = torch.log(ground / near) / math.log(far / near)
    step = (directions[:, :, 1:] - directions[:, :, :-1]).norm(dim=-1)
    after, before = pad(step, (0, 1), value=torch.nan), pad(step, (1, 0), value=torch.nan)
    angle = torch.where(torch.isfinite(after), after, before)
    geometry = torch.stack([sine, share, torch.log(angle / _USUAL_ANGLE)], dim=1)
    return torch.where(torch.isfinite(geometry).all(dim=1, keepdim=True), geometry, 0.0)


class RayEmbedding(nn.Module):
    """Tell the depth head how each pixel looks into the world.

    Of the image alone, the distance is unknown: with half the focal length the same image shows things at half the
    distance, and a higher camera sees the same ground farther away. A student of one rig learns that rig's scale by
    heart, and is wrong by the ratio on any other. The published model has no such input. The last layer starts at zero,
    so a checkpoint without it starts unchanged.

    Args:
        hidden_width: Channels between its layers.
        width: Channels of the result.
        near: Least distance, metres.
        far: Largest distance, metres.
    """

    def __init__(self, hidden_width: int, width: int, *, near: float, far: float) -> None:
        super().__init__()
        self.near, self.far = near, far
        self.hidden = nn.Conv2d(_NUM_GEOMETRY + 2 * _NUM_FREQUENCIES, hidden_width, 1)
        self.output = nn.Conv2d(hidden_width, width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n height width 3"]
    ) -> Float[Tensor, "n channels height width"]:
        """Embed rays of the ego frame, as of :func:`ray_geometry`."""
        geometry = ray_geometry(origins, directions, near=self.near, far=self.far)
        octaves = math.pi * 2.0 ** torch.arange(_NUM_FREQUENCIES, device=geometry.device, dtype=geometry.dtype)
        phase = geometry[:, 1:2] * octaves[:, None, None]
        encoded = torch.cat([geometry, phase.sin(), phase.cos()], dim=1)
        return self.output(leaky_relu(self.hidden(encoded), LEAKY_SLOPE))
