"""What tells a dynamic branch which LiDAR returns move, and how: the recording's boxes, the LiDAR itself, or nothing.

Only fitted frames are looked at, their boxes included: what moves in a held-out frame follows from its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3, invert_se3, quat_wxyz_to_rotation
from storage.scenes.free_space import find_moving_returns
from storage.scenes.moving import MIN_SPEED_M_S
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader
from teachers.nerf.config import MovingSource
from teachers.nerf.moving_points import MovingPoints
from teachers.nerf.scene_rays import SceneBounds, lidar_origin_world, lidar_points_world

_SPEED_FRAMES = 2
"""Fitted frames on either side over which speed is measured."""

_BOX_MARGIN_M = 0.2
_MAX_STANDING_POINTS = 20_000
_FILL_M = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMoving:
    """What is known to move in the fitted frames.

    Attributes:
        returns_move: Per fitted frame, which LiDAR returns belong to something that moves.
        points: Points with known motion, also between the fitted frames; None where none is known.
        places: Per frame of the scene, points of what moves or may move there, world, metres; None if nothing is asked.
    """

    returns_move: list[Bool[np.ndarray, " _"]]
    points: MovingPoints | None
    places: list[Float[np.ndarray, "_ 3"]] | None


def find_moving(scene: SceneReader, frames: Sequence[int], bounds: SceneBounds, *, source: MovingSource) -> FoundMoving:
    """Return what moves in some frames of a scene.

    Args:
        scene: The scene.
        frames: Its fitted frames.
        bounds: The field's box.
        source: What says so.

    Raises:
        SourceDataError: If boxes are asked for, and the recording has none at all.
    """
    returns = [lidar_points_world(scene, f) for f in frames]
    if source == "none" or not any(len(r) for r in returns):
        return FoundMoving(returns_move=[np.zeros(len(r), bool) for r in returns], points=None, places=None)
    if source == "lidar":
        origins, seconds = [lidar_origin_world(scene, f) for f in frames], scene.frame_seconds()
        returns_move = find_moving_returns(origins, returns, [seconds[f] for f in frames])
        moving = [points[moves] for points, moves in zip(returns, returns_move, strict=True)]
        return FoundMoving(returns_move=returns_move, points=None, places=_in_all(moving, frames, scene.num_frames))
    boxes = scene.boxes()
    if len(boxes.frame_index) == 0:
        raise SourceDataError(
            ErrorKind.TABLE_INVALID,
            "boxes",
            "the recording has none to say what moves; set nerf.moving_source to 'lidar' or 'none'",
        )
    return BoxMotion(boxes, frames, np.array(scene.frame_seconds())).find(returns, bounds)


def _in_all(
    of_fitted: Sequence[Float[np.ndarray, "_ 3"]], frames: Sequence[int], num_frames: int
) -> list[Float[np.ndarray, "_ 3"]]:
    """Return points per frame of the scene: a frame that is not fitted has those of its fitted neighbours."""
    after = np.searchsorted(frames, np.arange(num_frames)).clip(max=len(frames) - 1)
    before = (np.searchsorted(frames, np.arange(num_frames), side="right") - 1).clip(min=0)
    return [
        of_fitted[a] if a == b else np.concatenate([of_fitted[b], of_fitted[a]])
        for a, b in zip(after.tolist(), before.tolist(), strict=True)
    ]


class BoxMotion:
    """Motion of the returns inside boxes, from the same object's box in the neighbouring fitted frames.

    Args:
        boxes: All boxes of a scene.
        frames: The fitted frames; boxes of others are not looked at.
        seconds: Time of every frame of the scene.
    """

    def __init__(self, boxes: SceneBoxes, frames: Sequence[int], seconds: Float[np.ndarray, " all_frames"]) -> None:
        self.frames, self.seconds, self.half_size = frames, seconds, 0.5 * boxes.size + _BOX_MARGIN_M
        self.box_to_world = np.tile(np.eye(4), (len(boxes.frame_index), 1, 1))
        self.box_to_world[:, :3, :3] = np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz))
        self.box_to_world[:, :3, 3] = boxes.centre
        self.rows: list[dict[str, int]] = [{} for _ in frames]
        index_of = {frame: index for index, frame in enumerate(frames)}
        for row, (frame, name) in enumerate(zip(boxes.frame_index.tolist(), boxes.instance, strict=True)):
            if frame in index_of:
                self.rows[index_of[frame]][name] = row

    def find(self, returns: list[Float[np.ndarray, "_ 3"]], bounds: SceneBounds) -> FoundMoving:
        """Return which returns (world, metres) of each fitted frame move, and how."""
        returns_move, known, filled, carried = [], [], [], []
        for index, points in enumerate(returns):
            moves = np.zeros(len(points), bool)
            in_boxes = [np.zeros((0, 3))]
            for name, row in self.rows[index].items():
                if not self._moves(index, name):
                    continue
                inside = (np.abs(apply_se3(invert_se3(self.box_to_world[row]), points)) <= self.half_size[row]).all(-1)
                moves |= inside
                in_boxes.append(apply_se3(self.box_to_world[row], _fill(self.half_size[row])))
                carried += self._track(index, name, in_boxes[-1])
                if inside.any():
                    known += self._track(index, name, points[inside])
            returns_move.append(moves)
            filled.append(np.concatenate(in_boxes))
        places = _in_all(filled, self.frames, len(self.seconds))
        for positions, instants, _, _ in carried:
            places[int(instants[0])] = np.concatenate([places[int(instants[0])], positions])
        if not known:
            return FoundMoving(returns_move=returns_move, points=None, places=places)
        known += self._standing(returns, returns_move, sum(len(k[0]) for k in known))
        positions, instants, forward, backward = (np.concatenate(column) for column in zip(*known, strict=True))
        points = MovingPoints(
            positions=torch.tensor(bounds.to_scene_units(positions), dtype=torch.float32),
            instants=torch.tensor(instants, dtype=torch.float32),
            forward=torch.tensor(forward, dtype=torch.float32),
            backward=torch.tensor(backward, dtype=torch.float32),
        )
        return FoundMoving(returns_move=returns_move, points=points, places=places)

    def _moves(self, index: int, name: str) -> bool:
        around = range(max(0, index - _SPEED_FRAMES), min(len(self.frames), index + _SPEED_FRAMES + 1))
        seen = [i for i in around if name in self.rows[i]]
        first, last = seen[0], seen[-1]
        if first == last:
            return False
        moved = self._pose(last, name)[:3, 3] - self._pose(first, name)[:3, 3]
        elapsed = self.seconds[self.frames[last]] - self.seconds[self.frames[first]]
        return bool(np.linalg.norm(moved) > MIN_SPEED_M_S * elapsed)

    def _pose(self, index: int, name: str) -> Float[np.ndarray, "4 4"]:
        return self.box_to_world[self.rows[index][name]]

    def _velocity(
        self, index: int, other: int, name: str, points: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points 3"]:
        """Return the mean velocity of points of an object from one fitted frame towards another, always "towards"."""
        if not 0 <= other < len(self.frames) or name not in self.rows[other]:
            return np.full(points.shape, np.nan)
        there = apply_se3(self._pose(other, name) @ invert_se3(self._pose(index, name)), points)
        return (there - points) / abs(self.seconds[self.frames[other]] - self.seconds[self.frames[index]])

    def _track(
        self, index: int, name: str, points: Float[np.ndarray, "points 3"]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Return points of an object with their motion, at their own frame and carried into the unfitted ones beside.

        In between, what goes forward at a velocity comes back at its negative.
        """
        frame = self.frames[index]
        forward, backward = (self._velocity(index, other, name, points) for other in (index + 1, index - 1))
        tracks = [(points, np.full(len(points), float(frame)), forward, backward)]
        for velocity, other, sign in ((forward, index + 1, 1.0), (backward, index - 1, -1.0)):
            if np.isnan(velocity).any():
                continue
            low, high = sorted((frame, self.frames[other]))
            for between in range(low + 1, high):
                there = points + velocity * abs(self.seconds[between] - self.seconds[frame])
                tracks.append((there, np.full(len(points), float(between)), sign * velocity, -sign * velocity))
        return tracks

    def _standing(
        self, returns: list[Float[np.ndarray, "_ 3"]], returns_move: list[Bool[np.ndarray, " _"]], count: int
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Return as many returns of what stands, at instants from each frame up to the next, with no motion."""
        wanted = max(1, min(count, _MAX_STANDING_POINTS) // len(returns))
        found = []
        for index, (points, moves) in enumerate(zip(returns, returns_move, strict=True)):
            standing = points[~moves]
            chosen = standing[np.linspace(0, len(standing) - 1, min(wanted, len(standing))).astype(int)]
            last = self.frames[min(index + 1, len(self.frames) - 1)]
            span = range(self.frames[index], max(last, self.frames[index] + 1))
            instants = np.resize(np.array(span, float), len(chosen))
            found.append((chosen, instants, np.zeros(chosen.shape), np.zeros(chosen.shape)))
        return found


def _fill(half_size: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "points 3"]:
    """Return points all over a box about the origin, at most half a metre apart, its faces included."""
    axes = [np.linspace(-half, half, 2 + int(2 * half / _FILL_M)) for half in half_size]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
