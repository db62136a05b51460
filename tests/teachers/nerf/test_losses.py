import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teachers.nerf import losses


def edges(rays: int, samples: int, *, far: float = 20.0) -> torch.Tensor:
    return torch.linspace(0.5, far, samples + 1).expand(rays, -1).contiguous()


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=20))
def test_weights_are_a_partition_of_at_most_one(densities):
    density = torch.tensor([densities])
    weights = losses.composite_weights(density, torch.full_like(density, 0.3))
    assert bool((weights >= 0).all())
    assert weights.sum() <= 1.0 + 1e-5
    assert torch.allclose(weights.sum(), 1.0 - torch.exp(-0.3 * density.sum()), atol=1e-5)


def test_depth_loss_ignores_rays_without_return_and_clamps_far_ones():
    predicted = torch.tensor([10.0, 55.0, 90.0], requires_grad=True)
    lidar = torch.tensor([10.0, math.nan, 120.0])
    loss = losses.depth_loss(predicted, lidar, max_depth=80.0)
    assert loss == 0.0
    loss.backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad, torch.zeros(3))
    assert losses.depth_loss(predicted, torch.full((3,), math.nan), max_depth=80.0) == 0.0


def test_line_of_sight_wants_all_weight_around_the_return():
    bins = edges(1, 40)
    depth = torch.tensor([9.0])
    right = int((0.5 * (bins[:, 1:] + bins[:, :-1]) - depth[:, None]).abs().argmin())
    for index, wanted in ((right, 0.0), (right - 8, 2.0), (right + 8, 1.0)):
        weights = torch.zeros(1, 40)
        weights[0, index] = 1.0
        loss = losses.line_of_sight_loss(weights, bins, depth, margin=1.0)
        assert float(loss) == pytest.approx(wanted, abs=1e-5)
    assert losses.line_of_sight_loss(torch.zeros(1, 40), bins, torch.tensor([math.nan]), margin=1.0) == 0.0


def test_line_of_sight_does_not_depend_on_how_finely_a_ray_is_sampled():
    depth = torch.tensor([9.3])
    values = []
    for samples in (20, 400):
        bins = edges(1, samples)
        mass = 0.5 * (1 + torch.erf((bins - 8.0) / 1.5))  # a blurred surface before the return
        values.append(float(losses.line_of_sight_loss(mass[:, 1:] - mass[:, :-1], bins, depth, margin=1.0)))
    assert values[0] == pytest.approx(values[1], rel=0.05)


def test_static_part_must_be_empty_where_a_beam_met_what_moves():
    bins = edges(1, 40)
    depth, yes, no = torch.tensor([9.0]), torch.tensor([True]), torch.tensor([False])
    right = int((0.5 * (bins[:, 1:] + bins[:, :-1]) - depth[:, None]).abs().argmin())
    at, before = torch.zeros(1, 40), torch.zeros(1, 40)
    at[0, right], before[0, right - 8] = 1.0, 1.0
    assert losses.static_clearance_loss(at, bins, depth, no, margin=1.0) == 0.0
    assert losses.static_clearance_loss(at, bins, depth, yes, margin=1.0) == pytest.approx(1.0)
    assert losses.static_clearance_loss(before, bins, depth, yes, margin=1.0) == pytest.approx(1.0)
    assert losses.static_clearance_loss(before, bins, depth, no, margin=1.0) == 0.0, "the line of sight has it"
    both = losses.static_clearance_loss(
        torch.cat([at, at]), bins.expand(2, -1), depth.expand(2), torch.tensor([True, False]), margin=1.0
    )
    assert both == pytest.approx(1.0), "beams to what stands do not thin it"
    assert losses.static_clearance_loss(at, bins, torch.tensor([math.nan]), yes, margin=1.0) == 0.0


def test_distortion_equals_its_double_sum():
    torch.manual_seed(0)
    bins = torch.rand(4, 9).sort(dim=-1).values
    weights = torch.rand(4, 8) / 8
    middle, length = 0.5 * (bins[:, 1:] + bins[:, :-1]), bins[:, 1:] - bins[:, :-1]
    pairs = weights[:, :, None] * weights[:, None, :] * (middle[:, :, None] - middle[:, None, :]).abs()
    wanted = (pairs.sum(dim=(1, 2)) + (weights**2 * length).sum(dim=1) / 3).mean()
    assert torch.allclose(losses.distortion_loss(weights, bins), wanted)


