"""Axes and boxes that are wrong are found; those that are right pass, and what shows nothing is undecided."""

import math
from dataclasses import replace

import numpy as np
import pytest

from storage.audits.boxes import audit_boxes
from storage.audits.finding import Finding
from storage.audits.frames_and_axes import audit_axes
from storage.audits.stored_versions import decided_evidence
from storage.geometry.transforms import apply_se3, rotation_to_quat_wxyz
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader

NUM_FRAMES = 6


def turned(yaw: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    return pose


class Drive(SceneReader):
    """A vehicle that goes along a bend over flat ground, past parked cars.

    The frame of the vehicle, in which points and poses are, may be turned by ``axes``.
    """

    def __init__(self, axes: np.ndarray | None = None, *, speed: float = 3.0, backwards: bool = False) -> None:
        rng = np.random.default_rng(0)
        axes = np.eye(4) if axes is None else axes
        self.attributes = {}
        poses = [turned(0.03 * i) for i in range(NUM_FRAMES)]
        for i, pose in enumerate(poses):
            pose[:2, 3] = [speed * i * (-1 if backwards else 1), 0.1 * speed * i * i / 10]
        lidar = np.eye(4)
        lidar[2, 3] = 1.8
        self._arrays = {
            "timestamp_us": 500_000 * np.arange(NUM_FRAMES),
            "ego_to_world": np.stack([pose @ np.linalg.inv(axes) for pose in poses]),
            "lidar_to_ego": axes @ lidar,
        }
        self.yaws = rng.uniform(-math.pi, math.pi, 12)
        self.centres = np.c_[rng.uniform(-5, 25, 12), rng.choice([-9.0, -5, 5, 9], 12), np.full(12, 0.8)]
        self._points = []
        for pose in poses:
            ground = np.c_[rng.uniform(-14, 14, (1500, 2)), rng.normal(0, 0.02, 1500)]
            cars = []
            for centre, yaw in zip(self.centres, self.yaws, strict=True):
                side = rng.uniform(-1, 1, (60, 3)) * [2.1, 0.9, 0.75]
                side[np.arange(60), rng.integers(0, 2, 60)] *= 1e9  # onto a side
                side = np.clip(side, [-2.1, -0.9, -0.75], [2.1, 0.9, 0.75])
                cars.append(apply_se3(np.linalg.inv(pose), centre + side @ turned(yaw)[:3, :3].T))
            xyz = apply_se3(axes, np.concatenate([ground, *cars]))
            self._points.append(np.pad(xyz, ((0, 0), (0, 1))).astype(np.float32))
        self.stated = {"yaw": self.yaws, "size": np.tile([4.2, 1.8, 1.5], (12, 1))}

    def lidar_points(self, frame_index: int) -> np.ndarray:
        return self._points[frame_index]

    def boxes(self) -> SceneBoxes:
        rotations = np.stack([turned(yaw)[:3, :3] for yaw in self.stated["yaw"]])
        return SceneBoxes(
            frame_index=np.repeat(np.arange(NUM_FRAMES), 12),
            centre=np.tile(self.centres, (NUM_FRAMES, 1)),
            size=np.tile(self.stated["size"], (NUM_FRAMES, 1)),
            quat_wxyz=np.tile(rotation_to_quat_wxyz(rotations), (NUM_FRAMES, 1)),
            category=("car",) * 12 * NUM_FRAMES,
            instance=tuple(f"car-{i}" for _ in range(NUM_FRAMES) for i in range(12)),
        )


def outcomes(drive: Drive) -> dict[str, Finding]:
    return {finding.name: finding for finding in audit_axes(drive)}


def test_a_sound_drive_passes():
    found = outcomes(Drive())
    assert {f.outcome for f in found.values()} == {"passed"}
    assert found["driving_direction_off_x_deg"].value < 5


def test_an_ego_frame_with_y_forward_fails():
    found = outcomes(Drive(turned(math.pi / 2)))["driving_direction_off_x_deg"]
    assert found.outcome == "failed"
    assert found.value == pytest.approx(90, abs=5)


@pytest.mark.parametrize("speed", [0.0, 0.05])
def test_standing_still_is_undecided_and_named(speed):
    found = outcomes(Drive(speed=speed))["driving_direction_off_x_deg"]
    assert found.outcome == "undecided"
    assert "stands still" in found.where


def test_a_drive_that_only_turns_is_undecided_and_not_called_still():
    """A point off the axle moves sideways in a bend, so that only straight stretches tell the direction."""
    drive = Drive()
    circle = [turned(0.6 * i) for i in range(NUM_FRAMES)]
    for i, pose in enumerate(circle):
        pose[:2, 3] = 5 * math.sin(0.6 * i), 5 - 5 * math.cos(0.6 * i)
    drive._arrays["ego_to_world"] = np.stack(circle)
    found = outcomes(drive)["driving_direction_off_x_deg"]
    assert found.outcome == "undecided"
    assert found.where == "stands still, or only turns: 0.0 m driven straight on"


def test_a_drive_all_backwards_is_undecided_and_named():
    found = outcomes(Drive(backwards=True))["driving_direction_off_x_deg"]
    assert found.outcome == "undecided"
    assert "all of it backwards" in found.where


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_an_ego_frame_whose_z_is_not_up_fails(degrees):
    tilt, angle = np.eye(4), math.radians(degrees)
    tilt[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    found = outcomes(Drive(tilt))["ground_tilt_deg"]
    assert found.outcome == "failed"
    assert found.value == pytest.approx(degrees, abs=2)


def of_boxes(drive: Drive) -> dict[str, Finding]:
    return {finding.name: finding for finding in audit_boxes(drive)}


def test_boxes_that_fit_pass():
    assert {found.outcome for found in of_boxes(Drive()).values()} == {"passed"}


def test_boxes_elsewhere_fail():
    """As boxes in another frame: they hold little of what is around them."""
    drive = Drive()
    drive.centres += [1.8, 1.8, 0.0]
    found = of_boxes(drive)["returns_inside_boxes_share"]
    assert found.outcome == "failed"
    assert found.value < 0.5


def said_to_hold(drive: Drive, num_points: int) -> Finding:
    stated = drive.boxes()
    drive.boxes = lambda: replace(stated, num_lidar_points=np.full(len(stated.frame_index), num_points))
    return of_boxes(drive)["returns_inside_boxes_share"]


def test_boxes_far_from_every_return_fail_if_they_are_said_to_hold_some():
    drive = Drive()
    drive.centres += [0.0, 0.0, 500.0]
    assert said_to_hold(drive, -1).outcome == "undecided"
    found = said_to_hold(drive, 7)
    assert (found.outcome, found.value) == ("failed", 0.0)
    assert "no return near 72 boxes" in found.where


def test_boxes_that_are_far_away_with_their_returns_are_undecided():
    """As aircraft across an apron: too far to be judged, and where they are said to be."""
    drive = Drive()
    drive.centres += [90.0, 0.0, 0.0]
    for frame, points in enumerate(drive._points):
        points[1500:, 0] += 90.0 * math.cos(0.03 * frame)
        points[1500:, 1] -= 90.0 * math.sin(0.03 * frame)
    assert said_to_hold(drive, 7).outcome == "undecided"


def test_few_boxes_on_their_side_are_undecided():
    drive, stated = Drive(), Drive().boxes()
    lying = np.tile([math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0], (len(stated.frame_index), 1))
    drive.boxes = lambda: replace(stated, quat_wxyz=lying, instance=("cone",) * len(stated.frame_index))
    assert of_boxes(drive)["boxes_on_their_side_share"].outcome == "undecided"


def test_boxes_whose_quaternions_are_read_in_another_order_fail():
    drive, stated = Drive(), Drive().boxes()
    drive.boxes = lambda: replace(stated, quat_wxyz=np.roll(stated.quat_wxyz, -1, axis=1))
    found = of_boxes(drive)["boxes_on_their_side_share"]
    assert found.outcome == "failed"
    assert found.where.startswith("the first is car in frame 0")


def test_boxes_with_the_other_sign_of_yaw_fail():
    drive = Drive()
    drive.stated["yaw"] = -drive.yaws
    found = of_boxes(drive)["returns_gained_by_other_boxes"]
    assert found.outcome == "failed"
    assert found.where.startswith("yaw of the other sign;")


def test_boxes_with_length_and_width_exchanged_fail():
    drive = Drive()
    drive.stated["size"] = drive.stated["size"][:, [1, 0, 2]]
    found = of_boxes(drive)["returns_gained_by_other_boxes"]
    assert found.outcome == "failed"
    assert found.where.startswith("length and width exchanged")


def test_boxes_without_returns_are_undecided():
    drive = Drive()
    drive._points = [np.zeros((0, 4), np.float32)] * NUM_FRAMES
    found = of_boxes(drive)["returns_gained_by_other_boxes"]
    assert found.outcome == "undecided"


@pytest.mark.parametrize(("value", "outcome"), [(1.0, "passed"), (math.nan, "failed")])
def test_a_scene_that_nothing_was_decided_of_has_not_passed(value, outcome):
    finding = Finding(name="ground_tilt_deg", value=value, threshold=10.0, wanted="at_most", otherwise="undecided")
    assert decided_evidence([finding]).outcome == outcome
    if outcome == "failed":
        assert decided_evidence([finding], otherwise="undecided").outcome == "undecided"
