"""A vehicle's trajectory: poses at some instants, and between them."""

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial.transform import Rotation, Slerp

from storage.geometry.transforms import from_rotation_translation


class Trajectory:
    """Ego poses over time; at a recorded instant the recorded pose, between two at a constant velocity and turn rate.

    Args:
        timestamp_us: Strictly increasing.
        ego_to_world: One for each.
        max_gap_s: Nothing is interpolated over a longer gap, seconds.
    """

    def __init__(
        self,
        timestamp_us: Int64[np.ndarray, " poses"],
        ego_to_world: Float[np.ndarray, "poses 4 4"],
        *,
        max_gap_s: float,
    ) -> None:
        """Check the instants.

        Raises:
            ValueError: If there is no pose, or time does not advance.
        """
        if not len(timestamp_us):
            raise ValueError("holds no pose")
        backwards = np.flatnonzero(np.diff(timestamp_us) <= 0)
        if len(backwards):
            row = int(backwards[0]) + 1
            raise ValueError(f"pose {row} is at {timestamp_us[row]} us, want later than {timestamp_us[row - 1]}")
        self._times, self._poses, self._max_gap_us = timestamp_us, ego_to_world, max_gap_s * 1e6
        rotations = Rotation.from_matrix(ego_to_world[:, :3, :3])
        self._slerp = Slerp(self._seconds(timestamp_us), rotations) if len(timestamp_us) > 1 else None

    def at(self, timestamp_us: Int64[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch 4 4"]:
        """Return the pose at each instant.

        Raises:
            ValueError: If an instant lies before the first pose, after the last one, or in too long a gap.
        """
        flat = timestamp_us.reshape(-1)
        after = np.searchsorted(self._times, flat)
        outside = (after == len(self._times)) | (flat < self._times[0])
        if outside.any():
            instant = int(flat[np.argmax(outside)])
            raise ValueError(
                f"{instant} us lies outside of the poses, which last from {self._times[0]} to {self._times[-1]}"
            )
        is_recorded = self._times[after] == flat
        before = np.maximum(after - 1, 0)
        gap = np.where(is_recorded, 0, self._times[after] - self._times[before])
        if (gap > self._max_gap_us).any():
            instant = int(flat[np.argmax(gap)])
            raise ValueError(
                f"{instant} us lies in a gap of {gap.max() * 1e-6:.3g} s between two poses, want at most "
                f"{self._max_gap_us * 1e-6:g} s"
            )
        poses = self._poses[after]
        between = np.flatnonzero(~is_recorded)
        if self._slerp is not None and len(between):
            low, high = before[between], after[between]
            share = (flat[between] - self._times[low]) / (self._times[high] - self._times[low])
            start, end = self._poses[low, :3, 3], self._poses[high, :3, 3]
            rotation = self._slerp(self._seconds(flat[between])).as_matrix()
            poses[between] = from_rotation_translation(rotation, start + share[:, None] * (end - start))
        return poses.reshape(*timestamp_us.shape, 4, 4)

    def _seconds(self, timestamp_us: Int64[np.ndarray, " instants"]) -> Float[np.ndarray, " instants"]:
        return (timestamp_us - self._times[0]) * 1e-6  # small numbers: microseconds since 1970 lose digits as floats
