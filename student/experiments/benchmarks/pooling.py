"""Benchmark of multi-view pooling against ``unique`` and ``index_add_``."""

import torch
from torch import Tensor

from student.experiments.benchmarks.scene import candidate_points, point_keys, street
from student.experiments.benchmarks.timing import BenchRecord, time_interleaved
from student.model.config import ContractionConfig
from student.model.gather_sum import segment_sum, weighted_gather_sum
from student.model.sparse_voxels import GridShape, build_grid

_NUM_CANDIDATES, _CHANNELS = 15, 64


def bench_pooling(*, runs: int = 7, height: int = 45, width: int = 81) -> BenchRecord:
    """Average 64 features and a logit over fine cells, forward and backward, as a training step does.

    Both programs get the same inputs (pixel features, and an opacity, a logit and a key per candidate) and give the
    same means and gradients. The reference builds one row of 65 values per candidate, finds unique keys and adds rows
    up. Its forward time with the rows given is in the details.

    Args:
        runs: Runs of each program.
        height: Rows of each of six images; the default size has an eighth of the published 2.6 million points.
        width: Columns of each image.
    """
    torch.manual_seed(0)
    contraction, shape = ContractionConfig(), GridShape(batch_size=1, coarse_level=7)
    keys = point_keys(candidate_points(street(height, width), _NUM_CANDIDATES), shape, contraction)
    num_points = len(keys)
    inputs = (
        torch.randn(num_points // _NUM_CANDIDATES, _CHANNELS, requires_grad=True),
        (0.1 + 0.9 * torch.rand(num_points)).requires_grad_(),
        torch.randn(num_points, requires_grad=True),
    )

    def lift() -> Tensor:
        features, opacity, logits = inputs
        frustum = torch.cat([features.repeat_interleave(_NUM_CANDIDATES, dim=0), logits[:, None]], dim=1)
        return frustum * opacity[:, None]

    def add_up(frustum: Tensor) -> Tensor:
        unique, cell = torch.unique(keys, return_inverse=True)
        total = frustum.new_zeros(len(unique), _CHANNELS + 1).index_add(0, cell, frustum)
        return total / frustum.new_zeros(len(unique)).index_add(0, cell, inputs[1])[:, None]

    def pool() -> tuple[Tensor, Tensor]:
        features, opacity, logits = inputs
        grid, order = build_grid(shape, keys)
        pixel = torch.div(order.order, _NUM_CANDIDATES, rounding_mode="floor")
        weights = opacity.index_select(0, order.order)
        weights = weights / segment_sum(weights, order.fine_row, grid.num_fine).index_select(0, order.fine_row)
        pooled = weighted_gather_sum(features, pixel, weights, order.fine_row, grid.num_fine)
        return pooled, segment_sum(weights * logits.index_select(0, order.order), order.fine_row, grid.num_fine)

    probe = torch.randn(len(torch.unique(keys)), _CHANNELS + 1)
    feature_probe, logit_probe = probe[:, :-1].contiguous(), probe[:, -1].contiguous()

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(pool(), inputs, (feature_probe, logit_probe))

    def reference() -> tuple[Tensor, ...]:
        return torch.autograd.grad(add_up(lift()), inputs, probe)

    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours(), reference(), strict=True))
    own, other = time_interleaved(ours, reference, runs=runs)
    with torch.no_grad():
        frustum = lift()
        own_forward, other_forward = time_interleaved(pool, lambda: add_up(frustum), runs=runs)
    return BenchRecord(
        name="pooling",
        ratio=other / own,
        ours=own,
        reference=other,
        unit="s",
        runs=runs,
        details={
            "points": num_points,
            "cells": len(probe),
            "channels": _CHANNELS + 1,
            "relative_gradient_error": error,
            "forward_seconds": own_forward,
            "reference_forward_seconds_frustum_given": other_forward,
        },
    )
