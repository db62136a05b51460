from dataclasses import replace

import numpy as np
import pytest

from storage.scenes.moving import MovingBoxes, instances_that_move
from storage.scenes.schema import SceneBoxes


@pytest.fixture
def boxes() -> SceneBoxes:
    """A parked car, and a van that drives 3 m along y between two frames, turned by 90 degrees."""
    turned = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]
    return SceneBoxes(
        frame_index=np.array([0, 1, 0, 1]),
        centre=np.array([[10.0, 0, 1], [10.1, 0, 1], [20.0, 0, 1], [20.0, 3, 1]]),
        size=np.array([[4.0, 2, 2], [4, 2, 2], [4, 2, 2], [4, 2, 2]]),
        quat_wxyz=np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], turned, turned]),
        category=("car",) * 4,
        instance=("parked", "parked", "van", "van"),
        num_lidar_points=np.full(4, 10),
    )


def test_only_what_changes_place_moves(boxes):
    moving = MovingBoxes(boxes, (0.0, 0.5))
    assert [moving.count(frame) for frame in (0, 1, 2)] == [1, 1, 0]
    assert MovingBoxes(SceneBoxes.none(), ()).count(0) == 0


def test_what_drifts_with_the_poses_stands(boxes):
    seconds = 0.5 * np.arange(40)
    drift, drive = 0.08 * seconds, np.where(seconds < 15, 0.0, 2.0 * (seconds - 15))
    places = np.zeros((80, 3))
    places[:, 0] = np.concatenate([drift, drift + drive])
    annotated = SceneBoxes(
        frame_index=np.tile(np.arange(40), 2),
        centre=places,
        size=np.full((80, 3), 2.0),
        quat_wxyz=np.tile([1.0, 0, 0, 0], (80, 1)),
        category=("car",) * 80,
        instance=("parked",) * 40 + ("starts late",) * 40,
        num_lidar_points=np.full(80, 10),
    )
    assert np.ptp(drift) > 1.5
    assert instances_that_move(annotated, tuple(seconds)) == {"starts late"}
    assert instances_that_move(annotated, tuple(4 * seconds)) == {"starts late"}  # annotated every other second
    assert not instances_that_move(replace(annotated, frame_index=np.repeat([0, 1], 40)), (0.0, 100.0))


def test_rays_meet_a_turned_box_where_it_stands(boxes):
    moving = MovingBoxes(boxes, (0.0, 0.5))
    origin = np.array([0.0, 0, 1])
    targets = np.array([[20.0, 0, 1], [20.0, 1.9, 1], [20.0, 3.5, 1], [-20.0, 0, 1], [20.0, 0, 9]])
    directions = (targets - origin) / np.linalg.norm(targets - origin, axis=1, keepdims=True)
    assert moving.hit_by(0, origin, directions).tolist() == [True, True, False, False, False]
    assert moving.hit_by(1, origin, directions).tolist() == [False, True, True, False, False]
    assert not moving.hit_by(2, origin, directions).any()


def test_points_inside_are_found(boxes):
    points = np.array([[20.0, 1.9, 1], [21.9, 0, 1], [10.0, 0, 1]])
    assert MovingBoxes(boxes, (0.0, 0.5)).contain(0, points).tolist() == [True, False, False]
