"""The street theme: a road with lanes, parking, sidewalks, a crossing street, buildings, traffic."""

from dataclasses import dataclass

import numpy as np

from storage.procedural import buildings, furniture, ground, nature, people, vehicles
from storage.procedural.ground import KERB_HEIGHT
from storage.procedural.layout import Layout
from storage.procedural.mesh import Colour
from storage.procedural.traffic import (
    AcrossRoad,
    AlongRoad,
    Road,
    SpeedProfile,
    constant_speed,
    follow,
    varying_speed,
)

_LANE = 3.5
_YELLOW: Colour = (1.0, 0.82, 0.25)
_GAIT_PHASES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetPlan:
    """Dimensions of a street, offsets left of the ego's lane centre.

    Attributes:
        style: "residential", "urban", "office" or "industrial".
        ends: Arc lengths between which the street exists.
        same: Offsets of the lanes in the ego's direction, its own (0) included.
        opposite: Offsets of oncoming lanes.
        edges: Right and left edge of the lanes.
        kerbs: Right and left kerb, beyond the parking strips.
        walk: Width of the sidewalks.
        setback: Width between sidewalk and buildings.
        crossing: Arc lengths where a side street begins and ends; None without one.
    """

    style: str
    ends: tuple[float, float]
    same: tuple[float, ...]
    opposite: tuple[float, ...]
    edges: tuple[float, float]
    kerbs: tuple[float, float]
    walk: float
    setback: float
    crossing: tuple[float, float] | None

    def pieces(self) -> list[tuple[float, float]]:
        """Return the stretches of street on either side of the crossing."""
        if self.crossing is None:
            return [self.ends]
        return [(self.ends[0], self.crossing[0]), (self.crossing[1], self.ends[1])]


def _plan(rng: np.random.Generator, reach: float) -> StreetPlan:
    style = str(rng.choice(["residential", "urban", "urban", "office", "industrial"]))
    lanes = 1 if style == "residential" else int(rng.integers(1, 3))
    ego_lane = int(rng.integers(lanes))
    same = tuple(_LANE * (k - ego_lane) for k in range(lanes))
    centre = max(same) + _LANE / 2
    opposite = tuple(centre + _LANE * (k + 0.5) for k in range(lanes))
    edges = (min(same) - _LANE / 2, max(opposite) + _LANE / 2)
    parking = (float(rng.choice([0.0, 2.4, 2.4])), float(rng.choice([0.0, 2.4])))
    crossing = None
    if rng.random() < 0.75:
        start = float(rng.uniform(22, 55))
        crossing = (start, start + float(rng.choice([7.5, 10.5])))
    return StreetPlan(
        style=style,
        ends=(-110.0, reach + 130.0),
        same=same,
        opposite=opposite,
        edges=edges,
        kerbs=(edges[0] - parking[0] - 0.3, edges[1] + parking[1] + 0.3),
        walk=float(rng.uniform(2.4, 4.2)),
        setback={"residential": 5.0, "urban": 0.4, "office": 3.0, "industrial": 6.0}[style],
        crossing=crossing,
    )


def _road_surface(layout: Layout, plan: StreetPlan) -> None:
    road, rng = layout.road, layout.rng
    shade = float(rng.uniform(0.75, 1.15))
    asphalt: Colour = (shade, shade, shade * float(rng.uniform(0.97, 1.03)))
    surface = {"material": "asphalt", "class_name": "driveable_surface"}
    layout.stuff.append(ground.strip(road, plan.ends, plan.kerbs, 0.0, tint=asphalt, **surface))
    if plan.crossing is not None:
        for side, kerb in zip((-1, 1), plan.kerbs, strict=True):
            span = (kerb - 90.0, kerb) if side < 0 else (kerb, kerb + 90.0)
            layout.stuff.append(ground.strip(road, plan.crossing, span, 0.0, tint=asphalt, **surface))
            middle = (plan.crossing[0] + plan.crossing[1]) / 2
            for offset in np.arange(span[0] + 6, span[1] - 6, 6.0):
                layout.stuff.append(
                    ground.patch(road, (middle - 0.07, middle + 0.07), (float(offset), float(offset) + 2.5))
                )
    for _ in range(14):
        s, d = float(rng.uniform(-60, plan.ends[1] - 40)), float(rng.uniform(*plan.edges))
        layout.stuff.append(
            ground.disc(road, s, d, 0.38, material="dark_metal", tint=(0.55, 0.5, 0.45), class_name="driveable_surface")
        )
    for _ in range(8):
        s, d = float(rng.uniform(-50, plan.ends[1] - 40)), float(rng.uniform(*plan.edges))
        size = rng.uniform(0.6, 3.0, 2)
        dark = float(rng.uniform(0.5, 0.75))
        layout.stuff.append(
            ground.patch(
                road, (s, s + float(size[0]) * 2), (d, d + float(size[1])), tint=(dark, dark, dark), z=0.003, **surface
            )
        )


