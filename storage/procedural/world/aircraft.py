"""A parametric twin-engined airliner.

Local frame: x forward (nose), y left, z up, origin on the ground under the middle of the fuselage.
"""

from dataclasses import dataclass

import numpy as np

from storage.procedural.world.mesh import Colour, Mesh, Point, Real, Surface, concatenate
from storage.procedural.world.solids import box, cylinder, panel, ring, tube
from storage.procedural.world.vehicles import wheel

_LIVERIES: tuple[Colour, ...] = (
    (0.75, 0.16, 0.18),
    (0.12, 0.26, 0.58),
    (0.10, 0.48, 0.46),
    (0.92, 0.62, 0.12),
    (0.36, 0.20, 0.50),
    (0.16, 0.42, 0.24),
)
_GREY: Colour = (0.72, 0.73, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class AircraftShape:
    """Dimensions of an airliner, metres.

    Attributes:
        length: Length from nose to tail.
        radius: Radius of the fuselage.
        span: Distance between the wing tips.
        axle: Height of the fuselage axis.
        fin: Height of the fin's tip.
    """

    length: float
    radius: float
    span: float
    axle: float
    fin: float


NARROW_BODY = AircraftShape(length=37.0, radius=2.0, span=34.0, axle=3.7, fin=11.8)
REGIONAL = AircraftShape(length=29.0, radius=1.55, span=26.0, axle=3.0, fin=9.6)


def _aerofoil(root: Point, chord: Real, thickness: Real) -> np.ndarray:
    """Return a section in the x-z plane whose leading edge is at ``root``."""
    x, y, z = root
    outline = [(0, 0), (-0.12, 0.55), (-0.4, 0.75), (-1.0, 0.05), (-1.0, -0.05), (-0.4, -0.35), (-0.12, -0.35)]
    return np.array([(x + chord * a, y, z + thickness * b) for a, b in outline])


def _surface(sections: list[np.ndarray], material: str, tint: Colour) -> Mesh:
    return tube(np.array(sections), Surface(material, "aircraft", tint), smooth=False)


def _fuselage(shape: AircraftShape) -> list[Mesh]:
    half, r = shape.length / 2, shape.radius
    stations = [  # share of the half length, radius share, axis lift
        (-1.0, 0.08, 0.62),
        (-0.93, 0.22, 0.55),
        (-0.75, 0.58, 0.32),
        (-0.55, 0.88, 0.1),
        (-0.42, 1, 0),
        (0.0, 1, 0),
        (0.70, 1, 0),
        (0.82, 0.93, -0.05),
        (0.91, 0.72, -0.14),
        (0.97, 0.42, -0.24),
        (1.0, 0.06, -0.30),
    ]
    rings = [ring((half * x, 0, shape.axle + lift * r), r * share, 20, axis="x") for x, share, lift in stations]
    parts = [tube(np.stack(rings), Surface("fuselage", "aircraft"), unit=True)]
    for side in (1.0, -1.0):
        x, z = half * 0.895, shape.axle + 0.42 * r
        glass: list[Point] = [
            (x, side * 0.62 * r, z),
            (x + 0.35 * r, side * 0.08 * r, z - 0.02 * r),
            (x + 0.10 * r, side * 0.06 * r, z + 0.28 * r),
            (x - 0.10 * r, side * 0.52 * r, z + 0.28 * r),
        ]
        parts.append(panel(glass, Surface("vehicle_glass", "aircraft")))
    return parts


def _engine(x: Real, y: Real, z: Real, radius: Real, tint: Colour) -> list[Mesh]:
    stations = ((-2.3, 0.55), (-1.2, 0.85), (0.2, 1.0), (1.1, 1.0), (1.4, 0.90))
    rings = [ring((x + dx, y, z), radius * share, 14, axis="x") for dx, share in stations]
    nacelle = tube(
        np.stack(rings), Surface("metal_panels", "aircraft", tint), cap=Surface("wheel", "aircraft", (0.35, 0.35, 0.38))
    )
    pylon = box((x - 0.9, y, z + radius * 0.7), (2.6, 0.25, 0.8), Surface("metal_panels", "aircraft"))
    return [nacelle, pylon]


def _gear(shape: AircraftShape) -> list[Mesh]:
    parts = []
    for x, y, radius in ((shape.length * 0.36, 0.0, 0.38), (-1.2, 2.9, 0.55), (-1.2, -2.9, 0.55)):
        parts.append(
            cylinder(
                (x, y, radius),
                (x, y, shape.axle - 0.4 * shape.radius),
                0.13,
                Surface("dark_metal", "aircraft", (0.85, 0.85, 0.86)),
            )
        )
        for side in (0.42, -0.42):
            parts.append(wheel(x, side + 0.0, radius, "aircraft", width=0.3))
            parts[-1].corners[..., 1] += y
    return parts


def airliner(rng: np.random.Generator, shape: AircraftShape | None = None) -> Mesh:
    """Return an airliner in a random livery."""
    shape = shape or (NARROW_BODY if rng.random() < 0.65 else REGIONAL)
    colour = _LIVERIES[int(rng.integers(len(_LIVERIES)))]
    half, r, axle = shape.length / 2, shape.radius, shape.axle
    parts = _fuselage(shape)
    tip = shape.span / 2
    for side in (1.0, -1.0):
        root = (half * 0.22, side * r * 0.6, axle - 0.55 * r)
        kink = (half * 0.02, side * tip * 0.36, axle - 0.42 * r)
        end = (-half * 0.20, side * tip, axle + 0.10 * r)
        wing = [_aerofoil(root, 7.2, 0.85), _aerofoil(kink, 4.2, 0.5), _aerofoil(end, 1.5, 0.18)]
        parts.append(_surface(wing if side < 0 else wing[::-1], "metal_panels", _GREY))
        fence = [
            (end[0], end[1], end[2]),
            (end[0] - 1.5, end[1], end[2]),
            (end[0] - 1.9, end[1] + side * 0.35, end[2] + 1.7),
            (end[0] - 1.0, end[1] + side * 0.3, end[2] + 1.7),
        ]
        parts.append(panel(fence, Surface("livery", "aircraft", colour), unit=True))
        tail_root = (-half * 0.80, side * 0.1, axle + 0.55 * r)
        tail_end = (-half * 0.95, side * tip * 0.36, axle + 0.8 * r)
        stabiliser = [_aerofoil(tail_root, 3.6, 0.35), _aerofoil(tail_end, 1.5, 0.14)]
        parts.append(_surface(stabiliser if side < 0 else stabiliser[::-1], "metal_panels", _GREY))
        parts += _engine(
            half * 0.16,
            side * tip * 0.34,
            axle - 1.12 * r,
            r * 0.52,
            colour if rng.random() < 0.4 else (0.9, 0.9, 0.92),
        )
    base, top = axle + 0.7 * r, shape.fin
    fin: list[Point] = [
        (-half * 0.66, 0.0, base),
        (-half * 0.97, 0.0, base + 0.2),
        (-half * 1.06, 0.0, top),
        (-half * 0.92, 0.0, top),
    ]
    for y in (0.14, -0.14):
        points = [(px, y * (1 if pz < top else 0.4), pz) for px, _, pz in fin]
        parts.append(panel(points, Surface("livery", "aircraft", colour), unit=True))
    parts += _gear(shape)
    return concatenate(parts)
