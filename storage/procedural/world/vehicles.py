"""Road vehicles: cars, vans, trucks, buses, excavators.

Local frame: x forward, y left, z up, origin on the ground under the middle of the vehicle.
"""

from dataclasses import dataclass

import numpy as np

from storage.procedural.world.mesh import WHITE, Colour, Mesh, Point, Real, Surface, concatenate
from storage.procedural.world.solids import box, cylinder, panel, tube

CAR_COLOURS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.92),
    (0.10, 0.10, 0.11),
    (0.55, 0.57, 0.60),
    (0.36, 0.38, 0.41),
    (0.62, 0.10, 0.10),
    (0.10, 0.20, 0.45),
    (0.16, 0.36, 0.56),
    (0.13, 0.30, 0.20),
    (0.80, 0.72, 0.55),
    (0.86, 0.62, 0.12),
    (0.45, 0.16, 0.12),
    (0.40, 0.52, 0.50),
)
DARK: Colour = (0.16, 0.16, 0.17)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarShape:
    """Side profile of a car.

    Attributes:
        length: Length between the bumpers, metres.
        width: Largest width, metres, mirrors excluded.
        height: Height of the roof above ground, metres.
        belt: Height of the window line, metres.
        hood: Height of the bonnet's front edge, metres.
        cabin: x of windscreen base, roof front, roof rear and rear window base, as shares of half the length, front
            positive.
        wheel: Radius of the wheels, metres.
    """

    length: float
    width: float
    height: float
    belt: float
    hood: float
    cabin: tuple[Real, Real, Real, Real]
    wheel: float


SHAPES: dict[str, CarShape] = {
    "sedan": CarShape(
        length=4.6,
        width=1.82,
        height=1.45,
        belt=0.95,
        hood=0.78,
        cabin=(0.42, 0.10, -0.42, -0.78),
        wheel=0.33,
    ),
    "hatchback": CarShape(
        length=4.0,
        width=1.76,
        height=1.5,
        belt=0.97,
        hood=0.80,
        cabin=(0.50, 0.18, -0.72, -0.97),
        wheel=0.31,
    ),
    "suv": CarShape(
        length=4.7,
        width=1.92,
        height=1.74,
        belt=1.12,
        hood=0.98,
        cabin=(0.46, 0.20, -0.80, -0.98),
        wheel=0.38,
    ),
    "van": CarShape(
        length=5.2,
        width=1.98,
        height=2.1,
        belt=1.25,
        hood=1.05,
        cabin=(0.82, 0.55, -0.97, -0.99),
        wheel=0.35,
    ),
}


def wheel(x: Real, y: Real, radius: Real, class_name: str, width: Real = 0.22) -> Mesh:
    """Return a wheel standing on the ground, its outer face at ``y``."""
    inner = y - np.sign(y) * width
    return cylinder(
        (x, inner, radius),
        (x, y, radius),
        radius,
        Surface("rubber", class_name),
        cap=Surface("wheel", class_name),
        segments=16,
    )


def _arch(x: Real, y: Real, radius: Real, class_name: str) -> Mesh:
    return cylinder(
        (x, y - np.sign(y) * 0.3, radius),
        (x, y, radius),
        radius * 1.17,
        Surface("plain", class_name, (0.12, 0.12, 0.12)),
        segments=16,
    )


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
                (x, y * 0.94, bottom),
                (x, y, middle),
                (x, y * 0.985, top - 0.09),
                (x, y * 0.90, top),
                (x, -y * 0.90, top),
                (x, -y * 0.985, top - 0.09),
                (x, -y, middle),
                (x, -y * 0.94, bottom),
            ]
        )
    return tube(np.array(rings), Surface("car_paint", "car", paint), smooth=False)