def test_proposal_bounds_the_field():
    torch.manual_seed(1)
    bins = edges(3, 16)
    weights = torch.rand(3, 16) / 16
    assert losses.proposal_loss(weights, bins, weights, bins) < 1e-10
    coarse = bins[:, ::4].contiguous()
    assert losses.proposal_loss(weights, bins, weights.view(3, 4, 4).sum(-1), coarse) < 1e-10
    proposal = torch.full((3, 4), 1e-3, requires_grad=True)
    loss = losses.proposal_loss(weights, bins, proposal, coarse)
    loss.backward()
    assert loss > 0
    assert proposal.grad is not None
    assert bool((proposal.grad < 0).all()), "more proposal weight lowers the loss"


def test_sky_and_entropy_are_finite_at_the_extremes():
    opacity = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    is_sky = torch.tensor([True, True, False])
    loss = losses.sky_loss(opacity, is_sky) + losses.opacity_entropy_loss(opacity)
    loss.backward()
    assert opacity.grad is not None
    assert bool(torch.isfinite(opacity.grad).all())
    clear, wrong = torch.tensor([0.0]), torch.tensor([0.99])
    assert losses.sky_loss(clear, is_sky[:1]) < losses.sky_loss(wrong, is_sky[:1])
    assert losses.opacity_entropy_loss(torch.tensor([0.5])) > losses.opacity_entropy_loss(torch.tensor([0.01]))


@pytest.mark.parametrize("density", [0.0, 1e-8, 1e8])
def test_gradients_are_finite_at_extreme_densities(density):
    sigma = torch.full((2, 6), density, requires_grad=True)
    bins = edges(2, 6)
    weights = losses.composite_weights(sigma, bins[:, 1:] - bins[:, :-1])
    depth = torch.tensor([5.0, math.nan])
    loss = losses.line_of_sight_loss(weights, bins, depth, margin=1.0) + losses.distortion_loss(weights, bins)
    loss.backward()
    assert sigma.grad is not None
    assert bool(torch.isfinite(sigma.grad).all())


def test_velocity_loss_takes_known_motion_only():
    flow = torch.tensor([[1.0, 0.0, 0.0], [9.0, 9.0, 9.0]], requires_grad=True)
    known = torch.tensor([[4.0, 0.0, 0.0], [math.nan] * 3])
    loss = losses.velocity_loss(flow, known)
    # Huber beyond one metre per second: |3| - 1/2, over three axes.
    assert loss.item() == pytest.approx(2.5 / 3)
    loss.backward()
    assert flow.grad is not None
    assert torch.equal(flow.grad[1], torch.zeros(3))
    assert losses.velocity_loss(flow, torch.full((2, 3), math.nan)) == 0.0


def test_shadow_loss_is_the_mean_square():
    assert losses.shadow_loss(torch.tensor([[0.5], [0.0]])).item() == pytest.approx(0.125)


def test_squared_depth_is_the_error_over_the_furthest_distance():
    loss = losses.depth_loss(torch.tensor([14.0, 5.0]), torch.tensor([10.0, math.nan]), max_depth=80.0, form="squared")
    assert loss.item() == pytest.approx((4.0 / 80.0) ** 2)


def test_normal_peak_costs_nothing_and_weight_before_it_its_square():
    around = torch.linspace(0.0, 20.0, 81)[None]
    returned = torch.tensor([10.0])
    margin = 3.0
    peak = torch.special.ndtr(3.0 * (around - 10.0) / margin)
    exact = peak[:, 1:] - peak[:, :-1]
    wanted = torch.where((around[:, 1:] - 0.125 - 10.0).abs() < margin, exact, torch.zeros_like(exact))

    def loss(weights: torch.Tensor) -> float:
        return losses.line_of_sight_loss(weights, around, returned, margin=margin, form="normal").item()

    assert loss(wanted) < 1e-8
    early = wanted.clone()
    early[0, 4] = 0.5
    assert loss(early) == pytest.approx(0.25, abs=1e-6)
    behind = wanted.clone()
    behind[0, -1] = 0.5
    assert loss(behind) < 1e-8, "what lies behind the peak is not looked at"
    sharp = torch.zeros_like(wanted)
    sharp[0, 40] = 1.0
    assert loss(sharp) > 0.3, "a sharp peak is pulled apart"
    assert losses.line_of_sight_loss(sharp, around, returned, margin=margin).item() == pytest.approx(0.0, abs=1e-6)
