"""One operation behind both pooling and compositing: weighted sums of rows picked from a table.

A voxel is a weighted sum of the pixels seen through it; a ray is a weighted sum of the voxels it passes.
Either way the obvious program first copies one feature row per (pixel, candidate) or per (ray, sample)
and then adds the copies up. Here the rows are added straight from the table they live in, forward and
backward, so the memory moved does not contain the copies at all.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


def offsets_from_counts(counts: Int[Tensor, " segments"]) -> Int[Tensor, " segments_and_one"]:
    """Return where each run of consecutive entries starts, and where the last one ends."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def segment_sum(
    values: Float[Tensor, " entries"], segment_index: Int[Tensor, " entries"], num_segments: int
) -> Float[Tensor, " segments"]:
    """Add up scalars by segment; an empty segment sums to zero. Differentiable."""
    return values.new_zeros(num_segments).index_add(0, segment_index, values)


def weighted_gather_sum(
    table: Float[Tensor, "rows channels"],
    row_index: Int[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    segment_index: Int[Tensor, " entries"],
    num_segments: int,
) -> Float[Tensor, "segments channels"]:
    """Return ``sum_e weights[e] * table[row_index[e]]`` over the entries ``e`` of each segment.

    Args:
        table: Rows to add up. Differentiable.
        row_index: Row of each entry.
        weights: Weight of each entry. Differentiable.
        segment_index: Segment of each entry, ascending.
        num_segments: Number of segments; an empty one sums to zero.
    """
    # Under automatic mixed precision the table may be in half precision while weights are not.
    dtype = torch.promote_types(table.dtype, weights.dtype)
    return _WeightedGatherSum.apply(table.to(dtype), weights.to(dtype), row_index, segment_index, num_segments)  # pyright: ignore[reportReturnType]


def _bag(table: Tensor, rows: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    return embedding_bag(
        rows, table, offsets_from_counts(counts), mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _WeightedGatherSum(torch.autograd.Function):
    """Calls ``embedding_bag`` without gradients: with them, it leaves its fast kernel on the CPU."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # noqa: ANN401 - autograd.Function is untyped
        table, weights, row_index, segment_index, num_segments = inputs
        ctx.save_for_backward(table, weights, row_index, segment_index)
        return _bag(table, row_index, weights, torch.bincount(segment_index, minlength=num_segments))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        table, weights, row_index, segment_index = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous()
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            # The same sum with table and output exchanged: entries in the order of their rows.
            order = torch.argsort(row_index, stable=True)
            counts = torch.bincount(row_index, minlength=table.shape[0])
            grad_table = _bag(gradient, segment_index.index_select(0, order), weights.index_select(0, order), counts)
        if ctx.needs_input_grad[1]:
            offsets = offsets_from_counts(torch.bincount(segment_index, minlength=gradient.shape[0]))[:-1]
            grad_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, table, row_index, offsets, segment_index, 0, -1
            )
        return grad_table, grad_weights, None, None, None
