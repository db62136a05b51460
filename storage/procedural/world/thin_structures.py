"""Things a few centimetres thick or less: overhead cables, guy wires, railings, barrier tape.

Sparse voxels and coarse depth miss them first. They have a seed of their own, so the rest of the scene does not change
with them.
"""

from itertools import pairwise

import numpy as np

from storage.procedural.world.ground import KERB_HEIGHT
from storage.procedural.world.layout import Layout
from storage.procedural.world.mesh import Mesh, Real, Surface, concatenate
from storage.procedural.world.solids import cylinder
from storage.taxonomy import Theme

_STEEL = Surface("dark_metal", "pole", (0.45, 0.46, 0.48))
_CABLE = Surface("plain", "pole", (0.07, 0.07, 0.08))
_TAPE = Surface("hazard_stripes", "barrier")
_SPAN_M = 32.0


def add_thin_structures(layout: Layout, theme: Theme, rng: np.random.Generator) -> None:
    """Add thin structures to a finished layout, clear of the ego and of all actors."""
    reach = float(layout.ego.profile.distance[-1])
    if theme is Theme.STREET:
        _overhead_line(layout, rng, (-60.0, reach + 70.0))
        _railings(layout, rng, reach)
    else:
        _masts_with_guys(layout, rng, reach)
        _taped_areas(layout, rng, reach)


def _wire(start: np.ndarray, end: np.ndarray, radius: Real, surface: Surface, *, sag: Real = 0.0) -> Mesh:
    """Return a wire that hangs ``sag`` metres below the line between its ends."""
    count = 1 if sag == 0.0 else 8
    share = np.linspace(0.0, 1.0, count + 1)[:, None]
    points = start + share * (end - start)
    points[:, 2] -= 4.0 * sag * (share * (1.0 - share))[:, 0]
    return concatenate([cylinder(_point(a), _point(b), radius, surface, segments=5) for a, b in pairwise(points)])


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _above(point: np.ndarray, height: Real) -> np.ndarray:
    return point + np.array([0.0, 0.0, height])


def _on_road(layout: Layout, s: Real, d: Real, z: Real) -> np.ndarray:
    return np.array([*layout.road.point(s, d), z])


def _overhead_line(layout: Layout, rng: np.random.Generator, ends: tuple[float, float]) -> None:
    """Add a contact wire over the ego's lane, hung from span wires, and two sagging cables at one side."""
    height, side = float(rng.uniform(5.4, 6.0)), int(rng.choice([-1, 1]))
    stations = np.arange(ends[0], ends[1], _SPAN_M)
    for s, following in pairwise(stations):
        across = [_on_road(layout, s, d, height + 0.9) for d in (-9.5, 9.5)]
        layout.stuff.append(_wire(across[0], across[1], 0.008, _CABLE, sag=0.5))
        layout.stuff.append(
            _wire(_on_road(layout, s, 0.0, height), _on_road(layout, following, 0.0, height), 0.007, _CABLE)
        )
        for extra in (0.0, 0.35):
            pair = [_on_road(layout, x, side * 9.5, height + 1.6 + extra) for x in (s, following)]
            layout.stuff.append(_wire(pair[0], pair[1], 0.012, _CABLE, sag=0.7))
        for end in (-1, 1):
            foot = _on_road(layout, s, end * 9.5, KERB_HEIGHT)
            if layout.is_place_clear(s, end * 9.5, 0.3):
                layout.stuff.append(_wire(foot, _above(foot, height + 2.2), 0.07, _STEEL))


def _railings(layout: Layout, rng: np.random.Generator, reach: float) -> None:
    for _ in range(5):
        s, d = float(rng.uniform(4, reach + 20)), float(rng.choice([-1, 1])) * float(rng.uniform(6.5, 9.0))
        if not all(layout.is_place_clear(s + ds, d, 0.4) for ds in np.arange(0.0, 8.1, 1.0)):
            continue
        posts = [_on_road(layout, s + 2.0 * k, d, KERB_HEIGHT) for k in range(5)]
        layout.stuff += [_wire(p, _above(p, 1.05), 0.02, _STEEL) for p in posts]
        for z in (0.4, 0.72, 1.05):
            layout.stuff += [_wire(_above(a, z), _above(b, z), 0.012, _STEEL) for a, b in pairwise(posts)]


def _masts_with_guys(layout: Layout, rng: np.random.Generator, reach: float) -> None:
    for s in np.arange(-20.0, reach + 60.0, 45.0):
        place = float(s + rng.uniform(-6, 6)), float(rng.uniform(-11.0, -9.0))
        if not layout.is_place_clear(*place, 2.2):
            continue
        foot = _on_road(layout, *place, 0.0)
        top = _above(foot, float(rng.uniform(7.5, 10.0)))
        layout.stuff.append(_wire(foot, top, 0.045, _STEEL))
        for angle in (0.5, 2.6, 4.7):
            anchor = foot + 2.0 * np.array([np.cos(angle), np.sin(angle), 0.0])
            layout.stuff.append(_wire(anchor, foot + 0.85 * (top - foot), 0.008, _CABLE))


def _taped_areas(layout: Layout, rng: np.random.Generator, reach: float) -> None:
    for _ in range(6):
        s, d = float(rng.uniform(0, reach + 40)), float(rng.uniform(7.5, 11.0))
        corners = [(s, d), (s + 4.0, d), (s + 4.0, d + 3.0), (s, d + 3.0)]
        if not all(layout.is_place_clear(*corner, 1.2) for corner in [*corners, (s + 2.0, d + 1.5)]):
            continue
        posts = [_on_road(layout, *corner, 0.0) for corner in corners]
        layout.stuff += [_wire(p, _above(p, 1.0), 0.025, _STEEL) for p in posts]
        for a, b in zip(posts, [*posts[1:], posts[0]], strict=True):
            layout.stuff.append(_wire(_above(a, 0.95), _above(b, 0.95), 0.02, _TAPE, sag=0.08))
