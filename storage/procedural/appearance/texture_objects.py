"""Textures of vehicles, signs, clothing and equipment.

"Unit" textures are drawn once over u, v in [0, 1] of the part that they cover; the others are tiled by metres.
"""

import numpy as np

from storage.procedural.appearance.painting import (
    Canvas,
    Colour,
    cell_values,
    fill,
    joints,
    modulate,
    noise,
    paint,
    rectangle,
    unit_grid,
)


def wheel() -> Canvas:
    """Paint a wheel seen from the side: tyre, rim, five spokes, hub. Unit."""
    u, v = unit_grid()
    x, y = u - 0.5, v - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    canvas = fill((0.12, 0.12, 0.125), gloss=0.03)
    paint(canvas, radius < 0.36, (0.22, 0.22, 0.23), gloss=0.3)
    spoke = (np.cos(angle * 5) > 0.2) & (radius < 0.34)
    paint(canvas, spoke | ((radius < 0.36) & (radius > 0.31)), (0.75, 0.76, 0.78), gloss=0.5)
    paint(canvas, radius < 0.08, (0.5, 0.5, 0.52), gloss=0.4)
    modulate(canvas, noise(401, 0.6), 0.06)
    return canvas


def cone() -> Canvas:
    """Paint an orange cone with two reflective collars. Unit: v is height."""
    _, v = unit_grid()
    canvas = fill((0.93, 0.36, 0.10), gloss=0.1)
    modulate(canvas, noise(411, 0.8), 0.08)
    paint(canvas, ((v > 0.35) & (v < 0.52)) | ((v > 0.66) & (v < 0.8)), (0.95, 0.95, 0.93))
    paint(canvas, noise(412, 1.1) > 2.2, (0.35, 0.2, 0.12), opacity=0.6)
    return canvas


def _diagonal(first: Colour, second: Colour, stripes: int, seed: int) -> Canvas:
    u, v = unit_grid()
    canvas = fill(first, gloss=0.1)
    paint(canvas, ((u + v) * stripes) % 1.0 < 0.5, second)
    modulate(canvas, noise(seed, 0.9), 0.07)
    return canvas


def barrier_stripes() -> Canvas:
    """Paint red and white diagonal stripes. 1 m."""
    return _diagonal((0.93, 0.93, 0.92), (0.80, 0.13, 0.11), 3, 421)


def hazard_stripes() -> Canvas:
    """Paint yellow and black diagonal stripes. 1 m."""
    return _diagonal((0.95, 0.77, 0.12), (0.10, 0.10, 0.10), 4, 431)


def plastic_barrier() -> Canvas:
    """Paint a water-filled barrier, red beside white. 2 m."""
    u, v = unit_grid()
    canvas = fill((0.82, 0.20, 0.14), gloss=0.12)
    paint(canvas, u > 0.5, (0.93, 0.93, 0.91))
    paint(canvas, joints(u, v, 4, 2, 0.02), (0.35, 0.2, 0.18), opacity=0.5)
    modulate(canvas, noise(441, 1.0), 0.08)
    return canvas


def sign_stop() -> Canvas:
    """Paint a red sign with a white bar and border. Unit."""
    u, v = unit_grid()
    radius = np.hypot(u - 0.5, v - 0.5)
    canvas = fill((0.78, 0.10, 0.11), gloss=0.15)
    paint(canvas, (radius > 0.44), (0.95, 0.95, 0.95))
    paint(canvas, rectangle(u, v, 0.18, 0.82, 0.42, 0.58), (0.95, 0.95, 0.95))
    modulate(canvas, noise(451, 1.2), 0.04)
    return canvas


def sign_limit() -> Canvas:
    """Paint a round speed limit. Unit."""
    u, v = unit_grid()
    radius = np.hypot(u - 0.5, v - 0.5)
    canvas = fill((0.95, 0.95, 0.95), gloss=0.15)
    paint(canvas, radius > 0.37, (0.80, 0.10, 0.12))
    five = rectangle(u, v, 0.30, 0.47, 0.34, 0.66) & ~rectangle(u, v, 0.35, 0.48, 0.52, 0.6)
    five &= ~rectangle(u, v, 0.29, 0.42, 0.40, 0.47)
    nought = rectangle(u, v, 0.53, 0.70, 0.34, 0.66) & ~rectangle(u, v, 0.58, 0.65, 0.40, 0.60)
    paint(canvas, five | nought, (0.08, 0.08, 0.08))
    modulate(canvas, noise(461, 1.2), 0.04)
    return canvas


def sign_warning() -> Canvas:
    """Paint a triangular warning with an exclamation mark. Unit."""
    u, v = unit_grid()
    edge = np.minimum(v - 0.06, 0.9 - v - 1.75 * np.abs(u - 0.5))
    canvas = fill((0.80, 0.11, 0.12), gloss=0.15)
    paint(canvas, edge > 0.10, (0.96, 0.95, 0.90))
    paint(canvas, rectangle(u, v, 0.47, 0.53, 0.34, 0.62), (0.05, 0.05, 0.05))
    paint(canvas, rectangle(u, v, 0.47, 0.53, 0.22, 0.29), (0.05, 0.05, 0.05))
    return canvas


