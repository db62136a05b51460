"""Multi-resolution grid features, arranged for speed on a CPU.

nerfstudio's torch hash encoding spends its time in eight separate gathers per level and in the dense scatter of their
gradients. Five choices make it an order of magnitude cheaper here:

* Interpolation is over the simplex (Kuhn triangulation) that a point lies in: 4 corners of a cell instead of 8. It is
  linear, continuous, and exact at the nodes, like the trilinear one.
* All corners and levels are one ``embedding_bag`` over channel-last rows: fbgemm's fused gather-multiply-add.
* Indices and weights are computed with the points axis innermost, where elementwise kernels vectorise.
* The hash is additive (``x + p y + q z`` modulo the table's rows), so corners are offsets from the cell's base index.
  Cells that share a row then form a lattice, and ``p`` and ``q`` are chosen so that its nearest points are far apart.
  For a level that fits the table, the same formula with true strides is a dense grid without collisions.
* Gradients are scattered channel by channel into a vector each, which is five times as fast as into rows.

With ``gradient="stochastic"``, a gradient goes to *one* corner per point, drawn with the interpolation weights as
probabilities. The estimate is unbiased (its expectation is the exact gradient, see the tests) and a step is cheaper,
but Adam averages only part of the noise away.
"""

import functools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn

_GOLDEN_RATIO = 0.6180339887498949
_SILVER_RATIO = 0.41421356237309515

GradientMode = Literal["stochastic", "exact"]
Interpolation = Literal["simplex", "nearest"]


