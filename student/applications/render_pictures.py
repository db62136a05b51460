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
_CAPTION, _GAP = 20, 4
_BAR_WIDTH, _MARGIN = 70, 8


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
    """One row of a sheet.

    Attributes:
        caption: Written above it.
        photo: The recorded image to compare with; None for a blank.
        tiles: Pictures by the title of their column.
    """

    caption: str
    photo: Picture | None
    tiles: Mapping[str, Picture]


def sheet(title: str, photo_title: str, rows: Sequence[Row], *, tile_width: int) -> Picture:
    """Return all rows below each other, with titles, captions and the scales of colours.

    Columns are those of the first row; a row that lacks one shows a blank there.

    Raises:
        ValueError: If there is no row, or the first has no tile.
    """
    if not rows or not rows[0].tiles:
        raise ValueError("a sheet needs at least one row with at least one picture")
    columns = list(rows[0].tiles)
    width = (tile_width + _GAP) * (1 + len(columns)) + _GAP
    first = next(iter(rows[0].tiles.values()))
    heights = [
        round(next(iter(row.tiles.values()), first).shape[0] * tile_width / _width_of(row, first)) for row in rows
    ]
    total = 2 * _CAPTION + sum(height + _CAPTION for height in heights) + _GAP
    canvas = Image.new("RGB", (width, total), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    draw.text((_GAP, 3), title, _INK, font)
    for place, column in enumerate([photo_title, *columns]):
        left = _GAP + place * (tile_width + _GAP)
        draw.text((left, _CAPTION + 3), column, _INK, font)
        if column == "depth":
            _scale(canvas, depth_bar(width=_BAR_WIDTH), "2", "80 m", left + tile_width - _MARGIN, font)
        elif column not in ("rgb", "features", photo_title):
            _scale(canvas, unit_bar(name="inferno", width=_BAR_WIDTH), "0", "1", left + tile_width - _MARGIN, font)
    top = 2 * _CAPTION
    for row, height in zip(rows, heights, strict=True):
        draw.text((_GAP, top + 3), row.caption, _INK, font)
        top += _CAPTION
        for place, picture in enumerate([row.photo, *(row.tiles.get(column) for column in columns)]):
            if picture is not None:
                canvas.paste(_sized(picture, height, tile_width), (_GAP + place * (tile_width + _GAP), top))
        top += height
    return np.asarray(canvas)


def _width_of(row: Row, first: Picture) -> int:
    return next(iter(row.tiles.values()), first).shape[1]


def _sized(picture: Picture, height: int, width: int) -> Image.Image:
    """Return a picture at another size: shrunk smoothly, enlarged as it is, so that no detail is made up."""
    if picture.shape[0] > height:
        return Image.fromarray(resize_smoothly(picture, height, width))
    return Image.fromarray(resize_nearest(picture, height, width))


def _scale(
    canvas: Image.Image,
    bar: Picture,
    low: str,
    high: str,
    right: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw a bar of colours with its ends, flush right, in the line of the titles."""
    draw = ImageDraw.Draw(canvas)
    right -= round(draw.textlength(high, font))
    draw.text((right, _CAPTION + 3), high, _INK, font)
    right -= bar.shape[1] + 4
    canvas.paste(Image.fromarray(bar), (right, _CAPTION + 5))
    draw.text((right - 4 - round(draw.textlength(low, font)), _CAPTION + 3), low, _INK, font)
