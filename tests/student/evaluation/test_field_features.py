"""Agreement of features between views, on a plane whose points are known."""

import numpy as np
import pytest

from student.evaluation.field_features import agreement, find_same_points, nearby_views, word_precision
from student.inference.open_vocabulary import StoredFeatureBasis

SIZE = (12, 16)
INTRINSICS = np.array([[16.0, 0, 8], [0, 16.0, 6], [0, 0, 1]])
DISTANCE_M, SHIFT_M = 8.0, 1.0  # a plane ahead; the second camera stands one metre to the right: two pixels


@pytest.fixture
def views():
    """Two cameras that look at a plane at right angles: points, depths, poses, lenses."""
    rows, columns = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5, indexing="ij")
    ahead = np.stack([(columns - 8) / 16, (rows - 6) / 16, np.ones(SIZE)], axis=-1) * DISTANCE_M
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = SHIFT_M
    points = np.stack([ahead, ahead + np.array([SHIFT_M, 0.0, 0.0])]).astype(np.float32)
    depths = np.tile(np.linalg.norm(ahead, axis=-1), (2, 1, 1)).astype(np.float32)
    return points, depths, poses, np.tile(INTRINSICS, (2, 1, 1)), np.full((2, 4), np.nan)


def basis() -> StoredFeatureBasis:
    rng = np.random.default_rng(0)
    components = np.linalg.qr(rng.normal(size=(6, 3)))[0].astype(np.float32)
    one = np.ones(3, np.float32)
    return StoredFeatureBasis(mean=np.full(6, 0.5, np.float32), components=components, minimum=-one, maximum=one)


def test_the_same_points_are_where_geometry_has_them(views):
    points = find_same_points(*views, np.ones((2, *SIZE), bool), [(0, 1)])
    assert len(points.first) == SIZE[0] * (SIZE[1] - 2)
    assert np.array_equal(points.first[:, 0], np.zeros(len(points.first)))
    assert np.allclose(points.second[:, 1], points.first[:, 1], atol=1e-4)
    assert np.allclose(points.second[:, 2], points.first[:, 2] - 2, atol=1e-4)


def test_what_is_hidden_or_moves_is_not_the_same_point(views):
    world, depths, *rest = views
    hidden = depths.copy()
    hidden[1, :, :8] *= 0.5  # something stands before the left half of the second view
    usable = np.ones((2, *SIZE), bool)
    usable[1, 0] = False
    points = find_same_points(world, hidden, *rest, usable, [(0, 1)])
    assert len(points.first)
    assert points.second[:, 2].min() > 7
    assert points.second[:, 1].min() > 0.5
    world = world.copy()
    world[0], hidden[0] = np.nan, np.nan
    assert not len(find_same_points(world, hidden, *rest, usable, [(0, 1)]).first)


def test_features_of_the_scene_agree_and_features_of_the_image_do_not(views):
    points = find_same_points(*views, np.ones((2, *SIZE), bool), [(0, 1)])
    rng = np.random.default_rng(1)
    texture = rng.random((*SIZE, 3))
    of_scene = np.stack([np.roll(texture, 0, axis=1), np.roll(texture, -2, axis=1)])
    of_image = np.stack([texture, texture])  # a pattern of places: what a point shows depends on where it is seen
    agreed, disagreed = agreement(of_scene, points, basis()), agreement(of_image, points, basis())
    assert agreed["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert agreed["own_is_nearer"] > 0.99
    assert disagreed["centred_cosine"] < 0.3
    assert abs(disagreed["own_is_nearer"] - 0.5) < 0.15
    blank = agreement(np.full((2, *SIZE, 3), 0.7), points, basis())
    assert blank["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert blank["own_is_nearer"] == pytest.approx(0.5, abs=0.1)  # agreement alone is no merit


def test_without_points_nothing_is_claimed(views):
    points = find_same_points(*views, np.zeros((2, *SIZE), bool), [(0, 1)])
    assert all(np.isnan(value) for value in agreement(np.zeros((2, *SIZE, 3)), points, basis()).values())


def test_pairs_are_of_different_views_near_in_time():
    frames, cameras = np.array([0, 0, 1, 5]), np.array([0, 1, 0, 0])
    assert set(nearby_views(frames, cameras)) == {(0, 1), (0, 2), (1, 2)}


def test_a_word_is_scored_where_its_class_occurs():
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.7, 0.3]])
    truth = np.array([0, 0, 0, 0], np.uint8)
    usable = np.array([True, True, True, False])
    assert word_precision(probability, truth, usable, ("car", "tree")) == {"car": 1.0}
    truth[2] = 1
    assert word_precision(probability, truth, usable, ("car", "tree")) == {"car": 1.0, "tree": 1.0}
    truth[:2] = 1
    truth[2] = 0
    assert word_precision(probability, truth, usable, ("car", "tree"))["car"] == pytest.approx(1 / 3)
