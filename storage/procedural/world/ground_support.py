"""Airside ground support equipment: tractors, dollies, tankers, loaders, power units, tow bars.

Local frame: x forward, y left, z up, origin on the ground under the middle.
"""

import numpy as np

from storage.procedural.world.mesh import WHITE, Colour, Mesh, Point, Real, Surface, concatenate, with_class
from storage.procedural.world.people import pedestrian
from storage.procedural.world.solids import box, cylinder, panel
from storage.procedural.world.vehicles import cab, chassis, wheel

_FLEET: tuple[Colour, ...] = ((0.95, 0.95, 0.93), (0.93, 0.72, 0.12), (0.16, 0.34, 0.62), (0.85, 0.35, 0.12))
_DARK: Colour = (0.17, 0.17, 0.18)


def _wheels(xs: tuple[Real, ...], y: Real, radius: Real, class_name: str) -> list[Mesh]:
    return [wheel(x, side * y, radius, class_name) for x in xs for side in (1.0, -1.0)]


def baggage_tractor(rng: np.random.Generator) -> Mesh:
    """Return a small tow tractor with a driver under a canopy."""
    name = "baggage_tractor"
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    skin = Surface("car_paint", name, tint)
    driver = with_class(pedestrian(rng, None, hi_vis=True), name)
    driver.corners[:] = driver.corners * 0.8 + np.array([-0.35, 0.0, 0.22], np.float32)
    parts = [
        box((0.75, 0, 0.28), (1.4, 1.35, 0.72), skin, taper=(0.92, 0.9)),
        box((-0.55, 0, 0.28), (1.5, 1.35, 0.34), skin),
        box((-1.15, 0, 0.62), (0.25, 1.3, 0.55), skin),
        box((-0.25, 0, 1.85), (1.5, 1.35, 0.07), Surface("metal_panels", name, tint)),
        panel(
            [(0.32, -0.62, 1.0), (0.32, 0.62, 1.0), (0.2, 0.6, 1.84), (0.2, -0.6, 1.84)], Surface("vehicle_glass", name)
        ),
        box((1.46, 0, 0.34), (0.08, 1.35, 0.28), Surface("hazard_stripes", name)),
        box((-1.36, 0, 0.34), (0.12, 0.3, 0.2), Surface("dark_metal", name, _DARK)),
        cylinder((-0.25, 0, 1.92), (-0.25, 0, 2.05), 0.08, Surface("lamp_red", name, (1.0, 0.8, 0.2))),
        driver,
        *_wheels((0.85, -0.85), 0.69, 0.3, name),
    ]
    for x, y in ((0.3, 0.62), (0.3, -0.62), (-0.95, 0.62), (-0.95, -0.62)):
        parts.append(cylinder((x, y, 0.62), (x * 0.92, y, 1.86), 0.03, Surface("dark_metal", name, _DARK), segments=5))
    for y in (0.45, -0.45):
        parts.append(box((1.46, y, 0.72), (0.06, 0.24, 0.16), Surface("lamp_white", name)))
    return concatenate(parts)


def baggage_dolly(rng: np.random.Generator) -> Mesh:
    """Return a roofed cart of luggage, empty now and then, or a flat dolly with a container."""
    name = "baggage_dolly"
    parts = [
        box((0, 0, 0.42), (2.6, 1.5, 0.12), Surface("dark_metal", name, (0.7, 0.7, 0.7))),
        cylinder((1.3, 0, 0.45), (2.0, 0, 0.4), 0.04, Surface("dark_metal", name, _DARK), segments=6),
        *_wheels((0.9, -0.9), 0.74, 0.2, name),
    ]
    draw = rng.random()
    if draw < 0.3:
        parts.append(box((0, 0, 0.55), (1.6, 1.5, 1.6), Surface("container", name)))
        return concatenate(parts)
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    parts.append(box((0, 0, 1.72), (2.6, 1.5, 0.06), Surface("corrugated", name, tint)))
    for x in (1.25, -1.25):
        parts.append(box((x, 0, 0.54), (0.05, 1.45, 1.2), Surface("metal_panels", name, tint)))
    if draw < 0.85:
        height = float(rng.uniform(0.5, 1.05))
        parts.append(box((0, 0, 0.54), (2.3, 1.36, height), Surface("luggage", name)))
    return concatenate(parts)