def _greenhouse(shape: CarShape, paint: Colour) -> list[Mesh]:
    half, wide = shape.length / 2, shape.width / 2
    x0, x1, x2, x3 = (share * half for share in shape.cabin)
    y0, y1, z0, z1 = wide * 0.90, wide * 0.72, shape.belt, shape.height - 0.05
    glass = Surface("vehicle_glass", "car")
    skin = Surface("car_paint", "car", paint)
    base: list[Point] = [(x0, -y0, z0), (x0, y0, z0), (x3, y0, z0), (x3, -y0, z0)]
    roof: list[Point] = [(x1, -y1, z1), (x1, y1, z1), (x2, y1, z1), (x2, -y1, z1)]
    parts = [panel([base[i], base[(i + 1) % 4], roof[(i + 1) % 4], roof[i]], glass) for i in range(4)]
    crown: list[Point] = [
        (x1 - 0.12, -y1 * 0.9, shape.height),
        (x1 - 0.12, y1 * 0.9, shape.height),
        (x2 + 0.12, y1 * 0.9, shape.height),
        (x2 + 0.12, -y1 * 0.9, shape.height),
    ]
    parts += [panel([roof[i], roof[(i + 1) % 4], crown[(i + 1) % 4], crown[i]], skin) for i in range(4)]
    parts.append(panel(crown, skin))
    for side in (1.0, -1.0):
        out = 0.012 * side

        def along(share: Real, side: Real = side, out: Real = out) -> tuple[Point, Point]:
            low, high = x0 + (x3 - x0) * share, x1 + (x2 - x1) * share
            return (low, side * y0 + out, z0), (high, side * y1 + out, z1)

        for share, width in ((0.0, 0.05), (0.45, 0.06), (0.76, 0.06), (0.95, 0.05)):
            (lx, ly, lz), (hx, hy, hz) = along(share)
            (mx, _, _), (nx, _, _) = along(min(share + width, 1.0))
            parts.append(panel([(lx, ly, lz), (mx, ly, lz), (nx, hy, hz), (hx, hy, hz)], skin))
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
                (half * 0.955, side * wide * 0.66, hood * 0.70), (0.12, wide * 0.38, 0.14), Surface("lamp_white", "car")
            )
        )
        parts.append(
            box((-half * 0.965, side * wide * 0.76, belt * 0.70), (0.10, wide * 0.28, 0.16), Surface("lamp_red", "car"))
        )
        parts.append(
            box(
                (shape.cabin[0] * half * 0.88, side * (wide * 0.98), belt),
                (0.10, 0.16, 0.13),
                Surface("plain", "car", DARK),
            )
        )
        for x in (shape.cabin[0] * half * 0.85, -0.02 * half, shape.cabin[2] * half):
            parts.append(
                box(
                    (x, side * wide * 0.995, 0.36),
                    (0.018, 0.012, belt - 0.46),
                    Surface("plain", "car", (0.1, 0.1, 0.1)),
                )
            )
        parts.append(box((0, side * wide * 0.975, 0.2), (half * 0.9, 0.05, 0.12), Surface("plain", "car", DARK)))
    for x, z in ((half, 0.40), (-half, 0.62)):
        direction = np.sign(x)
        y = 0.26 * direction
        parts.append(
            panel(
                [
                    (x + 0.008 * direction, -y, z),
                    (x + 0.008 * direction, y, z),
                    (x + 0.008 * direction, y, z + 0.12),
                    (x + 0.008 * direction, -y, z + 0.12),
                ],
                Surface("number_plate", "car"),
                unit=True,
            )
        )
        parts.append(box((x * 0.985, 0, 0.24), (0.10, wide * 1.5, 0.14), Surface("plain", "car", DARK)))
    parts.append(box((half * 0.985, 0, hood * 0.70), (0.04, wide * 0.85, 0.10), Surface("belt", "car")))
    if taxi:
        parts.append(box((0, 0, shape.height), (0.15, 0.6, 0.14), Surface("plain", "car", (0.95, 0.85, 0.2))))
    return parts


def car(rng: np.random.Generator, kind: str | None = None) -> Mesh:
    """Return a car of a random kind, size and colour."""
    kind = kind or str(rng.choice(["sedan", "sedan", "hatchback", "suv", "suv", "van"]))
    base = SHAPES[kind]
    scale = float(rng.uniform(0.96, 1.05))
    shape = CarShape(
        length=base.length * scale,
        width=base.width,
        height=base.height * float(rng.uniform(0.97, 1.03)),
        belt=base.belt,
        hood=base.hood,
        cabin=base.cabin,
        wheel=base.wheel,
    )
    paint = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    taxi = bool(rng.random() < 0.08)
    return concatenate([_car_body(shape, paint), *_greenhouse(shape, paint), *_car_details(shape, taxi=taxi)])


