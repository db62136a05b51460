"""Users of a street: parked and moving vehicles, cyclists, pedestrians, road works."""

import numpy as np

from storage.procedural.world import furniture, people, two_wheelers, vehicles
from storage.procedural.world.ground import KERB_HEIGHT
from storage.procedural.world.layout import Layout
from storage.procedural.world.mesh import Mesh, Real
from storage.procedural.world.street_plan import StreetPlan
from storage.procedural.world.traffic import AcrossRoad, AlongRoad, SpeedProfile, constant_speed, varying_speed

_GAIT_PHASES = 8


def add_works(layout: Layout, plan: StreetPlan) -> None:
    """Add road works on the left or right edge: cones, barriers, an excavator. Call it before anything is parked."""
    rng = layout.rng
    if rng.random() > 0.6:
        return
    side = int(rng.choice([-1, 1]))
    edge, kerb = (plan.edges[0], plan.kerbs[0]) if side < 0 else (plan.edges[1], plan.kerbs[1])
    start = float(rng.uniform(8, 24)) if plan.crossing is None else plan.crossing[1] + 10.0
    is_on_road = abs(kerb - edge) > 1.0
    height = 0.0 if is_on_road else KERB_HEIGHT
    near, far = (edge + side * 0.3, kerb - side * 0.4) if is_on_road else (kerb + side * 0.4, kerb + side * 1.4)
    for k in range(7):
        share = min(k / 4, 1.0)
        layout.park("traffic_cone", furniture.cone(), start + 2.2 * k, far + (near - far) * share, height)
    layout.park("barrier", furniture.board_barrier(), start - 1.2, (near + far) / 2, height, np.pi)
    for k in range(4):
        layout.park("barrier", furniture.plastic_barrier(), start + 15.5 + 2.1 * k, near, height)
    if rng.random() < 0.7 and plan.setback > 2:
        digger = vehicles.excavator(rng)
        d = kerb + side * (plan.walk + 2.4)
        layout.park("construction_vehicle", digger, start + 30.0, d, KERB_HEIGHT, float(rng.uniform(0, 6)))


def add_parked(layout: Layout, plan: StreetPlan) -> None:
    """Add parked cars, motorcycles and bicycles."""
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
                if draw > density + 0.05 or not all(layout.is_place_clear(s + ds, d, 1.0) for ds in (-2, 0, 2)):
                    continue
                if draw < density:
                    layout.park("car", vehicles.car(rng), s, d, 0.0, yaw)
                else:
                    layout.park("motorcycle", two_wheelers.motorcycle(rng), s, d, 0.0, yaw + 0.9)
    for _ in range(int(rng.integers(0, 5))):
        side = int(rng.choice([-1, 1]))
        kerb = plan.kerbs[0] if side < 0 else plan.kerbs[1]
        s, d = float(rng.uniform(-20, 60)), kerb + side * (plan.walk - 0.35)
        if layout.is_place_clear(s, d, 1.0):
            layout.park("bicycle", two_wheelers.bicycle(rng), s, d, KERB_HEIGHT, float(rng.choice([0, np.pi])))


def _vehicle(rng: np.random.Generator) -> tuple[str, tuple[Mesh, ...]]:
    draw = rng.random()
    if draw < 0.12:
        return "truck", (vehicles.truck(rng),)
    if draw < 0.2:
        return "bus", (vehicles.bus(rng),)
    return "car", (vehicles.car(rng),)


def add_traffic(layout: Layout, plan: StreetPlan, lead: SpeedProfile, gap: Real) -> None:
    """Add vehicles on every lane, the one that the ego follows first, and cyclists."""
    rng, road = layout.rng, layout.road
    name, mesh = _vehicle(rng)
    layout.drive(name, mesh, AlongRoad(road=road, start=gap, offset=0.0, direction=1, profile=lead))
    name, mesh = _vehicle(rng)
    layout.drive(
        name,
        mesh,
        AlongRoad(road=road, start=-float(rng.uniform(16, 24)), offset=0.0, direction=1, profile=layout.ego.profile),
    )
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
    if plan.cycle_lane is None:
        return
    offset = sum(plan.cycle_lane) / 2
    for _ in range(int(rng.integers(1, 5))):
        profile = constant_speed(float(rng.uniform(3.4, 4.6)), layout.duration_s)
        start = float(rng.uniform(-25, 45))
        motion = AlongRoad(road=road, start=start, offset=offset, direction=1, profile=profile)
        if layout.is_clear(motion, 1.0):
            layout.drive("bicycle", _phases(rng, "bicycle"), motion, cycle=4.0)


def _phases(rng: np.random.Generator, kind: str) -> tuple[Mesh, ...]:
    """Return the same person at every phase of a gait: the random choices are repeated for each phase."""
    seed = int(rng.integers(1 << 30))
    make = two_wheelers.bicycle if kind == "bicycle" else people.pedestrian
    angles = np.arange(_GAIT_PHASES) * (2 * np.pi / _GAIT_PHASES)
    return tuple(make(np.random.default_rng(seed), float(angle)) for angle in angles)


def add_people(layout: Layout, plan: StreetPlan) -> None:
    """Add pedestrians on the sidewalks and on the crossing, where their way is clear."""
    rng, road = layout.rng, layout.road
    for _ in range(int(rng.integers(12, 22))):
        side = int(rng.choice([-1, 1]))
        kerb = plan.kerbs[0] if side < 0 else plan.kerbs[1]
        offset = kerb + side * float(rng.uniform(1.45, max(plan.walk - 0.85, 1.55)))
        s = float(rng.uniform(-25, 60))
        profile = constant_speed(float(rng.uniform(0.9, 1.6)), layout.duration_s)
        direction = int(rng.choice([-1, 1]))
        motion = AlongRoad(road=road, start=s, offset=offset, direction=direction, profile=profile, height=KERB_HEIGHT)
        leaves_sidewalk = plan.crossing is not None and plan.crossing[0] - 12 < s < plan.crossing[1] + 12
        if rng.random() < 0.2 and layout.is_place_clear(s, offset, 0.5):
            layout.park("pedestrian", people.pedestrian(rng), s, offset, KERB_HEIGHT, float(rng.uniform(0, 6.28)))
        elif layout.is_clear(motion, 0.45) and not leaves_sidewalk:
            layout.drive("pedestrian", _phases(rng, "pedestrian"), motion, cycle=1.45)
    if plan.crossing is None:
        return
    for _ in range(8):
        direction = int(rng.choice([-1, 1]))
        start = (plan.kerbs[0] if direction > 0 else plan.kerbs[1]) + direction * float(rng.uniform(-3, 3))
        profile = constant_speed(float(rng.uniform(0.9, 1.4)), layout.duration_s)
        s = plan.crossing[1] + 2.8 + float(rng.uniform(-1.0, 1.0))
        far = plan.kerbs[1] if direction > 0 else plan.kerbs[0]
        motion = AcrossRoad(
            road=road,
            s=s,
            start=start,
            direction=direction,
            profile=profile,
            kerbs=plan.kerbs,
            step=KERB_HEIGHT,
            reach=abs(far - start) + plan.walk / 2,
        )
        if layout.is_clear(motion, 0.6):
            layout.drive("pedestrian", _phases(rng, "pedestrian"), motion, cycle=1.45)
