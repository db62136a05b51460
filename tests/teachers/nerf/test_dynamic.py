"""The dynamic branch against slow twins, and what must hold for any flow."""

import pytest
import torch

from teachers.nerf.config import FieldConfig
from teachers.nerf.dynamic import DynamicBranch, Velocities
from teachers.nerf.frame_times import FrameTimes
from teachers.nerf.scene_rays import SceneBounds

BOUNDS = SceneBounds(centre_m=(0.0, 0.0, 0.0), half_extent_m=(20.0, 10.0, 5.0))
SECONDS = (0.0, 0.5, 1.5, 2.0)
FITTED = (0, 2, 3)


def branch(*, flow: bool = False, shadow: bool = False) -> DynamicBranch:
    torch.manual_seed(0)
    config = FieldConfig(dynamic=True, dynamic_log2_table_size=12, hidden_width=16, flow=flow, shadow=shadow)
    made = DynamicBranch(config, BOUNDS, FrameTimes(SECONDS, FITTED))
    torch.nn.init.normal_(made.grid.table)
    return made


def constant_flow(made: DynamicBranch, forward: tuple[float, float, float]) -> torch.Tensor:
    """Let everything move with one velocity, and backwards with its negative."""
    assert made.flow is not None
    velocity = torch.tensor(forward)
    last = made.flow.network[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.cat([velocity, -velocity]))
    return velocity


def points(count: int = 60) -> torch.Tensor:
    return (torch.rand(count, 3) - 0.5) * torch.tensor([1.0, 0.5, 0.25])


def slice_at(made: DynamicBranch, positions: torch.Tensor, frame: int) -> torch.Tensor:
    return made.grid(made.unit_cube(positions), torch.full((len(positions),), frame, dtype=torch.int32))


def test_a_fitted_frame_is_its_own_slice():
    made, positions = branch(), points()
    found = made(positions, torch.full((60,), 2.0)).features
    assert torch.equal(found, slice_at(made, positions, 2))


def test_between_fitted_frames_features_are_interpolated_by_seconds():
    made, positions = branch(), points()
    found = made(positions, torch.full((60,), 1.0)).features
    twin = (2 / 3) * slice_at(made, positions, 0) + (1 / 3) * slice_at(made, positions, 2)
    assert torch.allclose(found, twin, atol=1e-6)
    made.times.set_fitted((0, 1, 2, 3))
    assert torch.equal(made(positions, torch.full((60,), 1.0)).features, slice_at(made, positions, 1))


def test_flow_aggregates_what_neighbours_show_where_it_leads():
    made, positions = branch(flow=True), points()
    velocity = constant_flow(made, (6.0, -3.0, 0.5)) / BOUNDS.metres_per_unit
    found = made(positions, torch.full((60,), 2.0)).features
    now = slice_at(made, positions, 2)
    before = slice_at(made, positions - 1.5 * velocity, 0)
    after = slice_at(made, positions + 0.5 * velocity, 3)
    assert torch.allclose(found, 0.5 * (now + 0.5 * before + 0.5 * after), atol=1e-5)


def test_what_moves_steadily_is_found_again_between_fitted_frames():
    made = branch(flow=True)
    velocity = constant_flow(made, (6.0, 0.0, 0.0)) / BOUNDS.metres_per_unit
    at_frame_1 = points()
    # The twin: from frame 1, half a second after frame 0, one second before frame 2.
    twin = (2 / 3) * slice_at(made, at_frame_1 - 0.5 * velocity, 0) + (1 / 3) * slice_at(made, at_frame_1 + velocity, 2)
    assert torch.allclose(made(at_frame_1, torch.full((60,), 1.0)).features, twin, atol=1e-5)
    still = branch()(at_frame_1, torch.full((60,), 1.0)).features
    assert not torch.allclose(still, twin, atol=0.1), "the flow must matter"


def test_cycle_error_is_zero_for_a_constant_flow_and_its_inverse_only():
    made, positions = branch(flow=True), points()
    constant_flow(made, (6.0, -3.0, 0.5))
    error = made(positions, torch.full((60,), 2.0)).cycle_error
    assert error is not None
    assert error.abs().max() < 1e-8
    assert made.flow is not None
    last = made.flow.network[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[3:] = 0.0
    error = made(positions, torch.full((60,), 2.0)).cycle_error
    assert error is not None
    # 6, -3 and 0.5 metres per second for the half second to frame 3.
    assert torch.allclose(error, torch.full((60,), 0.25 * (36.0 + 9.0 + 0.25) / 3))


def test_colour_teaches_the_flow_through_positions():
    made, positions = branch(flow=True), points()
    constant_flow(made, (2.0, 1.0, 0.0))
    made(positions, torch.full((60,), 2.0)).features.square().sum().backward()
    assert made.flow is not None
    last = made.flow.network[-1]
    assert isinstance(last, torch.nn.Linear)
    assert last.bias.grad is not None
    # The same by finite differences, where no point changes its simplex: in the mean over points.
    step = 1e-3
    with torch.no_grad():
        energies = []
        for sign in (1.0, -1.0):
            last.bias[0] += sign * step
            energies.append(made(positions, torch.full((60,), 2.0)).features.square().sum())
            last.bias[0] -= sign * step
    slope = (energies[0] - energies[1]) / (2 * step)
    assert last.bias.grad[0] == pytest.approx(slope.item(), rel=0.05, abs=0.5)


def test_flow_between_frames_is_interpolated():
    made = branch(flow=True)
    assert made.flow is not None
    last = made.flow.network[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    torch.nn.init.normal_(made.flow.grid.table)
    cube = made.unit_cube(points())
    at = [made.flow(cube, torch.full((60,), instant)).forward for instant in (1.0, 1.25, 2.0)]
    assert torch.allclose(at[1], 0.75 * at[0] + 0.25 * at[2], atol=1e-5)


def test_shadows_are_faint_before_training():
    shadow = branch(shadow=True)(points(), torch.full((60,), 2.0)).shadow
    assert shadow is not None
    assert shadow.shape == (60, 1)
    assert (shadow < 0.2).all()


def test_velocities_have_both_directions():
    made = branch(flow=True)
    assert made.flow is not None
    flow = made.flow(made.unit_cube(points()), torch.full((60,), 2.0))
    assert isinstance(flow, Velocities)
    assert flow.forward.abs().max() == 0.0, "nothing moves before training"
