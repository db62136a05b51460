import itertools

import pytest
import torch

from teachers.nerf.encoding import GridEncoding, geometric_resolutions, lattice_multipliers


def dense_grid(cells: int = 5, **options) -> tuple[GridEncoding, torch.Tensor, torch.Tensor]:
    """A one-level dense grid, the coordinates of its nodes in [0, 1], and the table row of each."""
    grid = GridEncoding([(cells,) * 3], features_per_level=2, log2_table_size=12, **options)
    nodes = torch.tensor(list(itertools.product(range(cells + 2), repeat=3)))
    rows = (nodes * torch.tensor([(cells + 2) ** axis for axis in range(3)])).sum(dim=1)
    return grid, nodes / cells, rows


def test_linear_functions_are_reproduced_exactly():
    torch.manual_seed(0)
    grid, nodes, rows = dense_grid()
    slope = torch.randn(3, 2)
    with torch.no_grad():
        grid.table[rows] = nodes @ slope + 0.3
    points = torch.rand(500, 3)
    assert torch.allclose(grid(points), points @ slope + 0.3, atol=1e-5)
    assert torch.allclose(grid(torch.ones(1, 3)), slope.sum(0, keepdim=True) + 0.3, atol=1e-5)


def test_interpolation_is_continuous_across_simplices():
    torch.manual_seed(0)
    grid, _, _ = dense_grid()
    torch.nn.init.normal_(grid.table)
    points = torch.rand(200, 3) * 0.99
    # Points where fractions tie lie on the boundary of two or more simplices.
    points[:100, 1] = points[:100, 0]
    step = 1e-4 * torch.randn(200, 3)
    assert (grid(points) - grid(points + step)).abs().max() < 0.02


def test_exact_gradient_is_the_response_to_each_row():
    torch.manual_seed(1)
    grid, _, _ = dense_grid(gradient="exact")
    points, wanted = torch.rand(20, 3), torch.randn(20, 2)
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
    grid, _, _ = dense_grid(gradient="exact")
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
    grid, nodes, rows = dense_grid(interpolation="nearest")
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


@pytest.mark.parametrize("log2_rows", [10, 15, 17, 20])
def test_cells_that_share_a_row_are_far_apart(log2_rows):
    rows = 1 << log2_rows
    p, q = lattice_multipliers(rows)
    reach = torch.arange(-round(rows ** (1 / 3)), round(rows ** (1 / 3)) + 1)
    y, z = torch.meshgrid(reach, reach, indexing="ij")
    x = (p * y + q * z + rows // 2) % rows - rows // 2
    distance = (x**2 + y**2 + z**2).to(torch.float64).sqrt()
    assert distance[distance > 0].min() > 0.8 * rows ** (1 / 3)


def test_resolutions_have_cubic_cells_of_the_wanted_size():
    levels = geometric_resolutions((40.0, 20.0, 5.0), coarsest_cell_m=4.0, finest_cell_m=0.25, num_levels=5)
    assert levels[0] == (40, 20, 5)
    assert levels[-1] == (640, 320, 80)


def test_ties_between_axes_keep_weights_on_distinct_corners():
    grid, nodes, rows = dense_grid()
    slope = torch.tensor([[1.0, 0.3], [2.0, -0.5], [-1.0, 0.7]])
    with torch.no_grad():
        grid.table[rows] = nodes @ slope
    a, b = 0.13, 0.37
    points = torch.tensor(list(itertools.product((a, b), repeat=3)))
    assert torch.allclose(grid(points), points @ slope, atol=1e-5)


def test_slices_are_grids_of_their_own():
    torch.manual_seed(3)
    grid = GridEncoding([(8, 8, 8)], features_per_level=2, log2_table_size=16)
    points = torch.rand(40, 3)
    first, second = torch.zeros(40, dtype=torch.int32), torch.full((40,), 7, dtype=torch.int32)
    grid(points, first).sum().backward()
    assert grid.table.grad is not None
    with torch.no_grad():
        grid.table += grid.table.grad
    assert torch.allclose(grid(points, first), grid(points))
    assert grid(points, first).abs().mean() > 0.2
    assert grid(points, second).abs().mean() < 0.05 * grid(points, first).abs().mean()


def test_a_grid_without_levels_is_refused():
    with pytest.raises(ValueError, match="at least one level"):
        GridEncoding([], features_per_level=2, log2_table_size=10)
