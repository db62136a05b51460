"""Continuous time over the frames of a scene: which fitted frames an instant lies between, and how far from each.

Instants are given in *frames*: 3.0 is frame 3, 3.25 a quarter of the way to frame 4. Frames need not be equally long,
so distances are in seconds, from the recording's timestamps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNeighbours:
    """The fitted frames around instants.

    Attributes:
        is_fitted: Whether the instant is a fitted frame itself; its neighbours are then the fitted frames beside it.
        previous: The fitted frame before; the first after it where there is none.
        next: The fitted frame after; the last before it where there is none.
        seconds_since_previous: Negative where ``previous`` lies after the instant.
        seconds_to_next: Negative where ``next`` lies before the instant.
    """

    is_fitted: Bool[Tensor, " points"]
    previous: Int64[Tensor, " points"]
    next: Int64[Tensor, " points"]
    seconds_since_previous: Float[Tensor, " points"]
    seconds_to_next: Float[Tensor, " points"]

    def next_share(self) -> Float[Tensor, " points"]:
        """Return the weight of ``next`` when the two are interpolated in time; ``previous`` has the rest."""
        span = self.seconds_since_previous + self.seconds_to_next
        share = self.seconds_since_previous / torch.where(span > 0, span, torch.ones_like(span))
        return torch.where(span > 0, share, torch.full_like(share, 0.5)).clamp(0.0, 1.0)


class FrameTimes(nn.Module):
    """When the frames of a scene were, and which of them the field is fitted to; both are stored with the field.

    Args:
        seconds: Time of each frame, strictly increasing.
        fitted_frames: Frames that the field is fitted to.
    """

    def __init__(self, seconds: Sequence[float], fitted_frames: Sequence[int]) -> None:
        super().__init__()
        self.seconds: Tensor
        self.is_fitted: Tensor
        self.register_buffer("seconds", torch.tensor(seconds, dtype=torch.float32))
        self.register_buffer("is_fitted", torch.zeros(len(seconds), dtype=torch.bool))
        self.set_fitted(fitted_frames)

    def set_fitted(self, frames: Sequence[int]) -> None:
        """Say which frames the field is fitted to from now on."""
        self.is_fitted.zero_()
        self.is_fitted[list(frames)] = True

    def seconds_at(self, instants: Float[Tensor, " points"]) -> Float[Tensor, " points"]:
        """Return instants in seconds."""
        below = instants.floor().long().clamp(0, len(self.seconds) - 1)
        above = (below + 1).clamp_max(len(self.seconds) - 1)
        return torch.lerp(self.seconds[below], self.seconds[above], instants - below)

    def neighbours(self, instants: Float[Tensor, " points"]) -> FittedNeighbours:
        """Return the fitted frames around instants.

        Raises:
            ValueError: If no frame is fitted.
        """
        fitted = torch.nonzero(self.is_fitted)[:, 0]
        if len(fitted) == 0:
            raise ValueError("no frame is fitted, want at least one: the dynamic branch knows no other instants")
        last = len(fitted) - 1
        at = instants.contiguous()
        below = torch.searchsorted(fitted.to(at.dtype), at) - 1
        above = torch.searchsorted(fitted.to(at.dtype), at, right=True)
        previous, following = fitted[below.clamp_min(0)], fitted[above.clamp_max(last)]
        # At either end of the recording, and with a single fitted frame, one side stands for both.
        previous = torch.where(below >= 0, previous, following)
        following = torch.where(above <= last, following, previous)
        seconds = self.seconds_at(instants)
        nearest = instants.round().long().clamp(0, len(self.seconds) - 1)
        return FittedNeighbours(
            is_fitted=(instants == nearest) & self.is_fitted[nearest],
            previous=previous,
            next=following,
            seconds_since_previous=seconds - self.seconds[previous],
            seconds_to_next=self.seconds[following] - seconds,
        )
