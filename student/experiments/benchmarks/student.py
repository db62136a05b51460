"""Benchmark of a student's forward pass against the same weights with every fast path off, stage by stage.

With fast paths off, one feature row per candidate is built, unique cells are searched and rows are added up; each tap
of a sparse convolution gathers, multiplies and scatters on its own; the renderer fetches every feature at every sample,
and freed memory goes back to the system. Image encoder, decoder and rendered pictures are the same on both sides. A
third program is ours with convolutions and linear layers in bfloat16.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor, nn

from storage.freed_memory import return_freed_memory, reuse_freed_memory
from student.experiments.benchmarks.scene import NUM_CAMERAS, street_rig
from student.experiments.benchmarks.timing import BenchRecord
from student.model.config import ModelConfig, RendererConfig
from student.model.distillnerf import DistillNeRF
from student.model.lifting import LevelFeatures
from student.model.reference import pool_points_plainly, render_rays_densely, sparse_convolution_plainly
from student.model.renderer import Rays, RenderedRays
from student.model.sparse_voxels import PointOrder, SparseGrid
from student.model.types import RaySamples, StudentOutput
from student.model.voxel_field import VoxelField
from student.presets.models import paper_model

_RAY_CHUNK = 512
_UNCOUNTED, _COUNTED = 2, 3
"""Passes of a turn. The first ones are slower, because memory is as the other program left it."""
_STAGES = {
    "single_view_encoder": ("coarse_depth", "fine_depth"),
    "voxel_convolution": ("voxel_network",),
    "decoder": ("decoder", "sky"),
}


@torch.no_grad()
def bench_student(
    *, config: ModelConfig | None = None, runs: int = 5, height: int = 32, width: int = 56
) -> BenchRecord:
    """Time a student on six cameras of a street.

    Args:
        config: Sizes of the model; the published ones by default.
        runs: Turns of each program. A turn has two passes that are not counted, then three that are.
        height: Rows of the images. The published 128 take 16 times as long; shares change little, because every stage
            grows with the number of pixels or rays.
        width: Columns of the images.
    """
    torch.manual_seed(0)
    model = DistillNeRF(config or paper_model()).eval()
    inputs, targets = street_rig(height, width, depth_feature_channels=model.config.coarse_depth.depth_feature_channels)
    passes: dict[str, list[tuple[dict[str, float], StudentOutput]]] = {program: [] for program in _PROGRAMS}
    with _stage_times(model) as timed:
        for _ in range(runs):
            for program, setting in _PROGRAMS.items():
                with setting():
                    turn = [timed(lambda: model(inputs, targets)) for _ in range(_UNCOUNTED + _COUNTED)]
                    passes[program].extend(turn[_UNCOUNTED:])
    shares = {program: _shares([stages for stages, _ in done]) for program, done in passes.items()}
    seconds = {program: [stages["total"] for stages, _ in done] for program, done in passes.items()}
    totals = {program: median(of_passes) for program, of_passes in seconds.items()}
    of_pairs = sorted(theirs / own for theirs, own in zip(seconds["reference"], seconds["ours"], strict=True))
    ours, reduced, reference = (done[0][1] for done in passes.values())
    return BenchRecord(
        name="student",
        ratio=totals["reference"] / totals["ours"],
        ours=totals["ours"],
        reference=totals["reference"],
        unit="s",
        runs=_COUNTED * runs,
        details={
            **{f"share_{stage}": share for stage, share in shares["ours"].items()},
            **{f"reference_share_{stage}": share for stage, share in shares["reference"].items()},
            "image_height": height,
            "image_width": width,
            "cameras": NUM_CAMERAS,
            "lowest_ratio_of_passes": of_pairs[0],
            "highest_ratio_of_passes": of_pairs[-1],
            "fine_voxels": ours.num_voxels["fine"],
            "largest_image_difference": float((_image(ours) - _image(reference)).abs().max()),
            "bfloat16_seconds": totals["bfloat16"],
            "bfloat16_ratio": totals["reference"] / totals["bfloat16"],
            "bfloat16_share_voxel_convolution": shares["bfloat16"]["voxel_convolution"],
            "bfloat16_psnr_db": float(-10 * (_image(reduced) - _image(ours)).square().mean().log10()),
        },
    )


@contextmanager
def _all_fast() -> Iterator[None]:
    reuse_freed_memory()
    yield


@contextmanager
def _all_fast_in_bfloat16() -> Iterator[None]:
    with _all_fast(), torch.autocast("cpu", torch.bfloat16):
        yield


def _shares(runs: list[dict[str, float]]) -> dict[str, float]:
    total = sum(run["total"] for run in runs)
    return {stage: sum(run[stage] for run in runs) / total for stage in runs[0] if stage != "total"}


def _image(output: StudentOutput) -> Tensor:
    assert output.image is not None
    return output.image


@contextmanager
def _stage_times(
    model: DistillNeRF,
) -> Iterator[Callable[[Callable[[], StudentOutput]], tuple[dict[str, float], StudentOutput]]]:
    """Yield a function that runs a pass and returns its seconds by stage, and its output."""
    spent: dict[str, float] = {}
    began: dict[str, float] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def before(*_: object) -> None:
            began[name] = time.perf_counter()

        def after(*_: object) -> None:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began[name]

        handles.extend([module.register_forward_pre_hook(before), module.register_forward_hook(after)])

    for name in (name for names in _STAGES.values() for name in names):
        watch(name, model.get_submodule(name))

    encode = model.encode

    def timed_encode(*arguments: object) -> VoxelField:
        start = time.perf_counter()
        field = encode(*arguments)  # pyright: ignore[reportArgumentType]
        spent["encode"] = time.perf_counter() - start
        return field

    def run(forward: Callable[[], StudentOutput]) -> tuple[dict[str, float], StudentOutput]:
        spent.clear()
        start = time.perf_counter()
        output = forward()
        total = time.perf_counter() - start
        stages = {stage: sum(spent[name] for name in names) for stage, names in _STAGES.items()}
        stages["lifting_and_pooling"] = spent["encode"] - stages["single_view_encoder"] - stages["voxel_convolution"]
        stages["ray_marching"] = total - spent["encode"] - stages["decoder"]
        return {"total": total, **stages}, output

    with patch.object(model, "encode", timed_encode):
        try:
            yield run
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _none_fast() -> Iterator[None]:
    """Run the plain implementation in place of every fast path."""
    return_freed_memory()
    with (
        patch("student.model.distillnerf.pool_points", _pool_plainly),
        patch("student.model.distillnerf.render_rays", _render_plainly),
        patch("student.model.sparse_conv.sparse_convolution", sparse_convolution_plainly),
    ):
        yield


def _pool_plainly(
    grid: SparseGrid, order: PointOrder, pixel_features: Tensor, opacity: Tensor, logits: Tensor, *, pooling: str
) -> tuple[LevelFeatures, LevelFeatures]:
    del pooling  # what it changes costs nothing: the published model's weights are used
    per_pixel = len(opacity) // len(pixel_features)
    frustum = pixel_features.repeat_interleave(per_pixel, dim=0)
    weights = opacity + 1e-3
    levels = []
    for part, rows in zip(frustum.chunk(2, dim=1), (order.fine_row, order.coarse_row), strict=True):
        # Keys of unsorted points, as a program without a sorted grid has them.
        keys = torch.empty_like(rows).index_copy_(0, order.order, rows)
        levels.append(pool_points_plainly(keys, part, logits, weights)[1])
    return levels[0], levels[1]


def _render_plainly(
    field: VoxelField, rays: Rays, edges: Tensor, config: RendererConfig, *, training: bool
) -> RenderedRays:
    assert not training
    chunks = zip(*(part.split(_RAY_CHUNK) for part in rays), strict=True)
    parts = [render_rays_densely(field, Rays(*chunk), edges, config) for chunk in chunks]
    nothing = torch.zeros(0)
    return RenderedRays(
        features=torch.cat([part.features for part in parts]),
        termination_depth=torch.cat([part.termination_depth for part in parts]),
        opacity=torch.cat([part.opacity for part in parts]).clamp(max=1.0),
        weight_entropy=torch.zeros(len(rays.origins)),
        samples=RaySamples(
            ray_index=torch.zeros(0, dtype=torch.long), distances=nothing, lengths=nothing, weights=nothing
        ),
    )


_PROGRAMS = {"ours": _all_fast, "bfloat16": _all_fast_in_bfloat16, "reference": _none_fast}
