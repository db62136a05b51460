"""Matrix products of many rows with one matrix, by the fastest library that PyTorch carries.

``torch.mm`` multiplies in single precision with MKL, which gives processors of other makers than its own half of their
vector width. oneDNN, PyTorch's library for convolutions, gives all of it: twice as many products a second. A call of it
takes longer to begin with, so that narrow matrices are left to MKL.
"""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COMPILED_ROWS = 64
"""oneDNN compiles a kernel for each number of rows, which takes longer than many a product: numbers are rounded up to a
multiple of this, so that there are few."""

_WIDE = 32
"""Channels from which on oneDNN gains more than its calls cost, where a few thousand rows meet one matrix."""


def rows_multiple(device: torch.device) -> int:
    """Return what numbers of rows should be rounded up to a multiple of, to be multiplied fast."""
    return _COMPILED_ROWS if device.type == "cpu" else 1


def multiply_rows(
    rows: Float[Tensor, "rows in_channels"],
    matrix: Float[Tensor, "in_channels out_channels"],
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "rows out_channels"]:
    """Return ``rows @ matrix + bias``; not differentiable."""
    if rows.dtype == torch.float32 and not rows.is_cuda and rows.shape[1] >= _WIDE and _mkl_is_slow():
        # The only way to oneDNN's single precision: what the compiler of PyTorch itself calls for a linear layer.
        return torch.ops.mkldnn._linear_pointwise(rows, matrix.T, bias, "none", [], "")
    return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)


def apply_linear(linear: nn.Linear, rows: Float[Tensor, "rows in_channels"]) -> Float[Tensor, "rows out_channels"]:
    """Apply a linear layer; where no gradient is wanted, by the fastest library."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(rows.device.type):
        return linear(rows)
    return multiply_rows(rows, linear.weight.T, linear.bias)


@cache
def _mkl_is_slow() -> bool:
    """Tell whether this processor has wide vectors that MKL will not use."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and cpuinfo.is_file()
        and "GenuineIntel" not in cpuinfo.read_text()
    )
