"""One small picture of a stored version: what a person looks at before trusting a number."""

import io
from collections.abc import Callable

import numpy as np
import zarr
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from storage.kinds import KINDS, Picture
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import OCC3D_FREE

_TILE_WIDTH = 176
_CALIBRATION_WIDTH, _MOST_CAMERAS = 320, 12
_JPEG_QUALITY = 80
_NEAR_M, _FAR_M = 2.0, 100.0
_UNDEFINED_COLOUR = 30  # dark grey: black would look like the far end of the scale
_PREVIEW_FILES = ("preview.jpg", "preview.png")


def thumbnail_jpeg(home: Home, version: StoreVersion) -> bytes | None:
    """Return a JPEG of the middle frame of a version, or None where the kind has nothing to look at.

    Depth is logarithmic from 2 m (red) to 100 m (blue), grey where undefined; features show three principal components.

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
        return None if found is None else _encode(np.asarray(Image.open(found).convert("RGB")))
    group = home.open_arrays(version)
    if picture == "scene":
        return _encode(_contact_sheet(_recorded_images(SceneReader(group, version))))
    return _encode(_contact_sheet(_DRAWERS[picture](group, version.kind)))


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
        version: Of kind ``scene``.
    """
    reader = SceneReader(home.open_arrays(version), version)
    frame, tiles = reader.num_frames // 2, []
    points = reader.lidar_points(frame)[:, :3].astype(np.float64)
    for camera in range(reader.num_cameras):
        height, width = reader.image_size(camera)
        size = (round(height * _CALIBRATION_WIDTH / width), _CALIBRATION_WIDTH)
        tile = reader.resized_image(frame, camera, height=size[0], width=size[1]).copy()
        in_camera = apply_se3(invert_se3(reader.camera_to_reference_ego(frame, camera)), points)
        pixels, _ = project_camera(in_camera, reader.intrinsics(camera, size=size), reader.fisheye(camera))
        inside = ((pixels >= 0) & (pixels < size[::-1])).all(axis=-1)
        distance = np.linalg.norm(in_camera[inside], axis=-1)
        order = np.argsort(-distance)  # the nearest is drawn last
        column, row = pixels[inside][order].astype(np.int64).T
        tile[row, column] = colour_depth(distance[order][None])[0]
        tiles.append(tile)
    return _encode(_contact_sheet(tiles, width=_CALIBRATION_WIDTH, most=_MOST_CAMERAS))


def colour_depth(depth: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Return depth in metres as colours, red near and blue far on a logarithmic scale, grey where it is NaN."""
    defined = np.isfinite(depth)
    clipped = np.clip(np.where(defined, depth, _FAR_M).astype(np.float64), _NEAR_M, _FAR_M)
    nearness = 1.0 - np.log(clipped / _NEAR_M) / np.log(_FAR_M / _NEAR_M)
    # Three overlapping triangles: blue, green and red peak at 1/6, 1/2 and 5/6 of the scale.
    centres = np.array([5 / 6, 1 / 2, 1 / 6])
    colour = np.clip(1.5 - np.abs(nearness[..., None] - centres) * 3.0, 0.0, 1.0)
    return np.where(defined[..., None], (colour * 255).astype(np.uint8), np.uint8(_UNDEFINED_COLOUR))


def colour_labels(labels: Integer[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Return class indices as colours that are far apart for neighbouring indices; 255 (nothing, sky) is light blue."""
    golden = (labels.astype(np.float64) * 0.61803398875) % 1.0
    hue = golden[..., None] + np.array([0.0, 1 / 3, 2 / 3])
    colour = (np.abs((hue % 1.0) * 6.0 - 3.0) - 1.0).clip(0.0, 1.0) * 0.7 + 0.25
    return np.where((labels == 255)[..., None], np.array([170, 205, 235]), colour * 255).astype(np.uint8)


def colour_features(features: Float[np.ndarray, "cameras height width channels"]) -> list[np.ndarray]:
    """Return the three strongest principal components of feature maps as colours, one picture per camera."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = centred @ vectors[:, ::-1][:, :3]
    low, high = np.quantile(components, [0.02, 0.98], axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    if scaled.shape[1] < 3:
        scaled = np.repeat(scaled[:, :1], 3, axis=1)
    return list((scaled * 255).astype(np.uint8).reshape(*features.shape[:-1], 3))


def _middle(group: zarr.Group, name: str) -> int:
    array = group[name]
    return array.shape[0] // 2 if isinstance(array, zarr.Array) else 0


def _images(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "image")
    pictures = read_target(group, kind, "image", frame)
    return list(pictures) if pictures.ndim == 4 else [view for camera in pictures[:2] for view in camera]


def _depth(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "termination_depth")
    return [colour_depth(depth) for depth in read_target(group, kind, "termination_depth", frame).astype(np.float32)]


def _sky(group: zarr.Group, kind: str) -> list[np.ndarray]:
    probability = read_target(group, kind, "sky_probability", _middle(group, "is_sky"))
    grey = (np.clip(probability.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return [np.repeat(picture[..., None], 3, axis=-1) for picture in grey]


def _features(group: zarr.Group, kind: str) -> list[np.ndarray]:
    features = read_target(group, kind, "features", _middle(group, "features"))
    return colour_features(features.astype(np.float32))


def _truth(group: zarr.Group, kind: str) -> list[np.ndarray]:
    frame = _middle(group, "semantics")
    semantics = read_target(group, kind, "semantics", frame)
    return [colour_labels(camera) for camera in semantics]


def _voxel_labels(group: zarr.Group, kind: str) -> list[np.ndarray]:
    """Look down on the grid: the label of the highest voxel that is not free."""
    labels = read_target(group, kind, "voxel_label", _middle(group, "voxel_label"))
    height = labels.shape[2] - 1 - np.argmax((labels != OCC3D_FREE)[:, :, ::-1], axis=2)
    top = np.take_along_axis(labels, height[..., None], axis=2)[..., 0]
    return [colour_labels(np.where(top == OCC3D_FREE, 255, top)[::-1, ::-1])]  # x forward is up, y left is left


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


def _encode(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
