"""Occupancy from above: ahead is up, left is left, and each colour is where it belongs."""

import numpy as np

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.taxonomy import OCC3D_FREE
from student.evaluation.from_above import VoxelsOfFrame, pictures_from_above
from student.evaluation.panels import cameras_around

GREEN, BLUE, RED, WHITE, GREY = (26, 127, 55), (9, 105, 218), (207, 34, 46), (255, 255, 255), (208, 212, 218)


def at(x_m: float, y_m: float, z_m: float) -> int:
    index = [int((c - low) / OCC3D_GRID.voxel_size) for c, low in zip((x_m, y_m, z_m), OCC3D_GRID.minimum, strict=True)]
    return int(np.ravel_multi_index(index, OCC3D_GRID.shape))


def pixel(x_m: float, y_m: float) -> tuple[int, int]:
    """Row and column of a place: x, ahead, is up, and y is left."""
    return round((39.8 - x_m) / 0.4), round((39.8 - y_m) / 0.4)


def test_ahead_is_up_left_is_left_and_what_nobody_sees_is_grey() -> None:
    labels = np.full(OCC3D_GRID.num_voxels, OCC3D_FREE, np.uint8)
    is_occupied, is_visible = np.zeros(len(labels), bool), np.ones(len(labels), bool)
    places = {"found": (20.2, 10.2), "missed": (20.2, -10.2), "invented": (-15.0, 5.0), "road": (8.2, 3.0)}
    for name, (x, y) in places.items():
        height = 0.0 if name == "road" else 1.2
        labels[at(x, y, height)] = OCC3D_FREE if name == "invented" else 4
        is_occupied[at(x, y, height)] = name != "missed"
    behind = np.arange(len(labels)).reshape(OCC3D_GRID.shape)[:20]
    is_visible[behind] = False
    pictures = pictures_from_above(
        VoxelsOfFrame(
            labels=labels, is_visible=is_visible, is_occupied=is_occupied, is_observed=is_visible, teacher=None
        )
    )
    assert list(pictures) == ["truth", "student", "found and missed"]
    compared = pictures["found and missed"][0]
    for name, colour in (("found", GREEN), ("missed", BLUE), ("invented", RED), ("road", WHITE)):
        assert tuple(compared[pixel(*places[name])]) == colour, name
    assert tuple(compared[-1, 0]) == GREY, "behind, nothing was seen"
    truth, student = pictures["truth"][0], pictures["student"][0]
    assert tuple(truth[pixel(*places["found"])]) not in (WHITE, GREY)
    assert tuple(truth[pixel(*places["road"])]) != tuple(truth[pixel(*places["found"])]), "colours tell heights"
    assert tuple(student[pixel(*places["missed"])]) == WHITE
    assert tuple(truth[99, 99]) == (0, 0, 0), "the vehicle"


def test_the_camera_that_looks_ahead_is_shown_first_and_the_others_around_it() -> None:
    headings = np.array([55.0, 0.0, -55.0, 110.0, 180.0, -110.0])
    rig = np.tile(np.eye(4), (6, 1, 1))
    rig[:, 0, 2], rig[:, 1, 2], rig[:, 2, 2] = np.cos(np.radians(headings)), np.sin(np.radians(headings)), 0.0
    assert headings[cameras_around(rig, 3)].tolist() == [0, 110, -110]
    assert headings[cameras_around(rig, 1)].tolist() == [0]
    assert sorted(cameras_around(rig, 9)) == list(range(6))
    assert cameras_around(rig, 0) == []
