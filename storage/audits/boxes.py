"""Check boxes against LiDAR: returns of an object lie in its box, not in the same box turned or reshaped.

A box whose yaw has the wrong sign, or whose length and width are exchanged, holds fewer of the returns around it than
the box put right. Both have one volume, so that the comparison is fair. What is wrong in another way, such as boxes in
the ego frame, shows by how little the boxes hold at all.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import t as student_t

from storage.audits.finding import Finding
from storage.audits.sampling import spread
from storage.geometry.transforms import apply_se3, quat_wxyz_to_rotation
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader

_MIN_RETURNS, _MAX_RANGE_M = 5, 40.0
_MIN_OBJECTS = 5
_MIN_ANNOTATED = 50  # boxes that are said to hold returns, in the frames looked at
_RISK = 0.001
_OFF_GROUND = 0.1  # share of a box's height that is left out below: the ground lies in every box
_MAX_FRAMES = 12
_MIN_INSIDE, _SURELY_ELSEWHERE = 0.5, 0.4  # clean scenes have 0.81 to 0.99
_LEAST_UPRIGHT, _MAX_LYING = 0.5, 0.3  # cosine to the world's z axis; share of boxes: few things lie on their side


def audit_boxes(reader: SceneReader) -> list[Finding]:
    """Check whether the boxes hold the returns around them better than boxes read in another convention.

    Args:
        reader: The scene; without boxes there is no finding.
    """
    boxes = reader.boxes()
    if not len(boxes.frame_index):
        return []
    shares = dict(shares_by_convention(reader, boxes))
    stated, others = shares.pop("as stated"), shares
    gains = {name: _gain(share - stated) for name, share in others.items()}
    best = max(gains, key=lambda name: gains[name]) if gains else ""
    is_measured = len(stated) >= _MIN_OBJECTS
    where = f"{best}; {np.mean(stated):.0%} of returns inside as stated" if is_measured else ""
    return [
        _upright(boxes),
        _inside_at_all(reader, boxes, stated),
        Finding(
            name="returns_gained_by_other_boxes",
            value=gains[best] if is_measured else math.nan,
            threshold=0.0,
            wanted="at_most",
            where=where or f"{len(stated)} objects with returns, want {_MIN_OBJECTS}",
            otherwise="failed" if is_measured else "undecided",
        ),
    ]


def _upright(boxes: SceneBoxes) -> Finding:
    """Return the share of boxes that lie on their side: most do where quaternions are read in another order."""
    upright = np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz))[:, 2, 2]
    lying = upright < _LEAST_UPRIGHT
    where = f"the first is {boxes.category[int(lying.argmax())]} in frame {boxes.frame_index[int(lying.argmax())]}"
    return Finding(
        name="boxes_on_their_side_share",
        value=float(lying.mean()),
        threshold=_MAX_LYING,
        wanted="at_most",
        where=where if lying.any() else "",
        otherwise="failed" if len(set(boxes.instance)) >= _MIN_OBJECTS else "undecided",
    )


def _inside_at_all(reader: SceneReader, boxes: SceneBoxes, stated: Float[np.ndarray, " objects"]) -> Finding:
    """Return the share of the returns around objects that their boxes hold.

    No object with returns is evidence too, where the annotations say that they hold returns.
    """
    where, value = (
        f"{len(stated)} objects with returns",
        float(np.mean(stated)) if len(stated) >= _MIN_OBJECTS else math.nan,
    )
    if not len(stated) and (said_to_hold := _annotated_in_vain(reader, boxes)):
        value = 0.0
        where = f"no return near {said_to_hold} boxes that are annotated with {_MIN_RETURNS} or more: another frame?"
    return Finding(
        name="returns_inside_boxes_share",
        value=value,
        threshold=_MIN_INSIDE,
        wanted="at_least",
        where=where,
        otherwise="failed" if value < _SURELY_ELSEWHERE else "undecided",
    )


def _annotated_in_vain(reader: SceneReader, boxes: SceneBoxes) -> int:
    """Return how many boxes are said to hold returns while none has one near it; 0 if one has, or they are few."""
    number = 0
    for frame in _frames_of(boxes):
        world = apply_se3(reader.ego_to_world(frame), reader.lidar_points(frame)[:, :3].astype(np.float64))
        if not len(world):
            continue
        for box in np.flatnonzero((boxes.frame_index == frame) & (boxes.num_lidar_points >= _MIN_RETURNS)):
            number += 1
            reach = 0.5 * float(np.linalg.norm(boxes.size[box])) + 0.5
            if (np.linalg.norm(world - boxes.centre[box], axis=1) < reach).any():
                return 0
    return number if number >= _MIN_ANNOTATED else 0


def _frames_of(boxes: SceneBoxes) -> list[int]:
    """Return the frames to look at, evenly spaced among those that have boxes."""
    frames = sorted({int(f) for f in boxes.frame_index})
    return [frames[i] for i in spread(len(frames), _MAX_FRAMES)]


def shares_by_convention(reader: SceneReader, boxes: SceneBoxes) -> Mapping[str, Float[np.ndarray, " objects"]]:
    """Return for each object the share of the returns around it that its boxes hold, by convention of the boxes."""
    yaw = np.arctan2(*_heading(boxes))
    source_yaw = _source_yaw(reader)
    held: dict[str, dict[str, list[float]]] = {}
    for frame in _frames_of(boxes):
        world = apply_se3(reader.ego_to_world(frame), reader.lidar_points(frame)[:, :3].astype(np.float64))
        ego = reader.ego_to_world(frame)
        ego_yaw = math.atan2(ego[1, 0], ego[0, 0])
        for box in np.flatnonzero(boxes.frame_index == frame):
            centre, size = boxes.centre[box], boxes.size[box]
            if np.linalg.norm(centre - ego[:3, 3]) > _MAX_RANGE_M:
                continue
            around = np.abs(world - centre)
            reach = 0.5 * float(np.hypot(size[0], size[1])) + 0.2
            near = world[(np.hypot(around[:, 0], around[:, 1]) < reach) & (around[:, 2] < 0.5 * size[2])] - centre
            near = near[near[:, 2] > (_OFF_GROUND - 0.5) * size[2]]
            if len(near) < _MIN_RETURNS:
                continue
            ways = {
                "as stated": (yaw[box], size[:2]),
                "length and width exchanged": (yaw[box], size[1::-1]),
                "yaw of the other sign": (-yaw[box] - 2 * source_yaw, size[:2]),
                "yaw of the other sign in the ego frame": (2 * ego_yaw - yaw[box], size[:2]),
            }
            for name, (turn, extent) in ways.items():
                share = float(_inside(near[:, :2], float(turn), extent).mean())
                held.setdefault(name, {}).setdefault(boxes.instance[box], []).append(share)
    if not held:
        return {"as stated": np.zeros(0)}
    return {name: np.array([np.mean(of) for of in by_object.values()]) for name, by_object in held.items()}


def _gain(differences: Float[np.ndarray, " objects"]) -> float:
    """Return the mean of differences less what may be chance, over objects; they are independent, returns are not."""
    if len(differences) < 2:
        return -math.inf
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) - float(student_t.isf(_RISK, len(differences) - 1)) * error


def _heading(boxes: SceneBoxes) -> tuple[Float[np.ndarray, " boxes"], Float[np.ndarray, " boxes"]]:
    rotation = np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz))
    return rotation[:, 1, 0], rotation[:, 0, 0]


def _source_yaw(reader: SceneReader) -> float:
    """Return the yaw of this scene's world in the source's own world, in which the sign may have been flipped."""
    to_global = reader.attributes.get("world_to_global")
    if not isinstance(to_global, list):
        return 0.0
    matrix = np.asarray(to_global, np.float64)
    return math.atan2(matrix[1, 0], matrix[0, 0])


def _inside(
    points: Float[np.ndarray, "points 2"], yaw: float, size: Float[np.ndarray, "2"]
) -> Bool[np.ndarray, " points"]:
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    return (np.abs(points @ turn) <= 0.5 * size + 0.1).all(axis=1)
