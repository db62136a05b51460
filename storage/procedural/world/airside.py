"""The airside theme: a head-of-stand road between a terminal and its parked aircraft."""

import numpy as np

from storage.procedural.world import aircraft, furniture, ground, nature, people, vehicles
from storage.procedural.world import ground_support as gse
from storage.procedural.world.buildings import warehouse
from storage.procedural.world.layout import Layout
from storage.procedural.world.mesh import Colour, Mesh, Real, Surface, concatenate, placement, transformed
from storage.procedural.world.solids import box, cylinder, panel
from storage.procedural.world.traffic import AlongRoad, Road, SpeedProfile, constant_speed, follow, varying_speed

_YELLOW: Colour = (1.0, 0.80, 0.12)
_RED: Colour = (0.85, 0.16, 0.12)
_LANE = 3.7
_TERMINAL = -15.0
_NOSE = 16.0
_STAND_WIDTH = 42.0
_TAXIWAY = 78.0
_GAIT_PHASES = 8


def _marking(layout: Layout, s: tuple[Real, Real], d: tuple[Real, Real], tint: Colour) -> None:
    layout.stuff.append(ground.patch(layout.road, s, d, Surface("road_paint", "apron_marking", tint)))


def _surfaces(layout: Layout, ends: tuple[Real, Real]) -> None:
    road, rng = layout.road, layout.rng
    shade = float(rng.uniform(0.85, 1.08))
    layout.stuff.append(
        ground.strip(
            road,
            ends,
            (_TERMINAL - 2, _TAXIWAY + 16),
            0.0,
            Surface("apron", "driveable_surface", (shade, shade, shade * 0.98)),
            step=12.0,
        )
    )
    layout.stuff.append(
        ground.strip(
            road,
            ends,
            (-_LANE / 2 - 0.6, _LANE * 1.5 + 0.6),
            0.003,
            Surface("asphalt", "driveable_surface", (1.05, 1.05, 1.05)),
        )
    )
    for offset in (-_LANE / 2, _LANE * 1.5):
        layout.stuff.append(ground.line(road, ends, offset, width=0.18))
    layout.stuff += ground.dashes(road, ends, _LANE / 2, on=2.0, off=4.0)
    for offset in (_TAXIWAY - 0.1, _TAXIWAY + 12.0, _TAXIWAY + 12.4):
        _marking(layout, ends, (offset, offset + 0.22), _YELLOW)
    for _ in range(24):
        s, d = float(rng.uniform(-60, ends[1] - 40)), float(rng.uniform(6, _TAXIWAY))
        dark = float(rng.uniform(0.35, 0.6))
        layout.stuff.append(
            ground.disc(
                road, s, d, float(rng.uniform(0.3, 1.1)), Surface("apron", "driveable_surface", (dark, dark, dark))
            )
        )


def _jet_bridge(layout: Layout, s: Real, reach: Real) -> None:
    """Add a covered bridge from the terminal to an aircraft's door, high over the road."""
    length = reach - _TERMINAL
    middle = (reach + _TERMINAL) / 2
    tunnel = concatenate(
        [
            box((0, 0, 3.9), (length, 2.6, 2.7), Surface("metal_panels", "jet_bridge")),
            box((0, 0, 4.8), (length * 0.96, 2.64, 1.0), Surface("vehicle_glass", "jet_bridge")),
            box((length / 2, 0, 3.5), (2.8, 3.4, 3.4), Surface("metal_panels", "jet_bridge", (0.7, 0.75, 0.8))),
            cylinder(
                (length / 2 - 2.6, 0, 0.6),
                (length / 2 - 2.6, 0, 3.9),
                0.32,
                Surface("dark_metal", "jet_bridge", (0.85, 0.85, 0.87)),
            ),
            box((length / 2 - 2.6, 0, 0.0), (1.0, 2.4, 0.8), Surface("hazard_stripes", "jet_bridge")),
            box((-length / 2 + 1.2, 0, 0), (1.4, 1.8, 3.9), Surface("concrete", "jet_bridge")),
        ]
    )
    layout.put(tunnel, s, middle, 0.0, np.pi / 2)


