"""Cells of a world grid that LiDAR beams pass through: what they cross is empty."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int32, Int64

from storage.geometry.voxel_grid import VoxelGrid
from storage.geometry.voxel_rays import crossed_voxels

_BEAMS_AT_ONCE = 4096  # what fits into a processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Beams:
    """Beams of one sweep in the world frame.

    Attributes:
        origin: Where they start, metres.
        ends: Where they return from, metres.
    """

    origin: Float[np.ndarray, "3"]
    ends: Float[np.ndarray, "beams 3"]


@dataclass(slots=True, kw_only=True)
class BeamPasses:
    """Number of beams through each cell of a grid; sweeps are added, and taken away again.

    Attributes:
        grid: The cells.
        reach_m: A beam testifies no farther than this from its origin, metres.
        clearance_m: A beam testifies no nearer than this to its return: ranges and poses are not exact.
    """

    grid: VoxelGrid
    reach_m: float
    clearance_m: float
    _count: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Start with no beam; the last entry stands for every place outside and stays zero."""
        self._count = np.zeros(self.grid.num_voxels + 1, np.int32)

    def add(self, beams: Beams, *, sign: int = 1) -> None:
        """Add the beams of a sweep, or with sign -1 take them away."""
        for cells in self._crossed(beams):
            np.add.at(self._count, cells, np.int32(sign))

    def at_centres(self, grid: VoxelGrid, grid_to_world: Float[np.ndarray, "4 4"]) -> Int32[np.ndarray, "x y z"]:
        """Return the number of beams through the cell of each voxel's centre; zero outside."""
        return self._count[flat_of_lattice(self.grid, grid, grid_to_world)]

    def _crossed(self, beams: Beams) -> Iterator[Int64[np.ndarray, " cells"]]:
        offset = beams.ends - beams.origin
        distance = np.linalg.norm(offset, axis=1)
        length = np.minimum(distance - self.clearance_m, self.reach_m)
        kept = length > 0
        ends = beams.origin + offset[kept] * (length[kept] / distance[kept])[:, None]
        start, stops = self.grid.in_voxels(beams.origin), self.grid.in_voxels(ends)
        for first in range(0, len(stops), _BEAMS_AT_ONCE):
            yield self.grid.flat_inside(crossed_voxels(start, stops[first : first + _BEAMS_AT_ONCE]))


def flat_of_lattice(
    cells: VoxelGrid, grid: VoxelGrid, grid_to_world: Float[np.ndarray, "4 4"]
) -> Int64[np.ndarray, "x y z"]:
    """Return the flat index of the cell in which each voxel's centre lies; outside, the number of cells."""
    to_cells = grid_to_world[:3].copy()
    to_cells[:, 3] -= np.asarray(cells.minimum)
    to_cells /= cells.voxel_size
    x, y, z = (low + (np.arange(n) + 0.5) * grid.voxel_size for low, n in zip(grid.minimum, grid.shape, strict=True))
    flat, inside = np.zeros(grid.shape, np.int64), np.ones(grid.shape, bool)
    for row, length in zip(to_cells, cells.shape, strict=True):
        # A position is a sum of one term for each axis, which is all that the lattice needs.
        along = (row[0] * x)[:, None, None] + (row[1] * y)[:, None] + (row[2] * z + row[3])
        cell = np.floor(along).astype(np.int64)
        inside &= (cell >= 0) & (cell < length)
        flat = flat * length + cell
    return np.where(inside, flat, cells.num_voxels)
