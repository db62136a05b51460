"""Textures of facades: storeys of windows with frames, blinds and sills, doors and shop fronts.

A facade tile shows 4 bays by 4 storeys, so that neighbouring windows differ.
"""

import numpy as np

from storage.procedural.appearance.painting import (
    Area,
    Canvas,
    Colour,
    Field,
    cell_values,
    fill,
    modulate,
    noise,
    paint,
    rectangle,
    unit_grid,
)
from storage.procedural.appearance.texture_surfaces import plaster

_BAYS = 4
_GLASS: Colour = (0.17, 0.21, 0.25)


def _window(canvas: Canvas, u: Field, v: Field, area: Area, seed: int, *, gloss: float = 0.85) -> None:
    """Paint glass in ``area`` with a different blind, curtain or darkness behind each bay."""
    draw = cell_values(seed, u, v, _BAYS, _BAYS)
    height = (v * _BAYS) % 1.0
    paint(canvas, area, _GLASS, gloss=gloss)
    modulate_area = area & (noise(seed + 1, 1.5) > 0.4)
    canvas[modulate_area, :3] *= 1.5
    # Full gloss marks what shines at dusk: here rooms behind pale curtains.
    paint(canvas, area & (draw > 0.55) & (draw < 0.72), (0.90, 0.80, 0.60), gloss=1.0)
    paint(canvas, area & (draw < 0.25), (0.72, 0.69, 0.62), gloss=0.45, opacity=0.75)
    lowered = area & (draw >= 0.25) & (draw < 0.5) & (height > 0.75 - 0.9 * (draw - 0.25))
    paint(canvas, lowered, (0.80, 0.79, 0.76), gloss=0.4, opacity=0.85)
    curtain = area & (draw > 0.85) & (np.abs((u * _BAYS) % 1.0 - 0.5) > 0.12)
    paint(canvas, curtain, (0.60, 0.42, 0.36), gloss=0.4, opacity=0.8)


def _punched(wall: Canvas, seed: int, *, frame: Colour, sill: Colour, shutters: bool) -> Canvas:
    u, v = unit_grid()
    x, y = (u * _BAYS) % 1.0, (v * _BAYS) % 1.0
    canvas = wall
    if shutters:
        leaf = rectangle(x, y, 0.12, 0.88, 0.30, 0.80)
        paint(canvas, leaf, (0.30, 0.40, 0.36))
        paint(canvas, leaf & ((y * 24) % 1.0 < 0.3), (0.20, 0.28, 0.25))
    paint(canvas, rectangle(x, y, 0.27, 0.73, 0.27, 0.83), frame)
    _window(canvas, u, v, rectangle(x, y, 0.30, 0.70, 0.31, 0.80), seed)
    paint(canvas, rectangle(x, y, 0.485, 0.515, 0.30, 0.80), frame, gloss=0.1)
    paint(canvas, rectangle(x, y, 0.30, 0.70, 0.62, 0.64), frame, gloss=0.1)
    paint(canvas, rectangle(x, y, 0.24, 0.76, 0.24, 0.275), sill, gloss=0.05)
    canvas[rectangle(x, y, 0.26, 0.74, 0.20, 0.24), :3] *= 0.6
    canvas[rectangle(x, y, 0.30, 0.70, 0.76, 0.80), :3] *= 0.5
    paint(canvas, y < 0.03, sill, opacity=0.6)
    return canvas


def brick_facade() -> Canvas:
    """Paint brick with white sash windows. 12 m."""
    u, v = unit_grid()
    wall = fill((0.60, 0.35, 0.28))
    modulate(wall, cell_values(301, u, v, 48, 128, bond=0.5) - 0.5, 0.45)
    wall[(v * 128) % 1.0 < 0.22, :3] *= 1.25
    modulate(wall, noise(302, 1.3), 0.08)
    return _punched(wall, 303, frame=(0.9, 0.9, 0.88), sill=(0.75, 0.73, 0.68), shutters=False)


def plaster_facade() -> Canvas:
    """Paint pale plaster with dark-framed windows: tint it. 12 m."""
    return _punched(plaster(), 311, frame=(0.25, 0.22, 0.20), sill=(0.7, 0.69, 0.66), shutters=False)


def shutter_facade() -> Canvas:
    """Paint pale plaster with shuttered windows: tint it. 12 m."""
    return _punched(plaster(), 321, frame=(0.9, 0.9, 0.9), sill=(0.6, 0.56, 0.5), shutters=True)


def office_facade() -> Canvas:
    """Paint concrete with ribbon windows. 14 m."""
    u, v = unit_grid()
    x, y = (u * _BAYS) % 1.0, (v * _BAYS) % 1.0
    canvas = fill((0.72, 0.71, 0.68))
    modulate(canvas, noise(331, 0.8), 0.06)
    modulate(canvas, noise(332, 1.3, stretch=(1.0, 0.2)), 0.08)
    _window(canvas, u, v, (y > 0.34) & (y < 0.86), 333)
    mullion = (np.abs((x * 2 + 0.5) % 1.0 - 0.5) < 0.04) & (y > 0.34) & (y < 0.86)
    paint(canvas, mullion, (0.35, 0.36, 0.38), gloss=0.2)
    canvas[(y > 0.30) & (y < 0.34), :3] *= 0.7
    return canvas


