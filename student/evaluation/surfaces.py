"""Surfaces on which depth is scored apart: what they are made of, how they look, how much light they return.

The procedural world knows what its surfaces are made of. A recording does not, but its images show where nothing can be
told apart, and its LiDAR tells how dark a surface is.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.ndimage import uniform_filter

from storage.geometry.resize import resize_nearest
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.taxonomy import SurfaceKind

Surfaces = Mapping[tuple[str, str], Bool[np.ndarray, "views height width"]]
"""Pixels of each kind, by criterion and kind. A criterion always has all of its kinds."""

MATERIAL, TEXTURE, REFLECTANCE = "surface", "texture", "reflectance"
_MATERIALS = {
    "glass": SurfaceKind.GLASS,
    "fuselage": SurfaceKind.FUSELAGE,
    "wet ground": SurfaceKind.WET_GROUND,
    "other surface": SurfaceKind.OTHER,
}
_TEXTURES = {"low texture": (0.0, 0.01), "some texture": (0.01, 0.04), "rich texture": (0.04, np.inf)}
"""Change of brightness from one pixel to the next, of a full range of 1."""

_WINDOW_PX = 5
_DARK, _BRIGHT = 0.2, 0.8
CRITERIA = {
    MATERIAL: "What the true surface is made of.",
    TEXTURE: "Mean change of brightness from pixel to pixel around it: below 0.01, below 0.04, and more, of a full "
    "range of 1.",
    REFLECTANCE: "Intensity of the LiDAR return there, among the returns of its frame: the lowest fifth, the middle, "
    "the highest fifth.",
}


def by_material(surface: UInt8[np.ndarray, "views height width"]) -> Surfaces:
    """Return the pixels of each true kind of surface."""
    return {(MATERIAL, name): surface == kind for name, kind in _MATERIALS.items()}


def by_texture(images: Float32[np.ndarray, "views rows columns 3"], size: tuple[int, int]) -> Surfaces:
    """Return the pixels of a grid around which images show little, some or much structure.

    Args:
        images: Images in [0, 1], of any size.
        size: Height and width of the grid.
    """
    brightness = images.mean(axis=-1)
    down, right = np.gradient(brightness, axis=(1, 2))
    change = uniform_filter(np.hypot(down, right), size=_WINDOW_PX, mode="nearest", axes=(1, 2))
    on_grid = resize_nearest(change, *size, axis=1)
    return {(TEXTURE, name): (on_grid >= low) & (on_grid < high) for name, (low, high) in _TEXTURES.items()}


def by_reflectance(intensity: Float[np.ndarray, "views height width"]) -> Surfaces:
    """Return the pixels of dark, middling and bright returns among those of a frame.

    The scale of intensity differs between sensors, so only the order of the returns counts. Returns of one and the same
    intensity tell nothing: no pixel is of any kind then.

    Args:
        intensity: Intensity of the return in each pixel; NaN without one.
    """
    known = intensity[np.isfinite(intensity)]
    dark, bright = np.quantile(known, (_DARK, _BRIGHT)) if len(known) else (np.nan, np.nan)
    is_dark, is_bright = intensity <= dark, intensity >= bright
    tells = dark < bright
    return {
        (REFLECTANCE, "dark"): is_dark & tells,
        (REFLECTANCE, "middling"): np.isfinite(intensity) & ~is_dark & ~is_bright & tells,
        (REFLECTANCE, "bright"): is_bright & tells,
    }


def intensity_in_images(
    reader: SceneReader, frame: int, returns: Float[np.ndarray, "returns 4"], *, size: tuple[int, int]
) -> Float32[np.ndarray, "cameras height width"]:
    """Return the intensity of the nearest LiDAR return in each pixel; NaN without one.

    Args:
        reader: The scene.
        frame: Frame index.
        returns: The frame's sweep: positions in the ego frame, metres, and intensity.
        size: Height and width of the grid.
    """
    found = np.full((reader.num_cameras, *size), np.nan, np.float32)
    for camera in range(reader.num_cameras):
        shown = returns_in_image(reader, frame, camera, returns, size=size).farthest_first()
        found[camera, shown.row, shown.column] = returns[shown.index, 3]
    return found
