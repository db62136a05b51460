import itertools

import pytest
import torch

from teachers.nerf.encoding import GridEncoding, geometric_resolutions


def dense_grid(dimensions: int, cells: int = 5, **options) -> tuple[GridEncoding, torch.Tensor, torch.Tensor]:
    """A one-level dense grid, the coordinates of its nodes in [0, 1], and the table row of each."""
    grid = GridEncoding([(cells,) * dimensions], features_per_level=2, log2_table_size=12, **options)
    nodes = torch.tensor(list(itertools.product(range(cells + 2), repeat=dimensions)))
    rows = (nodes * torch.tensor([(cells + 2) ** axis for axis in range(dimensions)])).sum(dim=1)
    return grid, nodes / cells, rows


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_linear_functions_are_reproduced_exactly(dimensions):
    torch.manual_seed(dimensions)
    grid, nodes, rows = dense_grid(dimensions)
    slope = torch.randn(dimensions, 2)
    with torch.no_grad():
        grid.table[rows] = nodes @ slope + 0.3
    points = torch.rand(500, dimensions)
    assert torch.allclose(grid(points), points @ slope + 0.3, atol=1e-5)
    assert torch.allclose(grid(torch.ones(1, dimensions)), slope.sum(0, keepdim=True) + 0.3, atol=1e-5)


def test_interpolation_is_continuous_across_simplices():
    torch.manual_seed(0)
    grid, _, _ = dense_grid(3)
    torch.nn.init.normal_(grid.table)
    points = torch.rand(200, 3) * 0.99
    # Points where fractions tie lie on the boundary of two or more simplices.
    points[:100, 1] = points[:100, 0]
    step = 1e-4 * torch.randn(200, 3)
    assert (grid(points) - grid(points + step)).abs().max() < 0.02


@pytest.mark.parametrize("dimensions", [3, 4])
def test_exact_gradient_matches_autograd_through_dense_weights(dimensions):
    torch.manual_seed(1)
    grid, _, _ = dense_grid(dimensions, gradient="exact")
    points, wanted = torch.rand(20, dimensions), torch.randn(20, 2)
    grid(points).backward(wanted)
    assert grid.table.grad is not None
    # The encoding is linear in the table: the gradient of row r is the response to a unit in row r.
    touched = grid.table.grad.abs().sum(dim=1).nonzero()[:, 0]
    for row in touched[::7].tolist():
        with torch.no_grad():
            grid.table.zero_()
            grid.table[row] = 1.0
        assert torch.allclose((grid(points).detach() * wanted).sum(dim=0), grid.table.grad[row], atol=1e-5)


def test_stochastic_gradient_is_unbiased():
    torch.manual_seed(2)
    grid, _, _ = dense_grid(3, gradient="exact")
    points, wanted = torch.rand(30, 3), torch.randn(30, 2)
    grid(points).backward(wanted)
    assert grid.table.grad is not None
    exact, grid.table.grad = grid.table.grad.clone(), None
    grid.gradient = "stochastic"
    draws = 500
    for _ in range(draws):
        grid(points).backward(wanted)
    # The standard error of one draw of a corner is at most half the largest gradient.
    assert (grid.table.grad / draws - exact).abs().max() < 5 * 0.5 * wanted.abs().max() * 2 / draws**0.5
    assert torch.allclose((grid.table.grad / draws).sum(), exact.sum(), rtol=1e-3, atol=1e-3)


def test_nearest_takes_the_closest_node_and_learns_it():
    grid, nodes, rows = dense_grid(3, interpolation="nearest")
    with torch.no_grad():
        grid.table[rows] = nodes[:, :2]
    near = torch.tensor([[0.19, 0.41, 0.62]])
    encoded = grid(near)
    assert torch.allclose(encoded, torch.tensor([[0.2, 0.4]]))
    encoded.sum().backward()
    assert grid.table.grad is not None
    assert grid.table.grad.count_nonzero() == 2


def test_levels_do_not_share_rows_and_hashing_stays_in_the_table():
    grid = GridEncoding([(4, 4, 4), (4000, 4000, 400)], features_per_level=3, log2_table_size=10)
    assert grid.output_width == 6
    with torch.no_grad():
        grid.table[:1024] = 1.0
        grid.table[1024:] = 2.0
    encoded = grid(torch.rand(100, 3))
    assert torch.allclose(encoded, torch.tensor([1.0] * 3 + [2.0] * 3).expand(100, 6), atol=1e-5)


def test_resolutions_have_cubic_cells_of_the_wanted_size():
    levels = geometric_resolutions((40.0, 20.0, 5.0), coarsest_cell_m=4.0, finest_cell_m=0.25, num_levels=5)
    assert levels[0] == (40, 20, 5)
    assert levels[-1] == (640, 320, 80)


def test_wrong_dimensions_are_refused():
    with pytest.raises(ValueError, match="at least one level"):
        GridEncoding([], features_per_level=2, log2_table_size=10)
    with pytest.raises(ValueError, match="want 3"):
        GridEncoding([(4, 4, 4)], features_per_level=2, log2_table_size=10)(torch.rand(5, 2))
