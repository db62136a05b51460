"""Sky as it looks, with no model between: bright, smooth, without a return, from the upper edge downwards.

LiDAR tells where a mask says sky and is wrong. It does not tell where sky is missing from a mask, because a beam that
does not come back may have many reasons. What looks like sky does, as far as a scene shows any of it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import zarr
from jaxtyping import Bool, Int64, UInt8

from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of
from teachers.quality import at_least, at_most, undecided

_MIN_BRIGHTNESS, _MAX_STEP, _MAX_COLOUR_RANGE = 0.4, 0.06, 0.15
_MAX_FRAMES = 8

_LIMITS = AppearanceLimits(min_explained=0.25, max_misplaced_once=None)
"""How masks follow their images: a single one has two values, and often hardly any sky."""

_MIN_SKY = 0.01
"""Share of the pixels of a scene below which it shows hardly any sky."""

_MIN_COVERED = 0.3
"""A bright facade above the beams looks like sky, too: only masks that miss most of it are wrong."""

_MAX_LIDAR_ON_SKY_OF_A_CAMERA = 0.4
"""One wrong camera of six hardly shows in the share of them all."""


class ApparentSky(NamedTuple):
    """What looks like sky in a scene.

    Attributes:
        share: Share of all pixels that look like sky.
        covered: Share of those that the mask calls sky; NaN where nothing looks like sky.
    """

    share: float
    covered: float


def apparent_sky(
    image: UInt8[np.ndarray, "height width 3"],
    row: Int64[np.ndarray, " returns"],
    column: Int64[np.ndarray, " returns"],
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels that look like sky.

    Args:
        image: RGB.
        row: Rows of the LiDAR returns in it, none of which is sky.
        column: Their columns.
    """
    pixels = image.astype(np.float32) / 255
    step = np.abs(np.diff(pixels, axis=0, prepend=pixels[:1])).max(axis=-1)
    from_top = np.abs(pixels - np.median(pixels[: max(1, len(pixels) // 20)], axis=0)).max(axis=-1)
    is_like = (pixels.mean(axis=-1) > _MIN_BRIGHTNESS) & (step < _MAX_STEP) & (from_top < _MAX_COLOUR_RANGE)
    is_like[row, column] = False
    return np.logical_and.accumulate(is_like, axis=0)


class SkyFigures(NamedTuple):
    """Stored masks, held against LiDAR and images.

    Attributes:
        num_returns: LiDAR returns in the images.
        lidar_on_sky: Share of them that lie on sky; NaN without any.
        apparent: What looks like sky.
        checks: Checks of a gate.
    """

    num_returns: int
    lidar_on_sky: float
    apparent: ApparentSky
    checks: dict[str, dict[str, Any]]


def judge_sky(masks: zarr.Array | np.ndarray, scene: SceneReader, *, max_lidar_on_sky: float) -> SkyFigures:
    """Judge the sky masks of a scene by its returns, none of which comes from sky, and by its images.

    Args:
        masks: Over frames, cameras, rows and columns; True is sky. Read frame by frame.
        scene: The scene.
        max_lidar_on_sky: Largest share of returns that may lie on sky.
    """
    height, width = masks.shape[2:4]
    looked_at = {int(f) for f in np.linspace(0, scene.num_frames - 1, _MAX_FRAMES)}
    returns, on_sky = np.zeros(scene.num_cameras, np.int64), np.zeros(scene.num_cameras, np.int64)
    num_sky = num_apparent = num_covered = 0
    for frame in range(scene.num_frames):
        points = scene.lidar_points(frame)
        for camera, mask in enumerate(np.asarray(masks[frame])):
            seen = returns_in_image(scene, frame, camera, points, size=(height, width))
            returns[camera] += len(seen.index)
            on_sky[camera] += int(mask[seen.row, seen.column].sum())
            num_sky += int(mask.sum())
            if frame in looked_at:
                image = scene.resized_image(frame, camera, height=height, width=width)
                apparent = apparent_sky(image, seen.row, seen.column)
                num_apparent += int(apparent.sum())
                num_covered += int((apparent & mask).sum())
    pixels_of_a_frame = scene.num_cameras * height * width
    apparent_share = num_apparent / (len(looked_at) * pixels_of_a_frame)
    found = ApparentSky(apparent_share, num_covered / num_apparent if num_apparent else math.nan)
    share = float(on_sky.sum() / returns.sum()) if returns.sum() else math.nan
    # Where there is hardly any sky, how it follows the images says little.
    is_telling = num_sky >= _MIN_SKY * scene.num_frames * pixels_of_a_frame
    checks = {
        **_lidar_checks(returns, on_sky, scene.camera_names, max_lidar_on_sky),
        "apparent_sky_covered": _covered_check(found),
        **appearance_checks(appearance_of(masks, scene) if is_telling else None, _LIMITS),
    }
    return SkyFigures(int(returns.sum()), share, found, checks)


def _lidar_checks(
    returns: np.ndarray, on_sky: np.ndarray, camera_names: tuple[str, ...], most: float
) -> dict[str, dict[str, Any]]:
    if not returns.sum():
        return {}
    shares = on_sky / np.maximum(returns, 1)
    worst = int(shares.argmax())
    return {
        "lidar_on_sky": at_most(
            float(on_sky.sum() / returns.sum()), most, hint="Surfaces are called sky: try other weights."
        ),
        "lidar_on_sky_of_a_camera": at_most(
            float(shares[worst]),
            _MAX_LIDAR_ON_SKY_OF_A_CAMERA,
            where=camera_names[worst],
            hint="This camera's mask is mostly wrong: it may be inverted, or another camera's.",
        ),
    }


def _covered_check(seen: ApparentSky) -> dict[str, Any]:
    if seen.share < _MIN_SKY:
        return undecided(_MIN_COVERED, "hardly anything looks like sky")
    return at_least(seen.covered, _MIN_COVERED, hint="Bright, even surfaces above all returns are not called sky.")
