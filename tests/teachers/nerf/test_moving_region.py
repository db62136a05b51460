"""Where the dynamic branch exists: against the points that it is confined to, and what it says elsewhere."""

import numpy as np
import torch

from teachers.nerf.config import FieldConfig
from teachers.nerf.dynamic import DynamicBranch
from teachers.nerf.frame_times import FrameTimes
from teachers.nerf.moving_region import MovingRegion
from teachers.nerf.scene_rays import SceneBounds

BOUNDS = SceneBounds(centre_m=(3.0, -2.0, 1.0), half_extent_m=(20.0, 10.0, 5.0))
NOWHERE = np.zeros((0, 3))


def units(world: np.ndarray) -> torch.Tensor:
    return torch.tensor(BOUNDS.to_scene_units(world), dtype=torch.float32)


def test_anything_may_move_anywhere_until_it_is_confined():
    region = MovingRegion(BOUNDS, 2)
    far = torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert region(far, torch.zeros(2)).all()
    region.confine([NOWHERE, NOWHERE])
    assert not region(far, torch.zeros(2)).any()
    region.confine(None)
    assert region(far, torch.zeros(2)).all()


def test_a_region_holds_its_points_in_their_frames_and_little_else():
    region, rng = MovingRegion(BOUNDS, 3), np.random.default_rng(0)
    points = np.array(BOUNDS.centre_m) + rng.uniform(-4, 4, (40, 3)) * [4, 2, 1]
    region.confine([NOWHERE, points, NOWHERE])
    at = units(points)
    assert region(at, torch.full((40,), 1.0)).all()
    assert not region(at, torch.full((40,), 0.0)).any()
    assert not region(at, torch.full((40,), 2.0)).any()
    assert region(at, torch.full((40,), 0.5)).all(), "between two frames, what either of them allows"
    anywhere = np.array(BOUNDS.centre_m) + rng.uniform(-1, 1, (20_000, 3)) * BOUNDS.half_extent_m
    away = np.linalg.norm(anywhere[:, None] - points, axis=-1).min(axis=1)
    allowed = region(units(anywhere), torch.full((20_000,), 1.0)).numpy()
    assert allowed[away < 1.0].all(), "a metre around each point"
    assert not allowed[away > 4.0].any()


def test_what_lies_outside_the_box_does_not_move():
    region = MovingRegion(BOUNDS, 1)
    outside = np.array([[24.0, -2.0, 1.0], [3.0, -2.0, -4.5]])
    region.confine([outside])
    assert not region(units(outside), torch.zeros(2)).any()


def test_a_region_survives_being_stored():
    region, other = MovingRegion(BOUNDS, 2), MovingRegion(BOUNDS, 2)
    region.confine([np.array([[3.0, -2.0, 1.0]]), NOWHERE])
    other.load_state_dict(region.state_dict())
    at = units(np.array([[3.0, -2.0, 1.0], [12.0, -2.0, 1.0]]))
    assert other(at, torch.zeros(2)).tolist() == [True, False]


def test_the_branch_is_empty_outside_and_unchanged_inside():
    torch.manual_seed(0)
    config = FieldConfig(dynamic=True, dynamic_log2_table_size=12, hidden_width=16, flow=True, shadow=True)
    branch = DynamicBranch(config, BOUNDS, FrameTimes((0.0, 0.5), (0, 1)))
    torch.nn.init.normal_(branch.grid.table)
    positions, instants = units(np.array([[3.0, -2.0, 1.0], [15.0, 4.0, 1.0], [3.2, -2.0, 1.0]])), torch.ones(3)
    free = branch(positions, instants)
    branch.region.confine([NOWHERE, np.array([[3.0, -2.0, 1.0]])])
    found = branch(positions, instants)
    inside = torch.tensor([True, False, True])
    for name, elsewhere in (("log_density", -torch.inf), ("features", 0.0), ("shadow", 0.0), ("cycle_error", 0.0)):
        values = getattr(found, name)
        assert torch.equal(values[inside], getattr(free, name)[inside]), name
        assert (values[~inside] == elsewhere).all(), name
    branch.region.confine([NOWHERE, NOWHERE])
    assert (branch(positions, instants).log_density == -torch.inf).all()
