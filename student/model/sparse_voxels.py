"""A sparse grid of two levels in contracted space, indexed by sorted 64-bit keys.

It stands where the paper has two octrees, a fine and a coarse one (DistillNeRF Sec. 3.1). A coarse cell holds 4^3 fine
cells. A fine cell's key is its coarse cell's key times 64 plus its place inside, so that sorting by fine keys also
sorts by coarse keys, siblings are neighbours in memory, and a parent is a shift away. Samples of a batch share one
grid: the batch index is the top of the key.

Lookups go through two tables: coarse cell to row (dense: at most 256^3 per sample), then (row, place
inside) to fine row. A missing cell is row -1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

from student.model.config import ContractionConfig
from student.model.contraction import contract

CHILDREN_PER_AXIS = 4
CHILDREN_PER_CELL = CHILDREN_PER_AXIS**3
_CHILD_BITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GridShape:
    """The key space of a batch.

    Attributes:
        batch_size: Samples that share it.
        coarse_level: ``2**coarse_level`` coarse cells per axis.
    """

    batch_size: int
    coarse_level: int

    @property
    def coarse_resolution(self) -> int:
        """Coarse cells per axis."""
        return 2**self.coarse_level

    @property
    def fine_resolution(self) -> int:
        """Fine cells per axis."""
        return CHILDREN_PER_AXIS * self.coarse_resolution

    def cell_coordinates(
        self, points_ego: Float[Tensor, "*shape 3"], contraction: ContractionConfig
    ) -> Int32[Tensor, "*shape 3"]:
        """Return the integer coordinates of the fine cell that each point lies in."""
        # The conversion truncates, which is floor for what is not negative.
        return self.grid_positions(points_ego, contraction).clamp_(0, self.fine_resolution - 1).to(torch.int32)

    def grid_positions(
        self, points_ego: Float[Tensor, "*shape 3"], contraction: ContractionConfig
    ) -> Float[Tensor, "*shape 3"]:
        """Return points in units of fine cells: cell ``i`` spans ``i`` to ``i + 1`` along each axis."""
        return contract(points_ego, contraction).add_(1.0).mul_(self.fine_resolution / 2)

    def split(self, cells: Int[Tensor, "*shape 3"]) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Return each fine cell's coarse cell (without batch) and its place inside."""
        x, y, z = cells.unbind(-1)
        level = self.coarse_level
        coarse = (((x >> 2) << level | (y >> 2)) << level) | (z >> 2)
        return coarse, (x & 3) << 4 | (y & 3) << 2 | (z & 3)

    def fine_keys(self, cells: Int[Tensor, "*shape 3"], batch_index: Int[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """Return the key of each fine cell."""
        coarse, child = self.split(cells)
        return ((batch_index.long() << 3 * self.coarse_level) + coarse) * CHILDREN_PER_CELL + child

    def fine_cells(self, keys: Int64[Tensor, " cells"]) -> Int64[Tensor, "cells 3"]:
        """Return the integer coordinates of fine cells, inverse of :meth:`fine_keys`."""
        return self.coarse_cells(keys >> _CHILD_BITS) * CHILDREN_PER_AXIS + torch.stack(
            [keys >> 4 & 3, keys >> 2 & 3, keys & 3], dim=-1
        )

    def coarse_cells(self, keys: Int64[Tensor, " cells"]) -> Int64[Tensor, "cells 3"]:
        """Return the integer coordinates of coarse cells."""
        level, last = self.coarse_level, self.coarse_resolution - 1
        return torch.stack([keys >> 2 * level & last, keys >> level & last, keys & last], dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGrid:
    """The occupied cells of a batch.

    Every occupied fine cell has an occupied parent, and every occupied coarse cell an occupied child.

    Attributes:
        shape: Key space.
        fine_keys: Sorted, unique.
        coarse_keys: Sorted, unique.
        parent_row: Row of each fine cell's parent in ``coarse_keys``.
        coarse_table: Row of every coarse cell of the key space, -1 where unoccupied.
        child_table: Row of each child in ``fine_keys``, -1 where unoccupied.
    """

    shape: GridShape
    fine_keys: Int64[Tensor, " fine"]
    coarse_keys: Int64[Tensor, " coarse"]
    parent_row: Int64[Tensor, " fine"]
    coarse_table: Int32[Tensor, " cells"]
    child_table: Int32[Tensor, "coarse 64"]

    @property
    def num_fine(self) -> int:
        """Occupied fine cells."""
        return self.fine_keys.shape[0]

    @property
    def num_coarse(self) -> int:
        """Occupied coarse cells."""
        return self.coarse_keys.shape[0]

    def find(
        self, cells: Int[Tensor, "*shape 3"], batch_index: Int[Tensor, "*shape"]
    ) -> tuple[Int64[Tensor, "*shape"], Int64[Tensor, "*shape"]]:
        """Return the fine and the coarse row of each fine cell, -1 where unoccupied or outside the grid."""
        is_inside = ((cells >= 0) & (cells < self.shape.fine_resolution)).all(-1)
        coarse, child = self.shape.split(cells.clamp(0, self.shape.fine_resolution - 1))
        cell = (batch_index << 3 * self.shape.coarse_level) + coarse
        coarse_row = self.coarse_table.index_select(0, cell.reshape(-1)).view(cell.shape).long()
        coarse_row = torch.where(is_inside, coarse_row, -1)
        if self.num_coarse == 0:
            return coarse_row, coarse_row
        place = coarse_row.clamp(min=0) * CHILDREN_PER_CELL + child
        fine_row = self.child_table.view(-1).index_select(0, place.reshape(-1)).view(place.shape).long()
        return torch.where(coarse_row >= 0, fine_row, -1), coarse_row


@dataclass(frozen=True, slots=True, kw_only=True)
class PointOrder:
    """How a bag of points falls into cells.

    Attributes:
        order: Indices that sort the points by fine key, stably.
        fine_row: Fine cell of each sorted point, ascending.
        coarse_row: Coarse cell of each sorted point, ascending.
    """

    order: Int64[Tensor, " points"]
    fine_row: Int64[Tensor, " points"]
    coarse_row: Int64[Tensor, " points"]


def build_grid(shape: GridShape, point_keys: Int64[Tensor, " points"]) -> tuple[SparseGrid, PointOrder]:
    """Collect the cells that points fall into: the sparse quantisation of (DistillNeRF Sec. 3.1).

    One stable sort (a radix sort on the CPU, several times faster than ``unique``); everything else
    follows from where sorted keys change.

    Args:
        shape: Key space.
        point_keys: Fine key of each point, not negative.
    """
    sorted_keys, order = torch.sort(point_keys, stable=True)
    fine_row, fine_keys = _runs(sorted_keys)
    parent_row, coarse_keys = _runs(fine_keys >> _CHILD_BITS)
    num_cells = shape.batch_size << 3 * shape.coarse_level
    device = point_keys.device
    coarse_table = torch.full((num_cells,), -1, dtype=torch.int32, device=device)
    coarse_table.index_copy_(0, coarse_keys, torch.arange(len(coarse_keys), dtype=torch.int32, device=device))
    child_table = torch.full((len(coarse_keys) * CHILDREN_PER_CELL,), -1, dtype=torch.int32, device=device)
    place = parent_row * CHILDREN_PER_CELL + (fine_keys & CHILDREN_PER_CELL - 1)
    child_table.index_copy_(0, place, torch.arange(len(fine_keys), dtype=torch.int32, device=device))
    grid = SparseGrid(
        shape=shape,
        fine_keys=fine_keys,
        coarse_keys=coarse_keys,
        parent_row=parent_row,
        coarse_table=coarse_table,
        child_table=child_table.view(-1, CHILDREN_PER_CELL),
    )
    return grid, PointOrder(order=order, fine_row=fine_row, coarse_row=parent_row.index_select(0, fine_row))


def _runs(sorted_keys: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " runs"]]:
    """Return the run that each element belongs to, and the value of each run."""
    is_first = torch.ones_like(sorted_keys, dtype=torch.bool)
    is_first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    return is_first.cumsum(0) - 1, sorted_keys[is_first]
