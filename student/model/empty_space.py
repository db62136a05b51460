"""Skip stretches of rays that cross nothing, and none that cross anything.

Occupied cells are counted in a summed-volume table: how many lie in *any* box takes eight look-ups. The
contraction is monotone along each axis, so the box between the contracted ends of a stretch contains all
of it, bends included; where that box is empty, so is the stretch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from student.model.config import ContractionConfig
from student.model.contraction import contract
from student.model.sparse_voxels import SparseGrid

_COARSE_CELLS_PER_BLOCK_AXIS = 2


class OccupancySums(NamedTuple):
    """Counts of occupied blocks (2^3 coarse cells) below every corner of the block grid.

    Attributes:
        sums: Counts of all scenes, flattened from ``batch, x, y, z`` with ``resolution + 1`` corners per axis.
        resolution: Blocks per axis.
        contraction: Contraction of the space that the grid lies in.
    """

    sums: Int32[Tensor, " corners"]
    resolution: int
    contraction: ContractionConfig

    def is_stretch_occupied(
        self,
        points_ego: Float[Tensor, "rays points 3"],
        batch_index: Int64[Tensor, " rays"],
    ) -> Bool[Tensor, "rays points_less_one"]:
        """Tell which stretches between consecutive points of each ray may cross an occupied cell.

        False is certain. True may be wrong, because the box around a stretch is larger than the stretch.
        """
        resolution, corners = self.resolution, self.resolution + 1
        position = contract(points_ego, self.contraction).add_(1.0).mul_(resolution / 2)
        block = position.clamp_(0, resolution - 1).to(torch.int32)
        first = torch.minimum(block[:, :-1], block[:, 1:])
        last = torch.maximum(block[:, :-1], block[:, 1:]) + 1
        scene = (batch_index * corners**3).to(torch.int32)[:, None]
        x = (first[..., 0] * corners**2 + scene, last[..., 0] * corners**2 + scene)
        y = (first[..., 1] * corners, last[..., 1] * corners)
        z = (first[..., 2], last[..., 2])
        count = torch.zeros_like(z[0]).reshape(-1)
        for i in (0, 1):
            for j in (0, 1):
                base = x[i] + y[j]
                for k in (0, 1):
                    found = self.sums.index_select(0, (base + z[k]).reshape(-1))
                    count = count + found if (i + j + k) % 2 else count - found
        return (count > 0).view(z[0].shape)


def sum_occupancy(grid: SparseGrid, contraction: ContractionConfig) -> OccupancySums:
    """Build the table for a grid."""
    resolution = grid.shape.coarse_resolution // _COARSE_CELLS_PER_BLOCK_AXIS
    x, y, z = torch.div(
        grid.shape.coarse_cells(grid.coarse_keys), _COARSE_CELLS_PER_BLOCK_AXIS, rounding_mode="floor"
    ).unbind(-1)
    scene = grid.coarse_keys >> 3 * grid.shape.coarse_level
    corners = resolution + 1
    counts = torch.zeros(
        (grid.shape.batch_size, corners, corners, corners), dtype=torch.int32, device=grid.coarse_keys.device
    )
    counts[scene, x + 1, y + 1, z + 1] = 1
    for axis in (1, 2, 3):
        counts = counts.cumsum(axis, dtype=torch.int32)
    return OccupancySums(counts.reshape(-1), resolution, contraction)
