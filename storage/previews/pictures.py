"""Turn depth, features, probabilities and labels into pictures that can be compared.

Everything that stands side by side shares its scale: one colour bar for all depths, one PCA basis
for the teacher's and the student's features, one palette for labels. What is undefined is drawn in
one flat grey, so that it is never mistaken for near or far.
"""

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from storage.taxonomy import CLASSES, OCC3D_FREE, SKY_ID

UNDEFINED_COLOUR = (216, 216, 220)
_SHOWN_QUANTILES = (0.02, 0.98)

_PALETTE = {
    0: (150, 150, 150),
    1: (255, 120, 50),
    2: (255, 192, 203),
    3: (230, 210, 0),
    4: (0, 120, 235),
    5: (0, 200, 200),
    6: (200, 150, 0),
    7: (230, 20, 20),
    8: (255, 240, 150),
    9: (135, 60, 0),
    10: (150, 50, 220),
    11: (225, 90, 220),
    12: (139, 137, 137),
    13: (100, 10, 100),
    14: (150, 220, 90),
    15: (205, 190, 225),
    16: (20, 155, 40),
    OCC3D_FREE: (245, 245, 245),
    SKY_ID: (190, 225, 255),
}


def depth_image(
    termination_depth: Float[np.ndarray, "height width"],
    *,
    minimum: float = 2.0,
    maximum: float = 80.0,
) -> UInt8[np.ndarray, "height width 3"]:
    """Colour depth on a logarithmic scale, near warm, far cold, undefined grey.

    Args:
        termination_depth: Distance along unit rays, metres, NaN where undefined.
        minimum: Distance of the warm end; nearer saturates, metres.
        maximum: Distance of the cold end; farther saturates, metres.

    Raises:
        ValueError: If the range is empty.
    """
    if not 0 < minimum < maximum:
        raise ValueError(f"want 0 < minimum < maximum, got {minimum} and {maximum}")
    is_defined = np.isfinite(termination_depth)
    safe = np.clip(np.where(is_defined, termination_depth, maximum), minimum, maximum).astype(np.float64)
    position = np.log(safe / minimum) / np.log(maximum / minimum)
    image = colour_map("turbo")[np.round(255 * (1.0 - position)).astype(np.int64)]
    image[~is_defined] = UNDEFINED_COLOUR
    return image


