from storage.taxonomy import CLASSES, OCC3D_FOREGROUND, OCC3D_FREE, OCC3D_NAMES, OCC3D_STUFF, OCC3D_WITHOUT_OTHERS

PUBLISHED = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation",
)  # fmt: skip


def test_occ3d_classes_are_in_their_published_order():
    assert OCC3D_NAMES == PUBLISHED
    assert len(PUBLISHED) == OCC3D_FREE
    assert [entry.occ3d_index for entry in CLASSES[: len(PUBLISHED)]] == list(range(len(PUBLISHED)))


def test_means_leave_out_what_their_papers_leave_out():
    assert set(range(17)) - set(OCC3D_WITHOUT_OTHERS) == {0, 12}
    assert set(range(17)) - set(OCC3D_FOREGROUND) == {0, 11, 12, 13, 14}


def test_no_box_is_drawn_around_stuff():
    names = {OCC3D_NAMES[c] for c in OCC3D_STUFF}
    assert names == {"driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation"}