def _terminal(layout: Layout, ends: tuple[Real, Real]) -> None:
    rng = layout.rng
    length, height = ends[1] - ends[0], float(rng.uniform(10, 14))
    parts: list[Mesh] = [
        box((-14, 0, 3.8), (28, length, height - 3.8), Surface("terminal_facade", "terminal")),
        box((-14, 0, 0), (26.5, length, 3.8), Surface("concrete", "terminal")),
        box((-13, 0, height), (32, length, 0.8), Surface("metal_panels", "terminal")),
    ]
    for y in np.arange(-length / 2 + 6, length / 2 - 6, 9.0):
        kind = rng.random()
        if kind < 0.45:
            door = [(-0.72, y - 2, 0), (-0.72, y + 2, 0), (-0.72, y + 2, 3.3), (-0.72, y - 2, 3.3)]
            tint: Colour = (0.8, 0.85, 0.9) if kind < 0.25 else (0.85, 0.6, 0.25)
            parts.append(
                panel([(float(a), float(b), float(c)) for a, b, c in door], Surface("corrugated", "terminal", tint))
            )
        elif kind < 0.7:
            parts.append(
                panel(
                    [
                        (-0.72, float(y) - 1.5, 0.9),
                        (-0.72, float(y) + 1.5, 0.9),
                        (-0.72, float(y) + 1.5, 2.4),
                        (-0.72, float(y) - 1.5, 2.4),
                    ],
                    Surface("glass_facade", "terminal"),
                )
            )
        parts.append(box((-0.3, float(y) + 4.5, 0), (0.7, 0.7, 3.8), Surface("concrete", "terminal")))
    layout.put(concatenate(parts), (ends[0] + ends[1]) / 2, _TERMINAL, 0.0, np.pi / 2)
    for s in np.arange(ends[0] + 20, ends[1] - 20, 30.0):
        layout.put(furniture.street_lamp(rng), float(s), _TERMINAL + 5.0, 0.0, np.pi / 2)


def _stand_markings(layout: Layout, s: Real) -> None:
    _marking(layout, (s - 0.12, s + 0.12), (_NOSE - 3, _TAXIWAY - 9), _YELLOW)
    for k in range(9):  # a curve that leads in from the taxiway
        angle = k * np.pi / 18
        arc = (s - 9 + 9 * np.cos(angle), _TAXIWAY - 9 + 9 * np.sin(angle))
        layout.put(
            box((0, 0, 0), (0.24, 1.62, 0.005), Surface("road_paint", "apron_marking", _YELLOW)),
            float(arc[0]),
            float(arc[1]),
            0.001,
            float(angle),
        )
    _marking(layout, (s - 1.2, s + 1.2), (_NOSE + 4.9, _NOSE + 5.2), _YELLOW)
    wide = _STAND_WIDTH / 2 - 2
    for side in (-1, 1):
        edge = s + side * wide
        _marking(layout, (edge - 0.1, edge + 0.1), (_NOSE - 4, _TAXIWAY - 14), _RED)
    _marking(layout, (s - wide, s + wide), (_NOSE - 4.1, _NOSE - 3.9), _RED)
    for k in range(8):
        _marking(layout, (s + wide - 5 + 0.6 * k, s + wide - 4.75 + 0.6 * k), (_NOSE - 3, _NOSE + 4), (1.0, 1.0, 1.0))


