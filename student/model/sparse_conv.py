"""Sparse convolution on occupied cells (DistillNeRF Sec. 3.1): gather, multiply and add up, tap by tap.

A *kernel map* lists, for every tap of the kernel, which input row meets which output row. Its pairs are kept in blocks
of consecutive output rows. Threads share the blocks, and what a tap gathers is near when it is multiplied and added.

The backward pass is the same walk over the transposed map: gathering the output's gradient once serves both the input's
gradient and the weights'. Where no gradient is wanted, activation and normalisation are applied to each block while it
is near, too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from student.model.precision import product_dtype
from student.model.products import multiply_rows, rows_multiple
from student.model.sparse_voxels import CHILDREN_PER_AXIS, CHILDREN_PER_CELL, SparseGrid
from student.model.threads import each_share, num_shares

_Result = TypeVar("_Result")

_BLOCK_VALUES, _BLOCK_VALUES_ON_CPU = 2**27, 2**22
"""Values that a block gathers, about: on a processor few enough to be near, elsewhere as many as memory allows."""
_KERNEL_OFFSETS = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
NUM_NEIGHBOUR_TAPS = len(_KERNEL_OFFSETS)
_CENTRE_TAP = NUM_NEIGHBOUR_TAPS // 2


class TapPairs(NamedTuple):
    """The pairs of one tap that add to one block.

    Attributes:
        tap: Number of the tap.
        input_row: Rows to gather, a number that is multiplied fast: the first ones are the tap's.
        output_row: Row of the block that each of the tap's adds to; no two are the same.
    """

    tap: int
    input_row: Int64[Tensor, " gathered"]
    output_row: Int64[Tensor, " pairs"]


class Block(NamedTuple):
    """Consecutive output rows, and the taps that have pairs adding to them."""

    rows: slice
    taps: tuple[TapPairs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelMap:
    """The pairs of rows that a sparse convolution multiplies, by block of output rows, then by tap.

    Attributes:
        blocks: Blocks that together hold all output rows.
        num_outputs: Output rows.
        centre: Tap, if any, by which every row meets the one of the same number. Such pairs are not listed: nothing
            needs to be gathered or added up for them.
    """

    blocks: tuple[Block, ...]
    num_outputs: int
    centre: int | None

    @property
    def num_pairs(self) -> int:
        """Pairs in all: useful multiply-adds are this times input times output channels."""
        listed = sum(len(pairs.output_row) for block in self.blocks for pairs in block.taps)
        return listed + (0 if self.centre is None else self.num_outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionMap:
    """A kernel map and its transpose.

    Attributes:
        forward: Inputs to outputs.
        transposed: Outputs to inputs.
        transposed_taps: Tap of the forward kernel that each tap of the transposed map stands for.
    """

    forward: KernelMap
    transposed: KernelMap
    transposed_taps: tuple[int, ...]


class NeighbourMaps(NamedTuple):
    """Every occupied cell to its occupied neighbours in a 3^3 window (a submanifold convolution).

    Attributes:
        fine: Map of the fine level.
        coarse: Map of the coarse level.
    """

    fine: ConvolutionMap
    coarse: ConvolutionMap


def neighbour_maps(grid: SparseGrid, *, width: int = 64) -> NeighbourMaps:
    """Map both levels. A fine cell finds its neighbours via its parent's.

    If b is a's neighbour at some tap, a is b's at the opposite one. So only half the taps are listed,
    and each map is its own transpose.

    Args:
        grid: Occupied cells.
        width: Channels, roughly, of the convolutions that will use the maps. Only speed depends on it.
    """
    coarse = _coarse_neighbours(grid)
    return NeighbourMaps(
        fine=_neighbour_map(_fine_neighbours(grid, coarse), width), coarse=_neighbour_map(coarse[:_CENTRE_TAP], width)
    )


def _neighbour_map(rows: Int32[Tensor, "13 cells"], width: int) -> ConvolutionMap:
    tap, output_row = (rows >= 0).nonzero(as_tuple=True)
    input_row = rows.reshape(-1).index_select(0, tap * rows.shape[1] + output_row).long()
    kernel_map = _from_pairs(
        input_row=torch.cat([input_row, output_row]),
        output_row=torch.cat([output_row, input_row]),
        tap=torch.cat([tap, 2 * _CENTRE_TAP - tap]),
        num_outputs=rows.shape[1],
        num_taps=NUM_NEIGHBOUR_TAPS,
        centre=_CENTRE_TAP,
        width=width,
    )
    return ConvolutionMap(
        forward=kernel_map, transposed=kernel_map, transposed_taps=tuple(reversed(range(NUM_NEIGHBOUR_TAPS)))
    )


def children_map(grid: SparseGrid, *, width: int = 64) -> ConvolutionMap:
    """Map the fine cells of each coarse cell to it, one tap per place: a convolution of size and stride 4.

    Args:
        grid: Occupied cells.
        width: Channels that will be convolved, as for :func:`neighbour_maps`.
    """
    child = grid.fine_keys % CHILDREN_PER_CELL
    fine_row = torch.arange(grid.num_fine, device=child.device)
    down = {"input_row": fine_row, "output_row": grid.parent_row, "num_outputs": grid.num_coarse, "width": width}
    up = {"input_row": grid.parent_row, "output_row": fine_row, "num_outputs": grid.num_fine, "width": width}
    return ConvolutionMap(
        forward=_from_pairs(**down, tap=child, num_taps=CHILDREN_PER_CELL),
        transposed=_from_pairs(**up, tap=child, num_taps=CHILDREN_PER_CELL),
        transposed_taps=tuple(range(CHILDREN_PER_CELL)),
    )


def _coarse_neighbours(grid: SparseGrid) -> Int32[Tensor, "27 coarse"]:
    """Return the row of each coarse cell's neighbours, -1 where unoccupied or outside."""
    device = grid.coarse_keys.device
    resolution = grid.shape.coarse_resolution
    offsets = torch.tensor(_KERNEL_OFFSETS, device=device)
    # One plane per axis: each comparison then runs over contiguous memory.
    neighbours = grid.shape.coarse_cells(grid.coarse_keys).T[:, None] + offsets.T[..., None]
    x, y, z = ((neighbours >= 0) & (neighbours < resolution)).unbind()
    is_inside = x & y & z
    steps = (offsets * offsets.new_tensor([resolution**2, resolution, 1])).sum(-1)
    # Outside the grid the key is of some other cell, possibly of no cell: look up the cell itself instead.
    keys = torch.where(is_inside, grid.coarse_keys + steps[:, None], grid.coarse_keys)
    found = grid.coarse_table.index_select(0, keys.reshape(-1)).view(keys.shape)
    return torch.where(is_inside, found, -1)


