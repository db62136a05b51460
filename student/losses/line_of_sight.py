"""Line-of-sight losses: no weight before the surface, a narrow peak at it, nothing opaque behind.

The student takes them over from the scene teacher (EmerNeRF Eq. A9), with a term for what lies behind. The published
form compares a sample's weight with a Gaussian *density*; ours with the Gaussian's mass over the length
of ray that the sample stands for, so that it does not depend on how finely a ray is sampled.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from student.config import LossConfig
from student.model.types import RaySamples


def line_of_sight_epsilon(config: LossConfig, step: int) -> float:
    """Return the half width of the surface at a step, metres; it narrows linearly (EmerNeRF Sec. A.1.3)."""
    (wide, narrow), (first, last) = config.line_of_sight_epsilon, config.line_of_sight_steps
    done = min(1.0, max(0.0, (step - first) / (last - first)))
    return wide + (narrow - wide) * done


def line_of_sight_error(
    weights: Float[Tensor, "*rays bins"],
    edges: Float[Tensor, " bins+1"],
    target: Float[Tensor, "*rays"],
    *,
    epsilon: float,
) -> tuple[Tensor, int]:
    """Return the error of dense weights along rays (EmerNeRF Eq. A9), and the number of rays with a known depth.

    Args:
        weights: Probability of ending in each bin.
        edges: Bin edges, metres, ascending.
        target: Known termination depth, metres; NaN where unknown.
        epsilon: Half width of the surface, three standard deviations of the wanted peak, metres.
    """
    is_defined = torch.isfinite(target)
    chosen, depth = weights[is_defined], target[is_defined]
    middle = (edges[1:] + edges[:-1]) / 2
    error = _error(chosen, middle - depth[:, None], (edges[1:] - edges[:-1]).expand_as(chosen), epsilon)
    return error, int(is_defined.sum())


def sample_line_of_sight_error(
    samples: RaySamples, target: Float[Tensor, "*rays"], *, epsilon: float
) -> tuple[Tensor, int]:
    """Return the error of a renderer's samples (EmerNeRF Eq. A9), and the number on rays with a known depth.

    Samples in empty space are not listed. So the loss can take weight away before a surface, and cannot create it
    there.
    """
    depth = target.flatten()[samples.ray_index]
    is_defined = torch.isfinite(depth)
    offsets = samples.distances[is_defined] - depth[is_defined]
    error = _error(samples.weights[is_defined], offsets, samples.lengths[is_defined], epsilon)
    return error, int(is_defined.sum())


def _error(
    weights: Float[Tensor, "*n"], offsets: Float[Tensor, "*n"], lengths: Float[Tensor, "*n"], epsilon: float
) -> Tensor:
    is_before, is_behind = offsets < -epsilon, offsets > epsilon
    is_near = ~(is_before | is_behind)
    spread = epsilon / 3 * math.sqrt(2.0)
    wanted = 0.5 * (torch.erf((offsets + lengths / 2) / spread) - torch.erf((offsets - lengths / 2) / spread))
    parts = (weights[is_before].square(), (weights - wanted)[is_near].square(), weights[is_behind].square())
    return torch.stack([part.sum() / max(part.numel(), 1) for part in parts]).sum()
