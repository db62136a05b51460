"""Losses against values worked out by hand, and with nothing to be averaged over."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from student.config import LossConfig, StudentConfig
from student.data.dataset import FrameDataset
from student.data.sample import TrainingBatch, concatenate
from student.data.training_set import load_training_set
from student.experiments.overfit import with_lidar_solid
from student.losses.depth import (
    depth_likelihood_error,
    is_depth_edge,
    lidar_depth_error,
    log_depth_error,
    surface_depth,
    teacher_depth_error,
)
from student.losses.images import feature_error, image_error
from student.losses.line_of_sight import (
    line_of_sight_epsilon,
    line_of_sight_error,
    sample_line_of_sight_error,
)
from student.losses.perceptual import MultiScaleDissimilarity
from student.losses.terms import absolute_error
from student.losses.total import student_losses
from student.model.distillnerf import DistillNeRF
from student.model.types import RaySamples, StudentOutput

NAN = math.nan
PAPER = LossConfig()


@pytest.mark.parametrize("name", [field.name for field in fields(LossConfig) if field.type is float])
def test_no_coefficient_and_no_range_may_be_negative(name: str) -> None:
    value: Any = -1.0
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1.0"):
        replace(PAPER, **{name: value})


def test_lidar_depth_error_by_hand() -> None:
    # Differences 8 and 4 of 80 m: squares 0.01 and 0.0025, absolutes 0.1 and 0.05 at a tenth.
    error, count = lidar_depth_error(torch.tensor([18.0, 36.0, 50.0]), torch.tensor([10.0, 40.0, NAN]), PAPER)
    assert count == 2
    assert error.item() == pytest.approx((0.01 + 0.01 + 0.0025 + 0.005) / 2)


def test_lidar_depth_error_clamps_both_to_its_range() -> None:
    error, count = lidar_depth_error(torch.tensor([110.0]), torch.tensor([90.0]), PAPER)
    assert (error.item(), count) == (0.0, 1)


def test_teacher_depth_error_by_hand() -> None:
    # Near set: difference 5 of 50 m. Far set: differences 12 and 24 of 120 m.
    predicted, target = torch.tensor([15.0, 72.0, 84.0]), torch.tensor([10.0, 60.0, 60.0])
    error, count = teacher_depth_error(predicted, target, PAPER)
    near = 0.1**2 + 0.1 * 0.1
    far = ((0.1**2 + 0.1 * 0.1) + (0.2**2 + 0.1 * 0.2)) / 2
    assert count == 3
    assert error.item() == pytest.approx(near + far)


def test_teacher_depth_error_without_far_targets_is_not_nan() -> None:
    predicted = torch.tensor([12.0, 20.0], requires_grad=True)
    error, _ = teacher_depth_error(predicted, torch.tensor([10.0, 20.0]), replace(PAPER, max_depth=50.0))
    error.backward()
    assert error.item() == pytest.approx((0.04**2 + 0.1 * 0.04) / 2)
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


def test_log_depth_error_is_relative() -> None:
    predicted, target = torch.tensor([10.0, 40.0]), torch.tensor([5.0, 20.0])
    error, _ = log_depth_error(predicted, target, maximum=120.0)
    assert error.item() == pytest.approx(math.log(2))


def test_depth_likelihood_shares_a_depth_between_its_two_bins() -> None:
    weights = torch.tensor([0.1, 0.6, 0.3]).view(1, 1, 3, 1, 1)
    error, count = depth_likelihood_error(weights, torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[[[2.5]]]]))
    assert count == 1
    assert error.item() == pytest.approx(-(0.75 * math.log(0.6) + 0.25 * math.log(0.3)), rel=1e-4)


@pytest.mark.parametrize("target", [0.01, 500.0])
def test_depth_likelihood_outside_the_bins_uses_the_last(target: float) -> None:
    weights = torch.tensor([0.2, 0.6, 0.2]).view(1, 1, 3, 1, 1)
    error, _ = depth_likelihood_error(weights, torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[[[target]]]]))
    assert error.item() == pytest.approx(-math.log(0.2), rel=1e-4)


def test_feature_error_resizes_the_target_and_skips_padding() -> None:
    predicted = torch.full((1, 2, 3, 4, 6), 0.5)
    target = torch.full((1, 2, 3, 2, 3), 0.25)
    target[:, 1] = NAN  # padding: must not be looked at
    is_present, is_seen = torch.tensor([[True, False]]), torch.ones(1, 2, 4, 6, dtype=torch.bool)
    error, count = feature_error(predicted, target, is_present, is_seen)
    assert error.item() == pytest.approx(0.25)
    assert count == 3 * 4 * 6
    predicted[..., :2] = NAN  # outside an image circle: not looked at either
    is_seen[..., :2] = False
    error, count = feature_error(predicted, target, is_present, is_seen)
    assert error.item() == pytest.approx(0.25)
    assert count == 3 * 4 * 4


def test_pixels_without_a_ray_cost_nothing(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    is_seen = output.is_seen.clone()
    is_seen[..., :7] = False
    columns = torch.arange(output.is_seen.shape[-1]) < 7
    wide = columns.repeat_interleave(2)
    assert output.image is not None
    losses = []
    for image, opacity in ((0.0, 0.0), (5.0, 1.0)):
        other = replace(
            output,
            is_seen=is_seen,
            image=torch.where(wide, image, output.image),
            features={"clip": torch.where(columns, image, output.features["clip"])},
            opacity=torch.where(columns, opacity, output.opacity),
            termination_depth=torch.where(columns, NAN, output.termination_depth),
            weight_entropy=torch.where(columns, image, output.weight_entropy),
        )
        losses.append(student_losses(other, batch, student_config.losses, perceptual=MultiScaleDissimilarity()))
    assert torch.isfinite(losses[0].total)
    assert losses[0].total.item() == pytest.approx(losses[1].total.item(), rel=1e-6)
    seen = student_losses(output, batch, student_config.losses, perceptual=MultiScaleDissimilarity())
    assert losses[0].counts["entropy_rendered"] < seen.counts["entropy_rendered"]


def test_the_error_of_surfaces_is_of_camera_pixels_that_end_somewhere(
    student_config: StudentConfig, batch_of: Any
) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    num_real = batch.view_targets.num_real
    has_surface = torch.zeros_like(output.is_seen)
    has_surface[:, :num_real, ::2] = True
    wrong = torch.where(has_surface[:, :, None], output.features["clip"], NAN)
    one = replace(output, surface_features={"clip": wrong}, has_surface=has_surface)
    config = replace(student_config.losses, surface_feature=3.0)
    losses = student_losses(one, batch, config, perceptual=MultiScaleDissimilarity())
    errors = []
    for sample in range(2):
        is_present = batch.cameras.target_is_present[sample, :num_real]
        target = batch.view_targets.features["clip"][sample][is_present]
        size = (output.opacity.shape[-2], output.opacity.shape[-1])
        target = torch.nn.functional.interpolate(target, size=size, mode="bilinear", antialias=True)
        errors.append((wrong.detach()[sample, :num_real][is_present] - target)[:, :, ::2].square().mean())
    assert losses.terms["surface_clip"].item() == pytest.approx(3.0 * float(torch.stack(errors).mean()), rel=1e-5)
    assert (
        losses.counts["surface_clip"]
        == int(has_surface[:, :num_real][batch.cameras.target_is_present[:, :num_real]].sum()) * wrong.shape[2]
    )


def test_line_of_sight_of_the_wanted_peak_is_zero() -> None:
    epsilon, edges = 1.5, torch.linspace(0.0, 20.0, 401)
    target = torch.tensor([10.0])
    cdf = 0.5 * (1 + torch.erf((edges - 10.0) / (epsilon / 3 * math.sqrt(2))))
    weights = cdf.diff()[None]
    error, count = line_of_sight_error(weights, edges, target, epsilon=epsilon)
    assert count == 1
    assert error.item() < 1e-7
    early = torch.zeros_like(weights)
    early[0, 100] = 1.0  # everything ends at 5 m
    worse, _ = line_of_sight_error(early, edges, target, epsilon=epsilon)
    assert worse.item() > 1e-3


def test_line_of_sight_of_samples_matches_dense_weights() -> None:
    edges = torch.linspace(0.0, 20.0, 41)
    middles = (edges[1:] + edges[:-1]) / 2
    weights = torch.softmax(torch.randn(3, 40, generator=torch.Generator().manual_seed(0)), dim=1)
    target = torch.tensor([4.0, NAN, 12.0])
    dense, _ = line_of_sight_error(weights, edges, target, epsilon=2.0)
    samples = RaySamples(
        ray_index=torch.arange(3).repeat_interleave(40),
        distances=middles.repeat(3),
        lengths=edges.diff().repeat(3),
        weights=weights.flatten(),
    )
    listed, count = sample_line_of_sight_error(samples, target, epsilon=2.0)
    assert count == 80
    assert listed.item() == pytest.approx(dense.item(), rel=1e-5)


def test_the_line_of_sight_narrows_as_published() -> None:
    assert [line_of_sight_epsilon(PAPER, step) for step in (0, 14_000, 21_000, 28_000, 90_000)] == [
        *(6.0, 6.0, 4.25, 2.5, 2.5)
    ]


def test_depth_jumps_are_edges_on_both_sides() -> None:
    depth = torch.tensor([[10.0, 10.5, 30.0, NAN, 10.0, 10.0], [10.0, 10.5, 30.0, 90.0, 10.0, 10.0]])
    wanted = [[False, True, True, False, False, False], [False, True, True, False, True, False]]
    assert is_depth_edge(depth, maximum=56.0).tolist() == wanted


def test_structural_dissimilarity_is_zero_for_equal_images_and_grows_with_blur() -> None:
    image = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    distance = MultiScaleDissimilarity()
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    flat = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    same, some, much = (distance(other, image) for other in (image, blurred, flat))
    assert same.abs().max() < 1e-5
    assert (some > same).all()
    assert (much > some).all()
    with pytest.raises(ValueError, match="do not hold a window"):
        distance(image[..., :5, :], image[..., :5, :])


def test_pixels_that_are_not_seen_are_not_counted() -> None:
    image, seen = torch.ones(1, 3, 8, 8), torch.zeros(1, 8, 8)
    seen[:, :4] = 1.0
    wrong = torch.where(seen[:, None] > 0, image - 1.0, image)
    error, count = image_error(wrong, image, seen)
    assert (error.item(), count) == (1.0, 96)
    error, count = image_error(image, image, torch.zeros(1, 8, 8))
    assert (error.item(), count) == (0.0, 0)


def test_an_empty_mean_is_zero_with_a_gradient() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    error, count = absolute_error(nothing, torch.zeros(0))
    error.backward()
    assert (error.item(), count) == (0.0, 0)


# --- all together --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch_of(shared_world: Any) -> Any:
    def make(config: StudentConfig) -> TrainingBatch:
        shared_world.freeze("losses", config)
        frozen = load_training_set(shared_world.home, "losses")
        data = FrameDataset(shared_world.home, frozen, "train", config.data)
        return concatenate([data[0], data[1]])

    return make


def run(config: StudentConfig, batch: TrainingBatch) -> tuple[DistillNeRF, StudentOutput]:
    torch.manual_seed(0)
    model = DistillNeRF(config.model).train()
    return model, model(batch.inputs, batch.cameras, surface_depth(batch.view_targets))


def test_every_term_is_there_counted_and_summed(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    model, output = run(student_config, batch)
    output = replace(output, has_surface=torch.ones_like(output.is_seen))  # an untrained student fills cells elsewhere
    losses = student_losses(output, batch, student_config.losses, perceptual=MultiScaleDissimilarity())
    assert set(losses.terms) == {
        *("rgb", "rgb_virtual", "perceptual", "feature_clip", "surface_clip", "depth_likelihood"),
        *(f"{name}_{where}" for name in ("lidar", "teacher", "log") for where in ("coarse", "fine", "rendered")),
        *(f"{name}_{where}" for name in ("opacity", "sky") for where in ("coarse", "fine", "rendered")),
        *("entropy_coarse", "entropy_rendered", "line_of_sight_coarse", "line_of_sight_rendered"),
    }
    assert sum(losses.terms.values()).item() == pytest.approx(losses.total.item(), rel=1e-4)
    assert all(count > 0 for count in losses.counts.values())
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def blank(batch: TrainingBatch) -> TrainingBatch:
    """The same views, about which nothing is known."""

    def unknown(name: str, value: Tensor) -> Tensor:
        return torch.full_like(value, NAN) if name.endswith("depth") else torch.zeros_like(value)

    def forget(targets: Any) -> Any:
        values = {f.name: getattr(targets, f.name) for f in fields(targets)}
        return replace(targets, **{n: unknown(n, v) for n, v in values.items() if isinstance(v, Tensor)})

    return replace(batch, input_targets=forget(batch.input_targets), view_targets=forget(batch.view_targets))


def test_nothing_known_is_finite_and_seen_to_be_empty(student_config: StudentConfig, batch_of: Any) -> None:
    batch = blank(batch_of(student_config))
    model, output = run(student_config, batch)
    losses = student_losses(output, batch, student_config.losses, perceptual=MultiScaleDissimilarity())
    assert torch.isfinite(losses.total)
    for name, count in losses.counts.items():
        if name.startswith(("lidar", "teacher", "log", "depth_likelihood", "line_of_sight", "sky", "surface")):
            assert (count, losses.terms[name].item()) == (0, 0.0), name
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("sees_all", [True, False])
def test_a_wrong_value_where_a_virtual_view_is_not_valid_changes_no_gradient(
    student_config: StudentConfig, batch_of: Any, sees_all: bool
) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    assert output.image is not None
    is_valid = torch.rand(batch.view_targets.virtual_is_valid.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    is_seen = torch.ones_like(output.is_seen)
    is_seen[..., 0] = sees_all
    gradients, values = [], []
    for wrong in (0.0, 0.5, 1.0):
        shown = torch.where(is_valid[:, :, None], batch.view_targets.virtual_image, wrong)
        targets = replace(batch.view_targets, virtual_image=shown, virtual_is_valid=is_valid)
        image = output.image.detach().clone().requires_grad_()
        losses = student_losses(
            replace(output, image=image, is_seen=is_seen),
            replace(batch, view_targets=targets),
            replace(student_config.losses, rgb=1.0),
            perceptual=MultiScaleDissimilarity(),
        )
        gradients.append(torch.autograd.grad(losses.total, image)[0])
        values.append(losses.terms["rgb_virtual"].item())
    assert values[0] == values[1] == values[2] > 0.0
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    assert gradients[0][:, batch.view_targets.num_real :].abs().sum() > 0.0


def test_padding_costs_nothing(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    absent = replace(batch.cameras, target_is_present=torch.zeros_like(batch.cameras.target_is_present))
    batch = replace(blank(batch), cameras=absent)
    losses = student_losses(output, batch, student_config.losses, perceptual=MultiScaleDissimilarity())
    assert torch.isfinite(losses.total)
    for name in (
        "rgb",
        "rgb_virtual",
        "perceptual",
        "feature_clip",
        "surface_clip",
        "opacity_rendered",
        "entropy_rendered",
    ):
        assert (losses.counts[name], losses.terms[name].item()) == (0, 0.0), name


def test_a_coefficient_of_zero_leaves_its_term_out(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    only_rgb = LossConfig(
        perceptual=0.0, feature=0.0, lidar_depth=0.0, teacher_depth=0.0, weight_entropy=0.0, opacity=0.0, sky=0.0
    )
    losses = student_losses(output, batch, only_rgb)
    assert set(losses.terms) == {"rgb", "rgb_virtual"}
    real = batch.view_targets.num_real
    assert output.image is not None
    wanted = (output.image[:, :real] - batch.view_targets.image).abs().mean()
    assert losses.terms["rgb"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_half_of_an_image_is_penalised_as_a_whole_one_is(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    assert output.image is not None
    config = replace(student_config.losses, rgb=1.0, perceptual=1.0)
    targets = replace(batch.view_targets, image=torch.ones_like(batch.view_targets.image))
    black = replace(output, image=torch.zeros_like(output.image))
    half = torch.ones_like(output.is_seen)
    half[..., : half.shape[-1] // 2] = False
    found = [
        student_losses(
            replace(black, is_seen=is_seen),
            replace(batch, view_targets=targets),
            config,
            perceptual=MultiScaleDissimilarity(),
        )
        for is_seen in (torch.ones_like(half), half)
    ]
    assert found[0].terms["rgb"].item() == found[1].terms["rgb"].item() == 1.0
    assert found[1].counts["rgb"] == found[0].counts["rgb"] // 2
    # Not less than of a whole image; more, because windows astride the border see it too, at each of three scales.
    assert 1.0 <= found[1].terms["perceptual"].item() / found[0].terms["perceptual"].item() < 1.6


def test_depth_edges_count_once_more_from_their_step_on(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    config = replace(student_config.losses, depth_edge=30.0)
    early, late = (
        student_losses(output, batch, config, perceptual=MultiScaleDissimilarity(), step=step) for step in (999, 1000)
    )
    for where in ("coarse", "fine", "rendered"):
        name = f"teacher_edge_{where}"
        assert 0 < early.counts[name] < early.counts[f"teacher_{where}"]
        assert early.terms[name] == 0.0
        assert late.terms[name] > 0.0
    assert late.total > early.total


def test_sky_pulls_opacity_down_and_solid_up(student_config: StudentConfig, batch_of: Any) -> None:
    batch = batch_of(student_config)
    _, output = run(student_config, batch)
    half = replace(output, opacity=torch.full_like(output.opacity, 0.25).requires_grad_())
    config = LossConfig(
        rgb=0.0,
        perceptual=0.0,
        feature=0.0,
        lidar_depth=0.0,
        teacher_depth=0.0,
        weight_entropy=0.0,
        opacity=1.0,
        sky=1.0,
    )
    losses = student_losses(half, batch, config)
    assert losses.terms["opacity_rendered"].item() == pytest.approx(-math.log(0.25), rel=1e-5)
    assert losses.terms["sky_rendered"].item() == pytest.approx(math.log1p(-math.log(0.75)), rel=1e-5)
    (gradient,) = torch.autograd.grad(losses.total, half.opacity)
    targets = batch.view_targets
    assert (gradient[targets.is_sky & targets.is_sky_known] > 0).all()
    assert (gradient[~targets.is_sky & targets.is_sky_known] < 0).all()
    assert (gradient[~targets.is_sky_known] == 0).all()


def test_without_masks_a_ray_with_a_return_can_be_told_to_hit_something(
    student_config: StudentConfig, batch_of: Any
) -> None:
    batch = with_lidar_solid(batch_of(student_config))
    _, output = run(student_config, batch)
    empty = replace(output, opacity=torch.full_like(output.opacity, 1e-3).requires_grad_())
    losses = student_losses(empty, batch, replace(student_config.losses, rgb=0.0, perceptual=0.0, opacity=1.0))
    (gradient,) = torch.autograd.grad(losses.total, empty.opacity)
    has_return = torch.isfinite(batch.view_targets.lidar_depth)
    measured = has_return.flatten(2).any(-1)
    assert measured.any()
    assert torch.equal(gradient[measured] < 0, has_return[measured])


def test_grids_that_do_not_match_are_named(student_config: StudentConfig, batch_of: Any) -> None:
    config = replace(student_config, data=replace(student_config.data, depth_height=32, depth_width=48))
    batch = batch_of(config)
    _, output = run(config, batch)
    with pytest.raises(ValueError, match=r"depth grid is \(2, 3, 16, 24\), its targets' is \(2, 3, 32, 48\)"):
        student_losses(output, batch, config.losses, perceptual=MultiScaleDissimilarity())
