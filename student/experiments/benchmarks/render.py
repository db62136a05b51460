"""Benchmark of the renderer against fetching all features at every sample."""

import math

import torch

from student.experiments.benchmarks.scene import NUM_CAMERAS, lifted_field, street
from student.experiments.benchmarks.timing import BenchRecord, time_interleaved
from student.model.config import RendererConfig
from student.model.contraction import depth_bin_edges
from student.model.reference import render_rays_densely
from student.model.renderer import Rays, render_rays

_RAY_CHUNK = 512


@torch.no_grad()
def bench_render(*, runs: int = 5, height: int = 22, width: int = 40) -> BenchRecord:
    """Time six views of a street: 286 + 30 samples of 64 features per ray, nearest lookup.

    Args:
        runs: Runs of each renderer.
        height: Rows of each view; the published 64 take eight times as long.
        width: Columns of each view.
    """
    config = RendererConfig()
    field = lifted_field(street(3 * height, 3 * width), num_candidates=15, coarse_level=7, feature_width=32)
    view = street(height, width)
    rays = Rays(
        view.origins.repeat_interleave(height * width, dim=0),
        view.directions.reshape(-1, 3),
        torch.zeros(NUM_CAMERAS * height * width, dtype=torch.long),
    )
    edges = depth_bin_edges(config.bins, field.contraction)

    def ours() -> torch.Tensor:
        return render_rays(field, rays, edges, config, training=False).features

    def reference() -> torch.Tensor:
        chunks = zip(*(part.split(_RAY_CHUNK) for part in rays), strict=True)
        return torch.cat([render_rays_densely(field, Rays(*chunk), edges, config).features for chunk in chunks])

    expected, got = reference(), ours()
    peak = float(expected.max() - expected.min())
    psnr = 20 * math.log10(peak) - 10 * math.log10(float((got - expected).square().mean()) + 1e-20)
    own, other = time_interleaved(ours, reference, runs=runs)
    return BenchRecord(
        name="render",
        ratio=other / own,
        ours=own,
        reference=other,
        unit="s",
        runs=runs,
        details={
            "rays": len(rays.origins),
            "samples_per_ray": len(edges) - 1 + config.num_fine_samples,
            "channels": expected.shape[1],
            "cells": field.grid.num_fine,
            "psnr_db": psnr,
        },
    )
