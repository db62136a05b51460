"""Waymo's LiDAR classes for the classes of the procedural world, and helpers for such tables."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from storage.ingest.waymo.labels import LIDAR_CLASSES
from storage.taxonomy import CLASSES, SemanticClass

_NAMES = {  # Waymo's class: ours
    "TYPE_UNDEFINED": "other, barrier, wall, street_furniture, tow_bar, chock, cargo_container",
    "TYPE_CAR": "car",
    "TYPE_TRUCK": "truck, fuel_truck, catering_truck",
    "TYPE_BUS": "bus",
    "TYPE_OTHER_VEHICLE": "construction_vehicle, trailer, aircraft, baggage_tractor, baggage_dolly, belt_loader, "
    "ground_power_unit",
    "TYPE_PEDESTRIAN": "pedestrian",
    "TYPE_SIGN": "traffic_sign",
    "TYPE_TRAFFIC_LIGHT": "traffic_light",
    "TYPE_POLE": "pole",
    "TYPE_CONSTRUCTION_CONE": "traffic_cone",
    "TYPE_BICYCLE": "bicycle",
    "TYPE_MOTORCYCLE": "motorcycle",
    "TYPE_BUILDING": "manmade, terminal, jet_bridge",
    "TYPE_VEGETATION": "vegetation",
    "TYPE_ROAD": "driveable_surface",
    "TYPE_LANE_MARKER": "lane_marking, apron_marking",
    "TYPE_OTHER_GROUND": "other_flat",
    "TYPE_WALKABLE": "terrain",
    "TYPE_SIDEWALK": "sidewalk",
}


def by_our_name(names_of: Mapping[str, str]) -> dict[str, str]:
    """Return Waymo's class of each of our classes, from the list of our classes for each of Waymo's."""
    return {name: waymo for waymo, names in names_of.items() for name in names.split(", ")}


def class_table(
    entries: Iterable[SemanticClass], class_of: Mapping[str, str], numbered: Sequence[str]
) -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from class id to the number of Waymo's class.

    Args:
        entries: Our classes.
        class_of: Name of Waymo's class by the name of ours.
        numbered: Waymo's classes in the order of their numbers.
    """
    table = np.zeros(256, np.uint8)
    for entry in entries:
        table[entry.class_id] = numbered.index(class_of[entry.name])
    return table


WAYMO_CLASS_OF = by_our_name(_NAMES)
"""Name of Waymo's class by the name of ours; ``TYPE_UNDEFINED`` where Waymo has none."""


def waymo_lidar_table() -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from class id to the number of Waymo's class."""
    return class_table(CLASSES, WAYMO_CLASS_OF, LIDAR_CLASSES)
