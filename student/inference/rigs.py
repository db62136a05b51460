"""Rigs as a student sees them: number, height, field of view and resolution of the cameras."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.counted import counted
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.data.training_set import TrainingSet

_SAME_HEIGHT_M, _SAME_FIELD_DEG, _SAME_ASPECT = 0.1, 2.0, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRecord:
    """One camera of a rig.

    Attributes:
        name: Its name.
        height_m: Height of its centre above the ego origin, metres.
        horizontal_field_deg: Angle between its leftmost and rightmost ray; None for a fisheye.
        is_fisheye: Whether it has a fisheye lens.
        image_size: Height and width of its images as recorded, pixels; None where an older record does not say.
    """

    name: str
    height_m: float
    horizontal_field_deg: float | None
    is_fisheye: bool
    image_size: tuple[int, int] | None


Rig = tuple[CameraRecord, ...]


def rig_of(scene: SceneReader) -> Rig:
    """Return the cameras of a scene."""
    cameras = []
    for index, name in enumerate(scene.camera_names):
        is_fisheye = bool(np.isfinite(scene.fisheye(index)).all())
        intrinsics, (height, width) = scene.intrinsics(index), scene.image_size(index)
        ends = (np.array([0.0, width]) - intrinsics[0, 2]) / intrinsics[0, 0]
        cameras.append(
            CameraRecord(
                name=name,
                height_m=float(scene.camera_to_ego(index)[2, 3]),
                horizontal_field_deg=None if is_fisheye else float(np.degrees(np.diff(np.arctan(ends))[0])),
                is_fisheye=is_fisheye,
                image_size=(height, width),
            )
        )
    return tuple(cameras)


def rigs_learned_from(home: Home, frozen: TrainingSet) -> tuple[Rig, ...]:
    """Return each distinct rig of the training scenes, in order of the scenes."""
    found: dict[str, Rig] = {}
    for scene in frozen.scenes:
        version = scene.stores[Kind.SCENE]
        calibration = home.provenance(version).calibration_digest
        if scene.train_frames and calibration not in found:
            found[calibration] = rig_of(SceneReader(home.open_arrays(version), version))
    return tuple(found.values())


def spelt_rig(rig: Rig) -> str:
    """Return number, resolution, field of view and height of a rig's cameras, for people."""
    sizes = sorted({camera.image_size for camera in rig if camera.image_size is not None})
    fields = [c.horizontal_field_deg for c in rig if c.horizontal_field_deg is not None]
    fisheyes = sum(camera.is_fisheye for camera in rig)
    heights = [camera.height_m for camera in rig]
    pixels = f" of {' and '.join(f'{width} x {height}' for height, width in sizes)} pixels" if sizes else ""
    parts = [f"{counted(len(rig), 'camera')}{pixels}"]
    parts += [f"seeing {_span(fields)} degrees"] if fields else []
    parts += [f"{fisheyes} of them fisheyes"] if fisheyes else []
    return ", ".join([*parts, f"{_span(heights, 1)} m above the ego origin"])


def rig_change(learned: Sequence[Rig], rig: Rig) -> str:
    """Say how a rig differs from those that a student learned from; empty if it is one of them.

    Pixels do not matter as long as images keep their shape: a student reads them at its own size.
    """
    if not learned or any(_alike(known, rig) for known in learned):
        return ""
    nearest = spelt_rig(min(learned, key=lambda known: abs(len(known) - len(rig))))
    others = len({spelt_rig(one) for one in learned} - {nearest})
    known = nearest + (f"; and from {counted(others, 'other rig')}" if others else "")
    return f"Another rig than the student learned from: {spelt_rig(rig)}. It learned from {known}."


def _alike(one: Rig, other: Rig) -> bool:
    return len(one) == len(other) and all(_alike_camera(a, b) for a, b in zip(one, other, strict=True))


def _alike_camera(one: CameraRecord, other: CameraRecord) -> bool:
    fields = (one.horizontal_field_deg, other.horizontal_field_deg)
    sizes = (one.image_size, other.image_size)
    return (
        one.is_fisheye == other.is_fisheye
        and (sizes[0] is None or sizes[1] is None or _same_shape(sizes[0], sizes[1]))
        and abs(one.height_m - other.height_m) <= _SAME_HEIGHT_M
        and (fields[0] is None or fields[1] is None or abs(fields[0] - fields[1]) <= _SAME_FIELD_DEG)
    )


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether images have one shape, whatever their pixels."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0]))) <= _SAME_ASPECT


def _span(values: Sequence[float], digits: int = 0) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
