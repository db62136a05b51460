"""Tell moving LiDAR returns from standing ones, without labels: what is solid now was seen through before or after.

Every beam proves that the space before its return was empty at that instant. A return whose place other frames saw
through, more often than they saw it solid, belongs to something that moves. This is the map cleaning of LiDAR
mapping, on a voxel grid, and tells the field which returns its static part must not explain.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64

_VOXEL_M = 0.4
_STEP_M = 0.35
_CLEARANCE_M = 1.2
"""A beam proves emptiness up to so far before its return: grazing beams and pose errors need the room."""

_GROUND_CELL_M = 2.0
_MIN_HEIGHT_M = 0.8
"""Ground is grazed by beams on their way further: what is not higher above it is never taken to move."""

_MAX_RANGE_M = 60.0


def find_moving_returns(
    origins: list[Float[np.ndarray, "3"]], points: list[Float[np.ndarray, "_ 3"]]
) -> list[Bool[np.ndarray, " _"]]:
    """Return, per frame, which returns belong to something that moves.

    Args:
        origins: Position of the LiDAR in world at each frame, metres.
        points: Returns in world, metres.
    """
    low, high = np.min(origins, axis=0) - _MAX_RANGE_M, np.max(origins, axis=0) + _MAX_RANGE_M
    low[2], high[2] = np.min(origins, axis=0)[2] - 4.0, np.max(origins, axis=0)[2] + 6.0
    grid = _VoxelGrid(low, high)
    was_free = np.zeros((len(points), grid.size), bool)
    was_hit = np.zeros((len(points), grid.size), bool)
    for frame, (origin, returns) in enumerate(zip(origins, points, strict=True)):
        was_free[frame, grid.cells(_samples_before(origin, returns))] = True
        was_hit[frame, grid.cells(returns)] = True
    num_free, num_hit = was_free.sum(axis=0, dtype=np.int16), was_hit.sum(axis=0, dtype=np.int16)
    is_low = _LowPoints(points)
    moving = []
    for frame, returns in enumerate(points):
        cell, inside = grid.cells_and_validity(returns)
        free_elsewhen = num_free[cell] - was_free[frame, cell]
        hit_elsewhen = num_hit[cell] - was_hit[frame, cell]
        moves = inside & (free_elsewhen >= 2) & (free_elsewhen >= 2 * hit_elsewhen) & ~was_free[frame, cell]
        moving.append(moves & ~is_low(returns))
    return moving


class _VoxelGrid:
    def __init__(self, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> None:
        self.low = low
        self.shape = np.ceil((high - low) / _VOXEL_M).astype(np.int64)
        self.size = int(self.shape.prod())

    def cells_and_validity(
        self, points: Float[np.ndarray, "points 3"]
    ) -> tuple[Int64[np.ndarray, " points"], Bool[np.ndarray, " points"]]:
        index = np.floor((points - self.low) / _VOXEL_M).astype(np.int64)
        inside = ((index >= 0) & (index < self.shape)).all(axis=-1)
        index[~inside] = 0
        return (index[:, 0] * self.shape[1] + index[:, 1]) * self.shape[2] + index[:, 2], inside

    def cells(self, points: Float[np.ndarray, "points 3"]) -> Int64[np.ndarray, " cells"]:
        cell, inside = self.cells_and_validity(points)
        return cell[inside]


def _samples_before(
    origin: Float[np.ndarray, "3"], returns: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "samples 3"]:
    """Return points along each beam, up to a clearance before its return."""
    offset = returns - origin
    distance = np.linalg.norm(offset, axis=-1)
    count = np.clip((np.minimum(distance, _MAX_RANGE_M) - _CLEARANCE_M) / _STEP_M, 0, None).astype(np.int64)
    beam = np.repeat(np.arange(len(returns)), count)
    rank = np.arange(len(beam)) - np.repeat(np.cumsum(count) - count, count)
    return origin + offset[beam] * ((rank + 1) * _STEP_M / distance[beam])[:, None]


class _LowPoints:
    """Whether points lie near the ground: within a hand of the lowest return of their column over all frames."""

    def __init__(self, points: list[Float[np.ndarray, "_ 3"]]) -> None:
        everything = np.concatenate(points)
        self.low = everything[:, :2].min(axis=0)
        self.shape = np.floor((everything[:, :2].max(axis=0) - self.low) / _GROUND_CELL_M).astype(np.int64) + 1
        self.ground = np.full(int(self.shape.prod()), np.inf)
        np.minimum.at(self.ground, self._columns(everything), everything[:, 2])

    def _columns(self, points: Float[np.ndarray, "points 3"]) -> Int64[np.ndarray, " points"]:
        index = np.floor((points[:, :2] - self.low) / _GROUND_CELL_M).astype(np.int64)
        return index[:, 0] * self.shape[1] + index[:, 1]

    def __call__(self, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
        return points[:, 2] < self.ground[self._columns(points)] + _MIN_HEIGHT_M