def _service(layout: Layout, s: Real, nose: Real, half: Real) -> None:
    """Surround a parked aircraft with the equipment that turns it round."""
    rng = layout.rng

    def spot(ds: Real, back: Real) -> tuple[Real, Real]:
        return s + ds + float(rng.normal(0, 0.25)), nose + back + float(rng.normal(0, 0.3))

    # The aircraft's nose points to the road (-d); "right of it" is towards larger s.
    for k in range(3):
        if rng.random() < 0.75:
            layout.park("traffic_cone", furniture.cone(), *spot((-1) ** k * 2.6, -1.0 - 0.5 * k))
    for side in (-1, 1):
        layout.park("traffic_cone", furniture.cone(), *spot(side * 16.5, half + 3.0))
        layout.park("traffic_cone", furniture.cone(), *spot(side * 7.2, half - 6.2))
        layout.park("chock", gse.chock(), s + side * 2.9, nose + half + 1.2 - 0.9, 0.0, np.pi / 2)
        layout.park("chock", gse.chock(), s + side * 2.9, nose + half + 1.2 + 0.9, 0.0, np.pi / 2)
    layout.park("chock", gse.chock(), s, nose + 0.28 * half - 0.55, 0.0, np.pi / 2)
    if rng.random() < 0.7:
        layout.park("belt_loader", gse.belt_loader(rng), *spot(7.2, half * 0.72), 0.0, np.pi)
        for k in range(int(rng.integers(1, 4))):
            layout.park(
                "baggage_dolly", gse.baggage_dolly(rng), s + 12.2, nose + half * 0.62 - 3.1 * k, 0.0, -np.pi / 2
            )
    if rng.random() < 0.6:
        layout.park("fuel_truck", gse.fuel_truck(rng), *spot(11.0, half * 1.0), 0.0, -np.pi / 2)
    if rng.random() < 0.55:
        layout.park("catering_truck", gse.catering_truck(rng), *spot(8.4, half * 1.62), 0.0, np.pi)
    if rng.random() < 0.65:
        layout.park(
            "ground_power_unit", gse.ground_power_unit(rng), *spot(-4.0, -2.2), 0.0, float(rng.uniform(-0.3, 0.3))
        )
    if rng.random() < 0.6:
        layout.park("tow_bar", gse.tow_bar(rng), *spot(0.0, -1.6), 0.0, np.pi / 2)
        if rng.random() < 0.6:
            layout.park("baggage_tractor", gse.pushback_tug(rng), s, nose - 5.2, 0.0, np.pi / 2)
    if rng.random() < 0.4:
        layout.park("truck", gse.passenger_stairs(rng), *spot(-7.4, half * 0.30), 0.0, 0.0)
    for _ in range(int(rng.integers(0, 4))):
        layout.park(
            "cargo_container",
            gse.cargo_container(rng),
            *spot(float(rng.uniform(13, 17)), float(rng.uniform(-2, 9))),
            0.0,
            float(rng.uniform(-0.2, 0.2)),
        )
    for _ in range(int(rng.integers(1, 4))):
        where = spot(float(rng.uniform(-7, 11)), float(rng.uniform(-3, half)))
        layout.park("pedestrian", people.pedestrian(rng, None, hi_vis=True), *where, 0.0, float(rng.uniform(0, 6.28)))
    if rng.random() < 0.7:
        seed, direction = int(rng.integers(1 << 30)), int(rng.choice([-1, 1]))
        phases = tuple(
            people.pedestrian(np.random.default_rng(seed), float(a), hi_vis=True)
            for a in np.arange(_GAIT_PHASES) * (2 * np.pi / _GAIT_PHASES)
        )
        motion = AlongRoad(
            road=layout.road,
            start=s + float(rng.uniform(-10, 10)),
            offset=_NOSE - 8.6,
            direction=direction,
            profile=constant_speed(float(rng.uniform(1.0, 1.5)), layout.duration_s),
        )
        if layout.is_clear(motion, 0.3):
            layout.drive("pedestrian", phases, motion, cycle=1.45)