class GridEncoding(nn.Module):
    """Interpolate learned features at points of the unit cube, level by level: a hash grid of (EmerNeRF Eq. 1).

    Args:
        resolutions: Cells along x, y, z of each level, coarse to fine.
        features_per_level: Channels of each level.
        log2_table_size: Rows of each level's table; levels that need fewer nodes are dense.
        interpolation: ``nearest`` takes the closest node: piecewise constant, for densities that only guide sampling.
        gradient: How table gradients are scattered, see the module's docstring.
        init_scale: Half-width of the uniform initialisation.
    """

    def __init__(
        self,
        resolutions: list[tuple[int, int, int]],
        *,
        features_per_level: int,
        log2_table_size: int,
        interpolation: Interpolation = "simplex",
        gradient: GradientMode = "stochastic",
        init_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        if not resolutions:
            raise ValueError("resolutions are empty, want at least one level")
        self.num_levels = len(resolutions)
        self.features_per_level = features_per_level
        self.interpolation: Interpolation = interpolation
        self.gradient: GradientMode = gradient
        rows = 1 << log2_table_size
        self.index_mask = rows - 1
        self.slice_stride = round(rows * _GOLDEN_RATIO) | 1
        self.table = nn.Parameter(
            torch.empty(self.num_levels * rows, features_per_level).uniform_(-init_scale, init_scale)
        )
        self.scales: Tensor
        self.strides: Tensor
        self.level_offsets: Tensor
        scales = torch.tensor(resolutions, dtype=torch.float32).t()[:, :, None]
        strides = _wrap_int32(torch.tensor([_strides(r, rows) for r in resolutions]).t()[:, :, None])
        offsets = (torch.arange(self.num_levels, dtype=torch.int32) * rows)[:, None]
        self.register_buffer("scales", scales.contiguous(), persistent=False)
        self.register_buffer("strides", strides.contiguous(), persistent=False)
        self.register_buffer("level_offsets", offsets, persistent=False)

    @property
    def output_width(self) -> int:
        """Return the number of features of a point: levels times channels."""
        return self.num_levels * self.features_per_level

    def forward(
        self, positions: Float[Tensor, "points 3"], slices: Int32[Tensor, " points"] | None = None
    ) -> Float[Tensor, "points features"]:
        """Return the interpolated features of positions in [0, 1].

        Positions get a gradient if they ask for one, such as those that a flow field has moved; ``nearest`` has none.

        Args:
            positions: Points of the unit cube.
            slices: Number of the grid in the same table that each point looks into, such as one per frame.
        """
        if len(positions) == 0:
            return self.table.new_zeros(0, self.output_width)
        scaled = positions.t().contiguous()[:, None, :] * self.scales
        start = self.level_offsets.new_zeros(1) if slices is None else slices * self.slice_stride
        if self.interpolation == "nearest":
            rows = _rows((scaled.detach() + 0.5).floor_(), start, self.strides, self.level_offsets, self.index_mask)
            encoded = _Gather.apply(self.table, rows)
        else:
            encoded = _Interpolate.apply(
                self.table, scaled, start, self.strides, self.level_offsets, self.index_mask, self.gradient
            )
        return encoded.view(self.num_levels, len(positions), -1).permute(1, 0, 2).reshape(len(positions), -1)


def geometric_resolutions(
    half_extent_m: tuple[float, float, float], *, coarsest_cell_m: float, finest_cell_m: float, num_levels: int
) -> list[tuple[int, int, int]]:
    """Return the cells along each axis of levels whose metric cell size shrinks geometrically.

    The unit cube covers four half-extents of the box (contraction doubles its width), and cells are cubic in metres
    inside it, whatever the proportions of the box.
    """
    ratio = (finest_cell_m / coarsest_cell_m) ** (1 / max(1, num_levels - 1))
    cells = [coarsest_cell_m * ratio**level for level in range(num_levels)]
    x, y, z = half_extent_m
    return [(_cells(x, cell), _cells(y, cell), _cells(z, cell)) for cell in cells]


def _cells(half_extent_m: float, cell_m: float) -> int:
    return max(2, math.ceil(4.0 * half_extent_m / cell_m))


@functools.cache
def lattice_multipliers(rows: int) -> tuple[int, int]:
    """Return ``p`` and ``q`` so that cells of equal ``x + p y + q z`` modulo ``rows`` lie far from each other.

    The best of some hundred quasi-random pairs; the ideal distance is about 1.12 times the cube root of ``rows``.
    """
    reach = math.ceil(1.3 * rows ** (1 / 3))
    steps = torch.arange(-reach, reach + 1)
    y, z = torch.meshgrid(steps, steps, indexing="ij")
    best, found = -1.0, (1, 1)
    for candidate in range(1, 201):
        p = int(rows * ((candidate * _GOLDEN_RATIO) % 1.0)) | 1
        q = int(rows * ((candidate * _SILVER_RATIO) % 1.0)) | 1
        x = (p * y + q * z + rows // 2) % rows - rows // 2
        distance = (x * x + y * y + z * z).to(torch.float64)
        distance[reach, reach] = rows  # the cell itself
        shortest = float(distance.min())
        if shortest > best:
            best, found = shortest, (p, q)
    return found


def _strides(resolution: tuple[int, int, int], rows: int) -> tuple[int, ...]:
    nodes = [cells + 2 for cells in resolution]  # the upper corner of a point at exactly 1 is one node further
    if math.prod(nodes) <= rows:
        return tuple(math.prod(nodes[:axis]) for axis in range(len(nodes)))
    return (1, *lattice_multipliers(rows))


def _wrap_int32(values: Int[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    return ((values + 2**31) % 2**32 - 2**31).to(torch.int32)


def _base(
    nodes: Float[Tensor, "3 levels points"], start: Int32[Tensor, " #points"], strides: Int32[Tensor, "3 levels 1"]
) -> Int32[Tensor, "levels points"]:
    x, y, z = nodes.to(torch.int32)
    return (x * strides[0]).addcmul_(y, strides[1]).addcmul_(z, strides[2]).add_(start)


def _rows(
    nodes: Float[Tensor, "3 levels points"],
    start: Int32[Tensor, " #points"],
    strides: Int32[Tensor, "3 levels 1"],
    level_offsets: Int32[Tensor, "levels 1"],
    index_mask: int,
) -> Int32[Tensor, " bags"]:
    """Return the table row of one node per level and point, level-major."""
    return _base(nodes, start, strides).bitwise_and_(index_mask).add_(level_offsets).view(-1)


def _simplex_rows_and_weights(
    scaled: Float[Tensor, "3 levels points"],
    start: Int32[Tensor, " #points"],
    strides: Int32[Tensor, "3 levels 1"],
    level_offsets: Int32[Tensor, "levels 1"],
    index_mask: int,
) -> tuple[Int32[Tensor, "bags corners"], Float[Tensor, "bags corners"]]:
    """Return table rows and weights of the corners of each point's simplex; bags are level-major.

    Walking from the cell's lower corner to its upper one along the axes in order of falling fraction visits the
    simplex's corners; the weight of each is the drop of the fraction at its step.
    """
    _, levels, points = scaled.shape
    lower = scaled.floor()
    fractions, steps = _falling(scaled - lower, strides)
    index = _base(lower, start, strides)
    rows = torch.empty(levels, points, 4, dtype=torch.int32, device=scaled.device)
    weights = torch.empty(levels, points, 4, device=scaled.device)
    weights[:, :, 0] = 1.0 - fractions[0]
    for corner in range(4):
        if corner > 0:
            index = index + steps[corner - 1]
            below = fractions[corner] if corner < 3 else torch.zeros_like(fractions[0])
            torch.sub(fractions[corner - 1], below, out=weights[:, :, corner])
        torch.add(index.bitwise_and(index_mask), level_offsets, out=rows[:, :, corner])
    return rows.view(levels * points, -1), weights.view(levels * points, -1)


def _falling(
    fractions: Float[Tensor, "3 levels points"], strides: Int32[Tensor, "3 levels 1"]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return fractions in falling order, and the stride of the axis that each belongs to."""
    x, y, z = fractions
    high, low = torch.maximum(torch.maximum(x, y), z), torch.minimum(torch.minimum(x, y), z)
    middle = (x + y).add_(z).sub_(high).sub_(low)
    step_high = torch.where(x == high, strides[0], torch.where(y == high, strides[1], strides[2]))
    # Ties are broken from the other end, so that no axis is taken twice.
    step_low = torch.where(z == low, strides[2], torch.where(y == low, strides[1], strides[0]))
    step_middle = strides.sum(dim=0, dtype=torch.int32) - step_high - step_low
    return [high, middle, low], [step_high, step_middle, step_low]


def _position_gradient(
    corners: Float[Tensor, "bags corners channels"],
    scaled: Float[Tensor, "3 levels points"],
    grad_output: Float[Tensor, "bags channels"],
) -> Float[Tensor, "3 levels points"]:
    """Return the gradient at positions: along an axis, features change as from one corner of its step to the next."""
    x, y, z = fractions = scaled - scaled.floor()
    high, low = fractions.amax(dim=0), fractions.amin(dim=0)
    # The same order of axes, ties included, as in ``_falling``.
    first = torch.where(x == high, 0, torch.where(y == high, 1, 2))
    last = torch.where(z == low, 2, torch.where(y == low, 1, 0))
    change = ((corners[:, 1:] - corners[:, :-1]) * grad_output[:, None, :]).sum(dim=-1).view(*scaled.shape[1:], 3)
    axes = torch.stack([first, 3 - first - last, last])
    return torch.zeros_like(scaled).scatter_(0, axes, change.permute(2, 0, 1))


def _scatter_rows(
    table_shape: torch.Size,
    rows: Int[Tensor, "bags corners"],
    gradient: Float[Tensor, "bags channels"],
    weights: Float[Tensor, "bags corners"] | None = None,
) -> Float[Tensor, "rows channels"]:
    """Return the sum of the gradients of each row of a table; a bag's gradient is weighted for each of its corners."""
    index = rows.reshape(-1).long()
    planes = torch.zeros(table_shape[1], table_shape[0], device=gradient.device)
    for plane, of_channel in zip(planes, gradient.t(), strict=True):
        plane.scatter_add_(0, index, of_channel if weights is None else (of_channel[:, None] * weights).view(-1))
    return planes.t().contiguous()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ANN401 - untyped
        ctx.save_for_backward(rows)
        ctx.table_shape = table.shape
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # noqa: ANN401
        (rows,) = ctx.saved_tensors
        return _scatter_rows(ctx.table_shape, rows[:, None], grad_output), None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        table: Tensor,
        scaled: Tensor,
        start: Tensor,
        strides: Tensor,
        level_offsets: Tensor,
        index_mask: int,
        gradient: GradientMode,
    ) -> Tensor:
        rows, weights = _simplex_rows_and_weights(scaled, start, strides, level_offsets, index_mask)
        moving = table if ctx.needs_input_grad[1] else table.new_empty(0)
        kept = (rows, weights) if gradient == "exact" else ()
        ctx.save_for_backward(scaled, start, strides, level_offsets, moving, *kept)
        ctx.index_mask, ctx.table_shape = index_mask, table.shape
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # noqa: ANN401
        scaled, start, strides, level_offsets, table, *kept = ctx.saved_tensors
        of_positions = None
        if ctx.needs_input_grad[1]:
            rows, _ = kept or _simplex_rows_and_weights(scaled, start, strides, level_offsets, ctx.index_mask)
            of_positions = _position_gradient(F.embedding(rows, table), scaled, grad_output)
        if kept:
            rows, weights = kept
            of_table = _scatter_rows(ctx.table_shape, rows, grad_output, weights)
        else:
            # Rounding every axis up against one shared threshold draws a corner of the simplex with its weight.
            threshold = torch.rand(scaled.shape[1:], device=scaled.device)
            rows = _rows((scaled + threshold).floor_(), start, strides, level_offsets, ctx.index_mask)
            of_table = _scatter_rows(ctx.table_shape, rows[:, None], grad_output)
        return of_table, of_positions, None, None, None, None, None
