"""Semantic classes of the procedural world and their meaning in other label sets.

Class ids 0 to 16 are the Occ3D-nuScenes classes themselves, so code that knows only Occ3D reads
them without a table. Id 17 (Occ3D's "free") never labels a surface. Finer classes start at 18 and
name the Occ3D class they belong to. The sky is not a surface: its id in images is 255. A pixel that a
fisheye's lens leaves black shows nothing at all: its id is 254.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from jaxtyping import UInt8

SKY_ID = 255
VOID_ID = 254
NUM_OCC3D_CLASSES = 17
OCC3D_FREE = NUM_OCC3D_CLASSES
"""Label of free space in Occ3D; lower labels are things and stuff."""
OCC3D_UNKNOWN = 255
"""Label of a voxel about which nothing is said. Occ3D's own files have none."""
OCC3D_UNNAMED = 254
"""Label of a voxel that is occupied by something of no known class. Occ3D's own files have none."""

CITYSCAPES_LABELS = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""Cityscapes' train ids, in order."""

CITYSCAPES_VOID = 255


class Theme(StrEnum):
    """Kind of place a procedural scene shows."""

    STREET = "street"
    AIRSIDE = "airside"


class SurfaceKind(IntEnum):
    """What makes a surface hard to measure, whatever its class."""

    OTHER = 0
    GLASS = 1
    FUSELAGE = 2
    WET_GROUND = 3


