"""Road vehicles: cars, vans, trucks, buses, bicycles and motorcycles.

Local frame: x forward, y left, z up, origin on the ground under the middle of the vehicle.
"""

from dataclasses import dataclass

import numpy as np

from storage.procedural.mesh import (
    WHITE,
    Colour,
    Mesh,
    Point,
    box,
    concatenate,
    cylinder,
    panel,
    quads,
    tube,
    with_class,
)

_CAR_COLOURS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.92), (0.10, 0.10, 0.11), (0.55, 0.57, 0.60), (0.36, 0.38, 0.41),
    (0.62, 0.10, 0.10), (0.10, 0.20, 0.45), (0.16, 0.36, 0.56), (0.13, 0.30, 0.20),
    (0.80, 0.72, 0.55), (0.86, 0.62, 0.12), (0.45, 0.16, 0.12), (0.40, 0.52, 0.50),
)  # fmt: skip
_DARK: Colour = (0.16, 0.16, 0.17)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarShape:
    """Side profile of a car.

    Attributes:
        length: Bumper to bumper, metres.
        width: Widest, metres, mirrors excluded.
        height: Roof above ground.
        belt: Height of the window line.
        hood: Height of the bonnet's front edge.
        cabin: x of windscreen base, roof front, roof rear, rear window base, as shares of half the
            length, front positive.
        wheel: Wheel radius.
    """

    length: float
    width: float
    height: float
    belt: float
    hood: float
    cabin: tuple[float, float, float, float]
    wheel: float


SHAPES: dict[str, CarShape] = {
    "sedan": CarShape(
        length=4.6, width=1.82, height=1.45, belt=0.95, hood=0.78,
        cabin=(0.42, 0.10, -0.42, -0.78), wheel=0.33,
    ),
    "hatchback": CarShape(
        length=4.0, width=1.76, height=1.5, belt=0.97, hood=0.80,
        cabin=(0.50, 0.18, -0.72, -0.97), wheel=0.31,
    ),
    "suv": CarShape(
        length=4.7, width=1.92, height=1.74, belt=1.12, hood=0.98,
        cabin=(0.46, 0.20, -0.80, -0.98), wheel=0.38,
    ),
    "van": CarShape(
        length=5.2, width=1.98, height=2.1, belt=1.25, hood=1.05,
        cabin=(0.82, 0.55, -0.97, -0.99), wheel=0.35,
    ),
}  # fmt: skip


def wheel(x: float, y: float, radius: float, class_name: str, width: float = 0.22) -> Mesh:
    """Return a wheel standing on the ground, its outer face at ``y``."""
    inner = y - np.sign(y) * width
    return cylinder(
        (x, inner, radius), (x, y, radius), radius,
        material="rubber", class_name=class_name, segments=16, cap_material="wheel",
    )  # fmt: skip


def _arch(x: float, y: float, radius: float, class_name: str) -> Mesh:
    return cylinder(
        (x, y - np.sign(y) * 0.3, radius), (x, y, radius), radius * 1.17,
        material="plain", class_name=class_name, tint=(0.12, 0.12, 0.12), segments=16,
    )  # fmt: skip


def _car_body(shape: CarShape, paint: Colour) -> Mesh:
    half, wide, hood, belt = shape.length / 2, shape.width / 2, shape.hood, shape.belt
    front, rear = shape.cabin[0] * half, shape.cabin[3] * half
    low = 0.52 * shape.wheel
    stations = [  # x, half width, underside, shoulder height
        (-half, wide * 0.86, low + 0.18, belt * 0.84),
        (-half * 0.95, wide * 0.96, low, belt * 0.95),
        (rear, wide, low, belt),
        (0.0, wide, low, belt),
        (front, wide, low, belt),
        (half * 0.86, wide * 0.97, low, hood),
        (half * 0.97, wide * 0.90, low + 0.02, hood * 0.90),
        (half, wide * 0.80, low + 0.16, hood * 0.70),
    ]
    rings = []
    for x, y, bottom, top in stations:
        middle = bottom + 0.52 * (top - bottom)
        rings.append(
            [
                (x, y * 0.94, bottom), (x, y, middle), (x, y * 0.985, top - 0.09), (x, y * 0.90, top),
                (x, -y * 0.90, top), (x, -y * 0.985, top - 0.09), (x, -y, middle),
                (x, -y * 0.94, bottom),
            ]
        )  # fmt: skip
    return tube(
        np.array(rings), material="car_paint", class_name="car", tint=paint, smooth=False,
    )  # fmt: skip


