"""Points of a scene whose motion is known, for the flow field to learn from."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingPoints:
    """Points at instants, and how they move.

    Attributes:
        positions: Scene units.
        instants: Frames; see ``teachers.nerf.frame_times``.
        forward: Velocity towards where each point is next, metres per second, world axes; NaN where unknown.
        backward: The same towards where it was before.
    """

    positions: Float[Tensor, "points 3"]
    instants: Float[Tensor, " points"]
    forward: Float[Tensor, "points 3"]
    backward: Float[Tensor, "points 3"]

    def __len__(self) -> int:
        return len(self.positions)

    def draw(self, generator: torch.Generator, count: int) -> "MovingPoints":
        """Draw points uniformly, with replacement."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        return MovingPoints(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def to(self, device: torch.device | str) -> "MovingPoints":
        """Return the points on a device."""
        return MovingPoints(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})
