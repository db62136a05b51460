"""Benchmark of sparse convolution against the machine's own matrix product."""

from collections.abc import Callable

import torch
from torch import Tensor

from storage.freed_memory import reuse_freed_memory
from student.experiments.benchmarks.scene import street, street_grid
from student.experiments.benchmarks.timing import BenchRecord, time_interleaved
from student.model.products import multiply_rows
from student.model.reference import sparse_convolution_plainly
from student.model.sparse_conv import ConvolutionMap, neighbour_maps, sparse_convolution

_CHANNELS, _FEW_CHANNELS = 128, 24
_MATRIX = 1536


def bench_sparse_conv(*, runs: int = 7, height: int = 16, width: int = 28) -> BenchRecord:
    """Compare the useful FLOP/s of a 3^3 convolution at the published width, forward and backward, with sgemm's.

    One multiply-add per pair of occupied neighbours and pair of channels is useful. The sgemm is the faster of MKL's
    and oneDNN's. The time to build the kernel maps of both levels is reported apart, because a map serves every
    convolution of its level. The speed-up of a convolution of few channels over the plain implementation is reported
    too.

    Args:
        runs: Runs of each program.
        height: Rows of each of six images whose surfaces are the voxels.
        width: Columns of each image.
    """
    torch.manual_seed(0)
    grid, _ = street_grid(street(height, width), num_candidates=15, coarse_level=7)
    neighbours = neighbour_maps(grid, width=_CHANNELS).fine
    few_neighbours = neighbour_maps(grid, width=_FEW_CHANNELS).fine
    ours = _pass(neighbours, _CHANNELS, sparse_convolution)
    a, b = (torch.randn(_MATRIX, _MATRIX) for _ in range(2))
    reuse_freed_memory()  # as programs that train do
    mkl, onednn = time_interleaved(lambda: torch.mm(a, b), lambda: multiply_rows(a, b), runs=runs)
    own, sgemm = time_interleaved(
        ours, (lambda: torch.mm(a, b)) if mkl < onednn else lambda: multiply_rows(a, b), runs=runs
    )
    mapping, _ = time_interleaved(lambda: neighbour_maps(grid, width=_CHANNELS), lambda: None, runs=runs)
    narrow, plain = time_interleaved(
        _pass(few_neighbours, _FEW_CHANNELS, sparse_convolution),
        _pass(few_neighbours, _FEW_CHANNELS, sparse_convolution_plainly),
        runs=runs,
    )
    num_pairs = neighbours.forward.num_pairs
    ours_rate = 3 * 2 * num_pairs * _CHANNELS**2 / own / 1e9
    sgemm_rate = 2 * _MATRIX**3 / sgemm / 1e9
    return BenchRecord(
        name="sparse-conv",
        ratio=ours_rate / sgemm_rate,
        ours=ours_rate,
        reference=sgemm_rate,
        unit="GFLOP/s",
        runs=runs,
        details={
            "voxels": grid.num_fine,
            "pairs": num_pairs,
            "channels": _CHANNELS,
            "seconds": own,
            "mkl_gflops": 2 * _MATRIX**3 / mkl / 1e9,
            "onednn_gflops": 2 * _MATRIX**3 / onednn / 1e9,
            "maps_seconds": mapping,
            "few_channels": _FEW_CHANNELS,
            "few_channels_ratio_to_plain": plain / narrow,
        },
    )


def _pass(
    neighbours: ConvolutionMap, channels: int, convolve: Callable[[Tensor, Tensor, ConvolutionMap], Tensor]
) -> Callable[[], object]:
    """Return a program that convolves every cell with its neighbours, forward and backward."""
    num_rows = neighbours.forward.num_outputs
    features = torch.randn(num_rows, channels, requires_grad=True)
    weight = torch.randn(27, channels, channels, requires_grad=True)
    probe = torch.randn(num_rows, channels)
    return lambda: torch.autograd.grad(convolve(features, weight, neighbours), [features, weight], probe)