def _markings(layout: Layout, plan: StreetPlan) -> None:
    road, rng = layout.road, layout.rng
    centre = max(plan.same) + _LANE / 2
    colour = _YELLOW if rng.random() < 0.45 else (1.0, 1.0, 1.0)
    is_double = bool(rng.random() < 0.5)
    for piece in plan.pieces():
        inner = (piece[0], piece[1] - 5.5) if plan.crossing and piece[1] == plan.crossing[0] else piece
        if plan.crossing and piece[0] == plan.crossing[1]:
            inner = (piece[0] + 5.5, piece[1])
        if is_double:
            layout.stuff += [ground.line(road, inner, centre + e, tint=colour) for e in (-0.13, 0.13)]
        else:
            layout.stuff += ground.dashes(road, inner, centre, tint=colour)
        for lanes in (plan.same, plan.opposite):
            for offset in lanes[:-1]:
                layout.stuff += ground.dashes(road, inner, offset + _LANE / 2)
        for edge, kerb in zip(plan.edges, plan.kerbs, strict=True):
            if abs(edge - kerb) > 1.0:
                layout.stuff += ground.dashes(road, inner, edge, on=1.0, off=1.0)
                span = (min(edge, kerb), max(edge, kerb))
                layout.stuff += [
                    ground.patch(road, (float(s), float(s) + 0.12), span)
                    for s in np.arange(inner[0] + 3, inner[1] - 3, 6.2)
                ]
            else:
                layout.stuff.append(ground.line(road, inner, edge + np.sign(kerb - edge) * 0.1))
    if plan.crossing is None:
        return
    for s, direction in ((plan.crossing[0] - 4.3, 1), (plan.crossing[1] + 1.3, -1)):
        stripes = np.arange(plan.kerbs[0] + 0.4, plan.kerbs[1] - 0.5, 1.0)
        layout.stuff += [ground.patch(road, (s, s + 3.0), (float(d), float(d) + 0.5)) for d in stripes]
        lanes = plan.same if direction > 0 else plan.opposite
        stop = s - 1.2 if direction > 0 else s + 3.8
        span = (min(lanes) - _LANE / 2 + 0.1, max(lanes) + _LANE / 2 - 0.1)
        layout.stuff.append(ground.patch(road, (stop, stop + 0.4), span))
        for offset in lanes:
            layout.stuff += ground.arrow(road, stop - direction * 11.0, offset, direction)


def _sides(layout: Layout, plan: StreetPlan) -> None:
    """Add kerbs, sidewalks and the ground up to and behind the buildings."""
    road, rng = layout.road, layout.rng
    tint = float(rng.uniform(0.85, 1.1))
    lot = {"residential": "grass", "urban": "pavers", "office": "concrete", "industrial": "concrete"}[plan.style]
    lot_class = "terrain" if lot == "grass" else "other_flat"
    for side, kerb in zip((-1, 1), plan.kerbs, strict=True):
        walk, back = kerb + side * plan.walk, kerb + side * (plan.walk + plan.setback)
        far = kerb + side * 90.0
        for piece in plan.pieces():

            def span(a: float, b: float) -> tuple[float, float]:
                return (min(a, b), max(a, b))

            layout.stuff.append(ground.kerb(road, piece, kerb, faces_left=side < 0))
            layout.stuff.append(
                ground.strip(
                    road,
                    piece,
                    span(kerb + side * 0.16, walk),
                    KERB_HEIGHT,
                    material="pavers",
                    class_name="sidewalk",
                    tint=(tint, tint, tint),
                )
            )
            layout.stuff.append(
                ground.strip(
                    road, piece, span(walk, back + side * 2.0), KERB_HEIGHT, material=lot, class_name=lot_class
                )
            )
            layout.stuff.append(
                ground.strip(
                    road, piece, span(back + side * 2.0, far), KERB_HEIGHT, material="grass", class_name="terrain"
                )
            )
            for end in piece:
                if end not in plan.ends:
                    layout.stuff.append(ground.kerb_across(road, end, span(kerb, far), faces_forward=end == piece[1]))


