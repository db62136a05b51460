"""Poses that do not bring sweeps together are told, in a street canyon too."""

import numpy as np

from storage.audits.sweep_alignment import align_sweeps
from storage.scenes.store import SceneReader


class Canyon(SceneReader):
    """Sweeps between two long walls, with a few house ends across the street; no store behind it."""

    def __init__(self, *, error_m: float) -> None:
        self._error_m = error_m

    num_frames = 4  # type: ignore[assignment]

    def ego_to_world(self, frame_index: int) -> np.ndarray:
        pose = np.eye(4)
        pose[0, 3] = 4.0 * frame_index + self._error_m * (frame_index % 2)
        return pose

    def lidar_points(self, frame_index: int) -> np.ndarray:
        azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 900), np.linspace(-0.1, 0.4, 24))
        beams = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
        ).reshape(-1, 3)
        at = 4.0 * frame_index
        wall = 8.0 / np.maximum(np.abs(beams[:, 1]), 1e-6)
        ends = []
        for face in (-15.0, 3.0, 21.0, 39.0):  # 2 m deep, on the left side
            reach = np.where(np.abs(beams[:, 0]) > 1e-6, (face - at) / beams[:, 0], np.inf)
            ends.append(np.where((reach > 0) & (reach * beams[:, 1] > 6.0) & (reach < wall), reach, np.inf))
        distance = np.minimum(wall, np.min(ends, axis=0))
        points = beams * distance[:, None] + [0.0, 0.0, 1.5]
        return np.concatenate([points, np.zeros((len(points), 1))], axis=1)[distance < 40].astype(np.float32)


def test_poses_are_told_apart_in_a_street_canyon_too() -> None:
    frames = (0, 1, 2)
    assert align_sweeps(Canyon(error_m=0.0), frames) > 5
    assert align_sweeps(Canyon(error_m=2.0), frames) < 2.5


class Traffic(Canyon):
    """The same, with a lorry behind that falls back: a good part of what faces the way of travel."""

    def lidar_points(self, frame_index: int) -> np.ndarray:
        across, up = np.meshgrid(np.linspace(-1.2, 1.2, 26), np.linspace(0.6, 3.5, 26))
        back = np.full(across.size, -9.0 - 3.0 * frame_index)
        lorry = np.stack([back, across.ravel(), up.ravel(), np.zeros(across.size)], axis=1)
        return np.concatenate([super().lidar_points(frame_index), lorry.astype(np.float32)])


def test_what_moves_by_itself_says_nothing_about_poses() -> None:
    assert align_sweeps(Traffic(error_m=0.0), (0, 1, 2)) > 5
    assert align_sweeps(Traffic(error_m=2.0), (0, 1, 2)) < 2.5
