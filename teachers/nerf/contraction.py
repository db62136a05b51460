"""Unbounded space in a bounded grid: linear inside the scene's box, projective outside it.

This is the contraction of (mip-NeRF 360 Eq. 10) with the infinity norm, as the scene teacher has it
(EmerNeRF Sec. A.1.2). The box maps to the cube [-1, 1]^3 unchanged, so grid cells keep one metric size where LiDAR has
seen. The rest of the world goes to [-2, 2]^3.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def contract(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Map points, in units of the box's half-extents from its centre, into the open cube (-2, 2)^3.

    This is (mip-NeRF 360 Eq. 10) with the infinity norm.
    """
    x, y, z = points.abs().unbind(dim=-1)  # a reduction over an axis of three is several times slower
    norm = torch.maximum(torch.maximum(x, y), z).clamp_min(1.0)[..., None]
    return points * ((2.0 - 1.0 / norm) / norm)
