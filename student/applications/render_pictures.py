"""Pictures of rendered views: one tile for each thing shown, and a sheet of them for each step of a path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import (
    FeatureColours,
    depth_bar,
    depth_image,
    heat_overlay,
    resize_smoothly,
    to_uint8,
    unit_bar,
)

Product = Literal["rgb", "depth", "features", "words"]

Picture = UInt8[np.ndarray, "_ _ 3"]

_INK, _PAPER = (235, 235, 235), (24, 26, 30)
_LETTERS, _CAPTION, _GAP = 16, 25, 6
_BAR_WIDTH, _BAR_TOP = 70, 8
_MOST_PICTURES = 4
"""Pictures beside each other; more are wrapped, because a film of six is a stripe on a screen and a line on a phone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownView:
    """What a student or a field shows from one pose.

    Attributes:
        rgb: Colours around [0, 1], at a size of their own; None for a student without a decoder.
        termination_depth: Distance along unit rays, metres; NaN where a ray ends nowhere.
        features: Reduced features of the source that is shown; None if none are.
        heat: Probability of each text; NaN where the view has no ray.
    """

    rgb: Float32[np.ndarray, "_ _ 3"] | None
    termination_depth: Float32[np.ndarray, "height width"]
    features: Float32[np.ndarray, "height width _"] | None
    heat: Mapping[str, Float[np.ndarray, "height width"]]


def tiles_of(view: ShownView, products: Sequence[Product], colours: FeatureColours | None) -> dict[str, Picture]:
    """Return the picture of each product by the title of its column; what the view lacks is left out."""
    tiles: dict[str, Picture] = {}
    if "rgb" in products and view.rgb is not None:
        tiles["rgb"] = to_uint8(view.rgb)
    if "depth" in products:
        tiles["depth"] = depth_image(view.termination_depth)
    if "features" in products and view.features is not None and colours is not None:
        tiles["features"] = colours.image(view.features)
    if "words" in products:
        size = view.termination_depth.shape
        below = np.full((*size, 3), 0.5, np.float32) if view.rgb is None else view.rgb
        below = resize_nearest(to_uint8(below), *size)
        tiles |= {word_title(text): heat_overlay(below, heat) for text, heat in view.heat.items()}
    return tiles


def word_title(text: str) -> str:
    """Return the title of the column of a text."""
    return f"words: {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one source shows of one camera.

    Attributes:
        camera: Name of the camera.
        source: Who shows it, "student" or "teacher".
        photo: The recorded image to compare with; None for a blank.
        tiles: Pictures by their title.
    """

    camera: str
    source: str
    photo: Picture | None
    tiles: Mapping[str, Picture]


def sheet(title: str, photo_title: str, rows: Sequence[Row], *, tile_width: int) -> Picture:
    """Return all rows below each other, each picture with its title and the scale of its colours above it.

    A row has the pictures of the first, in the same places; one that it lacks is a blank. A row of more than a few is
    wrapped.

    Raises:
        ValueError: If there is no row, or the first has no tile.
    """
    if not rows or not rows[0].tiles:
        raise ValueError("a sheet needs at least one row with at least one picture")
    columns = list(rows[0].tiles)
    num_lines = -(-(1 + len(columns)) // _MOST_PICTURES)
    per_line = -(-(1 + len(columns)) // num_lines)
    first = next(iter(rows[0].tiles.values()))
    heights = [round(_first(row, first).shape[0] * tile_width / _first(row, first).shape[1]) for row in rows]
    total = _CAPTION + sum(num_lines * (_CAPTION + height) for height in heights) + _GAP
    canvas = Image.new("RGB", ((tile_width + _GAP) * per_line + _GAP, total), _PAPER)
    pen = _Pen(canvas)
    pen.write(title, _GAP, 0, canvas.width - _GAP)
    top = _CAPTION
    for row, height in zip(rows, heights, strict=True):
        shown = [(f"{photo_title}   {row.camera}", row.photo)]
        shown += [(f"{row.source}   {column}", row.tiles.get(column)) for column in columns]
        for place, (caption, picture) in enumerate(shown):
            if picture is None:
                continue
            left = _GAP + place % per_line * (tile_width + _GAP)
            line = top + place // per_line * (_CAPTION + height)
            right = left + tile_width
            if place > 0:
                right = pen.draw_scale(columns[place - 1], line, right)
            pen.write(caption, left, line, right)
            canvas.paste(_sized(picture, height, tile_width), (left, line + _CAPTION))
        top += num_lines * (_CAPTION + height)
    return np.asarray(canvas)


class _Pen:
    """Writes on a canvas, never over what is right of a text."""

    def __init__(self, canvas: Image.Image) -> None:
        self._canvas, self._draw = canvas, ImageDraw.Draw(canvas)
        self._font = ImageFont.load_default(size=_LETTERS)

    def write(self, text: str, left: int, top: int, right: int) -> None:
        """Write a text, cut where it would not fit; letters that the font lacks are given by their numbers."""
        text = text.encode("latin-1", "backslashreplace").decode("latin-1")
        if self._draw.textlength(text, self._font) > right - left:
            while text and self._draw.textlength(f"{text}...", self._font) > right - left:
                text = text[:-1]
            text += "..."
        self._draw.text((left, top + 3), text, _INK, self._font)

    def draw_scale(self, column: str, top: int, right: int) -> int:
        """Draw the scale of a picture's colours flush right, if it has one, and return where it begins."""
        if column in ("rgb", "features"):
            return right
        bar, low, high = unit_bar(name="inferno", width=_BAR_WIDTH), "0", "1"
        if column == "depth":
            bar, low, high = depth_bar(width=_BAR_WIDTH), "2", "80 m"
        for text in (high, None, low):
            right -= _BAR_WIDTH if text is None else round(self._draw.textlength(text, self._font))
            if text is None:
                self._canvas.paste(Image.fromarray(bar), (right, top + _BAR_TOP))
            else:
                self._draw.text((right, top + 3), text, _INK, self._font)
            right -= _GAP
        return right


def _first(row: Row, first: Picture) -> Picture:
    return next(iter(row.tiles.values()), first)


def _sized(picture: Picture, height: int, width: int) -> Image.Image:
    """Return a picture at another size: shrunk smoothly, enlarged as it is, so that no detail is made up."""
    if picture.shape[0] > height:
        return Image.fromarray(resize_smoothly(picture, height, width))
    return Image.fromarray(resize_nearest(picture, height, width))
