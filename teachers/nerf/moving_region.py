"""Where something may move, per frame: the dynamic branch exists there and nowhere else.

A dynamic branch has a free hand in every frame, and a frame is seen by one image a direction. So it explains what the
static branch has not explained yet by veils right in front of cameras, which no other frame contradicts, and depth
between fitted frames suffers. Where a recording says what moves, the branch is confined to it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import binary_dilation
from torch import Tensor, nn

from teachers.nerf.scene_rays import SceneBounds

_CELL_M = 1.0
_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""A LiDAR sees the near side of things, and few beams meet them: the cells around their returns are theirs too."""


class MovingRegion(nn.Module):
    """The cells of the scene's box, per frame, that something may move in; they are stored with the field.

    Anything may move anywhere until ``confine`` is called, outside the box too.

    Args:
        bounds: The scene's box.
        num_frames: Frames of the scene.
    """

    def __init__(self, bounds: SceneBounds, num_frames: int) -> None:
        super().__init__()
        self.bounds = bounds
        self.half_extent: Tensor
        self.cells: Tensor
        self.is_confined: Tensor
        shape = [max(1, math.ceil(2.0 * half / _CELL_M)) for half in bounds.half_extent_m]
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.register_buffer("cells", torch.zeros(num_frames, *shape, dtype=torch.bool))
        self.register_buffer("is_confined", torch.zeros((), dtype=torch.bool))

    def confine(self, points: Sequence[Float[np.ndarray, "_ 3"]] | None) -> None:
        """Say where something moves.

        Args:
            points: Per frame of the scene, points of what moves (world, metres); None if nothing is known of it.
        """
        self.is_confined.fill_(points is not None)
        for frame, of_frame in enumerate(points or ()):
            inside = torch.from_numpy(binary_dilation(self._raster(of_frame), _NEIGHBOURS))
            self.cells[frame] = inside.to(self.cells.device)

    def forward(
        self, positions: Float[Tensor, "points 3"], instants: Float[Tensor, " points"]
    ) -> Bool[Tensor, " points"]:
        """Return whether something may move at positions (scene units) at instants (frames).

        Between two frames, it may where it may in either.
        """
        if not bool(self.is_confined):
            return torch.ones_like(instants, dtype=torch.bool)
        cell, is_inside = self._cells_of(positions)
        x, y, z = cell.unbind(dim=-1)
        last = len(self.cells) - 1
        before, after = (at.long().clamp(0, last) for at in (instants.floor(), instants.ceil()))
        return is_inside & (self.cells[before, x, y, z] | self.cells[after, x, y, z])

    def _raster(self, points: Float[np.ndarray, "_ 3"]) -> Bool[np.ndarray, "x y z"]:
        units = torch.tensor(self.bounds.to_scene_units(points), dtype=torch.float32, device=self.half_extent.device)
        cell, is_inside = self._cells_of(units)
        raster = np.zeros(self.cells.shape[1:], bool)
        raster[tuple(cell[is_inside].T.cpu().numpy())] = True
        return raster

    def _cells_of(
        self, positions: Float[Tensor, "points 3"]
    ) -> tuple[Int64[Tensor, "points 3"], Bool[Tensor, " points"]]:
        """Return the cell of each position, the nearest one of those outside, and whether it lies in the box."""
        shape = torch.tensor(self.cells.shape[1:], device=positions.device)
        cell = (0.5 * (positions / self.half_extent + 1.0) * shape).floor().long()
        is_inside = ((cell >= 0) & (cell < shape)).all(dim=-1)
        return cell.clamp_min(0).minimum(shape - 1), is_inside