def _fine_neighbours(grid: SparseGrid, coarse_neighbours: Int32[Tensor, "27 coarse"]) -> Int32[Tensor, "13 fine"]:
    """Return the row of each fine cell's neighbours at the first half of the taps, via its parent's neighbours.

    In which neighbour of the parent a fine neighbour lies, and where inside, depends only on the place
    of the cell in its parent: 64 places times 13 taps, worked out once.
    """
    device = grid.fine_keys.device
    place = torch.cartesian_prod(*[torch.arange(CHILDREN_PER_AXIS, device=device)] * 3)
    moved = place + torch.tensor(_KERNEL_OFFSETS[:_CENTRE_TAP], device=device)[:, None]
    block = torch.div(moved, CHILDREN_PER_AXIS, rounding_mode="floor") + 1
    parent_tap = (block[..., 0] * 3 + block[..., 1]) * 3 + block[..., 2]
    inside = moved % CHILDREN_PER_AXIS
    child = (inside[..., 0] * CHILDREN_PER_AXIS + inside[..., 1]) * CHILDREN_PER_AXIS + inside[..., 2]
    own_child = (grid.fine_keys % CHILDREN_PER_CELL).to(torch.int32)
    first_of_tap = (parent_tap * grid.num_coarse).to(torch.int32)
    parent_place = first_of_tap.index_select(1, own_child) + grid.parent_row.to(torch.int32)
    parent = coarse_neighbours.reshape(-1).index_select(0, parent_place.view(-1)).view_as(parent_place)
    # A missing parent, row -1, finds the row of -1 that is put before the table.
    table = torch.cat([grid.child_table.new_full((1, CHILDREN_PER_CELL), -1), grid.child_table]).reshape(-1)
    place = (parent + 1) * CHILDREN_PER_CELL + child.to(torch.int32).index_select(1, own_child)
    return table.index_select(0, place.view(-1)).view_as(place)


