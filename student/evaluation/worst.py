"""The frames that a student does worst on, with a picture of each: what to look at first."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import depth_image, encode_image, resize_smoothly, to_uint8
from student.evaluation.evaluator import ScoredFrame, resized
from student.evaluation.frames import valid_of, view_images
from student.evaluation.results import FrameRecord, finite_or_none
from student.metrics import depth_scores, peak_signal_to_noise

_KEPT = 10
PSNR, ABS_REL = "reconstruction.psnr", "depth_lidar.abs_rel"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    record: FrameRecord
    picture: bytes


@dataclass(slots=True, kw_only=True)
class WorstFrames:
    """Keeps the worst frames of those offered: by reconstruction, or by depth for a student that renders no images.

    Attributes:
        width: Width of a picture, pixels: the image and what the student makes of it, side by side.
    """

    width: int
    _kept: list[_Kept] = field(default_factory=list)

    def offer(self, scene: str, frame: int, camera_names: tuple[str, ...], scored: ScoredFrame) -> None:
        """Keep a frame if it is among the worst so far; its picture shows the worst of its cameras."""
        record, draw = _measured(scene, frame, camera_names, scored, self.width // 2)
        if len(self._kept) == _KEPT and _goodness(record) >= _goodness(self._kept[-1].record):
            return
        self._kept.append(_Kept(record=record, picture=draw()))
        self._kept = sorted(self._kept, key=lambda one: _goodness(one.record))[:_KEPT]

    def write(self, folder: Path) -> tuple[FrameRecord, ...]:
        """Write the pictures into a subfolder ``worst`` and return the records, worst first."""
        found = []
        for rank, one in enumerate(self._kept):
            path = Path("worst") / f"{rank:02d}.jpg"
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(one.picture)
            found.append(replace(one.record, picture=str(path)))
        return tuple(found)


def _measured(
    scene: str, frame: int, camera_names: tuple[str, ...], scored: ScoredFrame, width: int
) -> tuple[FrameRecord, Callable[[], bytes]]:
    """Return the figures of a frame, and a function that draws its worst camera at a width in pixels."""
    images, views = view_images(scored.batch), scored.views
    error = depth_scores(views.termination_depth, scored.batch.view_targets.lidar_depth[0].numpy(), clip=False)
    figures = {ABS_REL: finite_or_none(float(error.abs_rel)) if error.num_pixels else None}
    camera, rendered = 0, None
    if views.image is not None:
        rendered = np.clip(resized(views.image, images.shape[1:3]), 0.0, 1.0)
        each = _psnr_of_cameras(rendered, images, scored)
        known = np.isfinite(each)
        figures[PSNR] = float(each[known].mean()) if known.any() else None
        camera = int(np.where(known, each, np.inf).argmin())

    def draw() -> bytes:
        shown = depth_image(views.termination_depth[camera]) if rendered is None else to_uint8(rendered[camera])
        height = round(width * images.shape[1] / images.shape[2])
        pair = [resize_smoothly(picture, height, width) for picture in (to_uint8(images[camera]), shown)]
        return encode_image(np.concatenate(pair, axis=1))

    return FrameRecord(scene=scene, frame=frame, camera=camera_names[camera], figures=figures), draw


def _psnr_of_cameras(
    rendered: Float[np.ndarray, "views height width 3"],
    images: Float[np.ndarray, "views height width 3"],
    scored: ScoredFrame,
) -> Float[np.ndarray, " views"]:
    valid = valid_of(scored.batch)
    shown = np.ones(images.shape[:3], bool) if valid is None else resize_nearest(valid, *images.shape[1:3], axis=1)
    each = [peak_signal_to_noise(*view) for view in zip(rendered, images, shown, strict=True)]
    return np.array(each, np.float64)


def _goodness(record: FrameRecord) -> float:
    """Return a number that is larger the better the frame is."""
    psnr, error = record.figures.get(PSNR), record.figures.get(ABS_REL)
    if psnr is not None:
        return psnr
    return float("inf") if error is None else -error
