"""The renderer against closed forms and against fetching everything."""

from dataclasses import replace

import pytest
import torch

from student.model.config import ContractionConfig, DepthBinsConfig, RendererConfig
from student.model.contraction import depth_bin_edges
from student.model.lifting import LevelFeatures
from student.model.reference import render_rays_densely
from student.model.renderer import Rays, render_rays
from student.model.sparse_voxels import GridShape, build_grid
from student.model.types import CameraDepth
from student.model.voxel_field import VoxelField

# All but linear, so that a slab of cells is a slab of ego space.
LINEAR = ContractionConfig(inner_range_xy=32.0, inner_range_z=32.0, inner_ratio=0.999)
BINS = DepthBinsConfig(near=0.1, far=30.1, spacing="linear", step=0.25)
CONFIG = RendererConfig(bins=BINS, num_fine_samples=16)
NO_DEPTH = CameraDepth(
    coarse_termination_depth=torch.zeros(1, 0, 1, 1),
    coarse_opacity=torch.zeros(1, 0, 1, 1),
    coarse_weights=torch.zeros(1, 0, 2, 1, 1),
    coarse_edges=torch.zeros(3),
    fine_termination_depth=torch.zeros(1, 0, 1, 1),
    fine_opacity=torch.zeros(1, 0, 1, 1),
)


def make_field(points: torch.Tensor, *, lookup="nearest", logits=None, seed: int = 0) -> VoxelField:
    shape = GridShape(batch_size=1, coarse_level=4)
    zeros = torch.zeros(len(points), dtype=torch.long)
    grid, _ = build_grid(shape, shape.fine_keys(shape.cell_coordinates(points, LINEAR), zeros))
    generator = torch.Generator().manual_seed(seed)

    def level(count: int) -> LevelFeatures:
        density = torch.randn(count, generator=generator) if logits is None else torch.full((count,), logits)
        return LevelFeatures(torch.randn(count, 4, generator=generator), density)

    return VoxelField(
        grid=grid, contraction=LINEAR, fine=level(grid.num_fine), coarse=level(grid.num_coarse),
        mean_sky=torch.zeros(1, 8), depth=NO_DEPTH, lookup=lookup, logit_limit=10.0,
    )  # fmt: skip


def scattered_points(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4000, 3, generator=generator) * torch.tensor([20.0, 20.0, 4.0]) - torch.tensor([10.0, 10.0, 2.0])


def some_rays(count: int = 64, seed: int = 1) -> Rays:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, 3, generator=generator)
    directions[0] = torch.tensor([0.0, 0.0, 1.0])  # leaves through empty space
    return Rays(
        torch.randn(count, 3, generator=generator),
        torch.nn.functional.normalize(directions, dim=1),
        torch.zeros(count, dtype=torch.long),
    )


def slab_field(density: float) -> tuple[VoxelField, float, float]:
    """Fill every cell that a ray along x meets between two cell faces; return the faces."""
    cell = 2 * 32 / 0.999 / 64
    first, last = 6, 13
    x = (torch.arange(first, last) + 0.5) * cell
    points = torch.stack([x, torch.full_like(x, 0.5), torch.full_like(x, 0.5)], dim=1)
    logit = 1.0 + float(torch.tensor(density).log())
    field = make_field(points, logits=10.0 * float(torch.atanh(torch.tensor(logit / 10.0))))
    # Only the fine cells: the rest of a coarse cell is made empty.
    empty = LevelFeatures(field.coarse.features, torch.full_like(field.coarse.logits, -1e4))
    return replace(field, coarse=empty), first * cell, last * cell


@pytest.mark.parametrize("density", [0.02, 0.2, 2.0])
def test_a_density_slab_renders_to_its_closed_form(density):
    field, begin, end = slab_field(density)
    edges = depth_bin_edges(replace(BINS, step=0.01), LINEAR)
    rays = Rays(torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, dtype=torch.long))
    rendered = render_rays(field, rays, edges, replace(CONFIG, min_opacity=1e-3), training=False)
    length = end - begin
    opacity = 1 - torch.exp(torch.tensor(-density * length)).item()
    depth = begin + 1 / density - length * (1 - opacity) / opacity
    assert rendered.opacity.item() == pytest.approx(opacity, abs=3e-3)
    assert rendered.termination_depth.item() == pytest.approx(depth, abs=2e-2)


@pytest.mark.parametrize("lookup", ["nearest", "trilinear"])
@pytest.mark.parametrize("num_fine_samples", [0, 16])
def test_rendering_equals_fetching_everything(lookup, num_fine_samples):
    field = make_field(scattered_points(), lookup=lookup)
    config = replace(CONFIG, num_fine_samples=num_fine_samples, min_feature_weight=0.0)
    edges, rays = depth_bin_edges(BINS, LINEAR), some_rays()
    ours = render_rays(field, rays, edges, config, training=False)
    dense = render_rays_densely(field, rays, edges, config)
    torch.testing.assert_close(ours.opacity, dense.opacity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.features, dense.features, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.termination_depth, dense.termination_depth, atol=1e-2, rtol=1e-3, equal_nan=True)
    assert (ours.opacity > 0.5).any()
    assert ours.opacity[0] < 0.9


