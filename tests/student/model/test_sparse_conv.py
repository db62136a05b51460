"""The sparse convolution equals a dense one, forward and backward."""

import pytest
import torch
from torch import Tensor

from student.model import products
from student.model.sparse_conv import SparseConv, children_map, neighbour_maps, sparse_convolution
from student.model.sparse_voxels import GridShape, SparseGrid, build_grid

# float32 sums of up to 64 * 8 products of unit normals, in another order than conv3d's.
TOLERANCE = 1e-4


@pytest.fixture(params=["mkl", "onednn"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make products by either library, whatever this machine would choose."""
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: request.param == "onednn")
    monkeypatch.setattr(products, "_WIDE", 1)


def random_grid(*, num_points: int = 300, batch_size: int = 2, coarse_level: int = 2, seed: int = 0) -> SparseGrid:
    generator = torch.Generator().manual_seed(seed)
    shape = GridShape(batch_size=batch_size, coarse_level=coarse_level)
    cells = torch.randint(0, shape.fine_resolution, (num_points, 3), generator=generator)
    # Both faces of the grid are occupied, so that wrapping around an edge would show.
    cells[:20, 2], cells[20:40, 2] = 0, shape.fine_resolution - 1
    batch_index = torch.randint(0, batch_size, (num_points,), generator=generator)
    return build_grid(shape, shape.fine_keys(cells, batch_index))[0]


def scatter_dense(rows: Tensor, cells: Tensor, batch_index: Tensor, batch_size: int, resolution: int) -> Tensor:
    dense = rows.new_zeros(batch_size, resolution, resolution, resolution, rows.shape[1])
    x, y, z = cells.unbind(-1)
    return dense.index_put((batch_index, x, y, z), rows).permute(0, 4, 1, 2, 3)


def cells_of(grid: SparseGrid, level: str) -> tuple[Tensor, Tensor, int]:
    bits = 3 * grid.shape.coarse_level
    if level == "fine":
        return grid.shape.fine_cells(grid.fine_keys), grid.fine_keys >> bits + 6, grid.shape.fine_resolution
    return grid.shape.coarse_cells(grid.coarse_keys), grid.coarse_keys >> bits, grid.shape.coarse_resolution


@pytest.mark.parametrize("level", ["coarse", "fine"])
@pytest.mark.parametrize("num_points", [1, 300, 6000])
def test_neighbour_convolution_equals_dense_conv3d(level, num_points):
    torch.manual_seed(1)
    grid = random_grid(num_points=num_points)
    cells, batch_index, resolution = cells_of(grid, level)
    features = torch.randn(len(cells), 8, requires_grad=True)
    kernel = torch.randn(5, 8, 3, 3, 3, requires_grad=True)
    weight = kernel.permute(2, 3, 4, 1, 0).reshape(27, 8, 5)
    bias = torch.randn(5, requires_grad=True)
    inputs = [features, kernel, bias]
    ours = sparse_convolution(features, weight, getattr(neighbour_maps(grid), level), bias=bias)
    probe = torch.randn_like(ours)
    ours_gradients = torch.autograd.grad((ours * probe).sum(), inputs)

    dense_input = scatter_dense(features, cells, batch_index, 2, resolution)
    dense = torch.nn.functional.conv3d(dense_input, kernel, bias, padding=1)
    x, y, z = cells.unbind(-1)
    expected = dense.permute(0, 2, 3, 4, 1)[batch_index, x, y, z]
    expected_gradients = torch.autograd.grad((expected * probe).sum(), inputs)
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for got, want in zip(ours_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, want, atol=TOLERANCE * max(1.0, float(want.abs().max())), rtol=TOLERANCE)


def test_down_convolution_sees_all_64_children_and_equals_dense():
    torch.manual_seed(2)
    grid = random_grid(num_points=4000)
    cells, batch_index, resolution = cells_of(grid, "fine")
    features = torch.randn(grid.num_fine, 8, requires_grad=True)
    kernel = torch.randn(5, 8, 4, 4, 4, requires_grad=True)
    weight = kernel.permute(2, 3, 4, 1, 0).reshape(64, 8, 5)
    bias = torch.randn(5, requires_grad=True)
    inputs = [features, kernel, bias]
    ours = sparse_convolution(features, weight, children_map(grid), bias=bias)
    probe = torch.randn_like(ours)
    ours_gradients = torch.autograd.grad((ours * probe).sum(), inputs)

    dense_input = scatter_dense(features, cells, batch_index, 2, resolution)
    dense = torch.nn.functional.conv3d(dense_input, kernel, bias, stride=4)
    coarse_cells, coarse_batch, _ = cells_of(grid, "coarse")
    x, y, z = coarse_cells.unbind(-1)
    expected = dense.permute(0, 2, 3, 4, 1)[coarse_batch, x, y, z]
    expected_gradients = torch.autograd.grad((expected * probe).sum(), inputs)
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for got, want in zip(ours_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, want, atol=TOLERANCE * max(1.0, float(want.abs().max())), rtol=TOLERANCE)
    assert (torch.autograd.grad(sparse_convolution(features, weight, children_map(grid)).sum(), features)[0] != 0).all()


@pytest.mark.parametrize("level", ["coarse", "fine"])
def test_what_comes_after_is_the_same_block_by_block(level):
    torch.manual_seed(3)
    grid = random_grid(num_points=6000)
    # So wide that there are many blocks, some rows of which have no pair but their own.
    convolution_map = getattr(neighbour_maps(grid, width=2**16), level)
    assert len(convolution_map.forward.blocks) > 5
    convolution, norm = SparseConv(8, 6), torch.nn.LayerNorm(6)
    torch.nn.init.normal_(convolution.bias)
    features = torch.randn(len(cells_of(grid, level)[0]), 8)

    def after(rows: Tensor) -> Tensor:
        return norm(rows.relu())

    whole = convolution(features, convolution_map, after)
    with torch.no_grad():
        by_block = convolution(features, convolution_map, after)
    torch.testing.assert_close(by_block, whole.detach())


def test_threads_change_the_order_of_sums_alone():
    torch.manual_seed(5)
    grid = random_grid(num_points=6000)
    convolution_map = neighbour_maps(grid, width=2**14).fine
    assert len(convolution_map.forward.blocks) > 3
    features, weight = torch.randn(grid.num_fine, 8, requires_grad=True), torch.randn(27, 8, 6, requires_grad=True)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            output = sparse_convolution(features, weight, convolution_map)
            found.append((output, *torch.autograd.grad(output.sin().sum(), [features, weight])))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(three, one, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("num_points", [1, 300, 6000])
def test_reduced_precision_differs_by_its_rounding_alone(num_points):
    torch.manual_seed(4)
    grid = random_grid(num_points=num_points)
    convolution_map = neighbour_maps(grid, width=2**12).fine
    # Integers so small that bfloat16 holds every product and most sums exactly.
    features = torch.randint(-2, 3, (grid.num_fine, 8)).float().requires_grad_()
    weight = torch.randint(-1, 2, (27, 8, 6)).float().requires_grad_()
    exact = sparse_convolution(features, weight, convolution_map)
    reduced = sparse_convolution(features.bfloat16(), weight.bfloat16(), convolution_map)
    torch.testing.assert_close(reduced.float(), exact, atol=0.5, rtol=2**-7)
    probe = torch.randint(-1, 2, exact.shape).float()
    for got, want in zip(
        torch.autograd.grad((reduced.float() * probe).sum(), [features, weight]),
        torch.autograd.grad((exact * probe).sum(), [features, weight]),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=0.5, rtol=2**-7)


def test_double_precision_gradients_pass_gradcheck():
    grid = random_grid(num_points=12)
    features = torch.randn(grid.num_fine, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(27, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    neighbours = neighbour_maps(grid).fine
    assert torch.autograd.gradcheck(
        lambda f, w, b: sparse_convolution(f, w, neighbours, bias=b), (features, weight, bias)
    )


def test_samples_of_a_batch_do_not_touch():
    shape = GridShape(batch_size=2, coarse_level=2)
    last = torch.tensor([[15, 15, 15]])
    first = torch.tensor([[0, 0, 0]])
    keys = torch.cat([shape.fine_keys(last, torch.tensor([0])), shape.fine_keys(first, torch.tensor([1]))])
    grid, _ = build_grid(shape, keys)
    assert neighbour_maps(grid).fine.forward.num_pairs == 2
    assert neighbour_maps(grid).coarse.forward.num_pairs == 2


def test_an_empty_grid_convolves_to_nothing():
    shape = GridShape(batch_size=1, coarse_level=2)
    grid, _ = build_grid(shape, torch.zeros(0, dtype=torch.long))
    layer = SparseConv(4, 3)
    assert layer(torch.zeros(0, 4), neighbour_maps(grid).fine).shape == (0, 3)
    down = SparseConv(4, 3, num_taps=64)
    assert down(torch.zeros(0, 4), children_map(grid)).shape == (0, 3)