def fuel_truck(rng: np.random.Generator) -> Mesh:
    """Return a refuelling tanker."""
    name, half = "fuel_truck", 4.4
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    tank = cylinder(
        (-half + 0.4, 0, 1.95),
        (half - 2.2, 0, 1.95),
        1.12,
        Surface("metal_panels", name, (0.95, 0.95, 0.95)),
        segments=18,
    )
    tank.corners[..., 2] = (tank.corners[..., 2] - 1.95) * 0.85 + 1.95
    parts = [
        tank,
        box((-0.6, 0, 2.86), (4.2, 0.6, 0.14), Surface("dark_metal", name)),
        box((-0.9, 1.18, 0.75), (1.6, 0.12, 0.7), Surface("belt", name)),
        box((-0.9, -1.18, 1.75), (3.4, 0.06, 0.3), Surface("hazard_stripes", name)),
        box((-0.9, 1.18, 1.75), (3.4, 0.06, 0.3), Surface("hazard_stripes", name)),
        *cab(half, 1.8, 2.4, 2.6, tint, name),
        *chassis(2 * half, 2.4, (half - 1.0, -half + 1.3, -half + 2.5), 0.48, name),
    ]
    return concatenate(parts)


def belt_loader(rng: np.random.Generator) -> Mesh:
    """Return a conveyor whose front reaches up to a hold door."""
    name = "belt_loader"
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    reach = float(rng.uniform(2.2, 2.9))
    parts = [
        box((-0.4, 0, 0.3), (4.4, 1.9, 0.55), Surface("car_paint", name, tint)),
        box(
            (-1.6, 0.62, 0.85), (1.0, 0.6, 0.8), Surface("vehicle_glass", name), top=Surface("metal_panels", name, tint)
        ),
        *_wheels((1.2, -1.9), 0.98, 0.38, name),
    ]
    low, high, half = (-3.6, 0.85), (4.2, reach), 0.42
    belt: list[Point] = [
        (low[0], -half, low[1]),
        (high[0], -half, high[1]),
        (high[0], half, high[1]),
        (low[0], half, low[1]),
    ]
    parts.append(panel(belt, Surface("belt", name)))
    parts.append(panel([(x, y, z - 0.2) for x, y, z in belt[::-1]], Surface("dark_metal", name)))
    for side in (1.0, -1.0):
        y = side * (half + 0.03)
        rail: list[Point] = [
            (low[0], y, low[1] - 0.2),
            (high[0], y, high[1] - 0.2),
            (high[0], y, high[1] + 0.14),
            (low[0], y, low[1] + 0.14),
        ]
        parts.append(panel(rail, Surface("hazard_stripes", name)))
    parts.append(cylinder((0.6, 0, 0.8), (2.2, 0, reach * 0.72), 0.09, Surface("dark_metal", name, _DARK)))
    for k in range(int(rng.integers(1, 4))):
        share = 0.25 + 0.22 * k
        x, z = low[0] + share * (high[0] - low[0]), low[1] + share * (high[1] - low[1])
        parts.append(box((x, 0, z), (0.7, 0.45, 0.3), Surface("luggage", name)))
    return concatenate(parts)


def catering_truck(rng: np.random.Generator) -> Mesh:
    """Return a high loader with its box raised on scissors."""
    name, half = "catering_truck", 4.2
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    lift = float(rng.uniform(1.0, 2.2))
    floor = 1.1 + lift
    parts = [
        box((-0.7, 0, floor), (6.2, 2.5, 2.3), Surface("truck_box", name), top=Surface("metal_panels", name)),
        box((3.0, 0, floor), (1.3, 2.2, 0.12), Surface("dark_metal", name)),
        *cab(half, 1.7, 2.4, 2.3, tint, name),
        *chassis(2 * half, 2.4, (half - 1.0, -half + 1.5), 0.45, name),
    ]
    for side in (0.8, -0.8):
        for a, b in ((-2.6, 0.8), (0.8, -2.6)):
            parts.append(
                cylinder(
                    (a, side, 1.0), (b, side, floor), 0.09, Surface("dark_metal", name, (0.9, 0.7, 0.2)), segments=6
                )
            )
    return concatenate(parts)


def ground_power_unit(rng: np.random.Generator) -> Mesh:
    """Return a generator trailer."""
    name = "ground_power_unit"
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    parts = [
        box((0, 0, 0.45), (2.6, 1.5, 1.15), Surface("corrugated", name, tint), top=Surface("metal_panels", name, tint)),
        box((0, 0, 0.33), (2.7, 1.55, 0.14), Surface("hazard_stripes", name)),
        box((0.6, 0.76, 0.85), (0.8, 0.04, 0.5), Surface("belt", name)),
        cylinder((1.3, 0, 0.45), (2.1, 0, 0.35), 0.05, Surface("dark_metal", name, _DARK), segments=6),
        cylinder((-0.8, 0.3, 1.6), (-0.8, 0.3, 1.95), 0.07, Surface("dark_metal", name, _DARK), segments=6),
        *_wheels((0.9, -0.9), 0.78, 0.27, name),
    ]
    return concatenate(parts)


