"""LiDAR returns land where the camera sees them."""

import numpy as np
import pytest

from storage.scenes.store import SceneReader
from teachers.image.lidar_evidence import lidar_pixels


@pytest.fixture
def reader(home, scene_key):
    return SceneReader.open(home, scene_key)


def test_a_point_straight_ahead_lands_in_the_middle_at_its_depth(reader):
    point = np.array([[11.0, 0, 1.5, 1]], np.float32)  # the camera stands at x = 1, z = 1.5
    seen = lidar_pixels(reader, 0, 0, point, height=9, width=17)
    assert (seen.row.tolist(), seen.column.tolist()) == ([4], [8])
    assert seen.camera_depth == pytest.approx([10.0])


def test_points_behind_beside_and_too_near_are_dropped(reader):
    points = np.array([[-9, 0, 1.5, 1], [2, 40, 1.5, 1], [1.5, 0, 1.5, 1]], np.float32)
    assert len(lidar_pixels(reader, 0, 0, points, height=9, width=17).row) == 0


def test_the_ground_is_seen_in_the_lower_half(reader):
    seen = lidar_pixels(reader, 1, 1, reader.lidar_points(1), height=20, width=40)
    assert len(seen.row) > 100
    assert (seen.row >= 10).all()


def test_it_uses_the_pose_of_the_exposure(home, make_scene, publish):
    import dataclasses

    scene = make_scene()
    later = scene.camera_ego_to_world.copy()
    later[:, :, 0, 3] += 5.0  # the exposure happened five metres further on
    reader = SceneReader.open(home, publish(home, dataclasses.replace(scene, camera_ego_to_world=later)))
    seen = lidar_pixels(reader, 0, 0, np.array([[11.0, 0, 1.5, 1]], np.float32), height=9, width=17)
    assert seen.camera_depth == pytest.approx([5.0])
