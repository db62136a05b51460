"""Rays through grids whose walls stand at known places."""

import numpy as np
import pytest

from storage.geometry.voxel_grid import VoxelGrid
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN
from student.evaluation.occupancy_rays import (
    MAX_PLACES,
    OWN_PLACE,
    OccupancyRays,
    RayCounts,
    places_along,
    ray_iou,
)

GRID = VoxelGrid(minimum=(-12.0, -12.0, -1.0), voxel_size=0.4, shape=(60, 60, 16))
PLACE = np.array([0.1, 0.1, 1.8])
RAYS = OccupancyRays(GRID, PLACE[None])
CAR, WALL = 4, 15


def room(distance: float, label: int = WALL, thickness: int = 1) -> np.ndarray:
    """Return a square room whose walls stand so far from the middle."""
    centres = GRID.centres(np.moveaxis(np.indices(GRID.shape), 0, -1))
    far = np.abs(centres[..., :2]).max(axis=-1)
    solid = (far > distance) & (far < distance + thickness * GRID.voxel_size)
    return np.where(solid, label, OCC3D_FREE).astype(np.uint8).reshape(-1)


def test_rays_end_at_the_first_occupied_voxel():
    hits = RAYS.cast(room(6.0))
    level = np.isfinite(hits.distance)
    assert level.mean() > 0.5
    assert hits.distance[level].min() == pytest.approx(6.0, abs=0.4)
    assert hits.distance[level].max() < 6.4 * np.sqrt(2) / np.cos(np.radians(30)) + 0.4
    assert set(hits.label[level].tolist()) == {WALL}
    assert set(hits.label[~level].tolist()) <= {OCC3D_FREE}


def counts(predicted: np.ndarray, reference: np.ndarray, num_classes: int = 1) -> np.ndarray:
    return RayCounts.of(RAYS.cast(predicted), RAYS.cast(reference), num_classes=num_classes).flat


def test_a_thick_wall_is_as_good_as_a_thin_one_and_a_shifted_one_is_not():
    thin, thick, shifted = room(6.0), room(6.0, thickness=5), room(7.6)
    assert ray_iou(counts(thick, thin)) == pytest.approx(1.0)
    assert np.sum((thick != 17) & (thin != 17)) / np.sum((thick != 17) | (thin != 17)) < 0.25  # by voxels it is poor
    found = [ray_iou(counts(shifted, thin), threshold) for threshold in range(3)]
    assert found[0] < 0.2
    assert found[2] > 0.6
    assert found == sorted(found)
    assert ray_iou(counts(shifted, thin)) == pytest.approx(np.mean(found))


def test_of_a_class_both_place_and_name_must_be_right():
    reference = room(6.0, CAR)
    assert ray_iou(counts(room(6.0, WALL), reference, 17)) == 0.0
    assert ray_iou(counts(reference, reference, 17)) == pytest.approx(1.0)
    assert np.isnan(ray_iou(counts(reference, room(40.0), 17)))


def test_rays_through_the_unknown_are_left_out():
    reference = room(6.0)
    hidden = reference.copy().reshape(GRID.shape)
    hidden[35:44][hidden[35:44] == OCC3D_FREE] = OCC3D_UNKNOWN  # a slab before the wall ahead
    whole, part = counts(room(6.0), reference), counts(room(6.0), hidden.reshape(-1))
    assert 0.5 * whole[-1] < part[-1] < 0.9 * whole[-1]
    assert ray_iou(part) == pytest.approx(1.0)


def test_the_unknown_next_to_the_rays_own_place_hides_nothing():
    labels = room(6.0).reshape(GRID.shape)
    labels[26:34, 26:34] = OCC3D_UNKNOWN  # where the vehicle stands
    assert RAYS.cast(labels.reshape(-1)).is_known.all()


def test_an_empty_prediction_has_no_ray_right():
    empty = np.full(len(room(6.0)), OCC3D_FREE, np.uint8)
    assert ray_iou(counts(empty, room(6.0))) == 0.0


def test_the_voxels_on_the_way_are_all_that_matters():
    labels = room(6.0)
    elsewhere = np.setdiff1d(np.arange(len(labels)), RAYS.voxels)
    changed = labels.copy()
    changed[elsewhere] = WALL
    np.testing.assert_array_equal(RAYS.cast(changed).distance, RAYS.cast(labels).distance)


def test_rays_of_another_place_see_behind_what_hides_from_the_own():
    labels = room(6.0).reshape(GRID.shape)
    labels[40:42, 20:40] = WALL  # a screen at x = 4 m, before the wall ahead
    with_hole = labels.copy()
    with_hole[44:47, 25:35] = OCC3D_FREE  # a hole in the wall behind it
    places = np.stack([PLACE, [5.2, 0.1, 1.8]])
    rays = OccupancyRays(GRID, places)
    found, reference = rays.cast(with_hole.reshape(-1)), rays.cast(labels.reshape(-1))
    alone = OccupancyRays(GRID, places[:1]).cast(labels.reshape(-1))
    np.testing.assert_array_equal(reference[OWN_PLACE].distance, alone.distance)
    own = RayCounts.of(found[OWN_PLACE], reference[OWN_PLACE], num_classes=1).flat
    assert ray_iou(own) > 0.99
    assert ray_iou(RayCounts.of(found, reference, num_classes=1).flat) < 0.95


def test_places_are_the_own_one_and_some_inside_the_grid():
    drive = np.stack([np.arange(-30.0, 30.0, 1.0), np.zeros(60), np.full(60, 1.8)], axis=1)
    chosen = places_along(drive, 5, GRID)
    np.testing.assert_array_equal(chosen[0], drive[5])  # wherever it lies
    assert len(chosen) == MAX_PLACES
    assert chosen[1:, 0].min() >= -11
    assert chosen[1:, 0].max() <= 11
    assert len(np.unique(chosen, axis=0)) == MAX_PLACES
    np.testing.assert_array_equal(places_along(drive[:1], 0, GRID), drive[:1])