def _greenhouse(shape: CarShape, paint: Colour) -> list[Mesh]:
    half, wide = shape.length / 2, shape.width / 2
    x0, x1, x2, x3 = (share * half for share in shape.cabin)
    y0, y1, z0, z1 = wide * 0.90, wide * 0.72, shape.belt, shape.height - 0.05
    glass = {"material": "vehicle_glass", "class_name": "car"}
    skin = {"material": "car_paint", "class_name": "car", "tint": paint}
    base: list[Point] = [(x0, -y0, z0), (x0, y0, z0), (x3, y0, z0), (x3, -y0, z0)]
    roof: list[Point] = [(x1, -y1, z1), (x1, y1, z1), (x2, y1, z1), (x2, -y1, z1)]
    parts = [panel([base[i], base[(i + 1) % 4], roof[(i + 1) % 4], roof[i]], **glass) for i in range(4)]
    crown: list[Point] = [
        (x1 - 0.12, -y1 * 0.9, shape.height), (x1 - 0.12, y1 * 0.9, shape.height),
        (x2 + 0.12, y1 * 0.9, shape.height), (x2 + 0.12, -y1 * 0.9, shape.height),
    ]  # fmt: skip
    parts += [panel([roof[i], roof[(i + 1) % 4], crown[(i + 1) % 4], crown[i]], **skin) for i in range(4)]
    parts.append(panel(crown, **skin))
    for side in (1.0, -1.0):
        out = 0.012 * side

        def along(share: float, side: float = side, out: float = out) -> tuple[Point, Point]:
            low, high = x0 + (x3 - x0) * share, x1 + (x2 - x1) * share
            return (low, side * y0 + out, z0), (high, side * y1 + out, z1)

        for share, width in ((0.0, 0.05), (0.45, 0.06), (0.76, 0.06), (0.95, 0.05)):
            (lx, ly, lz), (hx, hy, hz) = along(share)
            (mx, _, _), (nx, _, _) = along(min(share + width, 1.0))
            parts.append(panel([(lx, ly, lz), (mx, ly, lz), (nx, hy, hz), (hx, hy, hz)], **skin))
    return parts


def _car_details(shape: CarShape, *, taxi: bool) -> list[Mesh]:
    half, wide, hood, belt = shape.length / 2, shape.width / 2, shape.hood, shape.belt
    parts = []
    for side in (1.0, -1.0):
        for x in (half * 0.62, -half * 0.60):
            parts.append(_arch(x, side * (wide + 0.005), shape.wheel, "car"))
            parts.append(wheel(x, side * (wide + 0.012), shape.wheel, "car"))
        parts.append(
            box(
                (half * 0.955, side * wide * 0.66, hood * 0.70), (0.12, wide * 0.38, 0.14),
                material="lamp_white", class_name="car",
            )
        )  # fmt: skip
        parts.append(
            box(
                (-half * 0.965, side * wide * 0.76, belt * 0.70), (0.10, wide * 0.28, 0.16),
                material="lamp_red", class_name="car",
            )
        )  # fmt: skip
        parts.append(
            box(
                (shape.cabin[0] * half * 0.88, side * (wide * 0.98), belt), (0.10, 0.16, 0.13),
                material="plain", class_name="car", tint=_DARK,
            )
        )  # fmt: skip
        for x in (shape.cabin[0] * half * 0.85, -0.02 * half, shape.cabin[2] * half):
            parts.append(
                box(
                    (x, side * wide * 0.995, 0.36), (0.018, 0.012, belt - 0.46),
                    material="plain", class_name="car", tint=(0.1, 0.1, 0.1),
                )
            )  # fmt: skip
        parts.append(
            box(
                (0, side * wide * 0.975, 0.2), (half * 0.9, 0.05, 0.12),
                material="plain", class_name="car", tint=_DARK,
            )
        )  # fmt: skip
    for x, z in ((half, 0.40), (-half, 0.62)):
        direction = np.sign(x)
        y = 0.26 * direction
        parts.append(
            panel(
                [(x + 0.008 * direction, -y, z), (x + 0.008 * direction, y, z),
                 (x + 0.008 * direction, y, z + 0.12), (x + 0.008 * direction, -y, z + 0.12)],
                material="number_plate", class_name="car", unit=True,
            )
        )  # fmt: skip
        parts.append(
            box(
                (x * 0.985, 0, 0.24), (0.10, wide * 1.5, 0.14),
                material="plain", class_name="car", tint=_DARK,
            )
        )  # fmt: skip
    parts.append(
        box(
            (half * 0.985, 0, hood * 0.70), (0.04, wide * 0.85, 0.10),
            material="belt", class_name="car",
        )
    )  # fmt: skip
    if taxi:
        parts.append(
            box((0, 0, shape.height), (0.15, 0.6, 0.14), material="plain", class_name="car", tint=(0.95, 0.85, 0.2))
        )
    return parts


