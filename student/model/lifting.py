"""Lift every pixel's candidates into voxels, and average what falls into one cell (DistillNeRF Sec. 3.1).

The frustum (every pixel times every candidate times every feature) is never built: a cell's feature is a
weighted sum of *pixel* features, one small weight per candidate (:mod:`student.model.gather_sum`).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from storage.geometry.cameras import unproject_camera
from storage.geometry.transforms import rotate
from student.model.gather_sum import segment_sum, weighted_gather_sum
from student.model.precision import full_precision
from student.model.sparse_voxels import PointOrder, SparseGrid

_WEIGHT_FLOOR = 1e-3


class LevelFeatures(NamedTuple):
    """Contents of the cells of one level.

    Attributes:
        features: Pooled features.
        logits: Density logits.
    """

    features: Float[Tensor, "cells channels"]
    logits: Float[Tensor, " cells"]


def camera_rays(
    intrinsics: Float[Tensor, "n 3 3"],
    camera_to_ego: Float[Tensor, "n 4 4"],
    fisheye: Float[Tensor, "n 4"] | None = None,
    *,
    height: int,
    width: int,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n height width 3"]]:
    """Return each camera's centre and the unit directions through its pixel centres, in the ego frame.

    Args:
        intrinsics: Intrinsics in pixels of the ``height`` by ``width`` grid.
        camera_to_ego: Camera (OpenCV axes) to ego.
        fisheye: Coefficients of each lens, NaN for a pinhole; None if all are pinholes.
        height: Rows.
        width: Columns.

    Returns:
        Centres, and directions: NaN outside the image circle of a fisheye.
    """
    rows = torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5
    columns = torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).view(1, -1, 2)
    lens = None if fisheye is None else fisheye.to(intrinsics.dtype)[:, None]
    directions = unproject_camera(pixels.expand(len(intrinsics), -1, 2), intrinsics[:, None], lens)
    with full_precision(directions):
        directions = rotate(camera_to_ego, directions)
    return camera_to_ego[:, :3, 3], directions.view(-1, height, width, 3)


def points_on_candidates(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n height width 3"],
    candidates: Float[Tensor, "n k height width"],
) -> Float[Tensor, "n height width k 3"]:
    """Return the ego-frame points of all candidates of every pixel, near to far: the lift of (LSS Sec. 3.1)."""
    distances = candidates.movedim(1, -1)[..., None]
    return origins[:, None, None, None] + directions[:, :, :, None] * distances


def pool_points(
    grid: SparseGrid,
    order: PointOrder,
    pixel_features: Float[Tensor, "pixels lifted"],
    opacity: Float[Tensor, " points"],
    logits: Float[Tensor, " points"],
    *,
    pooling: Literal["opacity", "mean"],
) -> tuple[LevelFeatures, LevelFeatures]:
    """Average lifted candidates over the cells of both levels, whichever cameras they come from.

    With ``"mean"``, the multi-view fusion of (DistillNeRF Sec. 3.1), all candidates count the same and opacity scales
    features. With ``"opacity"`` a candidate counts as much as it is believed to be a surface, so that the empty
    candidates of other cameras do not wash out one camera's certainty.

    Args:
        grid: Cells.
        order: How the points fall into them.
        pixel_features: The first half goes to the fine level, the second to the coarse one.
        opacity: Opacity of each candidate, in [0, 1], pixel after pixel.
        logits: Density logit of each candidate.
        pooling: Kind of average.

    Returns:
        Fine and coarse level.
    """
    candidates_per_pixel = opacity.shape[0] // max(1, pixel_features.shape[0])
    pixel = torch.div(order.order, max(1, candidates_per_pixel), rounding_mode="floor")
    opacity, logits = opacity.index_select(0, order.order), logits.index_select(0, order.order)
    weights = opacity + _WEIGHT_FLOOR if pooling == "opacity" else torch.ones_like(opacity)
    feature_weights = weights if pooling == "opacity" else opacity
    fine, coarse = pixel_features.chunk(2, dim=1)
    return (
        _pool(fine, pixel, order.fine_row, grid.num_fine, feature_weights, weights, logits),
        _pool(coarse, pixel, order.coarse_row, grid.num_coarse, feature_weights, weights, logits),
    )


def _pool(
    table: Tensor,
    pixel: Int64[Tensor, " points"],
    cell: Int64[Tensor, " points"],
    num_cells: int,
    feature_weights: Float[Tensor, " points"],
    weights: Float[Tensor, " points"],
    logits: Float[Tensor, " points"],
) -> LevelFeatures:
    scale = segment_sum(weights, cell, num_cells).reciprocal().index_select(0, cell)
    features = weighted_gather_sum(table.contiguous(), pixel, feature_weights * scale, cell, num_cells)
    return LevelFeatures(features, segment_sum(weights * logits * scale, cell, num_cells))