def test_gradients_equal_fetching_everything():
    field = make_field(scattered_points())
    leaves = [tensor.requires_grad_() for level in (field.fine, field.coarse) for tensor in level]
    config = replace(CONFIG, min_feature_weight=0.0)
    edges, rays = depth_bin_edges(BINS, LINEAR), some_rays()
    probe = torch.randn(64, 8)

    def gradients(rendered):
        loss = (rendered.features * probe).sum() + rendered.termination_depth.nan_to_num(0.0).sum()
        return torch.autograd.grad(loss, leaves)

    dense = render_rays_densely(field, rays, edges, config)
    ours = render_rays(field, rays, edges, config, training=False)
    for got, want in zip(gradients(ours), gradients(dense), strict=True):
        torch.testing.assert_close(got, want, atol=2e-3 * float(want.abs().max()), rtol=1e-2)


def test_weights_sum_to_opacity_and_never_beyond_one():
    field = make_field(scattered_points())
    field = replace(field, fine=field.fine._replace(logits=field.fine.logits + 20))
    rendered = render_rays(field, some_rays(), depth_bin_edges(BINS, LINEAR), CONFIG, training=True)
    total = torch.zeros(64).index_add(0, rendered.samples.ray_index, rendered.samples.weights)
    torch.testing.assert_close(total, rendered.opacity, atol=1e-5, rtol=1e-5)
    assert (total <= 1 + 1e-5).all()
    assert (rendered.samples.ray_index.diff() >= 0).all()


def test_empty_space_is_exactly_empty():
    field = make_field(torch.tensor([[5.0, 0.0, 0.0]]))
    rays = Rays(torch.zeros(1, 3), torch.tensor([[-1.0, 0.0, 0.0]]), torch.zeros(1, dtype=torch.long))
    rendered = render_rays(field, rays, depth_bin_edges(BINS, LINEAR), CONFIG, training=False)
    assert rendered.opacity.item() == 0.0
    assert torch.isnan(rendered.termination_depth).all()
    assert (rendered.features == 0).all()
    density, features = field.query(torch.tensor([[[-5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]]))
    assert density[0, 0] == 0
    assert density[0, 1] > 0
    assert (features[0, 0] == 0).all()


def test_density_falls_back_to_the_coarse_level_where_no_fine_cell_is():
    field = make_field(torch.tensor([[5.0, 0.1, 0.1]]))
    field = replace(field, fine=field.fine._replace(logits=torch.tensor([3.0])),
                    coarse=field.coarse._replace(logits=torch.tensor([-2.0])))  # fmt: skip
    beside = torch.tensor([[[5.0, 0.1, 0.1], [5.0, 0.1, 3.0]]])
    density, features = field.query(beside)
    assert density[0, 0] > 1 > density[0, 1] > 0
    assert (features[0, 1, :4] == 0).all()
    torch.testing.assert_close(features[0, 1, 4:], field.coarse.features[0])


def test_trilinear_values_are_continuous_and_exact_at_cell_centres():
    x = torch.arange(8) * 1.001 + 0.5
    line = torch.cartesian_prod(x, x[:2], x[:2])
    field = make_field(line, lookup="trilinear")
    centres = line[None]
    _, features = field.query(centres)
    order = field.grid.find(field.grid.shape.cell_coordinates(line, LINEAR), torch.zeros(len(line), dtype=torch.long))
    torch.testing.assert_close(features[0, :, :4], field.fine.features[order[0]], atol=2e-2, rtol=1e-2)
    walk = torch.linspace(0.6, 6.0, 2000)
    path = torch.stack([walk, torch.full_like(walk, 1.0), torch.full_like(walk, 1.0)], dim=1)[None]
    _, along = field.query(path)
    assert float(along[0, :, :4].diff(dim=0).abs().max()) < 0.05
    _, stepped = replace(field, lookup="nearest").query(path)
    assert float(stepped[0, :, :4].diff(dim=0).abs().max()) > 0.5


def test_evaluation_is_deterministic_and_training_jitters():
    field = make_field(scattered_points())
    edges, rays = depth_bin_edges(BINS, LINEAR), some_rays()
    first, second = (render_rays(field, rays, edges, CONFIG, training=False) for _ in range(2))
    assert torch.equal(first.features, second.features)
    jittered, again = (render_rays(field, rays, edges, CONFIG, training=True) for _ in range(2))
    assert not torch.equal(jittered.features, again.features)


@pytest.mark.parametrize("logit", [-1e6, -30.0, 30.0, 1e6])
def test_gradients_are_finite_at_extreme_logits(logit):
    field = make_field(scattered_points(), logits=logit)
    leaves = [tensor.requires_grad_() for level in (field.fine, field.coarse) for tensor in level]
    rendered = render_rays(field, some_rays(), depth_bin_edges(BINS, LINEAR), CONFIG, training=True)
    loss = rendered.features.sum() + rendered.termination_depth.nan_to_num(0.0).sum() + rendered.weight_entropy.sum()
    for gradient in torch.autograd.grad(loss + rendered.opacity.sum(), leaves):
        assert torch.isfinite(gradient).all()
