import numpy as np
import pytest

from storage.taxonomy import (
    CITYSCAPES_VOID,
    CLASSES,
    OCC3D_FREE,
    SKY,
    SKY_ID,
    Theme,
    cityscapes_table,
    class_named,
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
        entry = CLASSES[index]
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


# nuScenes' detection names of the categories that Occ3D knows as things.
NUSCENES_OF_OCC3D = {
    1: "movable_object.barrier",
    2: "vehicle.bicycle",
    3: "vehicle.bus",
    4: "vehicle.car",
    5: "vehicle.construction",
    6: "vehicle.motorcycle",
    7: "human.pedestrian",
    8: "movable_object.trafficcone",
    9: "vehicle.trailer",
    10: "vehicle.truck",
}


def test_every_thing_of_occ3d_has_its_nuscenes_category():
    for index, category in NUSCENES_OF_OCC3D.items():
        assert CLASSES[index].nuscenes_category.startswith(category)
    categories = [c.nuscenes_category for c in CLASSES if c.nuscenes_category]
    assert len(set(categories)) == len(categories)
    assert SKY.nuscenes_category == ""


def test_what_moves_has_attributes_for_moving_and_standing():
    for entry in CLASSES:
        if entry.nuscenes_category.startswith(("vehicle.", "human.")):
            assert len(entry.nuscenes_attributes) == 2
        else:
            assert entry.nuscenes_attributes == ()


@pytest.mark.parametrize("theme", list(Theme))
def test_captions_can_name_every_class_in_words_of_its_own(theme):
    """A word that named two classes of one theme would teach a caption model a contradiction."""
    words = [word for entry in classes_of_theme(theme) for word in entry.words]
    assert len(set(words)) == len(words)
    assert all(word == word.strip().lower() for word in words)


def test_nearly_every_class_has_a_synonym():
    alone = {entry.name for entry in (*CLASSES, SKY) if len(entry.words) < 2}
    assert alone <= {"trailer"}


def test_every_occ3d_class_but_others_occurs_in_a_street():
    assert {c.occ3d_index for c in classes_of_theme(Theme.STREET)} >= set(range(1, 17)) - {9}


@pytest.mark.parametrize("bad", ["", "Car", "unicorn"])
def test_unknown_name_is_refused(bad):
    with pytest.raises(ValueError, match="unknown class"):
        class_named(bad)


def test_ids_of_nothing_have_no_occ3d_class():
    assert np.all(occ3d_table()[[17, 200]] == 255)
