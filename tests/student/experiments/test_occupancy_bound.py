"""Depth between pixels is that of the plane through them, and nothing lies where depth jumps."""

import numpy as np
import pytest

from storage.geometry.rays import camera_rays
from student.experiments.occupancy_bound import surface_points

AHEAD = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])  # 1.5 m above the road
INTRINSICS = np.array([[20.0, 0, 16], [0, 20.0, 9], [0, 0, 1]])
SIZE = (18, 32)


def depth_to(axis: int, place: float) -> np.ndarray:
    """Return the distance of every pixel's ray to the plane where one coordinate has a value; NaN where it misses."""
    origins, directions = camera_rays(INTRINSICS, AHEAD, height=SIZE[0], width=SIZE[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (place - origins[..., axis]) / directions[..., axis]
    return np.where(distance > 0, distance, np.nan)


@pytest.mark.parametrize("fill", [1, 4])
def test_points_of_a_road_lie_on_it(fill: int) -> None:
    road = depth_to(2, 0.0)
    road[road > 12] = np.nan
    points = surface_points(road, INTRINSICS, AHEAD, fill=fill)
    np.testing.assert_allclose(points[:, 2], 0.0, atol=1e-6)
    assert len(points) > 0.5 * fill**2 * np.isfinite(road).sum()
    origins, directions = camera_rays(INTRINSICS, AHEAD, height=SIZE[0], width=SIZE[1])
    if fill == 1:
        np.testing.assert_allclose(points, (origins + directions * road[..., None])[np.isfinite(road)], atol=1e-9)
        return
    gaps = np.diff(np.unique(np.round(points[np.abs(points[:, 1]) < 0.5, 0], 3)))
    own = np.unique(np.round((origins + directions * road[..., None])[:, 16, 0][np.isfinite(road[:, 16])], 3))
    assert gaps.max() < 0.6 * np.diff(own).max()  # there are points between the rows


def test_nothing_lies_between_a_wall_and_what_is_behind_it() -> None:
    near, far = depth_to(0, 6.0), depth_to(0, 31.0)
    depth = np.where(np.arange(SIZE[1]) < 16, near, far)
    points = surface_points(depth, INTRINSICS, AHEAD, fill=4)
    assert np.isclose(points[:, 0], 6.0).any()
    assert np.isclose(points[:, 0], 31.0).any()
    assert (np.isclose(points[:, 0], 6.0) | np.isclose(points[:, 0], 31.0)).all()
