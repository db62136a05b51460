"""How much of an evaluation's time is the student's own: the rest is spent on scoring, and should be little."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float, Float32, Int64

from student.inference.predictor import Predictor, RenderedViews, VoxelAnswer
from student.model.types import CameraInputs, TargetCameras
from student.model.voxel_field import VoxelField


class TimedStudent:
    """A student whose answers are timed.

    Args:
        predictor: The student.

    Attributes:
        seconds: How long its answers took so far.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.seconds = 0.0

    def encode(self, inputs: CameraInputs) -> VoxelField:
        """See :meth:`Predictor.encode`."""
        with self._timed():
            return self._predictor.encode(inputs)

    def render(self, field: VoxelField, cameras: TargetCameras) -> RenderedViews:
        """See :meth:`Predictor.render`."""
        with self._timed():
            return self._predictor.render(field, cameras)

    def occupancy(
        self, field: VoxelField, flat_index: Int64[np.ndarray, " n"], *, samples_per_axis: int
    ) -> VoxelAnswer:
        """See :meth:`Predictor.occupancy`."""
        with self._timed():
            return self._predictor.occupancy(field, flat_index, samples_per_axis=samples_per_axis)

    def point_features(
        self, field: VoxelField, source: str, points_ego: Float[np.ndarray, "n 3"]
    ) -> Float32[np.ndarray, "n channels"]:
        """See :meth:`Predictor.point_features`."""
        with self._timed():
            return self._predictor.point_features(field, source, points_ego)

    def voxel_features(
        self, field: VoxelField, source: str, answer: VoxelAnswer, rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n channels"]:
        """See :meth:`Predictor.voxel_features`."""
        with self._timed():
            return self._predictor.voxel_features(field, source, answer, rows)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
