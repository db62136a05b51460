"""Voxels that straight segments pass through."""

import numpy as np
from jaxtyping import Float, Int

_BEHIND = 1e-9  # share of a segment


def crossed_voxels(start: Float[np.ndarray, " 3"], ends: Float[np.ndarray, "rays 3"]) -> Int[np.ndarray, "voxels 3"]:
    """Return every voxel that segments from one point pass through, unordered and with repetitions.

    A segment enters a new voxel at each plane that it crosses; all crossings are computed at once, without stepping.

    Args:
        start: Start of all segments, in voxels.
        ends: Ends of the segments, in voxels.
    """
    direction = ends - start
    first, last = np.floor(start).astype(np.int64), np.floor(ends).astype(np.int64)
    found = [first[None][: len(ends)]]
    for axis in range(3):
        counts = np.abs(last[:, axis] - first[axis])
        ray = np.repeat(np.arange(len(ends)), counts)
        order = np.arange(len(ray)) - np.repeat(np.cumsum(counts) - counts, counts)
        forward = direction[ray, axis] > 0
        plane = np.where(forward, first[axis] + 1 + order, first[axis] - order)
        share = (plane - start[axis]) / direction[ray, axis]
        # Just behind the plane: a segment through an edge or a corner crosses its planes at once.
        entered = np.floor(start + (share[:, None] + _BEHIND) * direction[ray]).astype(np.int64)
        entered = np.clip(entered, np.minimum(first, last[ray]), np.maximum(first, last[ray]))
        entered[:, axis] = np.where(forward, plane, plane - 1)
        found.append(entered)
    return np.concatenate(found)