def _buildings(layout: Layout, plan: StreetPlan) -> None:
    rng = layout.rng
    kinds = {
        "residential": ["house"], "urban": ["town_house", "town_house", "office"],
        "office": ["office", "office", "town_house"], "industrial": ["warehouse", "warehouse", "office"],
    }[plan.style]  # fmt: skip
    for side, kerb in zip((-1, 1), plan.kerbs, strict=True):
        front = kerb + side * (plan.walk + plan.setback)
        for piece in plan.pieces():
            s = piece[0] + 1.5
            while s < piece[1] - 8:
                width = float(rng.uniform(9, 22))
                gap = {"residential": rng.uniform(2.5, 6), "urban": rng.choice([0.0, 0.0, 3.0])}.get(
                    plan.style, rng.uniform(3, 9)
                )
                if rng.random() < (0.06 if plan.style == "urban" else 0.12):
                    _park_lot(layout, s, front, side, width)
                    s += width
                    continue
                width = min(width, piece[1] - s - 1.0)
                if width < 8:
                    break
                mesh = buildings.BUILDERS[str(rng.choice(kinds))](rng, width)
                extent = float(np.ptp(mesh.corners[..., 1]))
                # A front faces +x locally; seen from the road it must face the road.
                yaw = np.pi / 2 if side < 0 else -np.pi / 2
                layout.put(mesh, s + extent / 2, front, KERB_HEIGHT, yaw)
                if plan.style == "residential":
                    _front_garden(layout, plan, s, extent, kerb, side)
                s += extent + float(gap)


def _front_garden(layout: Layout, plan: StreetPlan, s: float, width: float, kerb: float, side: int) -> None:
    rng = layout.rng
    line = kerb + side * (plan.walk + 0.3)
    kind = rng.random()
    for offset in (-0.28, 0.28):
        length = width * 0.4
        mesh = nature.hedge(length, 1.0) if kind < 0.4 else furniture.fence(length, is_brick=kind < 0.7)
        layout.put(mesh, s + width * (0.5 + offset), line, KERB_HEIGHT)
    layout.stuff.append(
        ground.strip(
            layout.road,
            (s + width / 2 - 0.8, s + width / 2 + 0.8),
            tuple(sorted((line, line + side * 5.0))),
            KERB_HEIGHT + 0.01,
            material="pavers",
            class_name="other_flat",
        )
    )
    for _ in range(int(rng.integers(1, 4))):
        layout.put(
            nature.bush(rng),
            s + float(rng.uniform(0.1, 0.9)) * width,
            line + side * float(rng.uniform(1.2, 3.5)),
            KERB_HEIGHT,
        )


def _park_lot(layout: Layout, s: float, front: float, side: int, width: float) -> None:
    rng = layout.rng
    for _ in range(int(rng.integers(3, 6))):
        mesh = nature.broadleaf(rng) if rng.random() < 0.7 else nature.conifer(rng)
        layout.put(
            mesh, s + float(rng.uniform(0.1, 0.9)) * width, front + side * float(rng.uniform(1.5, 12)), KERB_HEIGHT
        )
    if rng.random() < 0.4:
        layout.put(furniture.billboard(), s + width / 2, front + side * 1.0, KERB_HEIGHT, -side * np.pi / 2)


def _along_the_kerb(layout: Layout, plan: StreetPlan) -> None:
    rng = layout.rng
    has_trees = bool(rng.random() < 0.75)
    for side, kerb in zip((-1, 1), plan.kerbs, strict=True):
        line = kerb + side * 0.65
        across = -side * np.pi / 2  # local +x towards the road
        for piece in plan.pieces():
            slots = np.arange(piece[0] + 6.0, piece[1] - 6.0, 4.6)
            for index, slot in enumerate(slots):
                s, turn = float(slot + rng.uniform(-0.4, 0.4)), index % 6
                if turn == 0:
                    layout.put(furniture.street_lamp(rng), s, line, KERB_HEIGHT, across)
                elif turn in (2, 4) and has_trees:
                    tree = nature.broadleaf(rng) if rng.random() < 0.85 else nature.conifer(rng)
                    layout.put(tree, s, line + side * 0.35, KERB_HEIGHT, float(rng.uniform(0, 6)))
                elif rng.random() < 0.45:
                    pick = int(rng.integers(6))
                    facing = np.pi if side < 0 else 0.0
                    if pick == 0:
                        layout.put(furniture.sign(rng), s, line, KERB_HEIGHT, facing)
                    elif pick == 1:
                        layout.put(furniture.bench(), s, kerb + side * (plan.walk - 0.4), KERB_HEIGHT, across)
                    elif pick == 5:
                        layout.put(furniture.bus_shelter(), s, kerb + side * (plan.walk - 0.6), KERB_HEIGHT, across)
                    else:
                        small = (furniture.bin_, furniture.hydrant, furniture.bollard)[pick - 2]
                        layout.put(small(), s, line, KERB_HEIGHT)
    if plan.crossing is None:
        return
    for s, direction, d in (
        (plan.crossing[0] - 5.2, 1, plan.kerbs[0] - 0.5),
        (plan.crossing[1] + 5.2, -1, plan.kerbs[1] + 0.5),
    ):
        arm = 4.5 if len(plan.same) > 1 else 3.0
        # The head faces oncoming drivers (local +x) and the arm (local -y) reaches over the road.
        layout.put(furniture.traffic_signal(arm), s, d, KERB_HEIGHT, np.pi if direction > 0 else 0.0)


