"""Multi-view pooling against ``unique`` and ``index_add_``."""

import torch

from student.benchmarks.scene import candidate_points, point_keys, street
from student.benchmarks.timing import BenchRecord, time_interleaved
from student.model.config import ContractionConfig
from student.model.gather_sum import segment_sum, weighted_gather_sum
from student.model.sparse_voxels import GridShape, build_grid

_NUM_CANDIDATES, _CHANNELS = 15, 64
_HEIGHT, _WIDTH = 45, 81
"""An eighth of the published 128x228 pixels."""


@torch.no_grad()
def bench_pooling(*, runs: int = 7) -> BenchRecord:
    """Average 64 features and a logit over fine cells: an eighth of the published 2.6 million points.

    The reference is handed the frustum, one weighted row of 65 values per point, and is not timed for
    building it. Ours starts from pixels and never has it. Both end with the same means.
    """
    torch.manual_seed(0)
    contraction, shape = ContractionConfig(), GridShape(batch_size=1, coarse_level=7)
    keys = point_keys(candidate_points(street(_HEIGHT, _WIDTH), _NUM_CANDIDATES), shape, contraction)
    num_points = len(keys)
    pixel_features = torch.randn(num_points // _NUM_CANDIDATES, _CHANNELS)
    opacity, logits = torch.rand(num_points), torch.randn(num_points)
    frustum = torch.cat([pixel_features.repeat_interleave(_NUM_CANDIDATES, dim=0), logits[:, None]], dim=1)
    frustum *= opacity[:, None]

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        grid, order = build_grid(shape, keys)
        pixel = torch.div(order.order, _NUM_CANDIDATES, rounding_mode="floor")
        weights = opacity[order.order]
        weights = weights / segment_sum(weights, order.fine_row, grid.num_fine)[order.fine_row]
        features = weighted_gather_sum(pixel_features, pixel, weights, order.fine_row, grid.num_fine)
        return features, segment_sum(weights * logits[order.order], order.fine_row, grid.num_fine)

    def reference() -> torch.Tensor:
        unique, cell = torch.unique(keys, return_inverse=True)
        total = frustum.new_zeros(len(unique), _CHANNELS + 1).index_add_(0, cell, frustum)
        return total / opacity.new_zeros(len(unique)).index_add_(0, cell, opacity)[:, None]

    features, pooled_logits = ours()
    error = (torch.cat([features, pooled_logits[:, None]], dim=1) - reference()).abs().max()
    own, other = time_interleaved(ours, reference, runs=runs)
    return BenchRecord(
        name="pooling",
        ratio=other / own,
        ours=own,
        reference=other,
        unit="s",
        runs=runs,
        details={"points": num_points, "cells": len(features), "channels": _CHANNELS + 1, "max_error": float(error)},
    )
