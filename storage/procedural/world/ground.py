"""Ground surfaces in road coordinates: strips, kerbs, painted lines, and the land around."""

import numpy as np

from storage.procedural.world.mesh import Colour, Mesh, Real, Surface, soup
from storage.procedural.world.solids import quads
from storage.procedural.world.traffic import Road

PAINT_HEIGHT = 0.006
KERB_HEIGHT = 0.15
LANE_PAINT = Surface("road_paint", "lane_marking")


def strip(
    road: Road,
    s: tuple[Real, Real],
    d: tuple[Real, Real],
    z: Real,
    surface: Surface,
    *,
    step: Real = 4.0,
) -> Mesh:
    """Return a flat strip between two arc lengths and two offsets (right one first)."""
    along = np.linspace(s[0], s[1], max(int(np.ceil((s[1] - s[0]) / step)), 1) + 1)
    across = np.linspace(d[0], d[1], max(int(np.ceil((d[1] - d[0]) / 12.0)), 1) + 1)
    grid_s, grid_d = np.meshgrid(along, across, indexing="ij")
    x, y = road.to_world(grid_s, grid_d)
    points = np.stack([x, y, np.full_like(x, z)], -1)
    uv = np.stack([grid_s, grid_d], -1)
    return quads(_cells(points), _cells(uv), surface)


def _cells(grid: np.ndarray) -> np.ndarray:
    corners = [grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]]
    return np.stack(corners, 2).reshape(-1, 4, grid.shape[-1])


def kerb(road: Road, s: tuple[Real, Real], d: Real, *, faces_left: bool) -> Mesh:
    """Return a kerb stone's front and top along the road at offset ``d``."""
    along = np.linspace(s[0], s[1], max(int(np.ceil((s[1] - s[0]) / 4.0)), 1) + 1)
    back = d - 0.16 if faces_left else d + 0.16
    profile = [(d, -0.02), (d, KERB_HEIGHT), (back, KERB_HEIGHT)]
    points = np.empty((len(along), 3, 3))
    for index, (offset, z) in enumerate(profile):
        x, y = road.to_world(along, np.full_like(along, offset))
        points[:, index] = np.stack([x, y, np.full_like(x, z)], -1)
    uv = np.stack(np.broadcast_arrays(along[:, None], np.array([0.0, 0.17, 0.33])), -1)
    return quads(_cells(points + np.array([0.0, 0.0, 0.002])), _cells(uv), Surface("kerb", "sidewalk"))


def kerb_across(road: Road, s: Real, d: tuple[Real, Real], *, faces_forward: bool) -> Mesh:
    """Return a kerb stone across the road's direction, as along a side street."""
    across = np.linspace(d[0], d[1], max(int(np.ceil((d[1] - d[0]) / 8.0)), 1) + 1)
    back = s - 0.16 if faces_forward else s + 0.16
    points = np.empty((len(across), 3, 3))
    for index, (arc, z) in enumerate([(s, -0.02), (s, KERB_HEIGHT), (back, KERB_HEIGHT)]):
        x, y = road.to_world(np.full_like(across, arc), across)
        points[:, index] = np.stack([x, y, np.full_like(x, z)], -1)
    uv = np.stack(np.broadcast_arrays(across[:, None], np.array([0.0, 0.17, 0.33])), -1)
    return quads(_cells(points + np.array([0.0, 0.0, 0.002])), _cells(uv), Surface("kerb", "sidewalk"))


def line(
    road: Road,
    s: tuple[Real, Real],
    d: Real,
    *,
    width: Real = 0.14,
    paint: Surface = LANE_PAINT,
) -> Mesh:
    """Return a painted line along the road."""
    return strip(road, s, (d - width / 2, d + width / 2), PAINT_HEIGHT, paint)


def dashes(
    road: Road, s: tuple[Real, Real], d: Real, *, on: Real = 3.0, off: Real = 6.0, paint: Surface = LANE_PAINT
) -> list[Mesh]:
    """Return a dashed line along the road; the dashes lie on a grid fixed to the road."""
    first = np.ceil(s[0] / (on + off)) * (on + off)
    starts = np.arange(first, s[1] - on, on + off)
    return [line(road, (float(a), float(a) + on), d, paint=paint) for a in starts]


def patch(
    road: Road,
    s: tuple[Real, Real],
    d: tuple[Real, Real],
    surface: Surface = LANE_PAINT,
    *,
    z: Real = PAINT_HEIGHT,
) -> Mesh:
    """Return a painted rectangle."""
    return strip(road, s, d, z, surface)


def arrow(road: Road, s: Real, d: Real, direction: int) -> list[Mesh]:
    """Return a straight-ahead arrow on a lane, 4.5 m long."""
    far = s + direction * 3.0
    shaft = patch(road, (min(s, far), max(s, far)), (d - 0.08, d + 0.08))
    tip = far + direction * 1.5
    arcs, offsets = np.array([far, tip, far]), d + np.array([-0.4, 0.0, 0.4]) * direction
    x, y = road.to_world(arcs, offsets)
    points = np.stack([x, y, np.full(3, PAINT_HEIGHT)], -1)[None]
    if direction > 0:
        points = points[:, [0, 1, 2]]
    uv = np.stack([arcs, offsets], -1)[None]
    return [shaft, soup(points, uv, LANE_PAINT)]


def disc(road: Road, s: Real, d: Real, radius: Real, surface: Surface) -> Mesh:
    """Return a flat disc on the ground: a manhole cover, an oil stain."""
    angle = np.arange(15) * (2 * np.pi / 14)
    x0, y0 = road.point(s, d)
    rim = np.stack([x0 + radius * np.cos(angle), y0 + radius * np.sin(angle), np.full(15, PAINT_HEIGHT)], -1)
    centre = np.broadcast_to((x0, y0, PAINT_HEIGHT), (14, 3))
    points = np.stack([centre, rim[:-1], rim[1:]], 1)
    return soup(points, points[..., :2], surface)


def countryside(
    rng: np.random.Generator, centre: tuple[Real, Real], *, flat_radius: Real, hills: Real, tint: Colour
) -> Mesh:
    """Return land that is flat within ``flat_radius`` and rises to hills further out."""
    radii = np.concatenate([np.linspace(0, flat_radius, 8), flat_radius + np.array([15, 35, 60, 95, 140, 200, 290])])
    angle = np.arange(73) * (2 * np.pi / 72)
    grid_r, grid_a = np.meshgrid(radii, angle, indexing="ij")
    rise = np.clip((grid_r - flat_radius) / 200.0, 0, 1.3)
    ripple = sum(
        np.sin(k * grid_a + rng.uniform(0, 6.28)) * np.cos(grid_r / 60 * k / 3 + rng.uniform(0, 6.28)) / k
        for k in (2, 3, 5, 7)
    )
    z = -0.07 + hills * rise * np.clip(0.6 + 0.7 * ripple, 0.0, 2.0)
    points = np.stack([centre[0] + grid_r * np.cos(grid_a), centre[1] + grid_r * np.sin(grid_a), z], -1)
    uv = points[..., :2].copy()
    return quads(_cells(points), _cells(uv), Surface("grass", "terrain", tint))
