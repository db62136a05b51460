"""A head that reads a student's field as voxels: occupied or free, or labelled.

One that tells occupied from free is part of a student and learns from LiDAR beams, and from what cameras see through.
One that tells classes learns from labels, which the student never does.

A student's cells lie where its pixels end. Between two image rows, tens of metres away, there is road without a cell.
So the head looks around each voxel: along the ground through columns at falling resolution, and at its neighbours.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, linear

from storage.geometry.voxel_grid import VoxelGrid
from student.model.backbone import LEAKY_SLOPE
from student.model.config import OccupancyHeadConfig
from student.model.voxel_field import VoxelField

_POINTS_PER_CHUNK = 1 << 18
READ_HEIGHTS = (-0.25, 0.25)
"""Offsets, in voxels, of the two points that a voxel is read at: the student's cells are half as high."""
_NUM_PLACES = 3
"""What a voxel knows of its own place: height, distance and a constant."""


class GridReading(NamedTuple):
    """What a student's field holds in the voxels of a grid.

    Attributes:
        held: Flat index of each voxel in which the field has a cell, ascending.
        values: Density, as the opacity of the crossing, at two heights; features, averaged over both.
    """

    held: Int64[Tensor, " held"]
    values: Float[Tensor, "held channels"]


def read_grid(field: VoxelField, grid: VoxelGrid) -> GridReading:
    """Read the field of one frame in every voxel of a grid in the ego frame; differentiable in its cells."""
    device = field.fine.logits.device
    axes = [
        torch.arange(count, device=device) * grid.voxel_size + low + grid.voxel_size / 2
        for count, low in zip(grid.shape, grid.minimum, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    offsets = torch.tensor([[0.0, 0.0, z * grid.voxel_size] for z in READ_HEIGHTS], device=device)
    with torch.no_grad():
        is_held = torch.cat(
            [
                (_density(field, chunk[:, None] + offsets) > 0).any(1)
                for chunk in centres.split(_POINTS_PER_CHUNK // len(READ_HEIGHTS))
            ]
        )
    held = is_held.nonzero()[:, 0]
    density, features = field.query((centres[held, None] + offsets).reshape(1, -1, 3))
    opacity = -torch.expm1(-density.view(len(held), len(READ_HEIGHTS)) * grid.voxel_size)
    mean = features.view(len(held), len(READ_HEIGHTS), -1).mean(1)
    return GridReading(held, torch.cat([opacity, mean], dim=1))


def mirrored(reading: GridReading, grid: VoxelGrid) -> GridReading:
    """Return what the field of the scene's mirror image would hold: left and right exchanged.

    Raises:
        ValueError: If the grid does not reach as far to the left as to the right.
    """
    if grid.minimum[1] != -grid.maximum[1]:
        raise ValueError(
            f"grid reaches from {grid.minimum[1]} to {grid.maximum[1]} m in y, want the same to both sides"
        )
    x, y, z = torch.unravel_index(reading.held, grid.shape)
    there = (x * grid.shape[1] + grid.shape[1] - 1 - y) * grid.shape[2] + z
    order = there.argsort()
    return GridReading(there[order], reading.values[order])


class KeptReadings:
    """Readings that are made once and kept in half precision, as far as there is room.

    Args:
        max_bytes: Memory for what is kept; beyond it, a frame is read again each time.
    """

    def __init__(self, max_bytes: int = 2_000_000_000) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: dict[Hashable, GridReading] = {}

    def get(self, key: Hashable, read: Callable[[], GridReading]) -> GridReading:
        """Return the reading of this key, from ``read`` if it is not kept."""
        if key not in self._kept:
            reading = read()
            kept = GridReading(reading.held, reading.values.half())
            size = sum(part.numel() * part.element_size() for part in kept)
            if self._bytes + size > self._max_bytes:
                return reading
            self._bytes += size
            self._kept[key] = kept
        held, values = self._kept[key]
        return GridReading(held, values.float())


def nearest_held(
    held: Int64[np.ndarray, " held"], wanted: Int64[np.ndarray, " n"], grid: VoxelGrid
) -> Int64[np.ndarray, " n"]:
    """Return which of the held voxels, given by flat index in ascending order, is nearest to each wanted one."""
    is_empty = np.ones(grid.num_voxels, bool)
    is_empty[held] = False
    index = np.asarray(
        distance_transform_edt(is_empty.reshape(grid.shape), return_distances=False, return_indices=True)
    )
    nearest = np.ravel_multi_index(tuple(index.reshape(3, -1)[:, wanted]), grid.shape)
    return np.asarray(np.searchsorted(held, nearest))


def reading_width(feature_width: int) -> int:
    """Return the number of channels of a reading of a field with features of this width."""
    return len(READ_HEIGHTS) + feature_width


def _density(field: VoxelField, points: Float[Tensor, "n heights 3"]) -> Float[Tensor, "n heights"]:
    batch_index = points.new_zeros(points.shape[0] * points.shape[1], dtype=torch.int64)
    return field.density(field.locate(points.reshape(-1, 3), batch_index)).view(points.shape[:2])


class OccupancyHead(nn.Module):
    """Labels of the voxels of a grid, from a student's field.

    Args:
        config: Widths.
        grid: Grid to label, in the ego frame.
        feature_width: Channels of the field's features.
        num_labels: Number of logits of each voxel.
    """

    places: Tensor

    def __init__(self, config: OccupancyHeadConfig, grid: VoxelGrid, *, feature_width: int, num_labels: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        width, column = config.width, config.column_width
        self.of_cell = nn.Linear(reading_width(feature_width), width)
        self.of_place = nn.Linear(_NUM_PLACES, width)
        self.enter = nn.Conv2d(width * grid.shape[2], column, 1)
        self.down = nn.ModuleList([nn.Conv2d(column, column, 3, stride=2, padding=1) for _ in range(config.num_levels)])
        self.across = nn.ModuleList([nn.Conv2d(column, column, 3, padding=1) for _ in range(config.num_levels)])
        self.leave = nn.Conv2d(column, width * grid.shape[2], 1)
        self.around = nn.Conv3d(width, width, 3, padding=1)
        self.label = nn.Linear(width, num_labels)
        self.register_buffer("places", _places(grid), persistent=False)

    def forward(self, reading: GridReading) -> Float[Tensor, "x y z labels"]:
        """Return the logits of every voxel."""
        return self.label(self.look(reading))

    def look(self, reading: GridReading) -> Float[Tensor, "x y z width"]:
        """Return what it sees in and around every voxel, from which the logits are read."""
        x, y, z = self.grid.shape
        cells = self.of_place(self.places).index_add(0, reading.held, self.of_cell(reading.values))
        voxels = leaky_relu(cells, LEAKY_SLOPE).view(x, y, z, -1)
        # A product over the last axis: as a convolution it would first copy 10 million values into another order.
        columns = leaky_relu(_pointwise(self.enter, voxels.reshape(x, y, -1)).permute(2, 0, 1)[None], LEAKY_SLOPE)
        levels = [columns]
        for down in self.down:
            levels.append(leaky_relu(down(levels[-1]), LEAKY_SLOPE))
        found = levels.pop()
        for across in self.across:
            finer = levels.pop()
            found = finer + interpolate(found, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            found = leaky_relu(across(found), LEAKY_SLOPE)
        voxels = voxels + _pointwise(self.leave, found[0].permute(1, 2, 0)).reshape(x, y, z, -1)
        around = self.around(voxels.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
        return leaky_relu(voxels + around, LEAKY_SLOPE)


def _pointwise(convolution: nn.Conv2d, values: Float[Tensor, "x y channels"]) -> Float[Tensor, "x y out"]:
    return linear(values, convolution.weight[:, :, 0, 0], convolution.bias)


def _places(grid: VoxelGrid) -> Float[Tensor, "voxels places"]:
    index = torch.stack(torch.meshgrid(*map(torch.arange, grid.shape), indexing="ij"), dim=-1).reshape(-1, 3)
    centres = (index + 0.5) * grid.voxel_size + torch.tensor(grid.minimum)
    distance = centres[:, :2].norm(dim=1) / max(abs(grid.minimum[0]), grid.maximum[0])
    return torch.stack([centres[:, 2] / 4.0, distance, torch.ones_like(distance)], dim=1)
