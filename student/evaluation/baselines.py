"""Predictors that ignore the input. A figure means something only if it beats theirs."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8, UInt16

from storage.geometry.voxel_grid import VoxelGrid
from storage.taxonomy import OCC3D_FREE, OCC3D_UNNAMED

PRIOR_PER_VOXEL = "training prior per voxel"
"""Name of what :class:`VoxelPrior` predicts, beside a student's figures."""

_NUM_LABELS = OCC3D_FREE + 2
_UNNAMED_COLUMN = OCC3D_FREE + 1


@dataclass(slots=True)
class RunningMean:
    """Mean over arrays of one shape, added one by one."""

    _total: np.ndarray | None = None
    _count: int = 0

    def add(self, values: Float[np.ndarray, "*shape"]) -> None:
        """Add an array.

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
        """Mean of the arrays; None before the first one."""
        return None if self._total is None else (self._total / self._count).astype(np.float32)


def ground_plane_depth(
    origins: Float[np.ndarray, "*rays 3"], directions: Float[np.ndarray, "*rays 3"], *, elsewhere: float
) -> Float[np.ndarray, "*rays"]:
    """Return the distance along each ray to the flat ground, the plane z = 0 of the ego frame, metres.

    Args:
        origins: Origins of the rays, ego frame, metres.
        directions: Unit directions of the rays, ego frame.
        elsewhere: Largest distance, metres; also given to rays that never meet the plane.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = -origins[..., 2] / directions[..., 2]
    return np.where((distance > 0) & (distance < elsewhere), distance, elsewhere)


@dataclass(slots=True, kw_only=True)
class VoxelPrior:
    """Counts of each label in each voxel of the ego grid, over the training frames.

    Attributes:
        grid: Grid of the voxels.
    """

    grid: VoxelGrid
    _counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Start with zero counts."""
        self._counts = np.zeros((int(np.prod(self.grid.shape)), _NUM_LABELS), dtype=np.uint16)

    def add(self, flat_index: Int64[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"]) -> None:
        """Count the visible voxels of one training frame; each may occur only once."""
        self._counts[flat_index, np.where(labels == OCC3D_UNNAMED, _UNNAMED_COLUMN, labels)] += 1

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was counted: such a prior predicts nothing."""
        return not self._counts.any()

    def sparse(
        self,
    ) -> tuple[Int32[np.ndarray, " entries"], UInt8[np.ndarray, " entries"], UInt16[np.ndarray, " entries"]]:
        """Return voxel, label and count of everything that was counted; :meth:`from_sparse` is the inverse."""
        voxels, labels = np.nonzero(self._counts)
        return voxels.astype(np.int32), labels.astype(np.uint8), self._counts[voxels, labels]

    @classmethod
    def from_sparse(
        cls,
        grid: VoxelGrid,
        voxels: Int32[np.ndarray, " entries"],
        labels: UInt8[np.ndarray, " entries"],
        counts: UInt16[np.ndarray, " entries"],
    ) -> "VoxelPrior":
        """Return the prior with these counts."""
        prior = cls(grid=grid)
        prior._counts[voxels, labels] = counts
        return prior

    def label(self, flat_index: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return each voxel's most frequent label; free where the voxel was never visible, 254 for no named class."""
        return _most_frequent(self._counts[flat_index])

    def name(self, flat_index: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return each voxel's most frequent class when it was occupied; free where it never was."""
        counts = self._counts[flat_index].copy()
        counts[:, OCC3D_FREE] = 0
        return _most_frequent(counts)

    def occupied_share(self, flat_index: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the share of frames, of those that saw the voxel, in which it was occupied; 0 if none saw it."""
        counts = self._counts[flat_index]
        seen = counts.sum(axis=1, dtype=np.int64)
        occupied = seen - counts[:, OCC3D_FREE]
        return np.where(seen > 0, occupied / np.maximum(seen, 1), 0.0)


def _most_frequent(counts: UInt16[np.ndarray, "n labels"]) -> UInt8[np.ndarray, " n"]:
    most = np.where(counts.any(axis=1), counts.argmax(axis=1), OCC3D_FREE).astype(np.uint8)
    return np.where(most == _UNNAMED_COLUMN, np.uint8(OCC3D_UNNAMED), most)
