"""Tell moving LiDAR returns from standing ones, without labels: what is solid now was seen through before or after.

Every beam proves that the space before its return was empty at that instant. A return whose place other frames saw
through, more often than they saw it solid, belongs to something that moves. This is the map cleaning of LiDAR
mapping, on a voxel grid, and tells the field which returns its static part must not explain.

Recordings are less exact than that sounds, and each limit below stands for a way in which votes went wrong on nuScenes:
poses wander by one or two metres over a scene, so only frames near in time may testify; reflections below the road pull
the lowest return of a column down, so the ground is a low percentile; the vehicle sees itself; and hedges and railings
let some beams through, so a vote counts where most of its surroundings agree.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

_VOXEL_M = 0.4
_STEP_M = 0.35
_CLEARANCE_M = 1.2
"""A beam proves emptiness up to so far before its return: grazing beams and pose errors need the room."""

_WINDOW = 4
"""Frames on either side that testify."""

_APART_S = 0.4
"""Frames that testify are so far apart in time: at 10 Hz, a car that creeps is still where it was four frames ago."""

_MIN_FREE = 2
"""Frames that must have seen through the place of a return that moves."""

_FREE_PER_HIT = 3
"""So many times as many frames must have seen through it as saw it solid."""

_GROUND_CELL_M = 2.0
_GROUND_QUANTILE = 0.1
_MIN_HEIGHT_M = 0.5
"""Ground is grazed by beams on their way further: what is not higher above it is never taken to move."""

_OWN_VEHICLE_M = 2.5
_MAX_RANGE_M = 60.0

_CLUSTER_CELL_M = 2.0
_MIN_CLUSTER = 10
_MIN_CLUSTER_SHARE = 0.5
"""In a cell with fewer votes, or a smaller share of them among its returns above ground, nothing moves."""


def find_moving_returns(
    origins: Sequence[Float[np.ndarray, "3"]],
    points: Sequence[Float[np.ndarray, "_ 3"]],
    seconds: Sequence[float],
) -> list[Bool[np.ndarray, " _"]]:
    """Return, per frame, which returns belong to something that moves.

    Args:
        origins: Position of the LiDAR in world at each frame, metres.
        points: Returns in world, metres. A recording without LiDAR has none.
        seconds: Time of each frame, ascending.
    """
    if not any(map(len, points)):
        return [np.zeros(0, bool) for _ in points]
    low, high = np.min(origins, axis=0) - _MAX_RANGE_M, np.max(origins, axis=0) + _MAX_RANGE_M
    low[2], high[2] = np.min(origins, axis=0)[2] - 4.0, np.max(origins, axis=0)[2] + 6.0
    grid = _VoxelGrid(low, high)
    was_free = np.zeros((len(points), grid.size), bool)
    was_hit = np.zeros((len(points), grid.size), bool)
    for frame, (origin, returns) in enumerate(zip(origins, points, strict=True)):
        was_free[frame, grid.cells(_samples_before(origin, returns))] = True
        was_hit[frame, grid.cells(returns)] = True
    is_low = _LowPoints(points)
    moving = []
    for frame, (origin, returns) in enumerate(zip(origins, points, strict=True)):
        cell, inside = grid.cells_and_validity(returns)
        witnesses = _witnesses(seconds, frame)
        num_free, num_hit = (sum(was[f, cell].astype(np.int16) for f in witnesses) for was in (was_free, was_hit))
        votes = inside & (num_free >= _MIN_FREE) & (num_free >= _FREE_PER_HIT * num_hit) & ~was_free[frame, cell]
        is_candidate = ~is_low(returns) & (np.linalg.norm(returns - origin, axis=-1) > _OWN_VEHICLE_M)
        moving.append(_agreed(returns, votes & is_candidate, is_candidate))
    return moving


def _witnesses(seconds: Sequence[float], frame: int) -> list[int]:
    """Return the frames that testify about one: the nearest on either side that are far enough apart in time."""
    chosen = []
    for side in (range(frame - 1, -1, -1), range(frame + 1, len(seconds))):
        last, found = seconds[frame], []
        for other in side:
            if len(found) < _WINDOW and abs(seconds[other] - last) >= _APART_S:
                last = seconds[other]
                found.append(other)
        chosen += found
    return sorted(chosen)


def _agreed(
    points: Float[np.ndarray, "points 3"], votes: Bool[np.ndarray, " points"], is_candidate: Bool[np.ndarray, " points"]
) -> Bool[np.ndarray, " points"]:
    """Return the votes that most candidates of their cell share."""
    _, cell = np.unique(np.floor(points / _CLUSTER_CELL_M), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    num_votes, num_candidates = np.bincount(cell, votes), np.bincount(cell, is_candidate)
    agrees = (num_votes >= _MIN_CLUSTER) & (num_votes >= _MIN_CLUSTER_SHARE * num_candidates)
    return votes & agrees[cell]


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
    """Whether points lie near the ground: within a hand of a low percentile of their column over all frames."""

    def __init__(self, points: Sequence[Float[np.ndarray, "_ 3"]]) -> None:
        everything = np.concatenate(points)
        self.low = everything[:, :2].min(axis=0)
        self.shape = np.floor((everything[:, :2].max(axis=0) - self.low) / _GROUND_CELL_M).astype(np.int64) + 1
        column = self._columns(everything)
        rising = np.lexsort((everything[:, 2], column))
        columns, start, count = np.unique(column[rising], return_index=True, return_counts=True)
        self.ground = np.full(int(self.shape.prod()), np.inf)
        self.ground[columns] = everything[rising[start + (_GROUND_QUANTILE * count).astype(np.int64)], 2]

    def _columns(self, points: Float[np.ndarray, "points 3"]) -> Int64[np.ndarray, " points"]:
        index = np.floor((points[:, :2] - self.low) / _GROUND_CELL_M).astype(np.int64)
        return index[:, 0] * self.shape[1] + index[:, 1]

    def __call__(self, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
        return points[:, 2] < self.ground[self._columns(points)] + _MIN_HEIGHT_M
