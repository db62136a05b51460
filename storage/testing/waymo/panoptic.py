"""Waymo's panoptic labels of a camera image of the procedural world: the class and object of each pixel."""

import numpy as np
from jaxtyping import UInt8, UInt16

from storage.ingest.waymo.panoptic import CAMERA_CLASSES
from storage.ingest.waymo.scene import WaymoCamera
from storage.procedural.world.world import World
from storage.taxonomy import CLASSES, SKY
from storage.testing.waymo.classes import by_our_name, class_table
from storage.testing.waymo.lens import rays_through_lens

DIVISOR = 1000
_NAMES = {  # Waymo's class: ours
    "TYPE_UNDEFINED": "other",
    "TYPE_CAR": "car",
    "TYPE_TRUCK": "truck, fuel_truck, catering_truck",
    "TYPE_BUS": "bus",
    "TYPE_OTHER_LARGE_VEHICLE": "construction_vehicle, aircraft, baggage_tractor, belt_loader",
    "TYPE_BICYCLE": "bicycle",
    "TYPE_MOTORCYCLE": "motorcycle",
    "TYPE_TRAILER": "trailer, baggage_dolly, ground_power_unit",
    "TYPE_PEDESTRIAN": "pedestrian",
    "TYPE_CONSTRUCTION_CONE_POLE": "traffic_cone",
    "TYPE_POLE": "pole",
    "TYPE_SIGN": "traffic_sign",
    "TYPE_TRAFFIC_LIGHT": "traffic_light",
    "TYPE_BUILDING": "manmade, terminal, jet_bridge",
    "TYPE_ROAD": "driveable_surface",
    "TYPE_LANE_MARKER": "lane_marking",
    "TYPE_ROAD_MARKER": "apron_marking",
    "TYPE_SIDEWALK": "sidewalk",
    "TYPE_VEGETATION": "vegetation",
    "TYPE_SKY": "sky",
    "TYPE_GROUND": "terrain, other_flat",
    "TYPE_DYNAMIC": "tow_bar, chock, cargo_container",
    "TYPE_STATIC": "barrier, wall, street_furniture",
}
WAYMO_CAMERA_CLASS_OF = by_our_name(_NAMES)
"""Name of Waymo's class by the name of ours."""


def waymo_camera_table() -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from class id, the sky's included, to the number of Waymo's class."""
    return class_table((*CLASSES, SKY), WAYMO_CAMERA_CLASS_OF, CAMERA_CLASSES)


def panoptic_through_lens(world: World, time_us: int, camera: WaymoCamera) -> UInt16[np.ndarray, "height width"]:
    """Return class times ``DIVISOR`` plus object (0 for the surroundings) of each pixel, seen through the lens.

    Raises:
        ValueError: If the world holds more objects than ``DIVISOR`` can number.
    """
    origin, directions = rays_through_lens(world, time_us, camera)
    snapshot = world.snapshot(time_us)
    hits = snapshot.first_hits(np.broadcast_to(origin.astype(np.float32), directions.shape).copy(), directions)
    is_hit = hits.face >= 0
    face = np.where(is_hit, hits.face, 0)
    classes = waymo_camera_table()[np.where(is_hit, snapshot.table.class_id[face], SKY.class_id)]
    instances = np.where(is_hit, snapshot.table.instance[face], 0)
    if instances.max() >= DIVISOR:
        raise ValueError(f"an object has number {instances.max()}, want under {DIVISOR}")
    return (classes.astype(np.uint16) * np.uint16(DIVISOR) + instances.astype(np.uint16)).reshape(camera.size)
