"""Waymo's classes of LiDAR points: a class for each pixel of a range image, in some frames, of the spinning laser."""

import numpy as np
from jaxtyping import UInt8

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.waymo.scene import LaserSweep
from storage.scenes.schema import UNLABELLED

LIDAR_CLASSES = (
    "TYPE_UNDEFINED",
    "TYPE_CAR",
    "TYPE_TRUCK",
    "TYPE_BUS",
    "TYPE_OTHER_VEHICLE",
    "TYPE_MOTORCYCLIST",
    "TYPE_BICYCLIST",
    "TYPE_PEDESTRIAN",
    "TYPE_SIGN",
    "TYPE_TRAFFIC_LIGHT",
    "TYPE_POLE",
    "TYPE_CONSTRUCTION_CONE",
    "TYPE_BICYCLE",
    "TYPE_MOTORCYCLE",
    "TYPE_BUILDING",
    "TYPE_VEGETATION",
    "TYPE_TREE_TRUNK",
    "TYPE_CURB",
    "TYPE_ROAD",
    "TYPE_LANE_MARKER",
    "TYPE_OTHER_GROUND",
    "TYPE_WALKABLE",
    "TYPE_SIDEWALK",
)
"""Class names by number, as in Waymo's ``Segmentation.Type``."""


def sweep_labels(sweep: LaserSweep, key: str) -> UInt8[np.ndarray, " points"]:
    """Return the class of each point, in the order of ``sweep_points``.

    Points of a return without classes are ``UNLABELLED``; ``TYPE_UNDEFINED`` means that an annotator left the class
    open.

    Raises:
        SourceDataError: If a point has a class that Waymo does not define.
    """
    parts = [np.zeros(0, np.uint8)]
    for number, one in enumerate(sweep.returns, start=1):
        is_return = one.values[..., 0] > 0
        if one.labels is None:
            parts.append(np.full(np.count_nonzero(is_return), UNLABELLED, np.uint8))
            continue
        classes = one.labels[..., 1]
        unknown = is_return & ((classes < 0) | (classes >= len(LIDAR_CLASSES)))
        if unknown.any():
            row, column = (int(i) for i in np.argwhere(unknown)[0])
            message = f"pixel ({row}, {column}) has class {classes[row, column]}, want 0 to {len(LIDAR_CLASSES) - 1}"
            raise SourceDataError(ErrorKind.LIDAR_INVALID, f"{key}, return {number}", message)
        parts.append(classes[is_return].astype(np.uint8))
    return np.concatenate(parts)
