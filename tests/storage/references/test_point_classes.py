"""Names that recordings give to things, and the Occ3D classes that they mean."""

import pytest

from storage.ingest.waymo.labels import LIDAR_CLASSES
from storage.references.point_classes import numbered_classes, occ3d_class, unknown_names
from storage.taxonomy import CLASSES, OCC3D_NAMES, OCC3D_UNKNOWN


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vehicle.car", "car"),
        ("vehicle.bus.bendy", "bus"),
        ("human.pedestrian.construction_worker", "pedestrian"),
        ("vehicle.emergency.police", "others"),
        ("flat.driveable_surface", "driveable_surface"),
        ("static.vegetation", "vegetation"),
        ("TYPE_CYCLIST", "bicycle"),
        ("TYPE_TREE_TRUNK", "vegetation"),
        ("Car", "car"),
        ("traffic cone", "traffic_cone"),
        ("tow bar", "others"),
        ("baggage tractor", "construction_vehicle"),
    ],
)
def test_known_names_mean_their_class(name, expected):
    assert OCC3D_NAMES[occ3d_class(name)] == expected


@pytest.mark.parametrize("name", ["noise", "vehicle.ego", "TYPE_VEHICLE", "TYPE_UNDEFINED", "", "sky"])
def test_names_that_tell_no_class_are_unknown(name):
    assert occ3d_class(name) == OCC3D_UNKNOWN


def test_every_class_of_ours_is_understood_by_its_category_and_its_words():
    for entry in CLASSES:
        for name in filter(None, (entry.nuscenes_category, entry.name)):
            assert occ3d_class(name) == entry.occ3d_index, name


def test_numbers_follow_the_recordings_own_table():
    table = numbered_classes({str(n): name for n, name in enumerate(LIDAR_CLASSES)}, occ3d_class)
    assert OCC3D_NAMES[table[LIDAR_CLASSES.index("TYPE_CAR")]] == "car"
    assert table[0] == OCC3D_UNKNOWN
    assert table[200] == OCC3D_UNKNOWN
    assert unknown_names(["car", "thing from space", "thing from space"]) == ["thing from space"]
