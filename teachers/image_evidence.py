"""What maps of a scene's images are compared with: the images, as they look, with no model between.

Colours and edges of a cell explain much of what any model says of it. A linear fit from looks to maps, made on every
other frame, is asked about the frames between. Where the image itself explains its map worse than its mirror image
does, or another camera's, or another frame's, the map is not that image's; where nothing explains it, it is noise.
What all images have in common at a place says nothing of which image a map belongs to, and is taken out first.

An unusual image can lead the fit astray, and then any other image does less harm. So another image only counts by what
it explains of the map, and is held against what images explain of this scene's maps at all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zarr
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import uniform_filter

from storage.scenes.store import SceneReader
from teachers.quality import at_least, at_most, undecided

_MAX_GRID = (18, 32)
_MAX_CHANNELS = 16
"""Channels of the largest variance; a basis orders its own by it."""

_PIXELS_PER_CELL = 4
_RIVAL_FRAMES = 3
"""A map may be that of another frame up to so many before or after."""

_MIN_FRAMES = 4
"""Each fit is made on half of the frames; from one frame, clean masks of a procedural drive looked misplaced."""

_MIN_IMAGES, _MIN_CELLS = 4, 1500
_MIN_VARIETY = 0.05
"""Share of the variance of looks that differs between images; below it they are all alike."""

_LEAST_EXPLAINED = 0.1
"""Share of variance below which what images explain is no unit to measure by."""

_RIDGE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class AppearanceLimits:
    """How well maps must follow their images.

    Attributes:
        min_explained: Share of the variance of held-out maps that the looks of their images explain.
        max_misplaced: How much more of a camera's maps the images of another camera, or of earlier or later frames,
            may explain than its own do, in units of the share that images explain at all. About 1 if maps are another
            camera's; up to 0.5 on clean drives of five frames.
        max_delayed: How much more of all maps the images of earlier or later frames may explain, as a share of their
            variance.
        max_misplaced_once: Like ``max_misplaced``, of a single map; None where single maps hold too little to be told
            apart.
    """

    min_explained: float = 0.1
    max_misplaced: float = 0.6
    max_delayed: float = 0.015
    max_misplaced_once: float | None = 0.4


class Place(NamedTuple):
    """A figure where it is worst."""

    value: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """How maps follow the looks of their images.

    Attributes:
        explained: Share of the variance of maps that their own images explain, on frames that were not fitted.
        turned: By how much more mirrored or upturned images explain; negative where the images themselves do best.
        misplaced: How much more of a camera's maps other images explain than its own, where it is most; see
            :class:`AppearanceLimits`.
        delayed: How much more of all maps earlier or later images explain.
        misplaced_once: How much more of a single map another image explains, where it is most.
    """

    explained: float
    turned: float
    misplaced: Place
    delayed: Place
    misplaced_once: Place


def appearance_of(
    maps: zarr.Array | np.ndarray, scene: SceneReader, looks: Float32[np.ndarray, "_ _ _ _ _"] | None = None
) -> Appearance | None:
    """Compare maps with the images of their scene; None if too little is there to tell.

    Args:
        maps: Over frames, cameras, rows, columns and, unless they are masks, channels. Read frame by frame.
        scene: The scene.
        looks: What :func:`scene_looks` returns for the size of the maps, if it is known already.
    """
    rows, columns = _grid(maps.shape[2:4])
    pooled = []
    for frame in range(scene.num_frames):
        values = np.asarray(maps[frame]).astype(np.float32)
        pooled.append(_pooled(values.reshape(*values.shape[:3], -1), rows, columns))
    looks = scene_looks(scene, maps.shape[2:4]) if looks is None else looks
    return compare(np.stack(pooled), looks, scene.camera_names)


def scene_looks(scene: SceneReader, size: tuple[int, ...]) -> Float32[np.ndarray, "frames cameras rows columns looks"]:
    """Return what the images of a scene look like, on the grid on which maps of a size are compared."""
    height, width = (cells * _PIXELS_PER_CELL for cells in _grid(size))
    return np.stack(
        [
            np.stack(
                [looks_of(scene.resized_image(frame, c, height=height, width=width)) for c in range(scene.num_cameras)]
            )
            for frame in range(scene.num_frames)
        ]
    )


def _grid(size: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = (min(n, most) for n, most in zip(size, _MAX_GRID, strict=True))
    return rows, columns


def looks_of(image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "rows columns looks"]:
    """Return what a cell looks like: colour, contrast and edges of itself and of its surroundings.

    Args:
        image: RGB, four pixels to a cell.
    """
    pixels = image.astype(np.float32) / 255
    luminance = pixels.mean(axis=-1)
    down, across = np.gradient(luminance)
    maps = np.stack([*np.moveaxis(pixels, -1, 0), np.abs(across), np.abs(down), luminance**2], axis=-1)
    rows, columns = image.shape[0] // _PIXELS_PER_CELL, image.shape[1] // _PIXELS_PER_CELL
    cells = _pooled(maps[None], rows, columns)[0]
    colour = cells[..., :3]
    cells[..., 5] = np.sqrt(np.maximum(cells[..., 5] - colour.mean(axis=-1) ** 2, 0))
    products = np.stack([colour[..., i] * colour[..., j] for i in range(3) for j in range(i, 3)], axis=-1)
    near, far = uniform_filter(cells, 3, axes=(0, 1)), uniform_filter(colour, 7, axes=(0, 1))
    return np.concatenate([cells, near, far, products], axis=-1)


def compare(
    maps: Float32[np.ndarray, "frames cameras rows columns channels"],
    looks: Float32[np.ndarray, "frames cameras rows columns looks"],
    camera_names: tuple[str, ...],
) -> Appearance | None:
    """Compare maps with the looks of their images; None if there are too few, or all images are alike."""
    num_frames, num_cameras = maps.shape[:2]
    if num_frames < _MIN_FRAMES or num_frames * num_cameras < _MIN_IMAGES or math.prod(maps.shape[:4]) < _MIN_CELLS:
        return None
    varied = looks - looks.mean(axis=(0, 1))
    if varied.var() < _MIN_VARIETY * (looks - looks.mean(axis=(0, 1, 2, 3))).var():
        return None
    looks = varied / (varied.std(axis=(0, 1, 2, 3)) + 1e-9)
    maps = maps[..., np.argsort(-maps.var(axis=(0, 1, 2, 3)))[:_MAX_CHANNELS]]
    maps = maps - maps.mean(axis=(0, 1))
    total = float((maps**2).mean())
    if not total > 0:  # the same map for all images
        nowhere = Place(0.0, "")
        return Appearance(explained=0.0, turned=0.0, misplaced=nowhere, delayed=nowhere, misplaced_once=nowhere)
    fits = _fits(maps, looks)
    errors = _errors(maps, looks, fits)
    turned = []
    for turn in (looks[..., ::-1, :], looks[..., ::-1, :, :]):
        turned.append(float(errors.mean() - _errors(maps, turn, _fits(maps, turn)).mean()) / total)
    explained = 1 - float(errors.mean()) / total
    misplaced, delayed, once = _rivals(maps, looks, fits, errors, camera_names)
    unit = max(explained, _LEAST_EXPLAINED)
    return Appearance(
        explained=explained,
        turned=max(turned),
        misplaced=Place(misplaced.value / unit, misplaced.where),
        delayed=delayed,
        misplaced_once=Place(once.value / unit, once.where),
    )


def appearance_checks(
    found: Appearance | None, limits: AppearanceLimits, prefix: str = ""
) -> dict[str, dict[str, Any]]:
    """Return the checks of a gate, all undecided without a comparison."""
    thresholds = {
        "explained_by_images": limits.min_explained,
        "turned": 0.0,
        "misplaced": limits.max_misplaced,
        "delayed": limits.max_delayed,
        "misplaced_once": limits.max_misplaced_once,
    }
    thresholds = {name: threshold for name, threshold in thresholds.items() if threshold is not None}
    if found is None:
        reason = "too few images, or all alike"
        return {f"{prefix}{name}": undecided(threshold, reason) for name, threshold in thresholds.items()}
    figures = {
        "explained_by_images": Place(found.explained, ""),
        "turned": Place(found.turned, ""),
        "misplaced": found.misplaced,
        "delayed": found.delayed,
        "misplaced_once": found.misplaced_once,
    }
    return {
        f"{prefix}{name}": (at_least if name == "explained_by_images" else at_most)(
            figures[name].value, threshold, where=figures[name].where, hint=_HINTS[name]
        )
        for name, threshold in thresholds.items()
    }


_HINTS = {
    "explained_by_images": "They do not follow what the images show: noise, or the map of one image for all.",
    "turned": "Mirrored or upturned images explain them better: look at the order of rows and columns.",
    "misplaced": "Another camera's or frame's images explain this camera's maps better: arrays are exchanged.",
    "delayed": "Earlier or later images explain all cameras' maps better: frames are shifted.",
    "misplaced_once": "Another image explains this map better: extract it again.",
}
"""What to do about a figure that misses its threshold."""


def _pooled(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return means over cells of a grid that is no finer than the maps; axes: images, height, width, channels."""
    for axis, cells in ((1, rows), (2, columns)):
        starts = (np.arange(cells) * maps.shape[axis]) // cells
        counts = np.diff([*starts, maps.shape[axis]]).reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
        maps = np.add.reduceat(maps, starts, axis=axis) / counts.astype(np.float32)
    return maps.astype(np.float32)