def sign_direction() -> Canvas:
    """Paint a blue or green direction board with an arrow and lettering, pale blue: tint it. Unit."""
    u, v = unit_grid()
    canvas = fill((0.10, 0.28, 0.62), gloss=0.15)
    border = ~rectangle(u, v, 0.03, 0.97, 0.06, 0.94)
    paint(canvas, border, (0.95, 0.95, 0.95))
    text = cell_values(471, u, v, 40, 16) > 0.4
    rows = rectangle(u, v, 0.34, 0.92, 0.60, 0.78) | rectangle(u, v, 0.34, 0.80, 0.24, 0.42)
    paint(canvas, rows & text, (0.95, 0.95, 0.95))
    shaft = rectangle(u, v, 0.16, 0.21, 0.2, 0.65)
    head = (v > 0.6) & (v < 0.85) & (np.abs(u - 0.185) < (0.85 - v) * 0.45)
    paint(canvas, shaft | head, (0.95, 0.95, 0.95))
    return canvas


def stand_number() -> Canvas:
    """Paint a yellow board with a black stand number. Unit."""
    u, v = unit_grid()
    canvas = fill((0.96, 0.80, 0.12), gloss=0.15)
    paint(canvas, ~rectangle(u, v, 0.05, 0.95, 0.06, 0.94), (0.06, 0.06, 0.06))
    digit = rectangle(u, v, 0.20, 0.46, 0.2, 0.8) & ~rectangle(u, v, 0.28, 0.38, 0.56, 0.7)
    digit &= ~rectangle(u, v, 0.28, 0.38, 0.3, 0.46)
    seven = rectangle(u, v, 0.56, 0.82, 0.70, 0.8) | (
        (np.abs(u - 0.60 - (v - 0.2) * 0.28) < 0.05) & (v > 0.2) & (v < 0.75)
    )
    paint(canvas, digit | seven, (0.06, 0.06, 0.06))
    return canvas


def traffic_light() -> Canvas:
    """Paint a signal head with three lamps, green lit. Unit."""
    u, v = unit_grid()
    canvas = fill((0.08, 0.09, 0.08), gloss=0.1)
    lamps: tuple[tuple[float, Colour], ...] = (
        (0.82, (0.35, 0.06, 0.05)),
        (0.5, (0.40, 0.28, 0.05)),
        (0.18, (0.20, 0.98, 0.55)),
    )
    for height, colour in lamps:
        paint(canvas, np.hypot((u - 0.5) * 0.42, v - height) < 0.115, colour, gloss=0.3)
    return canvas


def fuselage() -> Canvas:
    """Paint an airliner's side: windows, doors, cheat line. Unit: u nose to tail, v around."""
    u, v = unit_grid()
    canvas = fill((0.94, 0.94, 0.94), gloss=0.35)
    modulate(canvas, noise(481, 1.4), 0.03)
    paint(canvas, joints(u, v, 24, 8, 0.002), (0.70, 0.71, 0.73), opacity=0.6)
    side = np.minimum(np.abs(v - 0.02), np.abs(v - 0.48))
    window = (side < 0.011) & (np.abs((u * 52) % 1.0 - 0.5) < 0.22) & (u > 0.14) & (u < 0.84)
    paint(canvas, window, (0.12, 0.14, 0.17), gloss=0.8)
    doors = (side < 0.045) & ((np.abs(u - 0.115) < 0.008) | (np.abs(u - 0.86) < 0.008))
    paint(canvas, doors, (0.78, 0.79, 0.80))
    paint(canvas, (v > 0.55) & (v < 0.95), (0.62, 0.64, 0.67))
    paint(canvas, (np.abs(v - 0.545) < 0.012) | (np.abs(v - 0.955) < 0.012), (0.10, 0.24, 0.50))
    return canvas


def livery() -> Canvas:
    """Paint an airline's tail: bands and a disc, pale: tint it. Unit."""
    u, v = unit_grid()
    canvas = fill((0.90, 0.90, 0.92), gloss=0.35)
    paint(canvas, ((u + 0.6 * v) * 3) % 1.0 < 0.35, (0.55, 0.56, 0.6))
    paint(canvas, np.hypot(u - 0.55, v - 0.62) < 0.16, (1.0, 1.0, 1.0))
    modulate(canvas, noise(491, 1.4), 0.05)
    return canvas


def bus_side() -> Canvas:
    """Paint a bus's window band over painted panels, pale: tint it. 3 m wide tile, full height."""
    u, v = unit_grid()
    canvas = fill((0.92, 0.92, 0.92), gloss=0.35)
    modulate(canvas, noise(501, 1.3), 0.04)
    glass = (v > 0.45) & (v < 0.86)
    paint(canvas, glass, (0.10, 0.12, 0.14), gloss=0.85)
    canvas[glass & (noise(502, 1.2) > 0.7), :3] *= 2.2
    paint(canvas, glass & ((u * 2) % 1.0 < 0.06), (0.05, 0.05, 0.05), gloss=0.3)
    paint(canvas, (v > 0.30) & (v < 0.36), (0.30, 0.32, 0.36))
    paint(canvas, v < 0.06, (0.15, 0.15, 0.16))
    return canvas