def cab(x: Real, length: Real, width: Real, height: Real, paint: Colour, class_name: str) -> list[Mesh]:
    """Return a truck's cab from 0.55 m up, its front at ``x``."""
    back, wide = x - length, width / 2
    profile = [(back, 0.55), (x, 0.55), (x, 1.45), (x - 0.25, height), (back, height)]
    left = [(px, wide, pz) for px, pz in profile]
    right = [(px, -wide, pz) for px, pz in profile]
    skin = Surface("car_paint", class_name, paint)
    parts = []
    for i in range(5):
        j = (i + 1) % 5
        parts.append(panel([right[i], left[i], left[j], right[j]], skin))
    for points in (left, right[::-1]):
        parts.append(panel([points[0], points[1], points[2], points[4]], skin))
        parts.append(panel([points[2], points[3], points[4], points[4]], skin))
    screen = [
        (x + 0.01, -wide * 0.9, 1.5),
        (x + 0.01, wide * 0.9, 1.5),
        (x - 0.21, wide * 0.86, height - 0.2),
        (x - 0.21, -wide * 0.86, height - 0.2),
    ]
    parts.append(panel(screen, Surface("vehicle_glass", class_name)))
    for side in (1.0, -1.0):
        y = side * (wide + 0.01)
        window: list[Point] = [
            (x - length * 0.78, y, 1.5),
            (x - 0.12, y, 1.5),
            (x - 0.32, y, height - 0.25),
            (x - length * 0.78, y, height - 0.25),
        ]
        parts.append(panel(window, Surface("vehicle_glass", class_name)))
        parts.append(box((x, side * wide * 0.78, 0.72), (0.06, 0.34, 0.2), Surface("lamp_white", class_name)))
        parts.append(box((x - 0.15, side * (wide + 0.14), 1.6), (0.1, 0.2, 0.4), Surface("plain", class_name, DARK)))
    parts.append(box((x, 0, 0.9), (0.05, width * 0.62, 0.36), Surface("belt", class_name)))
    parts.append(box((x - 0.02, 0, 0.4), (0.12, width * 0.98, 0.26), Surface("plain", class_name, DARK)))
    return parts


def chassis(length: Real, width: Real, axles: tuple[Real, ...], radius: Real, class_name: str) -> list[Mesh]:
    """Return frame rails, bumper and wheels of a heavy vehicle."""
    parts = [
        box((0, 0, radius * 0.9), (length * 0.96, width * 0.5, 0.25), Surface("dark_metal", class_name, DARK)),
        box((-length / 2 + 0.06, 0, 0.45), (0.1, width * 0.9, 0.15), Surface("hazard_stripes", class_name)),
    ]
    for x in axles:
        for side in (1.0, -1.0):
            parts.append(wheel(x, side * (width / 2), radius, class_name, width=0.34))
    return parts


def truck(rng: np.random.Generator) -> Mesh:
    """Return a box truck."""
    length, width = float(rng.uniform(6.5, 8.5)), 2.4
    height = float(rng.uniform(3.0, 3.5))
    paint = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
    half = length / 2
    box_tint = WHITE if rng.random() < 0.6 else paint
    cargo = box(
        (-0.95, 0, 0.95),
        (length - 2.1, width + 0.1, height - 0.95),
        Surface("truck_box", "truck", box_tint),
        top=Surface("metal_panels", "truck", box_tint),
    )
    doors = panel(
        [
            (-half + 0.09, 1.1, 1.05),
            (-half + 0.09, -1.1, 1.05),
            (-half + 0.09, -1.1, height - 0.1),
            (-half + 0.09, 1.1, height - 0.1),
        ],
        Surface("corrugated", "truck"),
    )
    lamps = [box((-half + 0.05, s * 1.0, 0.62), (0.08, 0.3, 0.14), Surface("lamp_red", "truck")) for s in (1, -1)]
    return concatenate(
        [
            cargo,
            doors,
            *lamps,
            *cab(half, 1.75, width, 2.6, paint, "truck"),
            *chassis(length, width, (half - 1.0, -half + 1.6), 0.48, "truck"),
        ]
    )