def _fits(maps: np.ndarray, looks: np.ndarray) -> list[np.ndarray]:
    """Return the linear fits for even frames and for odd ones, each made on the others."""
    fits = []
    for parity in (0, 1):
        x = looks[1 - parity :: 2].reshape(-1, looks.shape[-1]).astype(np.float64)
        y = maps[1 - parity :: 2].reshape(-1, maps.shape[-1]).astype(np.float64)
        products = x.T @ x
        products[np.diag_indices(len(products))] += _RIDGE * np.trace(products) / len(products)
        fits.append(np.linalg.solve(products, x.T @ y).astype(np.float32))
    return fits


def _errors(maps: np.ndarray, looks: np.ndarray, fits: list[np.ndarray]) -> Float[np.ndarray, "frames cameras"]:
    return np.stack(
        [((m - x @ fits[f % 2]) ** 2).mean(axis=(1, 2, 3)) for f, (m, x) in enumerate(zip(maps, looks, strict=True))]
    )


def _rivals(
    maps: np.ndarray, looks: np.ndarray, fits: list[np.ndarray], errors: np.ndarray, camera_names: tuple[str, ...]
) -> tuple[Place, Place, Place]:
    """Return by how much more other images explain than a map's own: of a camera, of all maps, and of a single map.

    Each is a share of the variance of those maps. A map of less variance than the mean is taken to have the mean, so
    that a map of nothing is not told apart from another such. An image that explains less than nothing of its map, as
    the fit sees it, is taken to explain nothing.
    """
    variance = (maps**2).mean(axis=(2, 3, 4))
    own, typical = np.minimum(errors, variance), float(variance.mean())
    of_camera, of_all, once = Place(0.0, ""), Place(0.0, ""), Place(0.0, "")
    for frame_shift, camera_shift in _shifts(*maps.shape[:2]):
        frames = [f for f in range(len(maps)) if 0 <= f + frame_shift < len(maps)]
        other = np.roll(looks, -camera_shift, axis=1)
        rival = np.stack([((maps[f] - other[f + frame_shift] @ fits[f % 2]) ** 2).mean(axis=(1, 2, 3)) for f in frames])
        gain, scale = own[frames] - rival, variance[frames]
        gains = gain / np.maximum(scale, typical)
        of_cameras = gain.mean(axis=0) / np.maximum(scale.mean(axis=0), typical)
        camera = int(of_cameras.argmax())
        if len(frames) > 1 and of_cameras[camera] > of_camera.value:
            of_camera = Place(float(of_cameras[camera]), camera_names[camera])
        if len(frames) > 1 and frame_shift and (later := float(gain.sum() / scale.sum())) > of_all.value:
            of_all = Place(later, f"by {frame_shift:+d} frames")
        at, camera = (int(i) for i in np.unravel_index(gains.argmax(), gains.shape))
        if gains[at, camera] > once.value:
            once = Place(float(gains[at, camera]), f"frame {frames[at]}, {camera_names[camera]}")
    return of_camera, of_all, once


def _shifts(num_frames: int, num_cameras: int) -> Iterator[tuple[int, int]]:
    """Yield frame and camera shifts of the images that a map might be of instead."""
    yield from ((0, shift) for shift in range(1, num_cameras))
    reach = min(_RIVAL_FRAMES, num_frames - 1)
    yield from ((shift, 0) for shift in range(-reach, reach + 1) if shift)
