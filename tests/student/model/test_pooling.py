"""Pooling without a frustum equals building it and adding it up."""

import pytest
import torch

from student.model.gather_sum import weighted_gather_sum
from student.model.lifting import pool_points
from student.model.reference import pool_points_plainly
from student.model.sparse_voxels import CHILDREN_PER_CELL, GridShape, build_grid

SHAPE = GridShape(batch_size=2, coarse_level=3)
NUM_PIXELS, NUM_CANDIDATES, CHANNELS = 60, 5, 4


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)
    count = NUM_PIXELS * NUM_CANDIDATES
    cells = torch.randint(0, 9, (count, 3), generator=generator)
    keys = SHAPE.fine_keys(cells, torch.randint(0, 2, (count,), generator=generator))
    pixel_features = torch.randn(NUM_PIXELS, 2 * CHANNELS, generator=generator)
    opacity = torch.rand(count, generator=generator)
    logits = 10 * torch.randn(count, generator=generator)
    return keys, pixel_features, opacity, logits


@pytest.mark.parametrize("pooling", ["opacity", "mean"])
def test_pooling_and_its_gradients_equal_unique_and_index_add(points, pooling):
    keys, *values = points
    values = [value.double().requires_grad_() for value in values]
    pixel_features, opacity, logits = values
    grid, order = build_grid(SHAPE, keys)
    ours = pool_points(grid, order, pixel_features, opacity, logits, pooling=pooling)

    frustum = pixel_features.repeat_interleave(NUM_CANDIDATES, dim=0)
    weights = opacity + 1e-3 if pooling == "opacity" else torch.ones_like(opacity)
    if pooling == "mean":
        frustum = frustum * opacity[:, None]
    plain = [
        pool_points_plainly(level_keys, half, logits, weights)
        for level_keys, half in zip((keys, keys // CHILDREN_PER_CELL), frustum.chunk(2, dim=1), strict=True)
    ]
    torch.testing.assert_close(plain[0][0], grid.fine_keys)
    torch.testing.assert_close(plain[1][0], grid.coarse_keys)
    probes = [[torch.randn_like(field) for field in level] for level in ours]

    def gradients(levels):
        loss = sum(
            (f * p).sum()
            for level, probe in zip(levels, probes, strict=True)
            for f, p in zip(level, probe, strict=True)
        )
        return torch.autograd.grad(loss, values, retain_graph=True)

    expected = [level for _, level in plain]
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got.features, want.features)
        torch.testing.assert_close(got.logits, want.logits)
    for got, want in zip(gradients(ours), gradients(expected), strict=True):
        torch.testing.assert_close(got, want)


def test_gather_sum_passes_gradcheck_with_empty_segments_and_unused_rows():
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([5, 0, 0, 3, 1, 5, 2])
    segments = torch.tensor([0, 0, 2, 2, 2, 4, 4])

    def operation(t, w):
        return weighted_gather_sum(t, rows, w, segments, 6)

    assert torch.autograd.gradcheck(operation, (table, weights))
    assert (operation(table, weights)[[1, 3, 5]] == 0).all()


def test_keys_and_cells_are_inverse_and_lookups_find_exactly_what_is_there(points):
    keys = points[0]
    grid, order = build_grid(SHAPE, keys)
    cells = SHAPE.fine_cells(grid.fine_keys)
    batch_index = grid.fine_keys >> 3 * SHAPE.coarse_level + 6
    torch.testing.assert_close(SHAPE.fine_keys(cells, batch_index), grid.fine_keys)
    fine_row, coarse_row = grid.find(cells, batch_index)
    torch.testing.assert_close(fine_row, torch.arange(grid.num_fine))
    torch.testing.assert_close(coarse_row, grid.parent_row)
    everywhere = torch.cartesian_prod(*[torch.arange(-1, SHAPE.fine_resolution + 1)] * 3)
    for batch in range(2):
        found, _ = grid.find(everywhere, torch.full((len(everywhere),), batch))
        assert int((found >= 0).sum()) == int((batch_index == batch).sum())
    assert (keys[order.order] == grid.fine_keys[order.fine_row]).all()
    assert (order.coarse_row == grid.parent_row[order.fine_row]).all()