def car(rng: np.random.Generator, kind: str | None = None) -> Mesh:
    """Return a car of a random kind, size and colour."""
    kind = kind or str(rng.choice(["sedan", "sedan", "hatchback", "suv", "suv", "van"]))
    base = SHAPES[kind]
    scale = float(rng.uniform(0.96, 1.05))
    shape = CarShape(
        length=base.length * scale, width=base.width, height=base.height * float(rng.uniform(0.97, 1.03)),
        belt=base.belt, hood=base.hood, cabin=base.cabin, wheel=base.wheel,
    )  # fmt: skip
    paint = _CAR_COLOURS[int(rng.integers(len(_CAR_COLOURS)))]
    taxi = bool(rng.random() < 0.08)
    return concatenate([_car_body(shape, paint), *_greenhouse(shape, paint), *_car_details(shape, taxi=taxi)])


def cab(x: float, length: float, width: float, height: float, paint: Colour, class_name: str) -> list[Mesh]:
    """Return a truck's cab from 0.55 m up, its front at ``x``."""
    back, wide = x - length, width / 2
    profile = [(back, 0.55), (x, 0.55), (x, 1.45), (x - 0.25, height), (back, height)]
    left = [(px, wide, pz) for px, pz in profile]
    right = [(px, -wide, pz) for px, pz in profile]
    skin = {"material": "car_paint", "class_name": class_name, "tint": paint}
    parts = []
    for i in range(5):
        j = (i + 1) % 5
        parts.append(panel([right[i], left[i], left[j], right[j]], **skin))
    for points in (left, right[::-1]):
        parts.append(panel([points[0], points[1], points[2], points[4]], **skin))
        parts.append(panel([points[2], points[3], points[4], points[4]], **skin))
    screen = [(x + 0.01, -wide * 0.9, 1.5), (x + 0.01, wide * 0.9, 1.5),
              (x - 0.21, wide * 0.86, height - 0.2), (x - 0.21, -wide * 0.86, height - 0.2)]  # fmt: skip
    parts.append(panel(screen, material="vehicle_glass", class_name=class_name))
    for side in (1.0, -1.0):
        y = side * (wide + 0.01)
        window: list[Point] = [
            (x - length * 0.78, y, 1.5), (x - 0.12, y, 1.5),
            (x - 0.32, y, height - 0.25), (x - length * 0.78, y, height - 0.25),
        ]  # fmt: skip
        parts.append(panel(window, material="vehicle_glass", class_name=class_name))
        parts.append(
            box((x, side * wide * 0.78, 0.72), (0.06, 0.34, 0.2), material="lamp_white", class_name=class_name)
        )
        parts.append(
            box(
                (x - 0.15, side * (wide + 0.14), 1.6),
                (0.1, 0.2, 0.4),
                material="plain",
                class_name=class_name,
                tint=_DARK,
            )
        )
    parts.append(box((x, 0, 0.9), (0.05, width * 0.62, 0.36), material="belt", class_name=class_name))
    parts.append(
        box((x - 0.02, 0, 0.4), (0.12, width * 0.98, 0.26), material="plain", class_name=class_name, tint=_DARK)
    )
    return parts


def chassis(length: float, width: float, axles: tuple[float, ...], radius: float, class_name: str) -> list[Mesh]:
    """Return frame rails, bumper and wheels of a heavy vehicle."""
    parts = [
        box(
            (0, 0, radius * 0.9),
            (length * 0.96, width * 0.5, 0.25),
            material="dark_metal",
            class_name=class_name,
            tint=_DARK,
        ),
        box((-length / 2 + 0.06, 0, 0.45), (0.1, width * 0.9, 0.15), material="hazard_stripes", class_name=class_name),
    ]
    for x in axles:
        for side in (1.0, -1.0):
            parts.append(wheel(x, side * (width / 2), radius, class_name, width=0.34))
    return parts


