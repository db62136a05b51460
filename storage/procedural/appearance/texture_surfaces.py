"""Textures of grounds, walls, plants and plain materials."""

import numpy as np

from storage.procedural.appearance.painting import (
    Canvas,
    Colour,
    blend,
    cell_values,
    fill,
    joints,
    modulate,
    noise,
    paint,
    rectangle,
    unit_grid,
)


def asphalt() -> Canvas:
    """Paint worn asphalt: stones, tar-filled cracks, stains and a mended patch. 8 m."""
    u, v = unit_grid()
    canvas = fill((0.40, 0.40, 0.41), gloss=0.06)
    modulate(canvas, noise(1, 0.2), 0.16)
    modulate(canvas, noise(2, 1.2), 0.14)
    crack = np.abs(noise(3, 1.6)) < 0.018
    paint(canvas, crack & (noise(4, 1.4) > 0.2), (0.16, 0.16, 0.17), opacity=0.75)
    patch = rectangle(u, v, 0.58, 0.83, 0.2, 0.62)
    canvas[patch, :3] *= 0.72
    stain = noise(5, 1.5, stretch=(0.35, 1.0))
    canvas[..., :3] *= (1.0 - 0.25 * np.clip(stain - 1.1, 0.0, 1.0))[..., None]
    return canvas


def concrete() -> Canvas:
    """Paint cast concrete with pores and rain streaks. 5 m."""
    canvas = fill((0.64, 0.62, 0.59), gloss=0.04)
    modulate(canvas, noise(11, 0.9), 0.09)
    modulate(canvas, noise(12, 1.3, stretch=(1.0, 0.2)), 0.07)
    paint(canvas, noise(13, 0.3) > 2.6, (0.35, 0.34, 0.33), opacity=0.6)
    return canvas


def pavers() -> Canvas:
    """Paint a sidewalk of slabs in running bond. 4 m, 8 by 8 slabs."""
    u, v = unit_grid()
    canvas = fill((0.66, 0.63, 0.58), gloss=0.05)
    modulate(canvas, cell_values(21, u, v, 8, 8, bond=0.5) - 0.5, 0.28)
    modulate(canvas, noise(22, 0.5), 0.07)
    modulate(canvas, noise(23, 1.4), 0.09)
    paint(canvas, joints(u, v, 8, 8, 0.006, bond=0.5), (0.36, 0.34, 0.31))
    paint(canvas, noise(24, 1.0) > 2.5, (0.3, 0.29, 0.28), opacity=0.5)
    return canvas


def apron() -> Canvas:
    """Paint airfield concrete: slabs, sealed joints, oil and rubber. 15 m, 3 by 2 slabs."""
    u, v = unit_grid()
    canvas = fill((0.67, 0.66, 0.63), gloss=0.05)
    modulate(canvas, cell_values(31, u, v, 3, 2) - 0.5, 0.14)
    modulate(canvas, noise(32, 0.4), 0.07)
    modulate(canvas, noise(33, 1.4), 0.10)
    paint(canvas, joints(u, v, 3, 2, 0.0045), (0.24, 0.24, 0.24), opacity=0.85)
    paint(canvas, noise(34, 1.5) > 1.75, (0.25, 0.24, 0.23), opacity=0.45)
    paint(canvas, np.abs(noise(35, 1.7)) < 0.008, (0.3, 0.3, 0.3), opacity=0.6)
    return canvas


def grass() -> Canvas:
    """Paint a lawn with blades, dry spots and clover. 6 m."""
    canvas = fill((0.36, 0.45, 0.20))
    modulate(canvas, noise(41, 0.25, stretch=(1.0, 0.55)), 0.24)
    modulate(canvas, noise(42, 1.2), 0.16)
    blend(canvas, fill((0.58, 0.53, 0.30)), (noise(43, 1.3) - 0.6) * 0.6)
    blend(canvas, fill((0.22, 0.36, 0.13)), (noise(44, 1.1) - 1.0) * 0.8)
    return canvas


def soil() -> Canvas:
    """Paint bare earth with pebbles. 6 m."""
    canvas = fill((0.47, 0.38, 0.29))
    modulate(canvas, noise(51, 0.5), 0.2)
    modulate(canvas, noise(52, 1.3), 0.12)
    paint(canvas, noise(53, 0.6) > 2.3, (0.62, 0.58, 0.52))
    return canvas