def _stands(layout: Layout, ends: tuple[Real, Real]) -> None:
    rng = layout.rng
    first = ends[0] + 30 + float(rng.uniform(0, 30))
    for s in np.arange(first, ends[1] - 20, _STAND_WIDTH):
        _stand_markings(layout, float(s))
        layout.put(furniture.stand_sign(), float(s) - 6.5, _TERMINAL + 3.6, 0.0, np.pi / 2)
        if rng.random() < 0.2:
            continue
        shape = aircraft.NARROW_BODY if rng.random() < 0.65 else aircraft.REGIONAL
        nose = _NOSE + float(rng.uniform(0, 1.5))
        half = shape.length / 2
        layout.park("aircraft", aircraft.airliner(rng, shape), float(s), nose + half, 0.0, -np.pi / 2)
        if shape is aircraft.NARROW_BODY and rng.random() < 0.75:
            _jet_bridge(layout, float(s) - 3.4, nose + 3.6)
        _service(layout, float(s), nose, half)


def _beside_the_terminal(layout: Layout, ends: tuple[Real, Real]) -> None:
    rng = layout.rng
    s = ends[0] + 15.0
    while s < ends[1] - 15:
        kind, d = int(rng.integers(8)), float(rng.uniform(-9.5, -6.5))
        if kind == 0:
            layout.park("baggage_tractor", gse.baggage_tractor(rng), s, d, 0.0, float(rng.choice([0, np.pi])))
        elif kind == 1:
            for k in range(int(rng.integers(2, 5))):
                layout.park("baggage_dolly", gse.baggage_dolly(rng), s + 3.3 * k, d)
            s += 12.0
        elif kind == 2:
            layout.park("cargo_container", gse.cargo_container(rng), s, d)
            layout.park("cargo_container", gse.cargo_container(rng), s + 2.3, d)
        elif kind == 3:
            layout.park("car", vehicles.car(rng, "van"), s, d)
        elif kind == 4:
            layout.park("barrier", furniture.jersey_barrier(), s, d - 1)
            layout.park("barrier", furniture.plastic_barrier(), s + 3.4, d - 1)
        elif kind == 5:
            layout.park("ground_power_unit", gse.ground_power_unit(rng), s, d)
        elif kind == 6:
            layout.park("belt_loader", gse.belt_loader(rng), s, d - 1.5)
        else:
            layout.park("pedestrian", people.pedestrian(rng, None, hi_vis=True), s, d, 0.0, float(rng.uniform(0, 6.28)))
        s += float(rng.uniform(6, 14))


def _train(layout: Layout, start: Real, offset: Real, direction: int, profile: SpeedProfile) -> None:
    """Add a tractor that pulls two to four dollies."""
    rng, road = layout.rng, layout.road

    def motion(back: Real) -> AlongRoad:
        return AlongRoad(road=road, start=start - direction * back, offset=offset, direction=direction, profile=profile)

    layout.drive("baggage_tractor", (gse.baggage_tractor(rng),), motion(0.0))
    for k in range(int(rng.integers(2, 5))):
        layout.drive("baggage_dolly", (gse.baggage_dolly(rng),), motion(3.5 + 3.35 * k))


def _traffic(layout: Layout, lead: SpeedProfile, gap: Real) -> None:
    rng, road = layout.rng, layout.road
    if rng.random() < 0.6:
        _train(layout, gap + 12.0, 0.0, 1, lead)
    else:
        layout.drive(
            "bus", (vehicles.bus(rng),), AlongRoad(road=road, start=gap + 3.0, offset=0.0, direction=1, profile=lead)
        )
    layout.drive(
        "car", (vehicles.car(rng, "van"),), AlongRoad(road=road, start=-18.0, offset=0.0, direction=1, profile=lead)
    )
    s = float(rng.uniform(14, 28))
    for _ in range(4):
        profile = constant_speed(float(rng.uniform(4.0, 5.5)), layout.duration_s)
        kind = rng.random()
        if kind < 0.5:
            _train(layout, s, _LANE, -1, profile)
            s += 14.0
        elif kind < 0.7:
            layout.drive(
                "fuel_truck",
                (gse.fuel_truck(rng),),
                AlongRoad(road=road, start=s, offset=_LANE, direction=-1, profile=profile),
            )
        else:
            layout.drive(
                "car",
                (vehicles.car(rng, "van"),),
                AlongRoad(road=road, start=s, offset=_LANE, direction=-1, profile=profile),
            )
        s += float(rng.uniform(24, 40))
    for _ in range(2):
        direction = int(rng.choice([-1, 1]))
        profile = constant_speed(float(rng.uniform(5, 8)), layout.duration_s)
        layout.drive(
            "aircraft",
            (aircraft.airliner(rng),),
            AlongRoad(
                road=road, start=float(rng.uniform(-50, 90)), offset=_TAXIWAY, direction=direction, profile=profile
            ),
        )
        break