def _parked(layout: Layout, plan: StreetPlan) -> None:
    rng = layout.rng
    density = float(rng.uniform(0.45, 0.85))
    for side, edge, kerb in zip((-1, 1), plan.edges, plan.kerbs, strict=True):
        if abs(kerb - edge) < 1.0:
            continue
        middle = (edge + kerb) / 2
        for piece in plan.pieces():
            for slot in np.arange(piece[0] + 8, piece[1] - 10, 6.2):
                draw, s = rng.random(), float(slot + 3.2 + rng.uniform(-0.3, 0.3))
                d = middle + float(rng.uniform(-0.1, 0.1))
                yaw = float(rng.normal(0, 0.015)) + (0.0 if side < 0 else np.pi)
                if draw < density:
                    layout.park("car", vehicles.car(rng), s, d, 0.0, yaw)
                elif draw < density + 0.05:
                    layout.park("motorcycle", vehicles.motorcycle(rng), s, d, 0.0, yaw + 0.9)
    for _ in range(int(rng.integers(0, 4))):
        side = int(rng.choice([-1, 1]))
        kerb = plan.kerbs[0] if side < 0 else plan.kerbs[1]
        layout.park(
            "bicycle",
            vehicles.bicycle(rng),
            float(rng.uniform(-20, 60)),
            kerb + side * (plan.walk - 0.5),
            KERB_HEIGHT,
            float(rng.choice([0, np.pi])),
        )


def _works(layout: Layout, plan: StreetPlan) -> None:
    """Add road works on the left or right edge: cones, barriers, an excavator."""
    rng = layout.rng
    if rng.random() > 0.55:
        return
    side = int(rng.choice([-1, 1]))
    kerb = plan.kerbs[0] if side < 0 else plan.kerbs[1]
    start = float(rng.uniform(8, 24)) if plan.crossing is None else plan.crossing[1] + 10.0
    inner = kerb - side * 2.5
    for k in range(7):
        layout.park("traffic_cone", furniture.cone(), start + 2.2 * k, inner + side * max(0.0, 1.5 - 0.5 * k))
    layout.park("barrier", furniture.board_barrier(), start - 1.0, kerb - side * 0.9, 0.0, np.pi)
    for k in range(4):
        layout.park("barrier", furniture.plastic_barrier(), start + 15.0 + 2.1 * k, inner)
    if rng.random() < 0.7:
        layout.park(
            "construction_vehicle",
            vehicles.excavator(rng),
            start + 30.0,
            kerb + side * (plan.walk + 3.0),
            KERB_HEIGHT,
            float(rng.uniform(0, 6)),
        )


def _vehicle(rng: np.random.Generator) -> tuple[str, tuple]:
    draw = rng.random()
    if draw < 0.12:
        return "truck", (vehicles.truck(rng),)
    if draw < 0.2:
        return "bus", (vehicles.bus(rng),)
    return "car", (vehicles.car(rng),)


def _traffic(layout: Layout, plan: StreetPlan, lead: SpeedProfile, gap: float) -> None:
    rng, road = layout.rng, layout.road
    name, mesh = _vehicle(rng)
    layout.drive(name, mesh, AlongRoad(road=road, start=gap, offset=0.0, direction=1, profile=lead))
    name, mesh = _vehicle(rng)
    layout.drive(
        name,
        mesh,
        AlongRoad(road=road, start=-float(rng.uniform(16, 24)), offset=0.0, direction=1, profile=layout.ego.profile),
    )  # type: ignore[attr-defined]
    for lanes, direction in ((plan.same, 1), (plan.opposite, -1)):
        for offset in lanes:
            if offset == 0.0:
                continue
            profile = varying_speed(rng, float(rng.uniform(6, 11)), layout.duration_s)
            s = float(rng.uniform(-30, 0)) if direction > 0 else float(rng.uniform(15, 30))
            for _ in range(5):
                name, mesh = _vehicle(rng)
                layout.drive(
                    name,
                    mesh,
                    AlongRoad(
                        road=road,
                        start=s,
                        offset=offset + float(rng.normal(0, 0.12)),
                        direction=direction,
                        profile=profile,
                    ),
                )
                s += float(rng.uniform(18, 34))
    for _ in range(int(rng.integers(1, 3))):
        phases = _phases(rng, "bicycle")
        offset = plan.edges[0] + 0.7
        profile = constant_speed(float(rng.uniform(3.2, 5.0)), layout.duration_s)
        layout.drive(
            "bicycle",
            phases,
            AlongRoad(road=road, start=float(rng.uniform(8, 45)), offset=offset - 0.9, direction=1, profile=profile),
            cycle=4.0,
        )