def kerb() -> Canvas:
    """Paint granite kerb stones, one metre each. 4 m."""
    u, v = unit_grid()
    canvas = fill((0.62, 0.61, 0.60), gloss=0.05)
    modulate(canvas, noise(61, 0.2), 0.14)
    modulate(canvas, cell_values(62, u, v, 4, 1) - 0.5, 0.2)
    paint(canvas, np.abs((u * 4 + 0.5) % 1 - 0.5) < 0.012, (0.28, 0.27, 0.26))
    return canvas


def road_paint() -> Canvas:
    """Paint thermoplastic marking worn down to the aggregate in places. 3 m, tinted by use."""
    canvas = fill((0.92, 0.92, 0.90), gloss=0.08)
    modulate(canvas, noise(71, 0.4), 0.05)
    wear = noise(72, 0.9) + 0.5 * noise(73, 0.2)
    paint(canvas, wear > 1.7, (0.5, 0.5, 0.5), opacity=0.8)
    return canvas


def brick() -> Canvas:
    """Paint a brick wall. 2.4 m: 10 bricks by 32 courses."""
    u, v = unit_grid()
    canvas = fill((0.62, 0.33, 0.25))
    modulate(canvas, cell_values(81, u, v, 10, 32, bond=0.5) - 0.5, 0.55)
    modulate(canvas, noise(82, 0.5), 0.10)
    paint(canvas, joints(u, v, 10, 32, 0.006, bond=0.5), (0.68, 0.64, 0.58))
    return canvas


def plaster() -> Canvas:
    """Paint rough plaster with rain streaks. 6 m, white: tint it."""
    canvas = fill((0.90, 0.89, 0.86))
    modulate(canvas, noise(91, 0.4), 0.05)
    modulate(canvas, noise(92, 1.3, stretch=(1.0, 0.15)), 0.07)
    return canvas


def roof_tiles() -> Canvas:
    """Paint overlapping clay tiles. 4 m: 16 columns by 14 rows."""
    u, v = unit_grid()
    canvas = fill((0.56, 0.29, 0.21))
    modulate(canvas, cell_values(101, u, v, 16, 14, bond=0.5) - 0.5, 0.5)
    modulate(canvas, ((v * 14) % 1.0).astype(np.float32) - 0.5, 0.5)
    paint(canvas, joints(u, v, 16, 14, 0.007, bond=0.5), (0.23, 0.13, 0.10))
    modulate(canvas, noise(102, 1.2), 0.12)
    return canvas


def gravel_roof() -> Canvas:
    """Paint roofing gravel. 6 m."""
    canvas = fill((0.52, 0.51, 0.50))
    modulate(canvas, noise(111, 0.1), 0.2)
    modulate(canvas, noise(112, 1.2), 0.15)
    return canvas


def metal_panels() -> Canvas:
    """Paint riveted sheet metal, pale: tint it. 3 m, 3 by 2 panels."""
    u, v = unit_grid()
    canvas = fill((0.86, 0.87, 0.88), gloss=0.25)
    modulate(canvas, cell_values(121, u, v, 3, 2) - 0.5, 0.06)
    modulate(canvas, noise(122, 1.2, stretch=(1.0, 0.3)), 0.05)
    paint(canvas, joints(u, v, 3, 2, 0.006), (0.45, 0.46, 0.48))
    near_joint = joints(u, v, 3, 2, 0.05) & ~joints(u, v, 3, 2, 0.035)
    rivets = near_joint & ((u * 48 % 1 < 0.25) & (v * 48 % 1 < 0.25))
    paint(canvas, rivets, (0.6, 0.6, 0.62))
    return canvas


def corrugated() -> Canvas:
    """Paint corrugated sheet, pale: tint it. 3 m, 20 waves along u."""
    u, _ = unit_grid()
    canvas = fill((0.85, 0.85, 0.84), gloss=0.12)
    modulate(canvas, np.sin(u * 2 * np.pi * 20).astype(np.float32), 0.22)
    modulate(canvas, noise(131, 1.3, stretch=(1.0, 0.15)), 0.08)
    return canvas


