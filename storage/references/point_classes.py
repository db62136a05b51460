"""Occ3D classes for the class names that recordings give to LiDAR points and boxes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from storage.taxonomy import CLASSES, NUM_OCC3D_CLASSES, OCC3D_NAMES, OCC3D_UNKNOWN

NameSource = Literal["points", "boxes", "none"]
"""What names the returns: labels of the points themselves, the boxes around them, or nothing."""

_NUSCENES = {  # the official merge of nuScenes-lidarseg, with Occ3D's "others" for what it ignores but names
    "animal": "others",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "others",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "others",
    "human.pedestrian.wheelchair": "others",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "others",
    "movable_object.pushable_pullable": "others",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "others",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "others",
    "vehicle.emergency.police": "others",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.other": "others",
    "static.vegetation": "vegetation",
}
_WAYMO = {  # a "vehicle" may be a car, a truck or a bus, so it has no class here
    "TYPE_CAR": "car",
    "TYPE_TRUCK": "truck",
    "TYPE_BUS": "bus",
    "TYPE_MOTORCYCLIST": "motorcycle",
    "TYPE_MOTORCYCLE": "motorcycle",
    "TYPE_BICYCLIST": "bicycle",
    "TYPE_BICYCLE": "bicycle",
    "TYPE_CYCLIST": "bicycle",
    "TYPE_PEDESTRIAN": "pedestrian",
    "TYPE_SIGN": "manmade",
    "TYPE_TRAFFIC_LIGHT": "manmade",
    "TYPE_POLE": "manmade",
    "TYPE_BUILDING": "manmade",
    "TYPE_CONSTRUCTION_CONE": "traffic_cone",
    "TYPE_VEGETATION": "vegetation",
    "TYPE_TREE_TRUNK": "vegetation",
    "TYPE_ROAD": "driveable_surface",
    "TYPE_LANE_MARKER": "driveable_surface",
    "TYPE_CURB": "sidewalk",
    "TYPE_SIDEWALK": "sidewalk",
    "TYPE_WALKABLE": "terrain",
    "TYPE_OTHER_GROUND": "other_flat",
}


def _table() -> Mapping[str, int]:
    """Return the Occ3D class of every known name; what comes later wins."""
    table = {word: entry.occ3d_index for entry in CLASSES for word in (*entry.words, entry.name)}
    table |= {entry.nuscenes_category: entry.occ3d_index for entry in CLASSES if entry.nuscenes_category}
    table |= {_plain(name): OCC3D_NAMES.index(occ3d) for name, occ3d in (*_NUSCENES.items(), *_WAYMO.items())}
    return {_plain(name): index for name, index in table.items() if index < NUM_OCC3D_CLASSES}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def occ3d_class(name: str) -> int:
    """Return the Occ3D class of a category of nuScenes, Waymo or a rig manifest; 255 for a name that tells none.

    A manifest's categories are the user's own words: any word for a class in ``storage.taxonomy`` is understood.
    """
    return _BY_NAME.get(_plain(name), OCC3D_UNKNOWN)


def numbered_classes(numbered: Mapping[str, str], class_of: Callable[[str], int]) -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from the numbers of a recording's point labels to classes; 255 for other numbers.

    Args:
        numbered: Names by number, as a scene's ``lidarseg_categories``.
        class_of: Returns the class of a name.
    """
    table = np.full(256, OCC3D_UNKNOWN, np.uint8)
    for number, name in numbered.items():
        table[int(number)] = class_of(name)
    return table


def unknown_names(names: Sequence[str]) -> list[str]:
    """Return the names that tell no class, each once, sorted."""
    return sorted({name for name in names if occ3d_class(name) == OCC3D_UNKNOWN})


_BY_NAME = _table()
