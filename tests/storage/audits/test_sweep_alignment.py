"""Poses that do not bring sweeps together are told, in a street canyon too."""

import math

import numpy as np
import pytest

from storage.audits.sweep_alignment import align_sweeps
from storage.scenes.store import SceneReader


class Canyon(SceneReader):
    """Sweeps between two long walls, with a few house ends across the street; no store behind it."""

    def __init__(self, *, stated: float = 1.0, in_world: bool = False) -> None:
        self._stated, self._in_world = stated, in_world

    num_frames = 8  # type: ignore[assignment]

    def ego_to_world(self, frame_index: int) -> np.ndarray:
        pose = np.eye(4)
        pose[0, 3] = 2.0 * frame_index * self._stated
        return pose

    def lidar_points(self, frame_index: int) -> np.ndarray:
        azimuth, elevation = np.meshgrid(np.linspace(-np.pi, np.pi, 900), np.linspace(-0.1, 0.4, 24))
        beams = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
        ).reshape(-1, 3)
        at = 2.0 * frame_index
        wall = 8.0 / np.maximum(np.abs(beams[:, 1]), 1e-6)
        ends = []
        for face in (-15.0, 3.0, 21.0, 39.0):  # 2 m deep, on the left side
            reach = np.where(np.abs(beams[:, 0]) > 1e-6, (face - at) / beams[:, 0], np.inf)
            ends.append(np.where((reach > 0) & (reach * beams[:, 1] > 6.0) & (reach < wall), reach, np.inf))
        distance = np.minimum(wall, np.min(ends, axis=0))
        points = beams * distance[:, None] + [0.0, 0.0, 1.5]
        points[:, 0] += at if self._in_world else 0.0
        return np.concatenate([points, np.zeros((len(points), 1))], axis=1)[distance < 40].astype(np.float32)


FRAMES = range(7)


@pytest.mark.parametrize("stated", [2.0, 2.0 / 3.0])
def test_poses_are_told_apart_in_a_street_canyon_too(stated):
    assert align_sweeps(Canyon(), FRAMES).at_least > 1.5
    wrong = align_sweeps(Canyon(stated=stated), FRAMES)
    assert wrong.is_wrong
    assert wrong.other == ("half as far" if stated > 1 else "one and a half times as far")


def test_points_in_the_world_frame_are_told():
    wrong = align_sweeps(Canyon(in_world=True), FRAMES)
    assert wrong.is_wrong
    assert wrong.other == "without poses"


def test_standing_still_says_nothing():
    nothing = align_sweeps(Canyon(stated=0.0), FRAMES)
    assert nothing.num_pairs == 0
    assert math.isnan(nothing.at_least)


class Traffic(Canyon):
    """The same, with a lorry behind that falls back: a good part of what faces the way of travel."""

    def lidar_points(self, frame_index: int) -> np.ndarray:
        across, up = np.meshgrid(np.linspace(-1.2, 1.2, 26), np.linspace(0.6, 3.5, 26))
        back = np.full(across.size, -9.0 - 1.5 * frame_index)
        lorry = np.stack([back, across.ravel(), up.ravel(), np.zeros(across.size)], axis=1)
        return np.concatenate([super().lidar_points(frame_index), lorry.astype(np.float32)])


def test_what_moves_by_itself_says_nothing_about_poses():
    assert align_sweeps(Traffic(), FRAMES).at_least > 1.0
    assert align_sweeps(Traffic(stated=2.0), FRAMES).is_wrong