def truck(rng: np.random.Generator) -> Mesh:
    """Return a box truck."""
    length, width = float(rng.uniform(6.5, 8.5)), 2.4
    height = float(rng.uniform(3.0, 3.5))
    paint = _CAR_COLOURS[int(rng.integers(len(_CAR_COLOURS)))]
    half = length / 2
    box_tint = WHITE if rng.random() < 0.6 else paint
    cargo = box(
        (-0.95, 0, 0.95), (length - 2.1, width + 0.1, height - 0.95),
        material="truck_box", class_name="truck", tint=box_tint, top="metal_panels",
    )  # fmt: skip
    doors = panel(
        [(-half + 0.09, 1.1, 1.05), (-half + 0.09, -1.1, 1.05), (-half + 0.09, -1.1, height - 0.1), (-half + 0.09, 1.1, height - 0.1)],
        material="corrugated", class_name="truck",
    )  # fmt: skip
    lamps = [
        box((-half + 0.05, s * 1.0, 0.62), (0.08, 0.3, 0.14), material="lamp_red", class_name="truck") for s in (1, -1)
    ]
    return concatenate(
        [cargo, doors, *lamps, *cab(half, 1.75, width, 2.6, paint, "truck"),
         *chassis(length, width, (half - 1.0, -half + 1.6), 0.48, "truck")]
    )  # fmt: skip


def bus(rng: np.random.Generator) -> Mesh:
    """Return a city bus."""
    length, width, height = 11.5, 2.55, 3.1
    half, wide = length / 2, width / 2
    paint = (
        (0.75, 0.15, 0.12), (0.12, 0.35, 0.6), (0.9, 0.9, 0.88), (0.9, 0.7, 0.15), (0.2, 0.5, 0.3)
    )[int(rng.integers(5))]  # fmt: skip
    body = box(
        (0, 0, 0.35), (length, width, height - 0.35),
        material="bus_side", class_name="bus", tint=paint, top="metal_panels", top_tint=WHITE, unit=True, taper=(0.99, 0.95),
    )  # fmt: skip
    screen = panel(
        [(half + 0.01, -wide * 0.92, 1.0), (half + 0.01, wide * 0.92, 1.0),
         (half - 0.03, wide * 0.9, 2.75), (half - 0.03, -wide * 0.9, 2.75)],
        material="vehicle_glass", class_name="bus",
    )  # fmt: skip
    parts = [body, screen, box((-2.0, 0, height), (2.6, 1.7, 0.25), material="metal_panels", class_name="bus")]
    for side in (1.0, -1.0):
        parts.append(box((half, side * 0.95, 0.62), (0.05, 0.38, 0.2), material="lamp_white", class_name="bus"))
        parts.append(box((-half, side * 1.05, 0.9), (0.05, 0.22, 0.4), material="lamp_red", class_name="bus"))
        for x in (half - 2.6, -half + 3.0):
            parts.append(_arch(x, side * (wide + 0.006), 0.48, "bus"))
            parts.append(wheel(x, side * (wide + 0.015), 0.48, "bus", width=0.3))
    parts.append(
        box((half - 0.02, 0, 2.78), (0.08, 1.6, 0.24), material="plain", class_name="bus", tint=(0.95, 0.6, 0.1))
    )
    for x in (1.2, 4.6):
        door = [
            (x, -wide - 0.012, 0.42),
            (x + 1.15, -wide - 0.012, 0.42),
            (x + 1.15, -wide * 0.955 - 0.012, 2.6),
            (x, -wide * 0.955 - 0.012, 2.6),
        ]
        parts.append(panel(door, material="vehicle_glass", class_name="bus"))
    return concatenate(parts)


