"""Moving objects, from a scene's annotations.

The place of a moving object in one frame cannot be known from a frame half a second away. Fits of fields are therefore
judged twice, over everything and over the static part; the fits themselves use no annotations. A student may leave
moving objects out of the neighbouring frames that it renders, if its configuration says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from storage.geometry.transforms import quat_wxyz_to_rotation
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader

MIN_SPEED_M_S = 0.5
"""An object that never gets faster than this stands. Where it is at the end says less: annotated centres of parked cars
wander by one or two metres over a scene, as its poses do."""

_SPEED_SPAN_S = 1.1
"""Speed is measured over so many seconds on either side of each annotation, two intervals at 2 Hz, and at least to the
next one."""

_MARGIN_M = 0.3
"""Margin by which boxes are widened, metres: images are taken some milliseconds off the annotated instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boxes:
    centre: Float[np.ndarray, "boxes 3"]
    box_to_world: Float[np.ndarray, "boxes 3 3"]
    half_size: Float[np.ndarray, "boxes 3"]


def instances_that_move(boxes: SceneBoxes, seconds: Sequence[float]) -> frozenset[str]:
    """Return the objects that are faster than ``MIN_SPEED_M_S`` at some time, by their annotated centres.

    Args:
        boxes: The scene's annotations.
        seconds: Time of each frame of the scene.
    """
    instance, time = np.asarray(boxes.instance), np.asarray(seconds)[boxes.frame_index]
    return frozenset(
        name
        for name in set(boxes.instance)
        if _top_speed(time[instance == name], boxes.centre[instance == name]) > MIN_SPEED_M_S
    )


def _top_speed(seconds: Float[np.ndarray, " n"], places: Float[np.ndarray, "n 3"]) -> float:
    """Return the highest mean speed over the span around any annotation, metres per second; 0 for one alone."""
    order = np.argsort(seconds)
    seconds, places = seconds[order], places[order]
    own = np.arange(len(seconds))
    first = np.minimum(np.searchsorted(seconds, seconds - _SPEED_SPAN_S, side="left"), np.maximum(own - 1, 0))
    last = np.searchsorted(seconds, seconds + _SPEED_SPAN_S, side="right") - 1
    last = np.maximum(last, np.minimum(own + 1, len(own) - 1))
    elapsed = seconds[last] - seconds[first]
    moved = np.linalg.norm(places[last] - places[first], axis=1)
    return float(np.divide(moved, elapsed, out=np.zeros(len(moved)), where=elapsed > 0).max(initial=0.0))


class MovingBoxes:
    """Boxes of the objects of a scene that move at some time.

    Args:
        boxes: The scene's annotations; without any, everything counts as static.
        seconds: Time of each frame of the scene.
    """

    def __init__(self, boxes: SceneBoxes, seconds: Sequence[float]) -> None:
        moves = np.isin(np.asarray(boxes.instance), list(instances_that_move(boxes, seconds)))
        self._frames: dict[int, _Boxes] = {}
        for frame in np.unique(boxes.frame_index[moves]):
            chosen = moves & (boxes.frame_index == frame)
            self._frames[int(frame)] = _Boxes(
                centre=boxes.centre[chosen],
                box_to_world=np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz[chosen])),
                half_size=0.5 * boxes.size[chosen] + _MARGIN_M,
            )

    @classmethod
    def of(cls, scene: SceneReader) -> "MovingBoxes":
        """Return those of a scene."""
        return cls(scene.boxes(), scene.frame_seconds())

    def count(self, frame: int) -> int:
        """Return the number of moving objects of a frame."""
        return len(self._frames[frame].centre) if frame in self._frames else 0

    def hit_by(
        self, frame: int, origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "rays 3"]
    ) -> Bool[np.ndarray, " rays"]:
        """Return whether each ray (world frame) passes through a moving object, hidden ones included."""
        hit = np.zeros(len(directions), bool)
        if frame not in self._frames:
            return hit
        boxes = self._frames[frame]
        for centre, rotation, half in zip(boxes.centre, boxes.box_to_world, boxes.half_size, strict=True):
            start = (origin - centre) @ rotation
            along = directions @ rotation
            along = np.where(np.abs(along) < 1e-9, 1e-9, along)
            near, far = (-half - start) / along, (half - start) / along
            enter = np.minimum(near, far).max(axis=-1)
            leave = np.maximum(near, far).min(axis=-1)
            hit |= (enter <= leave) & (leave > 0)
        return hit

    def contain(self, frame: int, points_world: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
        """Return whether each point lies in a moving object."""
        inside = np.zeros(len(points_world), bool)
        if frame not in self._frames:
            return inside
        boxes = self._frames[frame]
        for centre, rotation, half in zip(boxes.centre, boxes.box_to_world, boxes.half_size, strict=True):
            inside |= (np.abs((points_world - centre) @ rotation) <= half).all(axis=-1)
        return inside
