"""What the audit says of cameras that no beam reaches, of sweeps that were cut short and of late exposures."""

import math
from typing import Any

import numpy as np
import pytest

from storage.audits import stored_versions
from storage.scenes.store import SceneReader

NUM_FRAMES = 5


class Rig(SceneReader):
    """Cameras around a vehicle, and sweeps of so many returns."""

    swept: tuple[float, float] = (-math.pi, math.pi)
    pitch: float = 0.0

    def __init__(self, *, num_cameras: int = 6, focal: float = 23.0, counts: tuple[int, ...] = (1000,) * NUM_FRAMES):
        self.camera_names = [f"camera_{i}" for i in range(num_cameras)]
        self.focal, self.counts = focal, counts
        self._arrays = {"timestamp_us": np.arange(len(counts)) * 500_000}

    def image_size(self, camera: int) -> tuple[int, int]:
        return 18, 32

    def intrinsics(self, camera: int) -> np.ndarray:
        return np.array([[self.focal, 0, 16], [0, self.focal, 9], [0, 0, 1.0]])

    def num_lidar_points(self, frame_index: int) -> int:
        return self.counts[frame_index]

    def lidar_points(self, frame_index: int) -> np.ndarray:
        turn = np.linspace(*self.swept, self.counts[frame_index], endpoint=False)
        return np.stack([9 * np.cos(turn), 9 * np.sin(turn), 0 * turn, turn], axis=1).astype(np.float32)

    @property
    def lidar_to_ego(self) -> np.ndarray:
        return np.eye(4)

    def camera_to_ego(self, camera: int) -> np.ndarray:
        """Cameras look around, one after the other; the last one may look down."""
        pose, turn = np.eye(4), 2 * math.pi * camera / len(self.camera_names)
        pitch = self.pitch if camera == len(self.camera_names) - 1 else 0.0
        pose[:3, 2] = math.cos(turn) * math.cos(pitch), math.sin(turn) * math.cos(pitch), math.sin(pitch)
        return pose


def shares(*of_cameras: float, frames: int = 3) -> Any:
    return np.tile(of_cameras, (frames, 1))


def test_a_camera_that_no_return_falls_into_fails_and_is_named():
    rig = Rig(num_cameras=3)
    found = stored_versions._blind_camera(rig, shares(0.1, 0.0, 0.12))
    assert (found.outcome, found.where) == ("failed", "camera camera_1")
    assert stored_versions._blind_camera(rig, shares(0.1, 0.004, 0.12)).outcome == "passed"


def test_a_camera_that_looks_down_or_where_no_beam_goes_is_undecided():
    rig, of_frames = Rig(num_cameras=3), shares(0.1, 0.1, 0.0)
    assert stored_versions._blind_camera(rig, of_frames).outcome == "failed"
    rig.pitch = -1.0
    assert stored_versions._blind_camera(rig, of_frames).outcome == "undecided"
    rig.pitch, rig.swept = 0.0, (-1.0, 1.0)  # the LiDAR looks ahead, the camera aside
    assert stored_versions._blind_camera(rig, of_frames).outcome == "undecided"


def test_frames_without_a_sweep_tell_nothing_of_a_camera():
    rig, of_frames = Rig(num_cameras=2), shares(0.1, 0.2)
    of_frames[1] = math.nan
    assert stored_versions._blind_camera(rig, of_frames).value == pytest.approx(0.1)
    of_frames[:] = math.nan
    assert stored_versions._blind_camera(rig, of_frames).outcome == "undecided"


@pytest.mark.parametrize(("num_cameras", "wanted"), [(6, 0.1), (1, 0.0484)])
def test_one_camera_need_not_see_what_a_ring_of_them_sees(num_cameras, wanted):
    """One of 70 degrees, a fifth of a turn, saw 0.086 of the returns of a nuScenes sweep."""
    assert stored_versions._wanted_share(Rig(num_cameras=num_cameras)) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("counts", "outcome", "where"),
    [
        ((1000, 980, 1020, 1000), "passed", "frame 1"),
        ((1000, 980, 40, 1000), "failed", "frame 2: 40 returns"),
        ((1000, 0, 1000, 1000), "passed", "frame 0"),  # without a sweep: said elsewhere
        ((9000, 9000, 7000, 3000, 800, 600, 500), "passed", "frame 4"),  # out of a hangar onto an apron
        ((0, 0), "undecided", ""),
        ((0, 700, 0), "undecided", ""),
    ],
)
def test_a_sweep_that_was_cut_short_fails(counts, outcome, where):
    found = stored_versions._smallest_sweep(Rig(counts=counts))
    assert found.outcome == outcome
    assert found.where.startswith(where)