def excavator(rng: np.random.Generator) -> Mesh:
    """Return a tracked excavator with its arm lowered."""
    yellow: Colour = (0.95, 0.68, 0.10)
    options = {"material": "metal_panels", "class_name": "construction_vehicle"}
    parts = []
    for side in (1.0, -1.0):
        profile = np.array([(1.7, 0.35), (1.4, 0.75), (-1.4, 0.75), (-1.7, 0.35), (-1.4, 0.02), (1.4, 0.02)])
        rings = [np.stack([profile[:, 0], np.full(6, side * y), profile[:, 1]], 1) for y in (0.75, 1.3)]
        parts.append(tube(np.array(rings), material="belt", class_name="construction_vehicle", smooth=False))
    parts.append(box((-0.3, 0, 0.85), (2.9, 2.4, 1.0), tint=yellow, **options))
    parts.append(
        box(
            (0.35, 0.65, 1.85),
            (1.3, 0.95, 1.05),
            material="vehicle_glass",
            class_name="construction_vehicle",
            top="metal_panels",
            top_tint=yellow,
        )
    )
    reach = float(rng.uniform(-0.3, 0.3))
    parts.append(cylinder((0.8, -0.2, 1.4), (2.6, -0.2, 3.3 + reach), 0.24, tint=yellow, segments=6, **options))
    parts.append(cylinder((2.6, -0.2, 3.3 + reach), (3.8, -0.2, 1.4), 0.18, tint=yellow, segments=6, **options))
    parts.append(
        box(
            (3.8, -0.2, 0.75),
            (0.7, 0.9, 0.7),
            material="dark_metal",
            class_name="construction_vehicle",
            taper=(0.5, 1.0),
        )
    )
    return concatenate(parts)


def _cycle_frame(class_name: str, colour: Colour, wheelbase: float, radius: float, thick: float) -> list[Mesh]:
    half = wheelbase / 2
    parts = []
    for x in (half, -half):
        parts.append(
            cylinder(
                (x, -thick, radius), (x, thick, radius), radius, material="rubber",
                class_name=class_name, segments=16, cap_material="wheel",
            )
        )  # fmt: skip
    tubes = [
        ((-half, 0, radius), (0.0, 0, radius * 0.9)), ((0.0, 0, radius * 0.9), (half * 0.75, 0, radius * 2.3)),
        ((-0.18, 0, radius * 2.4), (half * 0.75, 0, radius * 2.4)), ((0, 0, radius * 0.9), (-0.22, 0, radius * 2.7)),
        ((half * 0.72, 0, radius * 2.7), (half, 0, radius)), ((half * 0.72, -0.28, radius * 2.9), (half * 0.72, 0.28, radius * 2.9)),
    ]  # fmt: skip
    for start, end in tubes:
        parts.append(cylinder(start, end, thick, material="plain", class_name=class_name, tint=colour, segments=6))
    parts.append(box((-0.24, 0, radius * 2.7), (0.26, 0.16, 0.07), material="plain", class_name=class_name, tint=_DARK))
    return parts


def bicycle(rng: np.random.Generator, phase: float | None = None) -> Mesh:
    """Return a bicycle; with a rider at pedal ``phase`` (radians) unless that is None."""
    from storage.procedural.people import rider

    colour = _CAR_COLOURS[int(rng.integers(len(_CAR_COLOURS)))]
    parts = _cycle_frame("bicycle", colour, 1.05, 0.34, 0.022)
    if phase is not None:
        parts.append(with_class(rider(rng, phase), "bicycle"))
    return concatenate(parts)


def motorcycle(rng: np.random.Generator) -> Mesh:
    """Return a parked motorcycle."""
    colour = _CAR_COLOURS[int(rng.integers(len(_CAR_COLOURS)))]
    parts = _cycle_frame("motorcycle", _DARK, 1.35, 0.31, 0.06)
    skin = {"material": "car_paint", "class_name": "motorcycle", "tint": colour}
    parts.append(box((0.22, 0, 0.62), (0.62, 0.3, 0.26), taper=(0.8, 0.6), **skin))
    parts.append(box((-0.45, 0, 0.74), (0.6, 0.26, 0.12), material="plain", class_name="motorcycle", tint=_DARK))
    parts.append(box((0.0, 0, 0.25), (0.5, 0.26, 0.36), material="dark_metal", class_name="motorcycle"))
    parts.append(box((0.62, 0, 0.82), (0.1, 0.22, 0.22), material="lamp_white", class_name="motorcycle"))
    return concatenate(parts)


__all__ = [
    "SHAPES", "CarShape", "bicycle", "bus", "car", "chassis", "excavator", "motorcycle", "quads",
    "truck", "wheel",
]  # fmt: skip
