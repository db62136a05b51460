"""Benchmark of our sparse convolution against spconv, the library that most detectors use.

``pip install '.[cuda]'`` installs spconv for an accelerator, ``pip install spconv`` for a CPU.
"""

from collections.abc import Callable
from statistics import median

import spconv.pytorch as spconv  # pyright: ignore[reportMissingImports] - optional
import torch
from spconv.core import ConvAlgo  # pyright: ignore[reportMissingImports]
from torch import Tensor

from storage.freed_memory import reuse_freed_memory
from student.experiments.benchmarks.scene import street, street_grid
from student.experiments.benchmarks.timing import BenchRecord, device_name, seconds, time_interleaved
from student.model.sparse_conv import neighbour_maps, sparse_convolution
from student.model.sparse_voxels import SparseGrid

_CHANNELS = 128


def bench_spconv(
    *, runs: int = 7, height: int = 16, width: int = 28, channels: int = _CHANNELS, device: str | None = None
) -> BenchRecord:
    """Time a 3^3 float32 convolution of a street's fine cells: forward, and on an accelerator backward too.

    On a CPU, spconv's backward pass still needs a CUDA stream, and its sums are wrong with two threads (2.3.8). So the
    CPU runs forward only, on one thread. The neighbour searches of both are reported apart, because one search serves
    every convolution of its level.

    Args:
        runs: Runs of each program.
        height: Rows of each of six images whose surfaces are the voxels.
        width: Columns of each image.
        channels: Input and output channels; the published width by default.
        device: Device to compute on; an accelerator by default where there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    reuse_freed_memory()
    grid, _ = street_grid(street(height, width), num_candidates=15, coarse_level=7, device=device)
    features = torch.randn(grid.num_fine, channels, device=device, requires_grad=True)
    weight = torch.randn(27, channels, channels, device=device, requires_grad=True)
    probe = torch.randn_like(features)

    maps = neighbour_maps(grid, width=channels).fine
    theirs = _Spconv(grid, weight)

    def passes(convolve: Callable[[Tensor], Tensor], own_weight: Tensor) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            with torch.set_grad_enabled(device == "cuda"):
                output = convolve(features)
            gradients = torch.autograd.grad(output, [features, own_weight], probe) if output.requires_grad else ()
            return [output, *gradients[:1]]

        return run

    ours_run = passes(lambda rows: sparse_convolution(rows, weight, maps), weight)
    theirs_run = passes(theirs.convolve, theirs.weight)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if device == "cuda" else 1)
    try:
        ours, reference = time_interleaved(ours_run, theirs_run, runs=runs, device=device)
        differences = [float((a - b).abs().max()) for a, b in zip(ours_run(), theirs_run(), strict=True)]
        ours_search = median(seconds(lambda: neighbour_maps(grid, width=channels), device) for _ in range(runs))
        reference_search = median(seconds(theirs.search, device) for _ in range(runs))
    finally:
        torch.set_num_threads(threads)
    return BenchRecord(
        name="spconv",
        ratio=reference / ours,
        ours=ours,
        reference=reference,
        unit="s",
        runs=runs,
        details={
            "device": device_name(device),
            "voxels": grid.num_fine,
            "pairs": maps.forward.num_pairs,
            "channels": channels,
            "passes": "forward and backward" if device == "cuda" else "forward",
            "largest_difference": differences[0],
            **({"largest_gradient_difference": differences[1]} if device == "cuda" else {}),
            "maps_seconds": ours_search,
            "reference_map_seconds": reference_search,
        },
    )


class _Spconv:
    """Convolution by spconv with the same weights.

    Args:
        grid: Occupied cells.
        weight: Our weights, by tap, input channel and output channel.
    """

    def __init__(self, grid: SparseGrid, weight: Tensor) -> None:
        cells = grid.shape.fine_cells(grid.fine_keys)
        batch_index = torch.zeros_like(cells[:, :1])
        self._indices = torch.cat([batch_index, cells], dim=1).int().contiguous()
        self._resolution = [grid.shape.fine_resolution] * 3
        self._width = weight.shape[1]
        self._layer = spconv.SubMConv3d(
            self._width,
            weight.shape[2],
            3,
            bias=False,
            indice_key="fine",
            algo=None if weight.is_cuda else ConvAlgo.Native,  # the only one that a processor has
        ).to(weight.device)
        self.weight = self._layer.weight
        with torch.no_grad():
            self.weight.copy_(weight.view(3, 3, 3, *weight.shape[1:]).permute(4, 0, 1, 2, 3))
        self._searched = self.search()

    def search(self) -> spconv.SparseConvTensor:
        """Return a tensor with its neighbours found, by a convolution of zeros."""
        zeros = torch.zeros(len(self._indices), self._width, device=self._indices.device)
        tensor = spconv.SparseConvTensor(zeros, self._indices, self._resolution, 1)
        with torch.no_grad():
            return self._layer(tensor)

    def convolve(self, features: Tensor) -> Tensor:
        """Convolve with the neighbours that were found before."""
        return self._layer(self._searched.replace_feature(features)).features