def pushback_tug(rng: np.random.Generator) -> Mesh:
    """Return a low, heavy aircraft tug."""
    name = "baggage_tractor"
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    skin = Surface("car_paint", name, tint)
    return concatenate(
        [
            box((0, 0, 0.4), (5.6, 2.5, 0.8), skin, taper=(0.96, 0.92)),
            box(
                (1.6, 0, 1.2),
                (1.4, 2.0, 0.75),
                Surface("vehicle_glass", name),
                top=Surface("metal_panels", name, tint),
                taper=(0.85, 0.85),
            ),
            box((2.82, 0, 0.45), (0.06, 2.4, 0.3), Surface("hazard_stripes", name)),
            box((-2.82, 0, 0.45), (0.06, 2.4, 0.3), Surface("hazard_stripes", name)),
            *_wheels((1.7, -1.7), 1.26, 0.5, name),
        ]
    )


def passenger_stairs(rng: np.random.Generator) -> Mesh:
    """Return a stairs truck, climbing towards +x."""
    name = "truck"
    tint = _FLEET[int(rng.integers(len(_FLEET)))]
    parts = [
        box((-1.0, 0, 0.45), (6.0, 2.0, 0.5), Surface("car_paint", name, tint)),
        box(
            (-3.2, 0.0, 0.95), (1.5, 1.9, 1.2), Surface("vehicle_glass", name), top=Surface("metal_panels", name, tint)
        ),
        *_wheels((0.8, -2.8), 1.02, 0.42, name),
    ]
    for step in range(12):
        x, z = -2.3 + 0.38 * step, 1.0 + 0.2 * step
        parts.append(box((x, 0, z - 0.08), (0.42, 1.5, 0.1), Surface("dark_metal", name)))
    parts.append(box((2.9, 0, 3.2), (1.4, 1.7, 0.1), Surface("dark_metal", name)))
    for side in (0.78, -0.78):
        rail: list[Point] = [(-2.4, side, 1.0), (2.2, side, 3.3), (2.2, side, 4.3), (-2.4, side, 2.0)]
        parts.append(panel(rail, Surface("metal_panels", name, WHITE)))
        parts.append(cylinder((0.5, side, 0.8), (1.9, side, 3.1), 0.08, Surface("dark_metal", name, tint), segments=6))
    return concatenate(parts)


def tow_bar(rng: np.random.Generator) -> Mesh:
    """Return a tow bar on its two small wheels."""
    name = "tow_bar"
    colour: Colour = (0.85, 0.2, 0.15) if rng.random() < 0.5 else (0.95, 0.75, 0.15)
    return concatenate(
        [
            cylinder(
                (-2.2, 0, 0.32),
                (2.0, 0, 0.32),
                0.06,
                Surface(
                    "barrier_stripes" if rng.random() < 0.5 else "plain", name, colour if rng.random() < 0.7 else WHITE
                ),
            ),
            box((2.15, 0, 0.22), (0.4, 0.5, 0.18), Surface("dark_metal", name, _DARK)),
            cylinder((-2.2, -0.12, 0.32), (-2.2, 0.12, 0.32), 0.14, Surface("dark_metal", name, _DARK)),
            cylinder((-0.4, -0.3, 0.2), (-0.4, 0.3, 0.2), 0.03, Surface("dark_metal", name), segments=6),
            *_wheels((-0.4,), 0.38, 0.18, name),
        ]
    )


def chock() -> Mesh:
    """Return a wheel chock with hazard stripes, 0.6 m wide along y."""
    return box((0, 0, 0), (0.28, 0.6, 0.22), Surface("hazard_stripes", "chock"), taper=(0.35, 1.0))


def cargo_container(rng: np.random.Generator) -> Mesh:
    """Return an aluminium unit load device on a pallet."""
    tint = (1.0, 1.0, 1.0) if rng.random() < 0.7 else (0.6, 0.7, 0.95)
    return concatenate(
        [
            box((0, 0, 0), (2.0, 1.6, 0.14), Surface("dark_metal", "cargo_container")),
            box((0, 0, 0.14), (1.6, 1.5, 1.6), Surface("container", "cargo_container", tint)),
        ]
    )