def _from_pairs(
    *,
    input_row: Int64[Tensor, " pairs"],
    output_row: Int64[Tensor, " pairs"],
    tap: Int64[Tensor, " pairs"],
    num_outputs: int,
    num_taps: int,
    width: int,
    centre: int | None = None,
) -> KernelMap:
    """Arrange pairs, given in any order, by block and tap; a radix sort."""
    is_on_cpu = tap.device.type == "cpu"
    num_blocks = -(-len(tap) * width // (_BLOCK_VALUES_ON_CPU if is_on_cpu else _BLOCK_VALUES))
    if is_on_cpu and num_blocks > 1:
        num_blocks = -(-num_blocks // num_shares()) * num_shares()
    block_rows = max(1, -(-num_outputs // max(1, num_blocks)))
    starts = range(0, max(1, num_outputs), block_rows)
    block = torch.div(output_row, block_rows, rounding_mode="floor")
    bucket = block * num_taps + tap
    order = torch.argsort(bucket, stable=True)
    input_row = input_row.index_select(0, order)
    output_row = (output_row - block * block_rows).index_select(0, order)
    ends = torch.bincount(bucket, minlength=len(starts) * num_taps).cumsum(0).tolist()
    step = rows_multiple(tap.device)
    taps = [
        TapPairs(index % num_taps, input_row[first : first + -(-(last - first) // step) * step], output_row[first:last])
        for index, (first, last) in enumerate(pairwise([0, *ends]))
    ]
    return KernelMap(
        blocks=tuple(
            Block(
                slice(start, min(start + block_rows, num_outputs)),
                tuple(pairs for pairs in taps[index * num_taps : (index + 1) * num_taps] if len(pairs.output_row)),
            )
            for index, start in enumerate(starts)
        ),
        num_outputs=num_outputs,
        centre=centre,
    )


def _first_products(
    rows: Tensor, matrices: Sequence[Tensor], kernel_map: KernelMap, block: Block, bias: Tensor | None = None
) -> Tensor:
    """Return the bias, and what the centre tap adds to each row of a block; in single precision at least."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    num_rows = block.rows.stop - block.rows.start
    if kernel_map.centre is None:
        total = rows.new_zeros(num_rows, matrices[0].shape[1], dtype=dtype)
        return total if bias is None else total.add_(bias)
    step = rows_multiple(rows.device)
    own = rows[block.rows.start : block.rows.start + -(-num_rows // step) * step]
    return multiply_rows(own, matrices[kernel_map.centre], bias)[:num_rows].to(dtype)


def _add_products(total: Tensor, rows: Tensor, gathered: Tensor, matrix: Tensor) -> None:
    total.index_add_(0, rows, multiply_rows(gathered, matrix)[: len(rows)].to(total.dtype))


def _each_block(
    work: Callable[[Iterable[Block]], _Result],
    kernel_map: KernelMap,
    device: torch.device,
    *,
    as_they_come: bool = False,
) -> list[_Result]:
    """Do work on all blocks: by threads on a processor, one after the other on an accelerator, which needs none."""
    if device.type != "cpu":
        return [work(kernel_map.blocks)]
    return each_share(work, kernel_map.blocks, as_they_come=as_they_come)


def _convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: KernelMap,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    # Every output row lies in one block; one without pairs gets what follows the bias.
    output = features.new_empty(kernel_map.num_outputs, weight.shape[2])
    matrices = weight.mT.contiguous().mT.unbind()  # as products read them; once, not for each block

    def work(blocks: Iterable[Block]) -> None:
        for block in blocks:
            total = _first_products(features, matrices, kernel_map, block, bias)
            for tap, input_row, output_row in block.taps:
                _add_products(total, output_row, features.index_select(0, input_row), matrices[tap])
            total = total.to(output.dtype)
            output[block.rows] = total if after is None else after(total)

    _each_block(work, kernel_map, features.device, as_they_come=True)
    return output


class _SparseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # noqa: ANN401 - autograd.Function is untyped
        features, weight, bias, convolution_map = inputs
        ctx.save_for_backward(features, weight)
        ctx.convolution_map = convolution_map
        return _convolve(features, weight, bias, convolution_map.forward)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        features, weight = ctx.saved_tensors
        kernel_map, own_tap = ctx.convolution_map.transposed, ctx.convolution_map.transposed_taps
        gradient = grad_outputs[0].contiguous()
        needs_features, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_features = torch.empty_like(features)
        # Many blocks add to one weight: in reduced precision the sum would lose what the last ones say.
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)
        transposed = [weight[tap].T for tap in own_tap]

        def work(blocks: Iterable[Block]) -> Tensor:
            grad_weight = torch.zeros_like(weight, dtype=sum_dtype)
            for block in blocks:
                if needs_weight and kernel_map.centre is not None:
                    grad_weight[own_tap[kernel_map.centre]] += features[block.rows].T @ gradient[block.rows]
                total = _first_products(gradient, transposed, kernel_map, block)
                for tap, input_row, output_row in block.taps:
                    gathered = gradient.index_select(0, input_row)
                    if needs_weight:
                        met = features[block.rows].index_select(0, output_row)
                        grad_weight[own_tap[tap]] += met.T @ gathered[: len(output_row)]
                    if needs_features:
                        _add_products(total, output_row, gathered, transposed[tap])
                grad_features[block.rows] = total
            return grad_weight

        # Not as they come: which blocks' sums are added up first must be the same in every run.
        first, *others = _each_block(work, kernel_map, features.device)
        return (
            grad_features if needs_features else None,
            sum(others, first) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
            None,
        )


def sparse_convolution(
    features: Float[Tensor, "inputs in_channels"],
    weight: Float[Tensor, "taps in_channels out_channels"],
    convolution_map: ConvolutionMap,
    *,
    bias: Float[Tensor, " out_channels"] | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "outputs out_channels"]:
    """Convolve features on occupied cells; an unoccupied cell counts as zero.

    With :func:`neighbour_maps` and taps in the order of ``weight.permute(2, 3, 4, 1, 0)``, equals
    ``conv3d`` of the dense grid, padding 1, read at the occupied cells.

    Args:
        features: Rows of the occupied cells.
        weight: Matrix of each tap.
        convolution_map: Which row meets which.
        bias: Added to every row.
        after: Applied to the result, to each row by itself; only without gradients, where it costs no memory.
    """
    dtype = product_dtype(features, weight)
    features, weight, bias = features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if after is not None:
        return _convolve(features, weight, bias, convolution_map.forward, after)
    return _SparseConvolution.apply(features, weight, bias, convolution_map)  # pyright: ignore[reportReturnType]


class SparseConv(nn.Module):
    """A sparse convolution with bias.

    Args:
        in_channels: Channels of the input rows.
        out_channels: Channels of the output rows.
        num_taps: 27 for a 3^3 window, 64 for the 4^3 strided one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_taps: int = NUM_NEIGHBOUR_TAPS) -> None:
        super().__init__()
        # Cells lie on surfaces, so about a third of the taps meet an occupied cell: the fan-in that counts.
        bound = (3.0 / (in_channels * num_taps / 3)) ** 0.5
        self.weight = nn.Parameter(torch.empty(num_taps, in_channels, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self,
        features: Float[Tensor, "inputs in_channels"],
        convolution_map: ConvolutionMap,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "outputs out_channels"]:
        """Convolve along the given map.

        Args:
            features: Rows of the occupied cells.
            convolution_map: Which row meets which.
            after: Applied to the result, to each row by itself, such as an activation; it may write over its argument.
        """
        if after is None or not torch.is_grad_enabled():
            return sparse_convolution(features, self.weight, convolution_map, bias=self.bias, after=after)
        return after(sparse_convolution(features, self.weight, convolution_map, bias=self.bias))