def wood() -> Canvas:
    """Paint planks along u. 2 m, 8 planks."""
    u, v = unit_grid()
    canvas = fill((0.55, 0.40, 0.26))
    modulate(canvas, cell_values(141, u, v, 1, 8) - 0.5, 0.35)
    modulate(canvas, noise(142, 0.9, stretch=(0.06, 1.0)), 0.14)
    paint(canvas, joints(u, v, 1, 8, 0.008), (0.2, 0.14, 0.09))
    return canvas


def bark() -> Canvas:
    """Paint bark with furrows along u, a trunk's axis. 1.5 m."""
    canvas = fill((0.40, 0.33, 0.27))
    furrow = noise(151, 0.8, stretch=(0.12, 1.0))
    modulate(canvas, furrow, 0.28)
    paint(canvas, furrow < -1.4, (0.16, 0.13, 0.10), opacity=0.8)
    return canvas


def foliage() -> Canvas:
    """Paint leaves in light and shade, mid-green: tint it. 2.5 m."""
    canvas = fill((0.40, 0.52, 0.24))
    leaf = noise(161, 0.75)
    modulate(canvas, leaf, 0.34)
    paint(canvas, leaf + 0.5 * noise(162, 0.4) < -1.1, (0.10, 0.16, 0.06), opacity=0.8)
    blend(canvas, fill((0.62, 0.66, 0.30)), (noise(163, 0.6) - 1.0) * 0.7)
    return canvas


def _speckled(colour: Colour, gloss: float, seed: int, amount: float, smoothness: float) -> Canvas:
    canvas = fill(colour, gloss=gloss)
    modulate(canvas, noise(seed, smoothness), amount)
    return canvas


def car_paint() -> Canvas:
    """Paint clean lacquer with faint dust, pale: tint it. 4 m."""
    canvas = _speckled((0.93, 0.93, 0.93), 0.5, 171, 0.03, 1.3)
    modulate(canvas, noise(172, 0.1), 0.02)
    return canvas


def vehicle_glass() -> Canvas:
    """Paint dark window glass with a vague interior behind it. 2 m."""
    canvas = _speckled((0.10, 0.12, 0.14), 0.9, 181, 0.35, 1.5)
    return canvas


def rubber() -> Canvas:
    """Paint tyre rubber with tread blocks across u. 0.8 m."""
    u, v = unit_grid()
    canvas = _speckled((0.13, 0.13, 0.135), 0.03, 191, 0.12, 0.4)
    paint(canvas, joints(u, v, 10, 3, 0.018), (0.05, 0.05, 0.05))
    return canvas


def dark_metal() -> Canvas:
    """Paint dark painted steel. 1 m, mid-grey: tint it."""
    canvas = _speckled((0.45, 0.46, 0.47), 0.22, 201, 0.06, 0.6)
    modulate(canvas, noise(202, 1.4), 0.08)
    return canvas


def plain() -> Canvas:
    """Paint matt plastic or primer, near white: tint it. 1 m."""
    canvas = _speckled((0.94, 0.94, 0.94), 0.1, 211, 0.03, 0.5)
    modulate(canvas, noise(212, 1.4), 0.05)
    return canvas


def cloth() -> Canvas:
    """Paint woven cloth with folds, near white: tint it. 1 m."""
    u, v = unit_grid()
    canvas = _speckled((0.88, 0.88, 0.88), 0.0, 221, 0.16, 1.3)
    weave = (np.sin(u * 2 * np.pi * 64) * np.sin(v * 2 * np.pi * 64)).astype(np.float32)
    modulate(canvas, weave, 0.10)
    return canvas


def skin() -> Canvas:
    """Paint skin, pale: tint it. 0.5 m."""
    return _speckled((0.90, 0.78, 0.70), 0.03, 231, 0.05, 0.9)


def hedge() -> Canvas:
    """Paint a clipped hedge. 2 m."""
    canvas = fill((0.26, 0.37, 0.16))
    modulate(canvas, noise(241, 0.45), 0.32)
    paint(canvas, noise(242, 0.5) < -1.5, (0.07, 0.11, 0.04), opacity=0.8)
    return canvas


def belt() -> Canvas:
    """Paint a conveyor belt with ribs across u. 1 m."""
    u, _ = unit_grid()
    canvas = _speckled((0.14, 0.14, 0.15), 0.04, 251, 0.1, 0.8)
    paint(canvas, (u * 8 % 1.0) < 0.14, (0.28, 0.28, 0.28))
    return canvas