def _phases(rng: np.random.Generator, kind: str) -> tuple:
    """Return the same person at every phase of a gait: the random choices repeat per phase."""
    seed = int(rng.integers(1 << 30))
    make = vehicles.bicycle if kind == "bicycle" else people.pedestrian
    angles = np.arange(_GAIT_PHASES) * (2 * np.pi / _GAIT_PHASES)
    return tuple(make(np.random.default_rng(seed), float(angle)) for angle in angles)


def _people(layout: Layout, plan: StreetPlan) -> None:
    rng, road = layout.rng, layout.road
    for _ in range(int(rng.integers(8, 15))):
        side = int(rng.choice([-1, 1]))
        kerb = plan.kerbs[0] if side < 0 else plan.kerbs[1]
        offset = kerb + side * float(rng.uniform(1.3, plan.walk - 0.6))
        direction = int(rng.choice([-1, 1]))
        s = float(rng.uniform(-25, 60))
        if plan.crossing is not None and plan.crossing[0] - 12 < s < plan.crossing[1] + 12:
            s -= 30.0
        if rng.random() < 0.2:
            layout.park("pedestrian", people.pedestrian(rng), s, offset, KERB_HEIGHT, float(rng.uniform(0, 6.28)))
            continue
        profile = constant_speed(float(rng.uniform(0.9, 1.6)), layout.duration_s)
        motion = AlongRoad(road=road, start=s, offset=offset, direction=direction, profile=profile, height=KERB_HEIGHT)
        layout.drive("pedestrian", _phases(rng, "pedestrian"), motion, cycle=1.45)
    if plan.crossing is not None:
        for _ in range(int(rng.integers(1, 4))):
            direction = int(rng.choice([-1, 1]))
            start = plan.kerbs[0] + 1.0 if direction > 0 else plan.kerbs[1] - 1.0
            profile = constant_speed(float(rng.uniform(0.9, 1.3)), layout.duration_s)
            s = plan.crossing[1] + 2.8 + float(rng.uniform(-0.9, 0.9))
            layout.drive(
                "pedestrian",
                _phases(rng, "pedestrian"),
                AcrossRoad(road=road, s=s, start=start, direction=direction, profile=profile),
                cycle=1.45,
            )


def build_street(rng: np.random.Generator, duration_s: float) -> Layout:
    """Return a street scene that covers ``duration_s`` seconds of driving."""
    curvature = float(rng.choice([0.0, rng.uniform(-1 / 220, 1 / 220)]))
    road = Road(curvature=curvature)
    lead = varying_speed(rng, float(rng.uniform(6.5, 9.5)), duration_s)
    ego, gap = follow(lead, gap=float(rng.uniform(20, 28)), desired=11.0, leader_length=5.5)
    layout = Layout(
        road=road,
        rng=rng,
        duration_s=duration_s,
        ego=AlongRoad(road=road, start=0.0, offset=0.0, direction=1, profile=ego),
    )
    plan = _plan(rng, float(ego.distance[-1]))
    _road_surface(layout, plan)
    _markings(layout, plan)
    _sides(layout, plan)
    _buildings(layout, plan)
    _along_the_kerb(layout, plan)
    _parked(layout, plan)
    _works(layout, plan)
    _traffic(layout, plan, lead, gap)
    _people(layout, plan)
    middle = road.to_world(np.array((plan.ends[0] + plan.ends[1]) / 2), np.array(0.0))
    tint: Colour = (float(rng.uniform(0.8, 1.3)), 1.0, float(rng.uniform(0.7, 1.0)))
    layout.stuff.append(
        ground.countryside(
            rng,
            (float(middle[0]), float(middle[1])),
            flat_radius=(plan.ends[1] - plan.ends[0]) / 2,
            hills=float(rng.uniform(10, 38)),
            tint=tint,
        )
    )
    return layout
