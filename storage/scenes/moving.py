"""Moving objects, from a scene's annotations.

The place of a moving object in one frame cannot be known from a frame half a second away. Fits of fields are therefore
judged twice, over everything and over the static part; the fits themselves use no annotations. A student may leave
moving objects out of the neighbouring frames that it renders, if its configuration says so.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from storage.geometry.transforms import quat_wxyz_to_rotation
from storage.scenes.schema import SceneBoxes

_MIN_DISPLACEMENT_M = 0.5
_MARGIN_M = 0.3
"""Margin by which boxes are widened, metres: images are taken some milliseconds off the annotated instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boxes:
    centre: Float[np.ndarray, "boxes 3"]
    box_to_world: Float[np.ndarray, "boxes 3 3"]
    half_size: Float[np.ndarray, "boxes 3"]


def instances_that_move(boxes: SceneBoxes) -> frozenset[str]:
    """Return the objects whose annotated centre changes place over the scene."""
    instance = np.asarray(boxes.instance)
    places = {name: boxes.centre[instance == name] for name in set(boxes.instance)}
    return frozenset(n for n, p in places.items() if np.linalg.norm(np.ptp(p, axis=0)) > _MIN_DISPLACEMENT_M)


class MovingBoxes:
    """Boxes of the objects of a scene that change place.

    Args:
        boxes: The scene's annotations; without any, everything counts as static.
    """

    def __init__(self, boxes: SceneBoxes) -> None:
        moves = np.isin(np.asarray(boxes.instance), list(instances_that_move(boxes)))
        self._frames: dict[int, _Boxes] = {}
        for frame in np.unique(boxes.frame_index[moves]):
            chosen = moves & (boxes.frame_index == frame)
            self._frames[int(frame)] = _Boxes(
                centre=boxes.centre[chosen],
                box_to_world=np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz[chosen])),
                half_size=0.5 * boxes.size[chosen] + _MARGIN_M,
            )

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
