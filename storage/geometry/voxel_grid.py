"""Axis-aligned voxel grids in the ego frame, and the one that Occ3D labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelGrid:
    """An axis-aligned voxel grid in some frame, mostly the ego's.

    Attributes:
        minimum: Lower corner x, y, z, metres.
        voxel_size: Side of a voxel, metres.
        shape: Voxels along x, y, z.
    """

    minimum: tuple[float, float, float]
    voxel_size: float
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Reject an empty grid."""
        if not self.voxel_size > 0 or min(self.shape) < 1:
            raise ValueError(f"a grid needs positive sizes, got {self.voxel_size} m and {self.shape}")

    @property
    def maximum(self) -> tuple[float, float, float]:
        """Return the upper corner x, y, z, metres."""
        x, y, z = (low + n * self.voxel_size for low, n in zip(self.minimum, self.shape, strict=True))
        return x, y, z

    @classmethod
    def around(cls, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"], voxel_size: float) -> "VoxelGrid":
        """Return the smallest grid of such voxels from one corner to the other, metres."""
        nx, ny, nz = (max(int(n), 1) for n in np.ceil((high - low) / voxel_size))
        x, y, z = low.tolist()
        return cls(minimum=(x, y, z), voxel_size=voxel_size, shape=(nx, ny, nz))

    @property
    def num_voxels(self) -> int:
        """Return the number of voxels."""
        return int(np.prod(self.shape))

    def in_voxels(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Return positions in voxels from the lower corner, from positions in metres."""
        return (points - np.asarray(self.minimum)) / self.voxel_size

    def flat_inside(self, index: Integer[np.ndarray, "n 3"]) -> Integer[np.ndarray, " inside"]:
        """Return the flat indices of those voxels that lie in the grid."""
        x, y, z = index[np.all((index >= 0) & (index < self.shape), axis=1)].T
        return (x * self.shape[1] + y) * self.shape[2] + z

    def flat_of(self, points: Float[np.ndarray, "n 3"]) -> Integer[np.ndarray, " inside"]:
        """Return the flat index of the voxel of each point that lies in the grid."""
        index, is_inside = self.index_of(points)
        return self.flat_inside(index[is_inside])

    def centres(self, index: Integer[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Return the centres of the voxels with the given x, y, z indices, metres."""
        return np.asarray(self.minimum) + (index + 0.5) * self.voxel_size

    def centres_of(self, flat_index: Integer[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
        """Return the centres of the voxels with the given flat, row-major indices, metres."""
        return self.centres(np.stack(np.unravel_index(flat_index, self.shape), axis=1))

    def index_of(self, points: Float[np.ndarray, "n 3"]) -> tuple[Integer[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
        """Return the voxel index of each point, and whether it lies inside the grid.

        Args:
            points: Positions in the ego frame, metres. A point with a NaN is outside.

        Returns:
            Indices, meaningless where the second array is False.
        """
        scaled = (points.astype(np.float64) - self.minimum) / self.voxel_size
        is_inside = np.all((scaled >= 0) & (scaled < self.shape), axis=1)
        return np.floor(np.where(is_inside[:, None], scaled, 0.0)).astype(np.int64), is_inside

    def finer(self, parts: int) -> "VoxelGrid":
        """Return the grid over the same space whose voxels are that many times smaller."""
        x, y, z = self.shape
        return VoxelGrid(
            minimum=self.minimum, voxel_size=self.voxel_size / parts, shape=(parts * x, parts * y, parts * z)
        )

    def sample_points(
        self, index: Integer[np.ndarray, "n 3"], samples_per_axis: int
    ) -> Float[np.ndarray, "n samples 3"]:
        """Return a regular lattice of ``samples_per_axis ** 3`` points inside each voxel, metres."""
        offset = (np.arange(samples_per_axis) + 0.5) / samples_per_axis - 0.5
        lattice = np.stack(np.meshgrid(offset, offset, offset, indexing="ij"), axis=-1).reshape(-1, 3)
        return self.centres(index)[:, None] + lattice * self.voxel_size


OCC3D_GRID = VoxelGrid(minimum=(-40.0, -40.0, -1.0), voxel_size=0.4, shape=(200, 200, 16))
"""The grid of Occ3D-nuScenes, in the ego frame of the reference time: up to (40, 40, 5.4) m."""