def truck_box() -> Canvas:
    """Paint a delivery van's box with a logo and lettering, white: tint it. 6 m by 3 m."""
    u, v = unit_grid()
    canvas = fill((0.92, 0.92, 0.91), gloss=0.2)
    modulate(canvas, noise(511, 1.3, stretch=(1.0, 0.25)), 0.06)
    paint(canvas, joints(u, v, 6, 1, 0.004), (0.55, 0.55, 0.56), opacity=0.7)
    paint(canvas, (v > 0.18) & (v < 0.30), (0.15, 0.34, 0.58))
    paint(canvas, np.hypot(u - 0.25, (v - 0.62) * 0.6) < 0.11, (0.85, 0.30, 0.14))
    text = rectangle(u, v, 0.42, 0.88, 0.52, 0.70) & (cell_values(512, u, v, 60, 22) > 0.38)
    paint(canvas, text, (0.14, 0.16, 0.22))
    return canvas


def hi_vis() -> Canvas:
    """Paint a high-visibility vest with silver bands. Unit: v is height."""
    _, v = unit_grid()
    canvas = fill((0.80, 0.93, 0.15))
    modulate(canvas, noise(521, 1.2), 0.12)
    paint(canvas, (np.abs(v - 0.3) < 0.05) | (np.abs(v - 0.6) < 0.05), (0.88, 0.88, 0.86))
    return canvas


def shirt() -> Canvas:
    """Paint a checked shirt, pale: tint it. 0.5 m."""
    u, v = unit_grid()
    canvas = fill((0.88, 0.88, 0.88))
    canvas[(u * 6) % 1.0 < 0.35, :3] *= 0.6
    canvas[(v * 6) % 1.0 < 0.35, :3] *= 0.7
    modulate(canvas, noise(531, 1.3), 0.14)
    return canvas


def luggage() -> Canvas:
    """Paint a stack of suitcases. 1.6 m: 4 by 4."""
    u, v = unit_grid()
    canvas = fill((0.5, 0.5, 0.5), gloss=0.08)
    for channel, seed in enumerate((541, 542, 543)):
        canvas[..., channel] = 0.03 + 0.40 * cell_values(seed, u, v, 4, 4, bond=0.5) ** 1.5
    paint(canvas, joints(u, v, 4, 4, 0.02, bond=0.5), (0.06, 0.06, 0.06))
    modulate(canvas, noise(544, 0.8), 0.12)
    return canvas


def container() -> Canvas:
    """Paint an aluminium air-cargo container with ribs and a net. 1.6 m."""
    u, v = unit_grid()
    canvas = fill((0.74, 0.76, 0.78), gloss=0.3)
    modulate(canvas, noise(551, 1.1), 0.1)
    paint(canvas, joints(u, v, 4, 3, 0.02), (0.50, 0.52, 0.55))
    tag = rectangle(u, v, 0.3, 0.7, 0.55, 0.72) & (cell_values(552, u, v, 40, 24) > 0.35)
    paint(canvas, tag, (0.10, 0.12, 0.30))
    return canvas


def billboard() -> Canvas:
    """Paint an advertisement of coloured shapes. Unit."""
    u, v = unit_grid()
    canvas = fill((0.92, 0.80, 0.42), gloss=0.15)
    paint(canvas, v < 0.35 + 0.1 * np.sin(u * 7), (0.16, 0.45, 0.52))
    paint(canvas, np.hypot(u - 0.72, (v - 0.66) * 0.6) < 0.12, (0.90, 0.33, 0.20))
    text = rectangle(u, v, 0.08, 0.52, 0.55, 0.80) & (cell_values(561, u, v, 36, 18) > 0.36)
    paint(canvas, text, (0.15, 0.12, 0.12))
    return canvas


def lamp_red() -> Canvas:
    """Paint a tail lamp. 0.3 m."""
    return _lamp((0.75, 0.06, 0.05), 571)


def lamp_white() -> Canvas:
    """Paint a headlamp. 0.3 m."""
    return _lamp((0.93, 0.93, 0.90), 581)


def _lamp(colour: Colour, seed: int) -> Canvas:
    u, v = unit_grid()
    canvas = fill(colour, gloss=1.0)
    modulate(canvas, noise(seed, 0.8), 0.15)
    paint(canvas, joints(u, v, 6, 6, 0.02), (0.4, 0.4, 0.4), opacity=0.5)
    return canvas


def number_plate() -> Canvas:
    """Paint a licence plate. Unit."""
    u, v = unit_grid()
    canvas = fill((0.93, 0.93, 0.90), gloss=0.15)
    text = rectangle(u, v, 0.1, 0.92, 0.25, 0.78) & (cell_values(591, u, v, 24, 8) > 0.4)
    paint(canvas, text, (0.07, 0.07, 0.10))
    paint(canvas, u < 0.07, (0.10, 0.2, 0.6))
    return canvas
