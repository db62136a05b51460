"""The student's answer: a sparse field of density and features that can be asked anywhere in ego space."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from student.model.backbone import soft_clamp
from student.model.config import ContractionConfig
from student.model.depth_head import density_from_logit
from student.model.gather_sum import weighted_gather_sum
from student.model.lifting import LevelFeatures
from student.model.sparse_voxels import CHILDREN_PER_AXIS, SparseGrid
from student.model.types import CameraDepth

_CORNERS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1))


class LevelRows(NamedTuple):
    """Which cells of one level make up the value at each point, and how much each counts.

    Attributes:
        rows: Row of each contributing cell; any valid row where the weight is 0.
        weights: Sum to 1 over corners, or are all 0 at a point in an unoccupied cell.
    """

    rows: Int64[Tensor, "points corners"]
    weights: Float[Tensor, "points corners"]

    @property
    def is_occupied(self) -> Bool[Tensor, " points"]:
        """Whether each point lies in an occupied cell."""
        return self.weights.sum(1) > 0


class PointRows(NamedTuple):
    """Where points lie at both levels."""

    fine: LevelRows
    coarse: LevelRows


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelField:
    """A batch of scenes, each in the ego frame of its reference time.

    Attributes:
        grid: Occupied cells.
        contraction: Contraction of the space they lie in.
        fine: Features and density logits of fine cells.
        coarse: Features and density logits of coarse cells.
        mean_sky: Features of pixels that see past everything, averaged over each scene.
        depth: The depth estimates that the cells were lifted from.
        lookup: Value of the cell around a point, or trilinear between cells.
        logit_limit: Soft bound of density logits.
    """

    grid: SparseGrid
    contraction: ContractionConfig
    fine: LevelFeatures
    coarse: LevelFeatures
    mean_sky: Float[Tensor, "batch channels"]
    depth: CameraDepth
    lookup: Literal["nearest", "trilinear"]
    logit_limit: float

    @property
    def feature_width(self) -> int:
        """Channels of a point's features: the fine level's, then the coarse level's."""
        return self.fine.features.shape[1] + self.coarse.features.shape[1]

    def query(
        self, points_ego: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points channels"]]:
        """Return density (per metre) and features at points in the ego frame, metres.

        Density is exactly 0, and features are 0, in space that no input camera put anything into.
        Differentiable in density and features, not in the points.
        """
        batch_size, num_points, _ = points_ego.shape
        batch_index = torch.arange(batch_size, device=points_ego.device).repeat_interleave(num_points)
        rows = self.locate(points_ego.reshape(-1, 3), batch_index)
        density = self.density(rows)
        ones = torch.ones_like(density)
        points = torch.arange(len(density), device=density.device)
        features = self.weighted_features(rows, ones, points, len(density))
        return density.view(batch_size, num_points), features.view(batch_size, num_points, -1)

    @torch.no_grad()
    def locate(self, points_ego: Float[Tensor, "points 3"], batch_index: Int[Tensor, " points"]) -> PointRows:
        """Find the cells that make up the value at each point."""
        cells = self.grid.shape.cell_coordinates(points_ego, self.contraction)
        fine_row, coarse_row = self.grid.find(cells, batch_index)
        if self.lookup == "nearest":
            return nearest_rows(fine_row, coarse_row)
        position = self.grid.shape.grid_positions(points_ego, self.contraction)
        return PointRows(
            self._corners(position, batch_index, fine_row, is_fine=True),
            self._corners(position / CHILDREN_PER_AXIS, batch_index, coarse_row, is_fine=False),
        )

    def _corners(
        self, position: Tensor, batch_index: Tensor, own_row: Int64[Tensor, " points"], *, is_fine: bool
    ) -> LevelRows:
        """Weigh the eight cells whose centres surround each point; absent ones give their share to the rest."""
        lowest = (position - 0.5).floor()
        fraction = (position - 0.5 - lowest)[:, None]
        offsets = torch.tensor(_CORNERS, device=position.device)
        cells = lowest.long()[:, None] + offsets
        weights = torch.where(offsets.bool(), fraction, 1.0 - fraction).prod(-1)
        scale = 1 if is_fine else CHILDREN_PER_AXIS
        fine_row, coarse_row = self.grid.find(cells * scale, batch_index[:, None].expand(-1, len(_CORNERS)))
        rows = fine_row if is_fine else coarse_row
        # Only inside an occupied cell is anything interpolated: the field does not grow by half a cell.
        weights = weights * ((rows >= 0) & (own_row >= 0)[:, None])
        return LevelRows(rows.clamp(min=0), weights / weights.sum(1, keepdim=True).clamp(min=1e-12))

    def density(self, rows: PointRows) -> Float[Tensor, " points"]:
        """Return density, per metre: the fine level's where occupied, else the coarse level's, else 0.

        The coarse level fills the gaps of the fine one, which far rays often hit (DistillNeRF Sec. 3.1).
        """
        fine = _interpolate(soft_clamp(self.fine.logits, self.logit_limit), rows.fine)
        coarse = _interpolate(soft_clamp(self.coarse.logits, self.logit_limit), rows.coarse)
        density = density_from_logit(torch.where(rows.fine.is_occupied, fine, coarse))
        return torch.where(rows.coarse.is_occupied, density, 0.0)

    def weighted_features(
        self,
        rows: PointRows,
        weights: Float[Tensor, " points"],
        segment_index: Int64[Tensor, " points"],
        num_segments: int,
    ) -> Float[Tensor, "segments channels"]:
        """Add up the points' features with weights, by (ascending) segment.

        A point's features are those of both levels, concatenated (DistillNeRF Sec. 3.1). No row per point is built.
        """
        parts = [
            _weighted_level_features(level.features, level_rows, weights, segment_index, num_segments)
            for level, level_rows in ((self.fine, rows.fine), (self.coarse, rows.coarse))
        ]
        return torch.cat(parts, dim=1)


def nearest_rows(fine_row: Int64[Tensor, " points"], coarse_row: Int64[Tensor, " points"]) -> PointRows:
    """Let each point take the value of its own cell (-1 where unoccupied)."""
    return PointRows(
        *(LevelRows(row.clamp(min=0)[:, None], (row >= 0).float()[:, None]) for row in (fine_row, coarse_row))
    )


def _interpolate(values: Float[Tensor, " cells"], rows: LevelRows) -> Float[Tensor, " points"]:
    if values.shape[0] == 0:
        return values.new_zeros(rows.rows.shape[0])
    return (values.index_select(0, rows.rows.reshape(-1)).view(rows.rows.shape) * rows.weights).sum(1)


def _weighted_level_features(
    features: Tensor, rows: LevelRows, weights: Tensor, segment_index: Tensor, num_segments: int
) -> Tensor:
    entry = (rows.weights > 0).view(-1).nonzero().squeeze(1)
    point = torch.div(entry, rows.rows.shape[1], rounding_mode="floor")
    return weighted_gather_sum(
        features,
        rows.rows.reshape(-1).index_select(0, entry),
        weights.index_select(0, point) * rows.weights.reshape(-1).index_select(0, entry),
        segment_index.index_select(0, point),
        num_segments,
    )