def bus(rng: np.random.Generator) -> Mesh:
    """Return a city bus."""
    length, width, height = 11.5, 2.55, 3.1
    half, wide = length / 2, width / 2
    paint = ((0.75, 0.15, 0.12), (0.12, 0.35, 0.6), (0.9, 0.9, 0.88), (0.9, 0.7, 0.15), (0.2, 0.5, 0.3))[
        int(rng.integers(5))
    ]
    body = box(
        (0, 0, 0.35),
        (length, width, height - 0.35),
        Surface("bus_side", "bus", paint),
        top=Surface("metal_panels", "bus"),
        unit=True,
        taper=(0.99, 0.95),
    )
    screen = panel(
        [
            (half + 0.01, -wide * 0.92, 1.0),
            (half + 0.01, wide * 0.92, 1.0),
            (half - 0.03, wide * 0.9, 2.75),
            (half - 0.03, -wide * 0.9, 2.75),
        ],
        Surface("vehicle_glass", "bus"),
    )
    parts = [body, screen, box((-2.0, 0, height), (2.6, 1.7, 0.25), Surface("metal_panels", "bus"))]
    for side in (1.0, -1.0):
        parts.append(box((half, side * 0.95, 0.62), (0.05, 0.38, 0.2), Surface("lamp_white", "bus")))
        parts.append(box((-half, side * 1.05, 0.9), (0.05, 0.22, 0.4), Surface("lamp_red", "bus")))
        for x in (half - 2.6, -half + 3.0):
            parts.append(_arch(x, side * (wide + 0.006), 0.48, "bus"))
            parts.append(wheel(x, side * (wide + 0.015), 0.48, "bus", width=0.3))
    parts.append(box((half - 0.02, 0, 2.78), (0.08, 1.6, 0.24), Surface("plain", "bus", (0.95, 0.6, 0.1))))
    for x in (1.2, 4.6):
        door = [
            (x, -wide - 0.012, 0.42),
            (x + 1.15, -wide - 0.012, 0.42),
            (x + 1.15, -wide * 0.955 - 0.012, 2.6),
            (x, -wide * 0.955 - 0.012, 2.6),
        ]
        parts.append(panel(door, Surface("vehicle_glass", "bus")))
    return concatenate(parts)


def excavator(rng: np.random.Generator) -> Mesh:
    """Return a tracked excavator with its arm lowered."""
    yellow: Colour = (0.95, 0.68, 0.10)
    steel = Surface("metal_panels", "construction_vehicle", yellow)
    parts = []
    for side in (1.0, -1.0):
        profile = np.array([(1.7, 0.35), (1.4, 0.75), (-1.4, 0.75), (-1.7, 0.35), (-1.4, 0.02), (1.4, 0.02)])
        rings = [np.stack([profile[:, 0], np.full(6, side * y), profile[:, 1]], 1) for y in (0.75, 1.3)]
        parts.append(tube(np.array(rings), Surface("belt", "construction_vehicle"), smooth=False))
    parts.append(box((-0.3, 0, 0.85), (2.9, 2.4, 1.0), steel))
    parts.append(
        box(
            (0.35, 0.65, 1.85),
            (1.3, 0.95, 1.05),
            Surface("vehicle_glass", "construction_vehicle"),
            top=Surface("metal_panels", "construction_vehicle", yellow),
        )
    )
    reach = float(rng.uniform(-0.3, 0.3))
    parts.append(cylinder((0.8, -0.2, 1.4), (2.6, -0.2, 3.3 + reach), 0.24, steel, segments=6))
    parts.append(cylinder((2.6, -0.2, 3.3 + reach), (3.8, -0.2, 1.4), 0.18, steel, segments=6))
    parts.append(
        box((3.8, -0.2, 0.75), (0.7, 0.9, 0.7), Surface("dark_metal", "construction_vehicle"), taper=(0.5, 1.0))
    )
    return concatenate(parts)