def _beyond(layout: Layout, ends: tuple[Real, Real]) -> None:
    """Add the far side of the field: grass, a runway, hangars, a tower, trees, masts."""
    road, rng = layout.road, layout.rng
    layout.stuff.append(
        ground.strip(
            road, ends, (_TAXIWAY + 45, _TAXIWAY + 75), -0.04, Surface("asphalt", "driveable_surface"), step=20.0
        )
    )
    for s in np.arange(ends[0] + 5, ends[1] - 40, 38.0):
        shed = transformed(warehouse(rng, 34.0), placement(0, 0, 0))
        shed.corners[..., 2] *= 1.9
        layout.put(shed, float(s) + 17, _TAXIWAY + 105 + float(rng.uniform(0, 20)), -0.05, -np.pi / 2)
    tower = concatenate(
        [
            cylinder((0, 0, 0), (0, 0, 32), 3.2, Surface("concrete", "manmade"), end_radius=2.4, segments=14),
            cylinder((0, 0, 32), (0, 0, 36.5), 4.0, Surface("glass_facade", "manmade"), end_radius=5.4, segments=14),
            cylinder((0, 0, 36.5), (0, 0, 37.6), 5.8, Surface("metal_panels", "manmade"), segments=14),
        ]
    )
    layout.put(tower, float(rng.uniform(20, 110)), _TAXIWAY + 92, -0.05)
    for _ in range(14):
        layout.put(nature.broadleaf(rng), float(rng.uniform(*ends)), _TAXIWAY + float(rng.uniform(84, 96)), -0.05)
    for s in np.arange(ends[0] + 25, ends[1], 70.0):
        mast = concatenate(
            [
                cylinder((0, 0, 0), (0, 0, 20), 0.32, Surface("dark_metal", "pole", (0.8, 0.8, 0.82)), end_radius=0.18),
                box((0, 0, 19.4), (0.7, 3.4, 0.9), Surface("lamp_white", "pole")),
            ]
        )
        layout.put(mast, float(s), _NOSE + 44.0, 0.0, -np.pi / 2)


def build_airside(rng: np.random.Generator, duration_s: Real) -> Layout:
    """Return an airport apron that covers ``duration_s`` seconds of driving."""
    road = Road(curvature=0.0)
    lead = varying_speed(rng, float(rng.uniform(4.0, 5.5)), duration_s)
    ego, gap = follow(lead, gap=float(rng.uniform(16, 24)), desired=6.0, leader_length=6.0)
    layout = Layout(
        road=road,
        rng=rng,
        duration_s=duration_s,
        ego=AlongRoad(road=road, start=0.0, offset=0.0, direction=1, profile=ego),
    )
    ends = (-120.0, float(ego.distance[-1]) + 150.0)
    _surfaces(layout, ends)
    _terminal(layout, ends)
    _stands(layout, ends)
    _beside_the_terminal(layout, ends)
    _traffic(layout, lead, gap)
    _beyond(layout, ends)
    layout.stuff.append(
        ground.countryside(
            rng,
            ((ends[0] + ends[1]) / 2, 60.0),
            flat_radius=(ends[1] - ends[0]) / 2 + 40,
            hills=float(rng.uniform(6, 25)),
            tint=(1.1, 1.0, 0.8),
        )
    )
    return layout