def glass_facade() -> Canvas:
    """Paint a curtain wall of tinted glass. 12 m."""
    u, v = unit_grid()
    x, y = (u * _BAYS * 2) % 1.0, (v * _BAYS) % 1.0
    canvas = fill((0.22, 0.33, 0.38), gloss=0.95)
    modulate(canvas, cell_values(341, u, v, _BAYS * 2, _BAYS) - 0.5, 0.7)
    modulate(canvas, noise(342, 1.6), 0.2)
    paint(canvas, y < 0.22, (0.30, 0.36, 0.40), gloss=0.6)
    paint(canvas, (x < 0.05) | (y < 0.03), (0.70, 0.72, 0.74), gloss=0.3)
    return canvas


def terminal_facade() -> Canvas:
    """Paint an airport terminal's tall glazing between white columns. 16 m."""
    u, v = unit_grid()
    x, y = (u * _BAYS) % 1.0, (v * _BAYS) % 1.0
    canvas = fill((0.25, 0.34, 0.38), gloss=0.9)
    modulate(canvas, cell_values(351, u, v, _BAYS, _BAYS * 2) - 0.5, 0.8)
    modulate(canvas, noise(352, 1.5), 0.25)
    paint(canvas, (y * 2) % 1.0 < 0.05, (0.62, 0.65, 0.67), gloss=0.2)
    paint(canvas, (x * 2) % 1.0 < 0.04, (0.62, 0.65, 0.67), gloss=0.2)
    paint(canvas, (x < 0.10) | (v > 0.9), (0.86, 0.86, 0.85), gloss=0.1)
    return canvas


_SHOP_COLOURS: tuple[Colour, ...] = (
    (0.62, 0.16, 0.14),
    (0.13, 0.32, 0.24),
    (0.16, 0.24, 0.45),
    (0.72, 0.55, 0.18),
)


def shop_front() -> Canvas:
    """Paint four shops: glazing, doors, goods, fascias with lettering. 16 m by 4 m."""
    u, v = unit_grid()
    x = (u * _BAYS) % 1.0
    canvas = fill((0.55, 0.52, 0.48))
    modulate(canvas, noise(361, 0.7), 0.08)
    shop = np.floor(u * _BAYS).astype(np.int64)
    goods = cell_values(362, u, v, 64, 20)
    glazing = rectangle(x, v, 0.06, 0.68, 0.16, 0.70)
    door = rectangle(x, v, 0.74, 0.93, 0.03, 0.70)
    paint(canvas, glazing | door, (0.15, 0.17, 0.19), gloss=0.7)
    shelf = glazing & (v < 0.46) & (((v * 20) % 1.0) > 0.15)
    tones = np.stack([goods, 0.55 * goods + 0.35 * cell_values(363, u, v, 64, 20), 0.75 - 0.6 * goods], -1)
    canvas[shelf, :3] = 0.05 + 0.32 * tones[shelf] ** 1.5
    canvas[shelf & (cell_values(365, u, v, 64, 20) > 0.6), :3] = 0.03
    paint(canvas, glazing & (v > 0.60) & (v < 0.66), (0.98, 0.92, 0.75), gloss=1.0)
    fascia = rectangle(x, v, 0.03, 0.97, 0.76, 0.93)
    for index, colour in enumerate(_SHOP_COLOURS):
        paint(canvas, fascia & (shop == index), colour, gloss=0.1)
        paint(canvas, rectangle(x, v, 0.03, 0.97, 0.03, 0.16) & (shop == index), colour)
    letters = rectangle(x, v, 0.2, 0.8, 0.81, 0.88) & (cell_values(364, u, v, 96, 40) > 0.45)
    paint(canvas, letters, (0.95, 0.94, 0.88))
    frame = rectangle(x, v, 0.04, 0.70, 0.14, 0.72) & ~rectangle(x, v, 0.06, 0.68, 0.16, 0.70)
    paint(canvas, frame, (0.2, 0.2, 0.2), gloss=0.2)
    paint(canvas, rectangle(x, v, 0.74, 0.93, 0.30, 0.34), (0.7, 0.7, 0.7), gloss=0.4)
    return canvas


def house_door() -> Canvas:
    """Paint a ground floor with doors between windows. 12 m by 3 m."""
    u, v = unit_grid()
    x = (u * _BAYS) % 1.0
    bay = np.floor(u * _BAYS).astype(np.int64)
    canvas = plaster()
    paint(canvas, v < 0.14, (0.48, 0.46, 0.43))
    is_door = bay % 2 == 0
    paint(canvas, rectangle(x, v, 0.30, 0.70, 0.0, 0.80) & is_door, (0.85, 0.84, 0.80))
    leaf = rectangle(x, v, 0.34, 0.66, 0.02, 0.76) & is_door
    paint(canvas, leaf, (0.34, 0.20, 0.12), gloss=0.2)
    panels = leaf & (((x - 0.34) * 6.25) % 1.0 > 0.2) & ((v * 4) % 1.0 > 0.18)
    paint(canvas, panels, (0.44, 0.27, 0.17), gloss=0.2)
    paint(canvas, rectangle(x, v, 0.60, 0.63, 0.36, 0.42), (0.85, 0.75, 0.4), gloss=0.5)
    frame = rectangle(x, v, 0.22, 0.78, 0.30, 0.80) & ~is_door
    paint(canvas, frame, (0.85, 0.84, 0.80))
    glass = rectangle(x, v, 0.26, 0.74, 0.34, 0.77) & ~is_door
    _window(canvas, u, v, glass, 371)
    return canvas
