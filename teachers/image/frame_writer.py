"""Collect results per image, and write each frame once all its cameras are there, so that memory stays bounded."""

import numpy as np
import zarr

from storage.stores.arrays import create_target


class FrameWriter:
    """Writer of one ``frames cameras ...`` array of a target store, for images in any order.

    Args:
        group: The store.
        kind: Kind of the store.
        name: Name of the array in it.
        num_frames: Number of frames of the scene.
        num_cameras: Number of cameras of the scene.
    """

    def __init__(self, group: zarr.Group, kind: str, name: str, *, num_frames: int, num_cameras: int) -> None:
        self._group, self._kind, self._name = group, kind, name
        self._num_frames, self._num_cameras = num_frames, num_cameras
        self._array: zarr.Array | None = None
        self._open: dict[int, dict[int, np.ndarray]] = {}

    def add(self, frame: int, camera: int, value: np.ndarray) -> None:
        """Add one image's result; the first one creates the array."""
        if self._array is None:
            shape = (self._num_frames, self._num_cameras, *value.shape)
            self._array = create_target(self._group, self._kind, self._name, shape)
        cameras = self._open.setdefault(frame, {})
        cameras[camera] = value
        if len(cameras) == self._num_cameras:
            self._array[frame] = np.stack([cameras[index] for index in range(self._num_cameras)])
            del self._open[frame]