NO_SURFACE = 255
"""Value of a pixel that shows no surface, where surfaces are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticClass:
    """One semantic class.

    Attributes:
        class_id: Value in semantic images, 0 to 254, or 255 for the sky.
        name: Unique snake-case name.
        occ3d_index: Occ3D-nuScenes class 0 to 16; 255 for the sky, which fills no voxel.
        cityscapes_id: Cityscapes train id 0 to 18, or 255 where Cityscapes has no such class.
        words: Words for it in a caption, the most usual one first.
        themes: Themes in which it occurs.
        nuscenes_category: Category of its boxes in nuScenes tables; empty when never boxed.
        nuscenes_attributes: Attributes for (moving, standing) boxes; empty when it has none.
    """

    class_id: int
    name: str
    occ3d_index: int
    cityscapes_id: int
    words: tuple[str, ...]
    themes: tuple[Theme, ...]
    nuscenes_category: str = ""
    nuscenes_attributes: tuple[str, ...] = ()


_BOTH = (Theme.STREET, Theme.AIRSIDE)
_STREET = (Theme.STREET,)
_AIRSIDE = (Theme.AIRSIDE,)
_VEHICLE = ("vehicle.moving", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
_PERSON = ("pedestrian.moving", "pedestrian.standing")


def _entry(
    class_id: int,
    name: str,
    occ3d_index: int,
    cityscapes_id: int,
    themes: tuple[Theme, ...],
    words: str,
    category: str = "",
    attributes: tuple[str, ...] = (),
) -> SemanticClass:
    return SemanticClass(
        class_id=class_id,
        name=name,
        occ3d_index=occ3d_index,
        cityscapes_id=cityscapes_id,
        words=tuple(words.split(", ")),
        themes=themes,
        nuscenes_category=category,
        nuscenes_attributes=attributes,
    )


CLASSES: tuple[SemanticClass, ...] = (
    _entry(0, "other", 0, 255, _BOTH, "object, thing"),
    _entry(1, "barrier", 1, 4, _BOTH, "barrier, road barrier, jersey barrier", "movable_object.barrier"),
    _entry(2, "bicycle", 2, 18, _STREET, "bicycle, bike, cyclist", "vehicle.bicycle", _CYCLE),
    _entry(3, "bus", 3, 15, _BOTH, "bus, coach", "vehicle.bus.rigid", _VEHICLE),
    _entry(4, "car", 4, 13, _BOTH, "car, automobile, sedan", "vehicle.car", _VEHICLE),
    _entry(
        5,
        "construction_vehicle",
        5,
        14,
        _STREET,
        "construction vehicle, excavator, digger",
        "vehicle.construction",
        _VEHICLE,
    ),
    _entry(6, "motorcycle", 6, 17, _STREET, "motorcycle, motorbike", "vehicle.motorcycle", _CYCLE),
    _entry(
        7,
        "pedestrian",
        7,
        11,
        _BOTH,
        "pedestrian, person, people walking, worker",
        "human.pedestrian.adult",
        _PERSON,
    ),
    _entry(8, "traffic_cone", 8, 255, _BOTH, "traffic cone, cone", "movable_object.trafficcone"),
    _entry(9, "trailer", 9, 255, _BOTH, "trailer", "vehicle.trailer", _VEHICLE),
    _entry(10, "truck", 10, 14, _BOTH, "truck, lorry", "vehicle.truck", _VEHICLE),
    _entry(11, "driveable_surface", 11, 0, _BOTH, "road, street, asphalt, lane"),
    _entry(12, "other_flat", 12, 1, _BOTH, "paved ground, traffic island"),
    _entry(13, "sidewalk", 13, 1, _BOTH, "sidewalk, pavement, footpath"),
    _entry(14, "terrain", 14, 9, _BOTH, "grass, terrain, lawn"),
    _entry(15, "manmade", 15, 2, _BOTH, "building, house, facade"),
    _entry(16, "vegetation", 16, 8, _BOTH, "tree, vegetation, bush, foliage"),
    _entry(18, "pole", 15, 5, _BOTH, "pole, lamp post, street light"),
    _entry(19, "traffic_sign", 15, 7, _BOTH, "traffic sign, road sign"),
    _entry(20, "traffic_light", 15, 6, _STREET, "traffic light, signal"),
    _entry(21, "wall", 15, 3, _BOTH, "wall, fence"),
    _entry(22, "lane_marking", 11, 0, _BOTH, "lane marking, road marking, painted line"),
    _entry(23, "street_furniture", 15, 255, _BOTH, "bench, bin, bus stop"),
    _entry(
        30,
        "aircraft",
        0,
        255,
        _AIRSIDE,
        "aircraft, airplane, plane, jet",
        "vehicle.aircraft",
        _VEHICLE,
    ),
    _entry(
        31,
        "baggage_tractor",
        5,
        14,
        _AIRSIDE,
        "baggage tractor, tug, tow tractor",
        "vehicle.airside.baggage_tractor",
        _VEHICLE,
    ),
    _entry(
        32,
        "baggage_dolly",
        9,
        255,
        _AIRSIDE,
        "baggage dolly, baggage cart, luggage trailer",
        "vehicle.airside.baggage_dolly",
        _VEHICLE,
    ),
    _entry(
        33,
        "fuel_truck",
        10,
        14,
        _AIRSIDE,
        "fuel truck, refueller, tanker",
        "vehicle.airside.fuel_truck",
        _VEHICLE,
    ),
    _entry(
        34,
        "belt_loader",
        5,
        14,
        _AIRSIDE,
        "belt loader, conveyor loader",
        "vehicle.airside.belt_loader",
        _VEHICLE,
    ),
    _entry(
        35,
        "catering_truck",
        10,
        14,
        _AIRSIDE,
        "catering truck, high loader",
        "vehicle.airside.catering_truck",
        _VEHICLE,
    ),
    _entry(
        36,
        "ground_power_unit",
        9,
        255,
        _AIRSIDE,
        "ground power unit, generator",
        "vehicle.airside.ground_power_unit",
        _VEHICLE,
    ),
    _entry(37, "tow_bar", 0, 255, _AIRSIDE, "tow bar, towbar", "movable_object.airside.tow_bar"),
    _entry(38, "chock", 0, 255, _AIRSIDE, "wheel chock, chock", "movable_object.airside.chock"),
    _entry(
        39,
        "cargo_container",
        0,
        255,
        _AIRSIDE,
        "cargo container, unit load device",
        "movable_object.airside.cargo_container",
    ),
    _entry(40, "apron_marking", 11, 0, _AIRSIDE, "apron marking, yellow taxi line"),
    _entry(41, "terminal", 15, 2, _AIRSIDE, "terminal building, airport terminal"),
    _entry(42, "jet_bridge", 15, 255, _AIRSIDE, "jet bridge, boarding bridge"),
)

OCC3D_NAMES: tuple[str, ...] = ("others", *(entry.name for entry in CLASSES[1:NUM_OCC3D_CLASSES]))
"""Names of the Occ3D-nuScenes classes 0 to 16, in order."""

OCC3D_WITHOUT_OTHERS = tuple(c for c in range(NUM_OCC3D_CLASSES) if OCC3D_NAMES[c] not in ("others", "other_flat"))
"""The 15 classes over which some papers take the mean that they print as mIoU."""

OCC3D_FOREGROUND = tuple(
    c for c in OCC3D_WITHOUT_OTHERS if OCC3D_NAMES[c] not in ("driveable_surface", "sidewalk", "terrain")
)
"""The 12 foreground classes over which F-mIoU is the mean."""

OCC3D_STUFF = tuple(sorted({*range(NUM_OCC3D_CLASSES)} - {c.occ3d_index for c in CLASSES if c.nuscenes_category}))
"""The classes that no box is drawn around."""

SKY = _entry(SKY_ID, "sky", 255, 10, _BOTH, "sky, clouds")

_BY_NAME = {entry.name: entry for entry in (*CLASSES, SKY)}


def class_named(name: str) -> SemanticClass:
    """Return the class called ``name``; raise ValueError when there is none."""
    if name not in _BY_NAME:
        raise ValueError(f"unknown class {name!r}; known: {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[name]


def classes_of_theme(theme: Theme) -> tuple[SemanticClass, ...]:
    """Return the classes that can occur in ``theme``, the sky included, by ascending id."""
    return tuple(entry for entry in (*CLASSES, SKY) if theme in entry.themes)


def occ3d_table() -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from class id to Occ3D class (255 for the sky and for unused ids)."""
    table = np.full(256, 255, np.uint8)
    for entry in CLASSES:
        table[entry.class_id] = entry.occ3d_index
    return table


def cityscapes_table() -> UInt8[np.ndarray, " 256"]:
    """Return a look-up from class id to Cityscapes train id (255 = void)."""
    table = np.full(256, CITYSCAPES_VOID, np.uint8)
    for entry in (*CLASSES, SKY):
        table[entry.class_id] = entry.cityscapes_id
    return table
