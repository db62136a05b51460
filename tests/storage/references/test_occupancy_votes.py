"""Votes of beams about small worlds whose voxels are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage.geometry.voxel_grid import VoxelGrid
from storage.references.beams import BeamPasses
from storage.references.config import VoteRules
from storage.references.occupancy_votes import NO_OBJECT, PARTS_PER_AXIS, FrameVotes, Sweep, vote
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED

GRID = VoxelGrid(minimum=(-4.0, -4.0, -1.0), voxel_size=0.4, shape=(20, 20, 8))
RULES = VoteRules(min_passes=1)
CAR, EYE = 4, np.array([-3.5, 0.1, 0.5])


def wall(x: float, y: tuple[float, float] = (-3.9, 3.9), step: float = 0.04) -> np.ndarray:
    """Return points on an upright wall across the x axis."""
    across, up = np.meshgrid(np.arange(*y, step), np.arange(-0.9, 2.1, step), indexing="ij")
    return np.stack([np.full(across.size, x), across.ravel(), up.ravel()], axis=1)


def sweep(points: np.ndarray, *, labels: int | np.ndarray = OCC3D_UNKNOWN, moves: bool = False, **fields: Any) -> Sweep:
    """Return a sweep from a LiDAR that stands still."""
    whole = {
        "ego_to_world": np.eye(4),
        "origin": EYE,
        "points": points,
        "labels": np.broadcast_to(np.asarray(labels, np.uint8), len(points)),
        "moves": np.full(len(points), moves),
        "instance": np.full(len(points), NO_OBJECT),
        "object_to_world": {},
        "object_half_size": {},
    }
    return Sweep(**{**whole, **fields})


def voted(sweeps: list[Sweep], frame: int = 0, rules: VoteRules = RULES) -> FrameVotes:
    cells = VoxelGrid.around(np.full(3, -8.0), np.full(3, 8.0), GRID.voxel_size / PARTS_PER_AXIS)
    passes = BeamPasses(grid=cells, reach_m=rules.reach_m, clearance_m=rules.clearance_m)
    for one in sweeps:
        passes.add(one.beams)
    return vote(sweeps, frame, passes, GRID, rules)


def column(votes: FrameVotes, x: float, y: float = 0.1, z: float = 0.5) -> int:
    voxel, _ = GRID.index_of(np.array([[x, y, z]]))
    return int(votes.voxel_label[tuple(voxel[0])])


def test_space_before_a_wall_is_free_the_wall_is_occupied_and_behind_it_nothing_is_known():
    votes = voted([sweep(wall(1.8), labels=15)])
    assert [column(votes, x) for x in (0.0, 1.0, 1.8, 2.4, 3.5)] == [17, 17, 15, 255, 255]
    voxel, _ = GRID.index_of(np.array([[1.8, 0.1, 0.5], [0.0, 0.1, 0.5], [3.5, 0.1, 0.5]]))
    beams = votes.num_beams[tuple(voxel.T)]
    assert beams[0] == pytest.approx(100, abs=25)  # a voxel of the wall is 10 by 10 points
    assert beams[1] > 1
    assert beams[2] == 0
    assert votes.is_scanned[tuple(voxel.T)].tolist() == [True, True, False]


def test_ground_between_two_rings_is_never_called_free():
    """Grazing beams pass just above ground that no beam meets."""
    turn = np.linspace(-0.4, 0.4, 400)
    ring = np.stack([EYE[0] + 7 * np.cos(turn), EYE[1] + 7 * np.sin(turn), np.full(400, -0.8)], axis=1)
    low = -0.75  # the ground runs through these voxels, from -1.0 to -0.6
    votes = voted([sweep(ring)])
    assert (votes.voxel_label[:, :, 0] == OCC3D_FREE).sum() == 0
    assert column(votes, 2.5, z=low) != OCC3D_FREE
    assert (votes.voxel_label == OCC3D_FREE).any()
    careless = voted([sweep(ring)], rules=replace(RULES, free_parts=0.1))
    assert (careless.voxel_label[:, :, 0] == OCC3D_FREE).any()  # which is what the rule is for


def test_sweeps_are_brought_together_by_pose():
    ahead = np.eye(4)
    ahead[0, 3] = 1.2
    moved = sweep(wall(1.8 - 1.2), ego_to_world=ahead)  # the same wall, seen from further on
    votes = voted([sweep(wall(1.8)), moved])
    assert column(votes, 1.8) == OCC3D_UNNAMED
    assert column(votes, 0.6) == OCC3D_FREE
    back = voted([sweep(wall(1.8)), moved], frame=1)
    assert column(back, 0.6) == OCC3D_UNNAMED
    assert column(back, 1.8) == OCC3D_UNKNOWN


def test_what_moves_counts_in_its_own_frame_alone():
    there, gone = sweep(wall(0.6, y=(-1.0, 1.0)), moves=True), sweep(wall(1.8))
    first, second = voted([there, gone]), voted([there, gone], frame=1)
    assert column(first, 0.6) == OCC3D_UNNAMED
    assert column(second, 0.6) == OCC3D_FREE
    assert column(second, 1.8) == OCC3D_UNNAMED
    assert column(voted([replace(there, moves=~there.moves), gone], frame=1), 0.6) == OCC3D_UNNAMED


def test_an_object_with_boxes_takes_its_returns_along():
    def at(x: float) -> dict[str, Any]:
        pose = np.eye(4)
        pose[0, 3] = x
        return {"object_to_world": {3: pose}, "object_half_size": {3: np.array([0.5, 1.2, 1.5])}}

    front = wall(0.6, y=(-1.0, 1.0))
    before = sweep(front, labels=CAR, moves=True, instance=np.full(len(front), 3), **at(0.8))
    # Later it stands 1.2 m further on, and no beam of that frame meets it.
    after = sweep(wall(3.9), **at(2.0))
    votes = voted([before, after], frame=1)
    assert column(votes, 0.6) == OCC3D_FREE
    assert column(votes, 1.8) == CAR


def test_where_something_moves_only_the_own_beams_say_free():
    box = np.eye(4)
    box[0, 3] = 2.0
    in_box = {"object_to_world": {3: box}, "object_half_size": {3: np.array([0.6, 1.2, 1.5])}}
    front = wall(1.5, y=(-1.0, 1.0))
    now = sweep(front, labels=CAR, moves=True, instance=np.full(len(front), 3), **in_box)
    later = sweep(wall(3.4))  # the object is gone, and beams cross its place
    votes = voted([now, later])
    assert column(votes, 1.5) == CAR
    assert column(votes, 2.2) == OCC3D_UNKNOWN
    assert column(voted([now, later], frame=1), 2.2) == OCC3D_FREE


def test_near_moving_returns_without_a_box_only_the_own_beams_say_free():
    now, later = sweep(wall(1.5, y=(-1.0, 1.0)), moves=True), sweep(wall(3.4))
    assert column(voted([now, later]), 2.2) == OCC3D_UNKNOWN
    assert column(voted([now, later], rules=replace(RULES, uncertain_m=0.0)), 2.2) == OCC3D_FREE


def test_the_class_of_a_voxel_is_that_of_most_named_returns():
    points = wall(1.8)
    labels = np.full(len(points), OCC3D_UNKNOWN, np.uint8)
    labels[::3], labels[1::9] = CAR, 15
    assert column(voted([sweep(points, labels=labels)]), 1.8) == CAR
    assert column(voted([sweep(points, labels=OCC3D_UNNAMED)]), 1.8) == OCC3D_UNNAMED


def test_a_sweep_without_returns_knows_nothing():
    votes = voted([sweep(np.zeros((0, 3)))])
    assert (votes.voxel_label == OCC3D_UNKNOWN).all()
    assert not votes.is_scanned.any()
