"""Check that the poses of a scene bring its LiDAR sweeps together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader

_SHARE = 0.25  # of the surfaces, those that fit best
_NUM_ON_SURFACE = 8  # points that a surface is fitted to
_MIN_STANDING, _MIN_FACING = 100, 50  # points of a sweep; fewer say nothing


def align_sweeps(reader: SceneReader, frames: Sequence[int], *, min_travel_m: float = 0.5) -> float:
    """Return the distance between consecutive sweeps without poses over that with poses; NaN where too little was seen.

    Only surfaces that face the way of travel are compared: walls along it look the same a few metres on, so their
    points lie closer together *without* poses. The distance is that of the quarter that fits best, which leaves out
    moving things.

    Args:
        reader: The scene.
        frames: Frames whose sweeps are compared with those of the next frames.
        min_travel_m: Shortest travel between two sweeps that are compared, metres.
    """
    together, apart = [], []
    for frame in frames:
        if frame + 1 >= reader.num_frames:
            continue
        next_to_here = invert_se3(reader.ego_to_world(frame)) @ reader.ego_to_world(frame + 1)
        travel = float(np.linalg.norm(next_to_here[:3, 3]))
        here, there = _standing(reader, frame), _standing(reader, frame + 1)
        if travel < min_travel_m or min(len(here), len(there)) < _MIN_STANDING:
            continue
        facing = there[_faces(there, next_to_here[:3, :3].T @ next_to_here[:3, 3] / travel)]
        if len(facing) < _MIN_FACING:
            continue
        tree = KDTree(here)
        together.append(np.quantile(tree.query(apply_se3(next_to_here, facing))[0], _SHARE))
        apart.append(np.quantile(tree.query(facing)[0], _SHARE))
    return float(np.median(apart) / max(np.median(together), 1e-6)) if together else float("nan")


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
