import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from storage.geometry.trajectory import Trajectory

EPOCH = 1_700_000_000_000_000


def turning(times_s: np.ndarray) -> np.ndarray:
    """A circle of 20 m radius at a constant 0.4 rad/s, with the vehicle along its tangent."""
    poses = np.tile(np.eye(4), (len(times_s), 1, 1))
    angle = 0.4 * times_s
    poses[:, :3, :3] = Rotation.from_euler("z", angle[:, None]).as_matrix()
    poses[:, :3, 3] = np.stack([20 * np.sin(angle), 20 - 20 * np.cos(angle), 0.1 * times_s], axis=-1)
    return poses


def test_recorded_instants_give_the_recorded_poses_exactly():
    times = EPOCH + np.array([0, 50_000, 110_000])
    poses = turning((times - EPOCH) * 1e-6)
    found = Trajectory(times, poses, max_gap_s=0.2).at(times[[2, 0, 1, 1]])
    np.testing.assert_array_equal(found, poses[[2, 0, 1, 1]])


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=20))
def test_between_them_the_vehicle_goes_on_smoothly(instants):
    times = EPOCH + np.arange(0, 1_000_001, 50_000)
    trajectory = Trajectory(times, turning((times - EPOCH) * 1e-6), max_gap_s=0.06)
    asked = EPOCH + np.array(instants)
    found, exact = trajectory.at(asked[None])[0], turning((asked - EPOCH) * 1e-6)
    # A chord of 20 ms on a circle: v² / (8 r) dt² = 64 / 160 * 0.0025 = 1 mm.
    np.testing.assert_allclose(found[:, :3, 3], exact[:, :3, 3], atol=1.1e-3)
    np.testing.assert_allclose(found[:, :3, :3], exact[:, :3, :3], atol=1e-9)  # a constant turn is met exactly


def test_nothing_is_guessed():
    times = EPOCH + np.array([0, 100_000, 900_000])
    trajectory = Trajectory(times, turning(np.array([0.0, 0.1, 0.9])), max_gap_s=0.5)
    for outside in (EPOCH - 1, EPOCH + 900_001):
        with pytest.raises(ValueError, match=f"{outside} us lies outside"):
            trajectory.at(np.array([outside]))
    with pytest.raises(ValueError, match=r"gap of 0\.8 s"):
        trajectory.at(np.array([EPOCH + 500_000]))
    assert trajectory.at(np.array([EPOCH + 900_000])).shape == (1, 4, 4)  # recorded: no gap to fill
    with pytest.raises(ValueError, match="pose 1 is at"):
        Trajectory(times[[1, 0]], turning(np.zeros(2)), max_gap_s=1.0)
    with pytest.raises(ValueError, match="no pose"):
        Trajectory(times[:0], turning(np.zeros(0)), max_gap_s=1.0)
    assert Trajectory(times[:1], turning(np.zeros(1)), max_gap_s=1.0).at(times[:1]).shape == (1, 4, 4)
