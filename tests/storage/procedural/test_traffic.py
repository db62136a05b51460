import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.procedural.world.traffic import AlongRoad, Road, constant_speed, follow, varying_speed

TIMES_US = np.arange(0, 8_000_000, 50_000)


@given(
    curvature=st.sampled_from([0.0, 1 / 300, -1 / 220]),
    s=st.floats(-100, 100),
    d=st.floats(-15, 15),
)
def test_road_coordinates_are_arc_length_and_offset(curvature, s, d):
    road = Road(curvature=curvature)
    x0, y0 = road.to_world(np.array([s, s + 1e-4]), np.array([0.0, 0.0]))
    assert np.hypot(np.diff(x0), np.diff(y0))[0] == pytest.approx(1e-4, rel=1e-4)
    x, y = road.to_world(np.array([s]), np.array([d]))
    assert np.hypot(x - x0[0], y - y0[0])[0] == pytest.approx(abs(d), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_follower_is_smooth_and_never_hits_its_leader(seed):
    rng = np.random.default_rng(seed)
    leader = varying_speed(rng, 8.0, 8.0)
    follower, gap = follow(leader, gap=18.0, desired=11.0, leader_length=5.0)
    ahead = np.array([leader.at(int(t))[0] + gap for t in TIMES_US])
    own = np.array([follower.at(int(t)) for t in TIMES_US])
    assert np.all(ahead - own[:, 0] > 5.0)
    assert np.all(own[:, 1] >= -1e-6)
    acceleration = np.diff(own[:, 1]) / 0.05
    assert np.abs(acceleration).max() < 6.5
    assert follower.at(0)[0] == pytest.approx(0.0, abs=1e-9)


def test_distance_is_the_integral_of_speed():
    profile = varying_speed(np.random.default_rng(1), 7.0, 8.0)
    samples = np.array([profile.at(int(t)) for t in range(0, 5_000_000, 10_000)])
    integral = np.cumsum((samples[1:, 1] + samples[:-1, 1]) / 2 * 0.01)
    np.testing.assert_allclose(samples[1:, 0] - samples[0, 0], integral, atol=2e-3)


def test_car_on_a_bend_heads_along_its_path():
    road = Road(curvature=1 / 150)
    motion = AlongRoad(road=road, start=10.0, offset=5.0, direction=-1, profile=constant_speed(8.0, 4.0))
    before, after = (motion.local_to_world(t) for t in (1_000_000, 1_010_000))
    step = after[:3, 3] - before[:3, 3]
    assert np.linalg.norm(step) == pytest.approx(0.08, rel=1e-3)
    assert before[:3, 0] @ step / np.linalg.norm(step) > 0.9999


def test_time_outside_the_span_is_refused():
    profile = constant_speed(5.0, 4.0)
    with pytest.raises(ValueError, match="outside the world's span"):
        profile.at(60_000_000)
    with pytest.raises(ValueError, match="outside the world's span"):
        profile.at(-3_000_000)
