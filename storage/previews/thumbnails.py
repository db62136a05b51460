"""One small picture of a stored version: what a person looks at before trusting a number."""

from collections.abc import Callable

import numpy as np
import zarr
from jaxtyping import UInt8
from PIL import Image

from storage.kinds import KINDS, Picture
from storage.previews.pictures import (
    UNDEFINED_COLOUR,
    FeatureColours,
    depth_image,
    encode_image,
    label_image,
    unit_image,
)
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_features, read_target
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN

_TILE_WIDTH = 176
_CALIBRATION_WIDTH, _MOST_CAMERAS = 320, 12
_PREVIEW_FILES = ("preview.jpg", "preview.png")


def thumbnail_jpeg(home: Home, version: StoreVersion) -> bytes | None:
    """Return a JPEG of the middle frame of a version, or None where the kind has nothing to look at.

    Colours are those of :mod:`storage.previews.pictures`; features show their own three principal components.

    Args:
        home: Where the version lives.
        version: Arrays of a drawable kind, or files with a ``preview.jpg`` or ``preview.png``.
    """
    picture = KINDS[version.kind].picture if version.kind in KINDS else None
    if picture is None:
        return None
    if picture == "file":
        folder = home.open_files(version)
        found = next((folder / name for name in _PREVIEW_FILES if (folder / name).is_file()), None)
        return None if found is None else encode_image(np.asarray(Image.open(found).convert("RGB")))
    group = home.open_arrays(version)
    if picture == "scene":
        return encode_image(_contact_sheet(_recorded_images(SceneReader(group, version))))
    return encode_image(_contact_sheet(_DRAWERS[picture](group, version.kind)))


def _recorded_images(reader: SceneReader) -> list[np.ndarray]:
    frame, tiles = reader.num_frames // 2, []
    for camera in range(reader.num_cameras):
        height, width = reader.image_size(camera)
        tiles.append(reader.resized_image(frame, camera, height=round(height * _TILE_WIDTH / width), width=_TILE_WIDTH))
    return tiles


def calibration_jpeg(home: Home, version: StoreVersion) -> bytes:
    """Return a JPEG of a scene's middle frame with its LiDAR drawn over every camera, red near and blue far.

    Args:
        home: Where the version lives.
        version: A version of kind ``scene``.
    """
    reader = SceneReader(home.open_arrays(version), version)
    frame, tiles = reader.num_frames // 2, []
    returns = reader.lidar_points(frame)
    for camera in range(reader.num_cameras):
        height, width = reader.image_size(camera)
        size = (round(height * _CALIBRATION_WIDTH / width), _CALIBRATION_WIDTH)
        tile = reader.resized_image(frame, camera, height=size[0], width=size[1]).copy()
        seen = returns_in_image(reader, frame, camera, returns, size=size).farthest_first()
        tile[seen.row, seen.column] = depth_image(seen.termination_depth[None])[0]
        tiles.append(tile)
    return encode_image(_contact_sheet(tiles, width=_CALIBRATION_WIDTH, most=_MOST_CAMERAS))


def _middle(group: zarr.Group, name: str) -> int:
    array = group[name]
    return array.shape[0] // 2 if isinstance(array, zarr.Array) else 0


def _images(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "image")
    pictures = read_target(group, kind, "image", frame)
    return list(pictures) if pictures.ndim == 4 else [view for camera in pictures[:2] for view in camera]


def _depth(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "termination_depth")
    return [depth_image(depth) for depth in read_target(group, kind, "termination_depth", frame).astype(np.float32)]


def _sky(group: zarr.Group, kind: str) -> list[np.ndarray]:
    probability = read_target(group, kind, "sky_probability", _middle(group, "is_sky"))
    return [unit_image(camera, name="gray") for camera in probability.astype(np.float32)]


def _features(group: zarr.Group, kind: str) -> list[np.ndarray]:
    name = next(name for name in KINDS[kind].arrays if name in group)
    features = read_features(group, kind, (_middle(group, name),), name=name)
    flat = features.reshape(-1, features.shape[-1])
    defined = flat[np.isfinite(flat).all(axis=-1)]
    if len(defined) < 2:  # nothing to compare: all of it is drawn as undefined
        return [np.full((*camera.shape[:2], 3), UNDEFINED_COLOUR, np.uint8) for camera in features]
    colours = FeatureColours.fit(defined)
    return [colours.image(camera) for camera in features]


def _truth(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "semantics")
    semantics = read_target(group, kind, "semantics", frame)
    return [label_image(camera) for camera in semantics]


def _voxel_labels(group: zarr.Group, kind: str) -> list[np.ndarray]:
    """Look down on the grid: the label of the highest voxel that is occupied."""
    labels = read_target(group, kind, "voxel_label", _middle(group, "voxel_label"))
    is_occupied = (labels != OCC3D_FREE) & (labels != OCC3D_UNKNOWN)
    height = labels.shape[2] - 1 - np.argmax(is_occupied[:, :, ::-1], axis=2)
    top = np.take_along_axis(labels, height[..., None], axis=2)[..., 0]
    return [label_image(np.where(is_occupied.any(axis=2), top, 255)[::-1, ::-1])]  # x forward is up, y left is left


_DRAWERS: dict[Picture, Callable[[zarr.Group, str], list[np.ndarray]]] = {
    "images": _images,
    "depth": _depth,
    "sky": _sky,
    "features": _features,
    "semantics": _truth,
    "voxels": _voxel_labels,
}


def _contact_sheet(
    tiles: list[np.ndarray], *, width: int = _TILE_WIDTH, most: int = 6
) -> UInt8[np.ndarray, "height width 3"]:
    """Put pictures of one aspect side by side, three to a row."""
    height = max(1, round(tiles[0].shape[0] * width / tiles[0].shape[1]))
    sized = [np.asarray(Image.fromarray(tile).resize((width, height))) for tile in tiles[:most]]
    columns = min(3, len(sized))
    blank = np.full((height, width, 3), 255, dtype=np.uint8)
    sized += [blank] * (-len(sized) % columns)
    rows = [np.concatenate(sized[i : i + columns], axis=1) for i in range(0, len(sized), columns)]
    return np.concatenate(rows, axis=0)