def depth_bar(
    *, minimum: float = 2.0, maximum: float = 80.0, width: int = 256, height: int = 12
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the colour bar of :func:`depth_image`, ``minimum`` at the left, logarithmic."""
    distances = minimum * (maximum / minimum) ** np.linspace(0.0, 1.0, width)
    return depth_image(np.tile(distances, (height, 1)), minimum=minimum, maximum=maximum)


def unit_bar(*, name: str = "viridis", width: int = 256, height: int = 12) -> UInt8[np.ndarray, "height width 3"]:
    """Return the colour bar of :func:`unit_image`, 0 at the left."""
    return unit_image(np.tile(np.linspace(0.0, 1.0, width), (height, 1)), name=name)


def unit_image(
    values: Float[np.ndarray, "height width"], *, name: str = "viridis"
) -> UInt8[np.ndarray, "height width 3"]:
    """Colour values in [0, 1] (clipped), undefined grey."""
    is_defined = np.isfinite(values)
    index = np.round(255 * np.clip(np.where(is_defined, values, 0.0), 0.0, 1.0)).astype(np.int64)
    image = colour_map(name)[index]
    image[~is_defined] = UNDEFINED_COLOUR
    return image


def heat_overlay(
    image: UInt8[np.ndarray, "height width 3"], probability: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay a probability in [0, 1] over a greyed image, with its own value as the opacity."""
    grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    base = np.repeat(grey[..., None], 3, axis=2) * 0.6 + 90.0
    heat = unit_image(probability, name="inferno").astype(np.float64)
    weight = np.clip(np.nan_to_num(probability), 0.0, 1.0)[..., None]
    weight = 0.25 + 0.75 * weight
    return np.clip(base * (1 - weight) + heat * weight, 0, 255).astype(np.uint8)


def label_image(labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colour semantic class ids; a finer class takes the colour of its Occ3D class."""
    return _palette()[labels]


def label_colour(label: int) -> tuple[int, int, int]:
    """Return the colour that :func:`label_image` gives a class id."""
    red, green, blue = _palette()[label].tolist()
    return red, green, blue


def resize_smoothly(
    image: UInt8[np.ndarray, "height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Resample a photograph with antialiasing."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureColours:
    """A projection of features onto three colours, shared by everything that is compared.

    Attributes:
        mean: Subtracted before projecting.
        directions: Principal directions, as columns.
        low: Projected value drawn as 0, per colour.
        high: Projected value drawn as 255.
    """

    mean: Float[np.ndarray, " dimension"]
    directions: Float[np.ndarray, "dimension 3"]
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]

    @classmethod
    def fit(cls, features: Float[np.ndarray, "n dimension"]) -> "FeatureColours":
        """Find the three principal directions of a reference set and their inlier range.

        Features of fewer than three dimensions repeat their last direction, so those of one are drawn in grey.

        The range leaves out two per cent at each end, so that outliers do not wash the picture out. Signs are
        fixed by the largest entry, so the same data always give the same colours.

        Raises:
            ValueError: If there are fewer than two features.
        """
        if features.shape[0] < 2:
            raise ValueError(f"want at least 2 features, got {features.shape[0]}")
        data = features.astype(np.float64)
        mean = data.mean(axis=0)
        covariance = np.atleast_2d(np.cov(data - mean, rowvar=False))
        by_variance = np.linalg.eigh(covariance)[1][:, ::-1]
        directions = by_variance[:, np.minimum(np.arange(3), by_variance.shape[1] - 1)]
        signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(3)])
        directions = directions * signs
        projected = (data - mean) @ directions
        low, high = np.quantile(projected, _SHOWN_QUANTILES, axis=0)
        return cls(mean=mean, directions=directions, low=low, high=np.maximum(high, low + 1e-9))

    def image(self, features: Float[np.ndarray, "height width dimension"]) -> UInt8[np.ndarray, "height width 3"]:
        """Colour a feature map; positions with an undefined feature are grey."""
        is_defined = np.isfinite(features).all(axis=-1)
        projected = (np.nan_to_num(features.astype(np.float64)) - self.mean) @ self.directions
        unit = np.clip((projected - self.low) / (self.high - self.low), 0.0, 1.0)
        image = np.round(255 * unit).astype(np.uint8)
        image[~is_defined] = UNDEFINED_COLOUR
        return image


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Clamp an RGB image in [0, 1] and round it to 8 bits."""
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def from_uint8(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return 8-bit values as float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255)


def encode_image(image: UInt8[np.ndarray, "height width 3"], *, quality: int | None = 88) -> bytes:
    """Encode as JPEG of the given quality, or as PNG when ``quality`` is None."""
    buffer = io.BytesIO()
    if quality is None:
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    else:
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a ``data:`` address that a page can embed."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def colour_map(name: str) -> UInt8[np.ndarray, "256 3"]:
    """Return a matplotlib colour map as a table; raise ValueError for an unknown name."""
    from matplotlib import colormaps  # takes a second to import: only pictures pay for it

    if name not in colormaps:
        raise ValueError(f"unknown colour map {name!r}")
    table = np.round(255 * np.asarray(colormaps[name](np.arange(256)))[:, :3]).astype(np.uint8)
    table.setflags(write=False)
    return table


@cache
def _palette() -> UInt8[np.ndarray, "256 3"]:
    table = np.full((256, 3), UNDEFINED_COLOUR, dtype=np.uint8)
    for label, colour in _PALETTE.items():
        table[label] = colour
    for entry in CLASSES:
        table[entry.class_id] = _PALETTE[entry.occ3d_index]
    table.setflags(write=False)
    return table
