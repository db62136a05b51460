"""Bicycles with and without riders, and motorcycles.

Local frame: x forward, y left, z up, origin on the ground under the middle.
"""

import numpy as np

from storage.procedural.world.mesh import Colour, Mesh, Real, Surface, concatenate, with_class
from storage.procedural.world.people import rider
from storage.procedural.world.solids import box, cylinder
from storage.procedural.world.vehicles import CAR_COLOURS, DARK


def _cycle_frame(class_name: str, colour: Colour, wheelbase: Real, radius: Real, thick: Real) -> list[Mesh]:
    half = wheelbase / 2
    parts = []
    for x in (half, -half):
        parts.append(
            cylinder(
                (x, -thick, radius),
                (x, thick, radius),
                radius,
                Surface("rubber", class_name),
                cap=Surface("wheel", class_name),
                segments=16,
            )
        )
    tubes = [
        ((-half, 0, radius), (0.0, 0, radius * 0.9)),
        ((0.0, 0, radius * 0.9), (half * 0.75, 0, radius * 2.3)),
        ((-0.18, 0, radius * 2.4), (half * 0.75, 0, radius * 2.4)),
        ((0, 0, radius * 0.9), (-0.22, 0, radius * 2.7)),
        ((half * 0.72, 0, radius * 2.7), (half, 0, radius)),
        ((half * 0.72, -0.28, radius * 2.9), (half * 0.72, 0.28, radius * 2.9)),
    ]
    for start, end in tubes:
        parts.append(cylinder(start, end, thick, Surface("plain", class_name, colour), segments=6))
    parts.append(box((-0.24, 0, radius * 2.7), (0.26, 0.16, 0.07), Surface("plain", class_name, DARK)))
    return parts


def bicycle(rng: np.random.Generator, phase: Real | None = None) -> Mesh:
    """Return a bicycle, with a rider at pedal ``phase`` (radians), or without one if that is None."""
    colour = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    parts = _cycle_frame("bicycle", colour, 1.05, 0.34, 0.022)
    if phase is not None:
        parts.append(with_class(rider(rng, phase), "bicycle"))
    return concatenate(parts)


def motorcycle(rng: np.random.Generator) -> Mesh:
    """Return a parked motorcycle."""
    colour = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    parts = _cycle_frame("motorcycle", DARK, 1.35, 0.31, 0.06)
    skin = Surface("car_paint", "motorcycle", colour)
    parts.append(box((0.22, 0, 0.62), (0.62, 0.3, 0.26), skin, taper=(0.8, 0.6)))
    parts.append(box((-0.45, 0, 0.74), (0.6, 0.26, 0.12), Surface("plain", "motorcycle", DARK)))
    parts.append(box((0.0, 0, 0.25), (0.5, 0.26, 0.36), Surface("dark_metal", "motorcycle")))
    parts.append(box((0.62, 0, 0.82), (0.1, 0.22, 0.22), Surface("lamp_white", "motorcycle")))
    return concatenate(parts)
