"""Check that the poses of a scene bring its LiDAR sweeps together, better than other poses would.

The others are no motion at all, as when the points are already in the world frame, and motions half and one and a half
times as far. What is right beyond chance is judged over pairs of sweeps of the very scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from scipy.stats import t as student_t

from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader

_SHARE = 0.25  # of the surfaces, those that fit best
_NUM_ON_SURFACE = 8  # points that a surface is fitted to
_MIN_STANDING, _MIN_FACING = 100, 50  # points of a sweep; fewer say nothing
_MIN_PAIRS = 3
_RISK = 0.002
_WRONG = 0.5
_OTHERS = {"without poses": 0.0, "half as far": 0.5, "one and a half times as far": 1.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFit:
    """How well poses bring sweeps together.

    Attributes:
        other: The other poses that come closest to the stated ones, or are better.
        at_least: Distance between sweeps with those, over that with the stated poses, less what may be chance.
        at_most: The same, more what may be chance; both NaN where too little was seen.
        num_pairs: Pairs of sweeps that were compared.
    """

    other: str
    at_least: float
    at_most: float
    num_pairs: int

    @property
    def is_wrong(self) -> bool:
        """Return whether other poses bring sweeps much closer together: the beams of a smooth hull do so by a third."""
        return self.at_most < _WRONG


def align_sweeps(reader: SceneReader, frames: Sequence[int], *, min_travel_m: float = 1.0) -> SweepFit:
    """Compare sweeps brought together by the stated poses and by others.

    Only surfaces that face the way of travel are compared: walls along it look the same a few metres on, so their
    points lie closer together *without* poses. The distance is that of the quarter that fits best, which leaves out
    moving things.

    Args:
        reader: The scene.
        frames: Frames whose sweeps are compared, each with that of the first later frame that is far enough.
        min_travel_m: Shortest travel between two sweeps that are compared, metres.
    """
    ratios: dict[str, list[float]] = {name: [] for name in _OTHERS}
    for frame in frames:
        other = _far_enough(reader, frame, min_travel_m)
        if other is None:
            continue
        motion = invert_se3(reader.ego_to_world(frame)) @ reader.ego_to_world(other)
        travel = float(np.linalg.norm(motion[:3, 3]))
        here, there = _standing(reader, frame), _standing(reader, other)
        if min(len(here), len(there)) < _MIN_STANDING:
            continue
        facing = there[_faces(there, motion[:3, :3].T @ motion[:3, 3] / travel)]
        if len(facing) < _MIN_FACING:
            continue
        tree = KDTree(here)
        stated = _apart(tree, apply_se3(motion, facing))
        for name, share in _OTHERS.items():
            changed = motion.copy()
            changed[:3, 3] *= share
            moved = facing if share == 0.0 else apply_se3(changed, facing)
            ratios[name].append(math.log(_apart(tree, moved) / stated))
    bounds = {name: _bounds(np.array(logs)) for name, logs in ratios.items()}
    number = len(next(iter(ratios.values())))
    if number < _MIN_PAIRS:
        return SweepFit(other="", at_least=math.nan, at_most=math.nan, num_pairs=number)
    worst = min(bounds, key=lambda name: bounds[name][1])
    least = min(low for low, _ in bounds.values())
    return SweepFit(other=worst, at_least=least, at_most=bounds[worst][1], num_pairs=number)


def _far_enough(reader: SceneReader, frame: int, travel_m: float) -> int | None:
    here = reader.ego_to_world(frame)[:3, 3]
    for other in range(frame + 1, reader.num_frames):
        if np.linalg.norm(reader.ego_to_world(other)[:3, 3] - here) >= travel_m:
            return other
    return None


def _apart(tree: KDTree, points: Float[np.ndarray, "points 3"]) -> float:
    return max(float(np.quantile(tree.query(points)[0], _SHARE)), 1e-3)


def _bounds(logs: Float[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Return the bounds of a mean ratio, from its logarithms."""
    if len(logs) < _MIN_PAIRS:
        return math.nan, math.nan
    error = float(student_t.isf(_RISK, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    middle = float(logs.mean())
    return math.exp(middle - error), math.exp(min(middle + error, 50.0))


def _faces(points: Float[np.ndarray, "points 3"], way: Float[np.ndarray, "3"]) -> Bool[np.ndarray, " points"]:
    """Return the points on flat surfaces whose normal lies within 60 degrees of a direction, either way."""
    distance, index = KDTree(points).query(points, k=_NUM_ON_SURFACE)
    around = points[index] - points[index].mean(axis=1, keepdims=True)
    spread, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    is_flat = (spread[:, 0] < 0.02 * spread[:, 1]) & (distance[:, -1] < 1.0)
    return is_flat & (np.abs(axes[:, :, 0] @ way) > 0.5)


def _standing(reader: SceneReader, frame: int) -> Float[np.ndarray, "points 3"]:
    """Return the points off the ground, whose rings move with the sensor, and off the vehicle."""
    points = reader.lidar_points(frame)[:, :3].astype(np.float64)
    distance = np.linalg.norm(points[:, :2], axis=1)
    return points[(points[:, 2] > 0.5) & (distance > 4) & (distance < 30)]
