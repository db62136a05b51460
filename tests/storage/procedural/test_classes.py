import numpy as np
import pytest

from storage.procedural.classes import (
    CITYSCAPES_VOID,
    CLASSES,
    OCC3D_FREE,
    SKY,
    SKY_ID,
    Theme,
    cityscapes_table,
    class_named,
    class_of_id,
    classes_of_theme,
    occ3d_table,
)

# The order of the Occ3D-nuScenes labels, as published.
OCC3D = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
)


def test_names_and_ids_are_unique():
    everything = (*CLASSES, SKY)
    assert len({c.name for c in everything}) == len(everything)
    assert len({c.class_id for c in everything}) == len(everything)
    assert OCC3D_FREE not in {c.class_id for c in everything}


def test_first_seventeen_ids_are_occ3d_itself():
    for index, name in enumerate(OCC3D):
        entry = class_of_id(index)
        assert entry.occ3d_index == index
        assert entry.name.rstrip("s") == name.rstrip("s")


def test_tables_agree_with_entries():
    occ3d, cityscapes = occ3d_table(), cityscapes_table()
    for entry in CLASSES:
        assert occ3d[entry.class_id] == entry.occ3d_index < OCC3D_FREE
        assert cityscapes[entry.class_id] == entry.cityscapes_id
    assert occ3d[SKY_ID] == 255
    assert cityscapes[SKY_ID] == 10
    assert cityscapes[200] == CITYSCAPES_VOID


def test_themes_differ_and_have_words():
    street, airside = (set(classes_of_theme(t)) for t in Theme)
    assert class_named("aircraft") in airside - street
    assert class_named("traffic_light") in street - airside
    assert all(entry.words and all(entry.words) for entry in street | airside)


@pytest.mark.parametrize("bad", ["", "Car", "unicorn"])
def test_unknown_name_is_refused(bad):
    with pytest.raises(ValueError, match="unknown class"):
        class_named(bad)


def test_unknown_id_is_refused():
    with pytest.raises(ValueError, match="unknown class id 17"):
        class_of_id(17)
    assert np.all(occ3d_table()[[17, 200]] == 255)
