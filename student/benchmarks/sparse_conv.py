"""Sparse convolution against the machine's own matrix product."""

import torch

from storage.freed_memory import reuse_freed_memory
from student.benchmarks.scene import candidate_points, point_keys, street
from student.benchmarks.timing import BenchRecord, time_interleaved
from student.model.config import ContractionConfig
from student.model.products import multiply_rows
from student.model.sparse_conv import neighbour_map, sparse_convolution
from student.model.sparse_voxels import GridShape, build_grid

_CHANNELS = 128
_MATRIX = 1536


def bench_sparse_conv(*, runs: int = 7, height: int = 16, width: int = 28) -> BenchRecord:
    """Compare useful FLOP/s, forward and backward, of a 3^3 convolution at the published width with sgemm's.

    Useful means one multiply-add per pair of occupied neighbours and pair of channels. The sgemm is the faster of MKL's
    and oneDNN's. Building the kernel map is not timed with it, but reported: a map serves every convolution of its
    level.

    Args:
        runs: Runs of each program.
        height: Rows of each of six images whose surfaces are the voxels.
        width: Columns.
    """
    torch.manual_seed(0)
    contraction, shape = ContractionConfig(), GridShape(batch_size=1, coarse_level=7)
    keys = point_keys(candidate_points(street(height, width), 15), shape, contraction)
    grid, _ = build_grid(shape, keys)
    neighbours = neighbour_map(grid, level="fine", width=_CHANNELS)
    features = torch.randn(grid.num_fine, _CHANNELS, requires_grad=True)
    weight = torch.randn(27, _CHANNELS, _CHANNELS, requires_grad=True)
    probe = torch.randn(grid.num_fine, _CHANNELS)
    a, b = (torch.randn(_MATRIX, _MATRIX) for _ in range(2))

    def ours() -> None:
        torch.autograd.grad(sparse_convolution(features, weight, neighbours), [features, weight], probe)

    reuse_freed_memory()  # as programs that train do
    mkl, onednn = time_interleaved(lambda: torch.mm(a, b), lambda: multiply_rows(a, b), runs=runs)
    own, sgemm = time_interleaved(
        ours, (lambda: torch.mm(a, b)) if mkl < onednn else lambda: multiply_rows(a, b), runs=runs
    )
    mapping, _ = time_interleaved(lambda: neighbour_map(grid, level="fine", width=_CHANNELS), lambda: None, runs=runs)
    ours_rate = 3 * 2 * neighbours.forward.num_pairs * _CHANNELS**2 / own / 1e9
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
            "pairs": neighbours.forward.num_pairs,
            "channels": _CHANNELS,
            "seconds": own,
            "mkl_gflops": 2 * _MATRIX**3 / mkl / 1e9,
            "onednn_gflops": 2 * _MATRIX**3 / onednn / 1e9,
            "map_seconds": mapping,
        },
    )
