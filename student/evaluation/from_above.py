"""A frame's occupancy from above, as truth, teacher and student see it: what a score of voxels looks like."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.previews.pictures import colour_map
from storage.taxonomy import OCC3D_FREE
from student.evaluation.sections.occupancy import is_above_ground

COLUMNS = ("truth", "teacher", "student", "found and missed")
"""Columns of the panel, in their order."""

_UNSEEN, _FREE = np.array([208, 212, 218], np.uint8), np.array([255, 255, 255], np.uint8)
_FOUND, _MISSED, _INVENTED = (26, 127, 55), (9, 105, 218), (207, 34, 46)
_VEHICLE = (0, 0, 0)
_VEHICLE_HALF_M = (2.0, 0.9)

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelsOfFrame:
    """What is said of the voxels of the Occ3D grid at a frame, each array over the flat grid.

    Attributes:
        labels: True labels; 17 is free.
        is_visible: Voxels that count as seen in the truth.
        is_occupied: Voxels that the student calls occupied.
        is_observed: Voxels that the student itself counts as seen.
        teacher: Voxels that the scene teacher holds for opaque; None without it.
    """

    labels: UInt8[np.ndarray, " voxels"]
    is_visible: Bool[np.ndarray, " voxels"]
    is_occupied: Bool[np.ndarray, " voxels"]
    is_observed: Bool[np.ndarray, " voxels"]
    teacher: Bool[np.ndarray, " voxels"] | None


def pictures_from_above(voxels: VoxelsOfFrame) -> dict[str, tuple[Picture, str]]:
    """Return pictures with captions by column; x, ahead, is up, and y is left; a pixel is a column of voxels."""
    truth = voxels.labels != OCC3D_FREE
    found = {
        "truth": (_by_height(truth, voxels.is_visible), "highest occupied voxel: blue low, red high; grey: not seen"),
        "student": (_by_height(voxels.is_occupied, voxels.is_observed), "as exported"),
        "found and missed": (
            _compared(truth, voxels.is_occupied, voxels.is_visible),
            "above the ground: green found, blue missed, red invented",
        ),
    }
    if voxels.teacher is not None:
        found["teacher"] = (_by_height(voxels.teacher, voxels.is_visible), "its density, seen voxels")
    return {column: found[column] for column in COLUMNS if column in found}


def _by_height(is_occupied: Bool[np.ndarray, " voxels"], is_seen: Bool[np.ndarray, " voxels"]) -> Picture:
    """Colour each column by the height of its highest occupied voxel that was seen."""
    occupied, seen = (array.reshape(OCC3D_GRID.shape) for array in (is_occupied & is_seen, is_seen))
    layers = OCC3D_GRID.shape[2]
    highest = layers - 1 - occupied[..., ::-1].argmax(axis=-1)
    colours = colour_map("turbo")[np.linspace(20, 235, layers).astype(np.int64)]
    picture = np.where(seen.any(axis=-1)[..., None], _FREE, _UNSEEN)
    return _upright(np.where(occupied.any(axis=-1)[..., None], colours[highest], picture))


def _compared(
    truth: Bool[np.ndarray, " voxels"], student: Bool[np.ndarray, " voxels"], is_visible: Bool[np.ndarray, " voxels"]
) -> Picture:
    counts = is_visible & is_above_ground(np.arange(len(truth)))
    right, missed, invented = (
        (counts & which).reshape(OCC3D_GRID.shape).any(axis=-1)
        for which in (truth & student, truth & ~student, student & ~truth)
    )
    seen = counts.reshape(OCC3D_GRID.shape).any(axis=-1)
    picture = np.where(seen[..., None], _FREE, _UNSEEN)
    for which, colour in ((invented, _INVENTED), (missed, _MISSED), (right, _FOUND)):
        picture[which] = colour
    return _upright(picture)


def _upright(picture: Picture) -> Picture:
    """Draw the vehicle, and turn x up and y left."""
    picture = picture.copy()
    middle = [-low / OCC3D_GRID.voxel_size for low in OCC3D_GRID.minimum[:2]]
    (x0, x1), (y0, y1) = (
        (round(at - half / OCC3D_GRID.voxel_size), round(at + half / OCC3D_GRID.voxel_size))
        for at, half in zip(middle, _VEHICLE_HALF_M, strict=True)
    )
    picture[x0:x1, y0:y1] = _VEHICLE
    return np.ascontiguousarray(picture[::-1, ::-1])
