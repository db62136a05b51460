"""Collect per-image results and write each frame once all its cameras are there, so memory stays flat."""

import numpy as np
import zarr

from storage.stores.arrays import create_target


class FrameWriter:
    """Fill one ``frames cameras ...`` array of a target store, in whatever order images come.

    Args:
        group: The store.
        kind: Kind of the store.
        name: Array in it.
        num_frames: Frames of the scene.
        num_cameras: Cameras of the scene.
    """

    def __init__(self, group: zarr.Group, kind: str, name: str, *, num_frames: int, num_cameras: int) -> None:
        self._group, self._kind, self._name = group, kind, name
        self._num_frames, self._num_cameras = num_frames, num_cameras
        self._array: zarr.Array | None = None
        self._open: dict[int, dict[int, np.ndarray]] = {}

    def add(self, frame: int, camera: int, value: np.ndarray) -> None:
        """Take one image's result; the array is created from the first."""
        if self._array is None:
            shape = (self._num_frames, self._num_cameras, *value.shape)
            self._array = create_target(self._group, self._kind, self._name, shape)
        cameras = self._open.setdefault(frame, {})
        cameras[camera] = value
        if len(cameras) == self._num_cameras:
            self._array[frame] = np.stack([cameras[index] for index in range(self._num_cameras)])
            del self._open[frame]
