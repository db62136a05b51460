"""The street theme: a road with lanes, parking, sidewalks, a crossing street, buildings, traffic."""

import numpy as np

from storage.procedural.world import buildings, furniture, ground, nature
from storage.procedural.world.ground import KERB_HEIGHT
from storage.procedural.world.layout import Layout
from storage.procedural.world.mesh import Colour, Real, Surface
from storage.procedural.world.street_plan import LANE, StreetPlan, draw_plan
from storage.procedural.world.street_traffic import add_parked, add_people, add_traffic, add_works
from storage.procedural.world.traffic import AlongRoad, Road, follow, varying_speed

_YELLOW: Colour = (1.0, 0.82, 0.25)
_CYCLE_RED: Colour = (1.5, 0.85, 0.78)


def _road_surface(layout: Layout, plan: StreetPlan) -> None:
    road, rng = layout.road, layout.rng
    shade = float(rng.uniform(0.75, 1.15))
    asphalt: Colour = (shade, shade, shade * float(rng.uniform(0.97, 1.03)))
    surface = Surface("asphalt", "driveable_surface", asphalt)
    layout.stuff.append(ground.strip(road, plan.ends, plan.kerbs, 0.0, surface))
    if plan.crossing is not None:
        for side, kerb in zip((-1, 1), plan.kerbs, strict=True):
            span = (kerb - 90.0, kerb) if side < 0 else (kerb, kerb + 90.0)
            layout.stuff.append(ground.strip(road, plan.crossing, span, 0.0, surface))
            middle = (plan.crossing[0] + plan.crossing[1]) / 2
            for offset in np.arange(span[0] + 6, span[1] - 6, 6.0):
                layout.stuff.append(
                    ground.patch(road, (middle - 0.07, middle + 0.07), (float(offset), float(offset) + 2.5))
                )
    for _ in range(14):
        s, d = float(rng.uniform(-60, plan.ends[1] - 40)), float(rng.uniform(*plan.edges))
        layout.stuff.append(
            ground.disc(road, s, d, 0.38, Surface("dark_metal", "driveable_surface", (0.55, 0.5, 0.45)))
        )
    for _ in range(8):
        s, d = float(rng.uniform(-50, plan.ends[1] - 40)), float(rng.uniform(*plan.edges))
        size = rng.uniform(0.6, 3.0, 2)
        dark = float(rng.uniform(0.5, 0.75))
        layout.stuff.append(
            ground.patch(
                road,
                (s, s + float(size[0]) * 2),
                (d, d + float(size[1])),
                Surface("asphalt", "driveable_surface", (dark, dark, dark)),
                z=0.003,
            )
        )


def _markings(layout: Layout, plan: StreetPlan) -> None:
    road, rng = layout.road, layout.rng
    centre = max(plan.same) + LANE / 2
    colour = _YELLOW if rng.random() < 0.45 else (1.0, 1.0, 1.0)
    paint = Surface("road_paint", "lane_marking", colour)
    is_double = bool(rng.random() < 0.5)
    for piece in plan.pieces():
        inner = (piece[0], piece[1] - 5.5) if plan.crossing and piece[1] == plan.crossing[0] else piece
        if plan.crossing and piece[0] == plan.crossing[1]:
            inner = (piece[0] + 5.5, piece[1])
        if is_double:
            layout.stuff += [ground.line(road, inner, centre + e, paint=paint) for e in (-0.13, 0.13)]
        else:
            layout.stuff += ground.dashes(road, inner, centre, paint=paint)
        for lanes in (plan.same, plan.opposite):
            for offset in lanes[:-1]:
                layout.stuff += ground.dashes(road, inner, offset + LANE / 2)
        if plan.cycle_lane is not None:
            right, left = plan.cycle_lane
            lane = Surface("asphalt", "driveable_surface", _CYCLE_RED)
            layout.stuff.append(ground.patch(road, inner, (right, left), lane, z=0.004))
            layout.stuff += ground.dashes(road, inner, left, on=1.0, off=1.0)
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
        span = (min(lanes) - LANE / 2 + 0.1, max(lanes) + LANE / 2 - 0.1)
        layout.stuff.append(ground.patch(road, (stop, stop + 0.4), span))
        for offset in lanes:
            layout.stuff += ground.arrow(road, stop - direction * 11.0, offset, direction)


def _span(a: Real, b: Real) -> tuple[Real, Real]:
    return (min(a, b), max(a, b))


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
            layout.stuff.append(ground.kerb(road, piece, kerb, faces_left=side < 0))
            layout.stuff.append(
                ground.strip(
                    road,
                    piece,
                    _span(kerb + side * 0.16, walk),
                    KERB_HEIGHT,
                    Surface("pavers", "sidewalk", (tint, tint, tint)),
                )
            )
            layout.stuff.append(
                ground.strip(road, piece, _span(walk, back + side * 2.0), KERB_HEIGHT, Surface(lot, lot_class))
            )
            layout.stuff.append(
                ground.strip(road, piece, _span(back + side * 2.0, far), KERB_HEIGHT, Surface("grass", "terrain"))
            )
            for end in piece:
                if end not in plan.ends:
                    layout.stuff.append(ground.kerb_across(road, end, _span(kerb, far), faces_forward=end == piece[1]))


def _buildings(layout: Layout, plan: StreetPlan) -> None:
    rng = layout.rng
    kinds = {
        "residential": ["house"],
        "urban": ["town_house", "town_house", "office"],
        "office": ["office", "office", "town_house"],
        "industrial": ["warehouse", "warehouse", "office"],
    }[plan.style]
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


def _front_garden(layout: Layout, plan: StreetPlan, s: Real, width: Real, kerb: Real, side: int) -> None:
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
            _span(line, line + side * 5.0),
            KERB_HEIGHT + 0.01,
            Surface("pavers", "other_flat"),
        )
    )
    for _ in range(int(rng.integers(1, 4))):
        layout.put(
            nature.bush(rng),
            s + float(rng.uniform(0.1, 0.9)) * width,
            line + side * float(rng.uniform(1.2, 3.5)),
            KERB_HEIGHT,
        )


def _park_lot(layout: Layout, s: Real, front: Real, side: int, width: Real) -> None:
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
                        layout.put(furniture.bench(), s, kerb + side * (plan.walk - 0.3), KERB_HEIGHT, across)
                    elif pick == 5:
                        # Behind the sidewalk, where there is room before the buildings.
                        d = kerb + side * (plan.walk + 0.9)
                        if plan.setback > 2.5:
                            layout.put(furniture.bus_shelter(), s, d, KERB_HEIGHT, across)
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


def build_street(rng: np.random.Generator, duration_s: Real) -> Layout:
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
    plan = draw_plan(rng, float(ego.distance[-1]))
    _road_surface(layout, plan)
    _markings(layout, plan)
    _sides(layout, plan)
    _buildings(layout, plan)
    _along_the_kerb(layout, plan)
    add_works(layout, plan)
    add_parked(layout, plan)
    add_traffic(layout, plan, lead, gap)
    add_people(layout, plan)
    middle = road.point((plan.ends[0] + plan.ends[1]) / 2, 0.0)
    tint: Colour = (float(rng.uniform(0.8, 1.3)), 1.0, float(rng.uniform(0.7, 1.0)))
    layout.stuff.append(
        ground.countryside(
            rng,
            middle,
            flat_radius=(plan.ends[1] - plan.ends[0]) / 2,
            hills=float(rng.uniform(10, 38)),
            tint=tint,
        )
    )
    return layout
