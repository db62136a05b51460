"""What moves: a grid of space per frame, read at any instant through the frames beside it.

EmerNeRF's dynamic grid is of space and time (EmerNeRF Eq. 1). At the two frames a second of keyframes nothing that
moves overlaps with itself from one to the next, so here time is a slice of the grid for each frame, and what lies
between slices follows from them:

* Without a flow field, an instant between fitted frames has the features of both at the same place, by their distance
  in time. What stands or creeps is kept; what has passed is in one of them only, and fades.
* With a flow field, every instant also has the features of its fitted neighbours *where the flow leads*: at a fitted
  frame they are averaged with its own (EmerNeRF Eq. 8), between fitted frames they stand for it.

The flow field gives velocities, metres per second, so that neighbours may be any time away (EmerNeRF Eq. 7).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from teachers.nerf.config import FieldConfig
from teachers.nerf.contraction import contract
from teachers.nerf.encoding import GridEncoding, geometric_resolutions
from teachers.nerf.frame_times import FittedNeighbours, FrameTimes
from teachers.nerf.grid_head import GridHead
from teachers.nerf.moving_region import MovingRegion
from teachers.nerf.perceptron import perceptron
from teachers.nerf.scene_rays import SceneBounds

_INITIAL_LOG_DENSITY = -1.0
"""Log of the density before training, over that of the static branch: emptier at first."""

_INITIAL_SHADOW_LOGIT = -4.0
"""Logit of the shadow ratio before training: as good as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Velocities:
    """Flow of points, metres per second, world axes.

    Attributes:
        forward: Towards where they are next.
        backward: Towards where they were before.
    """

    forward: Float[Tensor, "points 3"]
    backward: Float[Tensor, "points 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSamples:
    """What the dynamic branch says of points at instants.

    Attributes:
        log_density: Natural logarithm of the density over that of an untrained static branch; minus infinity where
            nothing may move. Features, shadow and error are zero there.
        features: Aggregated over time.
        shadow: Ratio of the light that is taken from what stands still there, [0, 1]; None without shadows.
        cycle_error: Mean square, over space, of forward flow plus the backward flow where it leads, square metres; None
            without flow.
    """

    log_density: Float[Tensor, "points 1"]
    features: Float[Tensor, "points width"]
    shadow: Float[Tensor, "points 1"] | None
    cycle_error: Float[Tensor, " points"] | None


class DynamicBranch(nn.Module):
    """Density, features and shadow of what moves, at any instant; the shadow follows from features (EmerNeRF Eq. 3).

    Args:
        config: Sizes, and which parts there are.
        bounds: The scene's box.
        times: When the frames were, and which are fitted.
    """

    def __init__(self, config: FieldConfig, bounds: SceneBounds, times: FrameTimes) -> None:
        super().__init__()
        self.metres_per_unit = bounds.metres_per_unit
        self.half_extent: Tensor
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.times = times
        self.region = MovingRegion(bounds, len(times.seconds))
        self.grid = _grid(config, bounds, scale=1.0)
        self.output_width = self.grid.output_width
        self.head = GridHead(config, config.dynamic_levels)
        self.shadow_network = perceptron(self.output_width, config.hidden_width, 1) if config.shadow else None
        self.flow = FlowField(config, bounds) if config.flow else None

    def forward(self, positions: Float[Tensor, "points 3"], instants: Float[Tensor, " points"]) -> DynamicSamples:
        """Return what is at positions (scene units) at instants (frames)."""
        if not bool(self.region.is_confined):
            return self.anywhere(positions, instants)
        chosen = torch.nonzero(self.region(positions, instants))[:, 0]
        found = self.anywhere(positions[chosen], instants[chosen])

        def spread(values: Tensor, elsewhere: float = 0.0) -> Tensor:
            return values.new_full((len(positions), *values.shape[1:]), elsewhere).index_copy(0, chosen, values)

        return DynamicSamples(
            log_density=spread(found.log_density, -math.inf),
            features=spread(found.features),
            shadow=None if found.shadow is None else spread(found.shadow),
            cycle_error=None if found.cycle_error is None else spread(found.cycle_error),
        )

    def anywhere(self, positions: Float[Tensor, "points 3"], instants: Float[Tensor, " points"]) -> DynamicSamples:
        """Return the same, whether something may move there or not."""
        near = self.times.neighbours(instants)
        own = instants.round().to(torch.int32)
        velocities = None if self.flow is None else self.flow(self.unit_cube(positions), instants)
        features = self._features(positions, own, near, velocities)
        shadow = None
        if self.shadow_network is not None:
            shadow = torch.sigmoid(self.shadow_network(features) + _INITIAL_SHADOW_LOGIT)
        return DynamicSamples(
            log_density=self.head.log_density(features) + _INITIAL_LOG_DENSITY,
            features=features,
            shadow=shadow,
            cycle_error=None if velocities is None else self.cycle_error(positions, near, velocities),
        )

    def _features(
        self,
        positions: Float[Tensor, "points 3"],
        own: Int32[Tensor, " points"],
        near: FittedNeighbours,
        velocities: Velocities | None,
    ) -> Float[Tensor, "points width"]:
        """Return features aggregated over time (EmerNeRF Eq. 8)."""
        if velocities is None and bool(near.is_fitted.all()):
            return self.grid(self.unit_cube(positions), own)
        before = self._slice(positions, near.previous, velocities and velocities.backward, near.seconds_since_previous)
        after = self._slice(positions, near.next, velocities and velocities.forward, near.seconds_to_next)
        between = torch.lerp(before, after, near.next_share()[:, None])
        if not bool(near.is_fitted.any()):
            return between
        now = self.grid(self.unit_cube(positions), own)
        at_fitted = now if velocities is None else 0.5 * now + 0.25 * (before + after)
        return torch.where(near.is_fitted[:, None], at_fitted, between)

    def _slice(
        self,
        positions: Float[Tensor, "points 3"],
        frame: Int64[Tensor, " points"],
        velocity: Float[Tensor, "points 3"] | None,
        seconds: Float[Tensor, " points"],
    ) -> Float[Tensor, "points width"]:
        moved = positions if velocity is None else self._moved(positions, velocity, seconds)
        return self.grid(self.unit_cube(moved), frame.to(torch.int32))

    def _moved(
        self, positions: Float[Tensor, "points 3"], velocity: Float[Tensor, "points 3"], seconds: Float[Tensor, " _"]
    ) -> Float[Tensor, "points 3"]:
        return positions + velocity * (seconds / self.metres_per_unit)[:, None]

    def cycle_error(
        self, positions: Float[Tensor, "points 3"], near: FittedNeighbours, velocities: Velocities
    ) -> Float[Tensor, " points"]:
        """Return by how much going to the next fitted frame and back misses, square metres (EmerNeRF Eq. A6)."""
        assert self.flow is not None
        seconds = near.seconds_to_next[:, None]
        there = self._moved(positions, velocities.forward, near.seconds_to_next)
        back = self.flow(self.unit_cube(there), near.next.to(positions.dtype)).backward
        return ((velocities.forward + back) * seconds).square().mean(dim=-1)

    def unit_cube(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return where positions in scene units lie in the grids' unit cube."""
        return 0.25 * (contract(positions / self.half_extent) + 2.0)


class FlowField(nn.Module):
    """Velocities of points at instants, from a grid of its own with a slice per frame (EmerNeRF Eq. 7).

    Between frames they are interpolated in time.

    Args:
        config: Sizes.
        bounds: The scene's box.
    """

    def __init__(self, config: FieldConfig, bounds: SceneBounds) -> None:
        super().__init__()
        self.grid = _grid(config, bounds, scale=2.0)
        self.network = perceptron(self.grid.output_width, config.hidden_width, 6)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, unit_cube: Float[Tensor, "points 3"], instants: Float[Tensor, " points"]) -> Velocities:
        """Return the flow of points of the unit cube at instants (frames)."""
        below = instants.floor()
        share = (instants - below)[:, None]
        raw = self.network(self.grid(unit_cube, below.to(torch.int32)))
        if bool(share.any()):
            raw = torch.lerp(raw, self.network(self.grid(unit_cube, below.to(torch.int32) + 1)), share)
        return Velocities(forward=raw[:, :3], backward=raw[:, 3:])


def _grid(config: FieldConfig, bounds: SceneBounds, *, scale: float) -> GridEncoding:
    return GridEncoding(
        geometric_resolutions(
            bounds.half_extent_m,
            coarsest_cell_m=scale * config.dynamic_coarsest_cell_m,
            finest_cell_m=scale * config.dynamic_cell_m,
            num_levels=config.dynamic_levels,
        ),
        features_per_level=config.features_per_level,
        log2_table_size=config.dynamic_log2_table_size,
        gradient=config.grid_gradient,
    )
