import numpy as np
import pytest
import torch

from storage.errors import SourceDataError
from storage.scenes.schema import SceneBoxes
from teachers.nerf.moving_source import BoxMotion, find_moving
from teachers.nerf.scene_rays import SceneBounds, measure_bounds

BOUNDS = SceneBounds(centre_m=(1.0, 2.0, 0.0), half_extent_m=(40.0, 20.0, 5.0))
SECONDS = np.array([0.0, 0.5, 1.0, 2.0])
FITTED = (0, 1, 3)
TURN = 0.4


def quat(yaw: float) -> tuple[float, float, float, float]:
    return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))


def boxes() -> SceneBoxes:
    """A car that drives 8 m/s and turns between the last frames, and a parked one whose annotation wanders."""
    rows = [
        (frame, (8.0 * SECONDS[frame], 0.0, 1.0), quat(TURN if frame == 3 else 0.0), "driving") for frame in range(4)
    ]
    rows += [(frame, (5.0 + 0.1 * frame, 6.0, 1.0), quat(0.0), "parked") for frame in range(4)]
    frame, centre, rotation, name = zip(*rows, strict=True)
    return SceneBoxes(
        frame_index=np.array(frame, np.int64),
        centre=np.array(centre),
        size=np.tile([4.0, 2.0, 2.0], (len(rows), 1)),
        quat_wxyz=np.array(rotation),
        category=("car",) * len(rows),
        instance=name,
        num_lidar_points=np.ones(len(rows), np.int64),
    )


def returns() -> list[np.ndarray]:
    """Two returns of the driving car, one of the parked one, one of the road, in each fitted frame."""
    there = []
    for frame in FITTED:
        yaw = TURN if frame == 3 else 0.0
        centre = np.array([8.0 * SECONDS[frame], 0.0, 1.0])
        rear = centre + np.array([-2.0 * np.cos(yaw), -2.0 * np.sin(yaw), 0.0])
        there.append(np.stack([centre, rear, [5.0 + 0.1 * frame, 6.0, 1.0], [20.0, -9.0, 0.0]]))
    return there


def test_what_drives_moves_and_what_wanders_stands():
    found = BoxMotion(boxes(), FITTED, SECONDS).find(returns(), BOUNDS)
    for moves in found.returns_move:
        assert moves.tolist() == [True, True, False, False]


def test_velocities_are_those_of_the_rigid_box():
    points = BoxMotion(boxes(), FITTED, SECONDS).find(returns(), BOUNDS).points
    assert points is not None
    at_0 = points.instants == 0
    moving = at_0 & (points.forward.norm(dim=-1) > 1)
    assert torch.allclose(points.forward[moving], torch.tensor([8.0, 0.0, 0.0]).expand(2, 3), atol=1e-5)
    assert points.backward[moving].isnan().all(), "nothing is known of the time before the first frame"
    # The rear swings: from frame 1 to frame 3 it goes another way than the centre.
    centre, rear = points.forward[(points.instants == 1) & (points.forward[:, 0] > 1)]
    assert torch.allclose(centre, torch.tensor([8.0, 0.0, 0.0]), atol=1e-5)
    swung = torch.tensor([12.0 + 2.0 - 2.0 * np.cos(TURN), -2.0 * np.sin(TURN), 0.0]) / 1.5
    assert torch.allclose(rear, swung.to(torch.float32), atol=1e-5)


def test_motion_is_carried_into_the_frames_between():
    points = BoxMotion(boxes(), FITTED, SECONDS).find(returns(), BOUNDS).points
    assert points is not None
    between = (points.instants == 2) & (points.forward.norm(dim=-1) > 1)
    assert between.sum() == 4, "two returns from either side"
    assert torch.equal(points.forward[between], -points.backward[between])
    world = points.positions[between] * BOUNDS.metres_per_unit + torch.tensor(BOUNDS.centre_m)
    # The centre is where a steady car is, whether it comes from frame 1 or from frame 3.
    assert torch.allclose(world[0], torch.tensor([8.0, 0.0, 1.0]), atol=1e-4)
    assert torch.allclose(world[2], torch.tensor([8.0, 0.0, 1.0]), atol=1e-4)


def test_what_stands_is_known_to_stand_also_between():
    points = BoxMotion(boxes(), FITTED, SECONDS).find(returns(), BOUNDS).points
    assert points is not None
    standing = points.forward.norm(dim=-1) == 0
    assert standing.sum() >= 3
    assert (points.backward[standing] == 0).all()
    drawn = points.draw(torch.Generator().manual_seed(0), 5)
    assert len(drawn) == 5


def test_boxes_of_held_out_frames_are_not_looked_at():
    whole = boxes()
    moved = whole.centre.copy()
    moved[whole.frame_index == 2] += 50.0
    other = SceneBoxes(**{**{name: getattr(whole, name) for name in SceneBoxes.__slots__}, "centre": moved})
    first, second = (BoxMotion(b, FITTED, SECONDS).find(returns(), BOUNDS).points for b in (whole, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.positions, second.positions)
    assert torch.equal(first.forward.nan_to_num(), second.forward.nan_to_num())


def test_a_recording_without_boxes_is_refused_by_name(wall_scene):
    frames = (0, 2, 4)
    bounds = measure_bounds(wall_scene, frames)
    with pytest.raises(SourceDataError, match="moving_source"):
        find_moving(wall_scene, frames, bounds, source="boxes")
    for source in ("lidar", "none"):
        found = find_moving(wall_scene, frames, bounds, source=source)
        assert not any(moves.any() for moves in found.returns_move), "nothing moves there"
        assert found.points is None


def test_places_fill_the_boxes_that_move_and_follow_them_between_frames():
    places = BoxMotion(boxes(), FITTED, SECONDS).find(returns(), BOUNDS).places
    assert places is not None
    assert len(places) == 4
    for frame in FITTED:
        local = places[frame] - [8.0 * SECONDS[frame], 0.0, 1.0]
        yaw = TURN if frame == 3 else 0.0
        along = local @ [np.cos(yaw), np.sin(yaw), 0.0]
        assert along.min() == pytest.approx(-2.2, abs=1e-6), "the whole car, with the margin"
        assert along.max() == pytest.approx(2.2, abs=1e-6)
        assert np.abs(local[:, 2]).max() < 1.3, "and nothing of the parked one"
    x = np.sort(places[2][:, 0])
    assert x[0] < 2.0, "where the fitted frame before has it"
    assert x[-1] > 17.0, "where the one after has it"
    assert ((x > 7.0) & (x < 9.0)).any(), "and in between"
