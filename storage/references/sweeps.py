"""A scene's sweeps: what each return belongs to, and what it is called."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from storage.geometry.transforms import apply_se3, invert_se3, quat_wxyz_to_rotation
from storage.references.occupancy_votes import NO_OBJECT, Sweep
from storage.references.point_classes import NameSource, numbered_classes, occ3d_class
from storage.scenes.free_space import find_moving_returns
from storage.scenes.moving import instances_that_move
from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader
from storage.taxonomy import OCC3D_UNKNOWN, OCC3D_UNNAMED

_BOX_MARGIN_M = 0.15
"""Margin by which boxes are widened to hold all returns that travel with their object, metres."""

_GROUND_M = 0.1
"""Returns this near to the bottom of a box may be of the ground that it stands on: the box does not name them."""


def read_sweeps(
    scene: SceneReader, frames: Sequence[int], *, own_vehicle_m: float, max_beams: int, labelled: bool = True
) -> list[Sweep]:
    """Return the sweeps of some frames of a scene.

    Args:
        scene: The scene.
        frames: Its frames, ascending.
        own_vehicle_m: Returns nearer than this to the LiDAR are taken for the vehicle itself, metres.
        max_beams: Returns kept of each sweep, evenly chosen.
        labelled: Read what people annotated: boxes, and classes of points. Without it, returns have no class, and what
            moves is found by the beams alone.
    """
    boxes, origin = scene.boxes() if labelled else SceneBoxes.none(), scene.lidar_to_ego[:3, 3]
    named = NamedReturns(scene) if labelled else None
    numbers = {name: number for number, name in enumerate(sorted(set(boxes.instance)))}
    moving = instances_that_move(boxes, scene.frame_seconds())
    kept, clouds, names = [], [], []
    for frame in frames:
        points = scene.lidar_points(frame)[:, :3].astype(np.float64)
        names.append(None if named is None else named.labels(frame, points))
        far = np.flatnonzero(np.linalg.norm(points - origin, axis=1) > own_vehicle_m)
        if len(far) > max_beams:
            far = far[np.linspace(0, len(far) - 1, max_beams).round().astype(np.int64)]
        kept.append(far)
        clouds.append(points[far])
    boxed = set(boxes.frame_index.tolist())
    by_lidar = [np.zeros(len(cloud), bool) for cloud in clouds]
    if len(frames) > 1 and not boxed.issuperset(frames):
        poses = [scene.ego_to_world(frame) for frame in frames]
        origins = [apply_se3(pose, origin[None])[0] for pose in poses]
        in_world, seconds = [apply_se3(p, c) for p, c in zip(poses, clouds, strict=True)], scene.frame_seconds()
        by_lidar = find_moving_returns(origins, in_world, [seconds[frame] for frame in frames])
    sweeps = []
    for index, frame in enumerate(frames):
        points, pose = clouds[index], scene.ego_to_world(frame)
        instance = _objects_of(boxes, frame, apply_se3(pose, points), numbers, moving)
        labels = names[index]
        objects = {numbers[boxes.instance[row]]: row for row in _rows(boxes, frame) if boxes.instance[row] in moving}
        sweeps.append(
            Sweep(
                ego_to_world=pose,
                origin=origin,
                points=points,
                labels=np.full(len(points), OCC3D_UNKNOWN, np.uint8) if labels is None else labels[kept[index]],
                moves=instance != NO_OBJECT if frame in boxed else by_lidar[index],
                instance=instance,
                object_to_world={number: _pose(boxes, row) for number, row in objects.items()},
                object_half_size={number: 0.5 * boxes.size[row] + _BOX_MARGIN_M for number, row in objects.items()},
            )
        )
    return sweeps


def names_of(scene: SceneReader) -> tuple[NameSource, list[str]]:
    """Return what names the returns of a scene, and every name that occurs."""
    categories = _point_categories(scene)
    if categories:
        return "points", list(categories.values())
    names = sorted(set(scene.boxes().category))
    return ("boxes" if names else "none"), names


class NamedReturns:
    """Classes of a scene's returns, from labels of the points or from the boxes around them.

    Args:
        scene: The scene.
        class_of: Returns the class of a category's name, 0 to 253, 254 for none of the named classes, 255 if it tells
            none.
    """

    def __init__(self, scene: SceneReader, class_of: Callable[[str], int] = occ3d_class) -> None:
        self.scene, self._class_of = scene, class_of
        self.source: NameSource = names_of(scene)[0]
        self._boxes = scene.boxes() if self.source == "boxes" else SceneBoxes.none()
        self._categories = _point_categories(scene)

    def labels(self, frame: int, points: Float[np.ndarray, "points 3"]) -> UInt8[np.ndarray, " points"] | None:
        """Return the class of each of a frame's returns; None for a frame that nobody labelled.

        It is 255 for a return of unknown class, such as one at the bottom or the rim of a box. Where boxes name the
        classes, it is 254 for a return outside every box: that one is of none of the classes that boxes have.

        Args:
            frame: Frame index.
            points: The frame's returns in its ego frame, metres.
        """
        if self.source == "points":
            numbers = self.scene.lidar_labels(frame)
            labels = None if numbers is None else numbered_classes(self._categories, self._class_of)[numbers]
        elif self.source == "boxes" and (self._boxes.frame_index == frame).any():
            in_world = apply_se3(self.scene.ego_to_world(frame), points)
            labels, in_box = np.full(len(points), OCC3D_UNKNOWN, np.uint8), np.zeros(len(points), bool)
            for row in _rows(self._boxes, frame):
                in_box |= _inside(self._boxes, row, in_world, margin=_BOX_MARGIN_M)
                named = _inside(self._boxes, row, in_world, margin=0.0, above=_GROUND_M)
                labels[named] = self._class_of(self._boxes.category[row])
            labels[~in_box] = OCC3D_UNNAMED
        else:
            labels = None
        return labels if labels is not None and (labels != OCC3D_UNKNOWN).any() else None


def _point_categories(scene: SceneReader) -> dict[str, str]:
    categories = scene.attributes.get("lidarseg_categories")
    return {str(k): str(v) for k, v in categories.items()} if isinstance(categories, Mapping) else {}


def _objects_of(
    boxes: SceneBoxes,
    frame: int,
    points_world: Float[np.ndarray, "points 3"],
    numbers: Mapping[str, int],
    moving: frozenset[str],
) -> Int64[np.ndarray, " points"]:
    """Return the number of the moving object whose box holds each return."""
    instance = np.full(len(points_world), NO_OBJECT, np.int64)
    for row in _rows(boxes, frame):
        if boxes.instance[row] in moving:
            instance[_inside(boxes, row, points_world, margin=_BOX_MARGIN_M)] = numbers[boxes.instance[row]]
    return instance


def _inside(
    boxes: SceneBoxes,
    row: int,
    points_world: Float[np.ndarray, "points 3"],
    *,
    margin: float,
    above: float | None = None,
) -> Bool[np.ndarray, " points"]:
    """Return the points in a box that is wider by a margin, and begins some way above its bottom if that is given."""
    half = 0.5 * boxes.size[row] + margin
    near = np.flatnonzero(np.linalg.norm(points_world - boxes.centre[row], axis=1) <= np.linalg.norm(half))
    inside = np.zeros(len(points_world), bool)
    in_box = apply_se3(invert_se3(_pose(boxes, row)), points_world[near])
    inside[near] = np.all(np.abs(in_box) <= half, axis=1)
    if above is not None:
        inside[near] &= in_box[:, 2] > above - 0.5 * boxes.size[row, 2]
    return inside


def _rows(boxes: SceneBoxes, frame: int) -> list[int]:
    return np.flatnonzero(boxes.frame_index == frame).tolist()


def _pose(boxes: SceneBoxes, row: int) -> Float[np.ndarray, "4 4"]:
    pose = np.eye(4)
    pose[:3, :3] = np.asarray(quat_wxyz_to_rotation(boxes.quat_wxyz[row]))
    pose[:3, 3] = boxes.centre[row]
    return pose
