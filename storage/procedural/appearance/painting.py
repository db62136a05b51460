"""Tileable noise and masks from which textures are painted.

A canvas is float32 ``[size, size, 4]``: linear RGB albedo and gloss (0 matt, 0.95 mirror-like; 1 marks texels that give
light of their own at dusk). Row 0 is v = 0, the bottom or near edge of a tile; column 0 is u = 0. Everything wraps
around at the edges.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

SIZE = 512
Canvas = Float[np.ndarray, "size size 4"]
Field = Float[np.ndarray, "size size"]
Area = Bool[np.ndarray, "size size"]
Colour = tuple[float | int, float | int, float | int]


def unit_grid() -> tuple[Field, Field]:
    """Return u (along columns) and v (along rows) of every texel centre, in (0, 1)."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    v, u = np.meshgrid(axis, axis, indexing="ij")
    return u, v


def linear(colour: Colour) -> Float[np.ndarray, " 3"]:
    """Return an sRGB colour in [0, 1] as linear albedo."""
    return (np.asarray(colour, np.float32) ** 2.2).astype(np.float32)


def noise(seed: int, smoothness: float, *, stretch: tuple[float, float] = (1.0, 1.0)) -> Field:
    """Return tileable noise of zero mean and unit deviation.

    Args:
        seed: Seed of this field.
        smoothness: Exponent of the amplitude spectrum: 0 is white, 1 is cloudy, 2 is very smooth.
        stretch: Bandwidth along (u, v); 0.2 along v draws streaks that run along v.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.asarray(fft.rfft2(rng.standard_normal((SIZE, SIZE), dtype=np.float32)))
    fv = (fft.fftfreq(SIZE)[:, None] * SIZE / stretch[1]).astype(np.float32)
    fu = (fft.rfftfreq(SIZE)[None, :] * SIZE / stretch[0]).astype(np.float32)
    radius_2 = np.maximum(fu * fu + fv * fv, np.float32(1.0))
    field = np.asarray(fft.irfft2(spectrum * radius_2 ** np.float32(-0.5 * smoothness), s=(SIZE, SIZE)))
    field -= field.mean()
    return field / field.std()


def fill(colour: Colour, *, gloss: float = 0.0) -> Canvas:
    """Return a canvas of one sRGB colour."""
    canvas = np.empty((SIZE, SIZE, 4), np.float32)
    canvas[..., :3] = linear(colour)
    canvas[..., 3] = gloss
    return canvas


def modulate(canvas: Canvas, field: Field, amount: float) -> None:
    """Brighten and darken ``canvas`` in place by ``amount`` per unit of ``field``."""
    canvas[..., :3] *= np.clip(1.0 + amount * field, 0.15, 2.5)[..., None]


def paint(canvas: Canvas, area: Area, colour: Colour, *, gloss: float | None = None, opacity: float = 1.0) -> None:
    """Paint the texels in ``area`` with an sRGB colour, in place."""
    canvas[area, :3] += opacity * (linear(colour) - canvas[area, :3])
    if gloss is not None:
        canvas[area, 3] = gloss


def blend(canvas: Canvas, other: Canvas, weight: Field) -> None:
    """Mix ``other`` into ``canvas`` in place; ``weight`` is clipped to [0, 1]."""
    canvas += np.clip(weight, 0.0, 1.0)[..., None] * (other - canvas)


def rectangle(u: Field, v: Field, u0: float, u1: float, v0: float, v1: float) -> Area:
    """Return the texels with u in [u0, u1) and v in [v0, v1)."""
    return (u >= u0) & (u < u1) & (v >= v0) & (v < v1)


def joints(u: Field, v: Field, columns: int, rows: int, width: float, *, bond: float = 0.0) -> Area:
    """Return the joints of a grid of ``columns`` by ``rows`` tiles, ``width`` in u-v units.

    ``bond`` shifts every other row by that share of a tile, as bricks do.
    """
    shift = (np.floor(v * rows) % 2) * bond
    across = np.abs(((u * columns + shift) + 0.5) % 1.0 - 0.5) < width * columns / 2
    along = np.abs((v * rows + 0.5) % 1.0 - 0.5) < width * rows / 2
    return across | along


def cell_values(seed: int, u: Field, v: Field, columns: int, rows: int, *, bond: float = 0.0) -> Field:
    """Return one uniform random value in [0, 1) per tile of the grid of ``joints``."""
    values = np.random.default_rng(seed).random((rows, columns), dtype=np.float32)
    row = np.floor(v * rows).astype(np.int64) % rows
    column = np.floor(u * columns + (row % 2) * bond).astype(np.int64) % columns
    return values[row, column]
