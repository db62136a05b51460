"""Predictors that ignore the input: what a figure has to beat before it means anything."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from storage.geometry.voxel_grid import VoxelGrid
from storage.taxonomy import OCC3D_FREE

_NUM_LABELS = OCC3D_FREE + 1


@dataclass(slots=True)
class RunningMean:
    """A mean over arrays of one shape, fed one by one."""

    _total: np.ndarray | None = None
    _count: int = 0

    def add(self, values: Float[np.ndarray, "*shape"]) -> None:
        """Take one more array.

        Raises:
            ValueError: If its shape differs from those before.
        """
        if self._total is None:
            self._total = np.zeros(values.shape)
        elif self._total.shape != values.shape:
            raise ValueError(f"shape {values.shape} differs from {self._total.shape}")
        self._total += values
        self._count += 1

    @property
    def value(self) -> Float32[np.ndarray, "*shape"] | None:
        """The mean, None before the first array."""
        return None if self._total is None else (self._total / self._count).astype(np.float32)


def ground_plane_depth(
    origins: Float[np.ndarray, "*rays 3"], directions: Float[np.ndarray, "*rays 3"], *, elsewhere: float
) -> Float[np.ndarray, "*rays"]:
    """Return the distance to the plane z = 0 of the ego frame, as if the world were a parking lot.

    Args:
        origins: Origins of the rays, ego frame, metres.
        directions: Unit length.
        elsewhere: Given to rays that meet the plane farther than this, or never, metres.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = -origins[..., 2] / directions[..., 2]
    return np.where((distance > 0) & (distance < elsewhere), distance, elsewhere)


@dataclass(slots=True, kw_only=True)
class VoxelPrior:
    """How often each voxel of the ego grid carried each label in the training frames.

    Attributes:
        grid: The grid counted over.
    """

    grid: VoxelGrid
    _counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing seen."""
        self._counts = np.zeros((int(np.prod(self.grid.shape)), _NUM_LABELS), dtype=np.uint16)

    def add(self, flat_index: Int64[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"]) -> None:
        """Count the visible voxels of one training frame, each at most once."""
        self._counts[flat_index, labels] += 1

    def label(self, flat_index: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return each voxel's most frequent label; free space where it was never visible."""
        counts = self._counts[flat_index]
        return np.where(counts.any(axis=1), counts.argmax(axis=1), OCC3D_FREE).astype(np.uint8)

    def occupied_share(self, flat_index: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the share of visible training frames in which each voxel was occupied, 0 if never visible."""
        counts = self._counts[flat_index]
        seen = counts.sum(axis=1, dtype=np.int64)
        occupied = counts[:, :OCC3D_FREE].sum(axis=1, dtype=np.int64)
        return np.where(seen > 0, occupied / np.maximum(seen, 1), 0.0)
