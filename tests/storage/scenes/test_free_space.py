import numpy as np

from storage.scenes.free_space import find_moving_returns


def cast(origin: np.ndarray, box_x: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns from a street: flat ground, a wall at y = 8, and a van whose near side is y = 4 at box_x +- 2."""
    azimuth, elevation = np.meshgrid(np.linspace(0.2, np.pi - 0.2, 160), np.linspace(-0.35, 0.1, 20))
    beams = np.stack([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)], -1).reshape(-1, 3)
    beams /= np.linalg.norm(beams, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        ground = np.where(beams[:, 2] < 0, -origin[2] / beams[:, 2], np.inf)
    wall = (8.0 - origin[1]) / beams[:, 1]
    van = (4.0 - origin[1]) / beams[:, 1]
    at = origin + beams * van[:, None]
    is_van = (np.abs(at[:, 0] - box_x) < 2.0) & (at[:, 2] > 0) & (at[:, 2] < 2.5)
    distance = np.minimum(np.minimum(ground, wall), np.where(is_van, van, np.inf))
    return origin + beams * distance[:, None], is_van & (distance == van)


def two_hertz(frames: int) -> list[float]:
    return [0.5 * f for f in range(frames)]


def test_what_was_seen_through_at_other_times_moves():
    origins = [np.array([0.5 * f, 0.0, 1.8]) for f in range(8)]
    casts = [cast(o, box_x=-8.0 + 5.0 * f) for f, o in enumerate(origins)]
    moving = find_moving_returns(origins, [points for points, _ in casts], two_hertz(8))
    found, truth = np.concatenate(moving), np.concatenate([is_van for _, is_van in casts])
    high = np.concatenate([points[:, 2] > 0.9 for points, _ in casts])
    assert truth.sum() > 300
    assert (found & truth).sum() / found.sum() > 0.95, "nothing that stands is taken to move"
    assert (found & truth).sum() / (truth & high).sum() > 0.6, "most of what moves is found"


def test_a_parked_van_does_not_move():
    origins = [np.array([0.5 * f, 0.0, 1.8]) for f in range(8)]
    moving = find_moving_returns(origins, [cast(o, box_x=3.0)[0] for o in origins], two_hertz(8))
    assert np.concatenate(moving).mean() < 0.005


def test_reflections_below_the_road_do_not_lift_the_ground():
    origins = [np.array([0.5 * f, 0.0, 1.8]) for f in range(8)]
    rng = np.random.default_rng(0)
    below = [np.column_stack([rng.uniform(-20, 20, 40), rng.uniform(1, 8, 40), np.full(40, -2.5)]) for _ in origins]
    clouds = [np.concatenate([cast(o, box_x=3.0)[0], low]) for o, low in zip(origins, below, strict=True)]
    moving = find_moving_returns(origins, clouds, two_hertz(8))
    assert np.concatenate(moving).mean() < 0.005


def test_poses_that_wander_do_not_set_a_parked_van_in_motion():
    origins = [np.array([0.5 * f, 0.0, 1.8]) for f in range(24)]
    # One metre of drift over the recording, a few centimetres from frame to frame.
    points = [cast(o, box_x=3.0)[0] + np.array([0.0, 0.06 * f, 0.0]) for f, o in enumerate(origins)]
    assert np.concatenate(find_moving_returns(origins, points, two_hertz(24))).mean() < 0.01


def test_what_is_as_often_solid_as_seen_through_does_not_move():
    """A hedge lets other beams through at every frame."""
    origins = [np.array([0.5 * f, 0.0, 1.8]) for f in range(8)]
    clouds, on_hedge = [], []
    for frame, origin in enumerate(origins):
        points, _ = cast(origin, box_x=1000.0)
        share = (4.0 - origin[1]) / (points[:, 1] - origin[1])
        at = origin + (points - origin) * share[:, None]
        stops = (
            (at[:, 2] > 0) & (at[:, 2] < 2.5) & (np.floor(at[:, 0] / 0.8).astype(int) % 2 == frame % 2) & (share < 1)
        )
        clouds.append(np.where(stops[:, None], at, points))
        on_hedge.append(stops)
    moving = find_moving_returns(origins, clouds, two_hertz(8))
    assert sum(int(stops.sum()) for stops in on_hedge) > 1000
    assert np.concatenate(moving).mean() < 0.005


def test_at_ten_hertz_frames_half_a_second_apart_testify():
    """A slow van still covers its own place in the frames next to each other."""
    origins = [np.array([0.1 * f, 0.0, 1.8]) for f in range(40)]
    casts = [cast(o, box_x=-10.0 + 0.6 * f) for f, o in enumerate(origins)]
    moving = find_moving_returns(origins, [points for points, _ in casts], [0.1 * f for f in range(40)])
    truth = np.concatenate([is_van & (points[:, 2] > 0.9) for points, is_van in casts[8:32]])
    assert truth.sum() > 300
    assert np.concatenate(moving[8:32])[truth].mean() > 0.3


def test_a_recording_without_lidar_has_nothing_that_moves():
    moving = find_moving_returns([np.zeros(3)] * 3, [np.zeros((0, 3))] * 3, two_hertz(3))
    assert [len(frame) for frame in moving] == [0, 0, 0]
