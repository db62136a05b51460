"""Buildings: houses with pitched roofs, town houses over shops, offices, towers.

Local frame: the street front faces +x at x = 0, the building extends to -x, y runs along the street,
origin on the ground in the middle of the front.
"""

from collections.abc import Callable

import numpy as np

from storage.procedural.world.mesh import WHITE, Colour, Mesh, Point, Real, Surface, concatenate, soup
from storage.procedural.world.solids import box, panel

_WALLS: tuple[Colour, ...] = (
    (0.95, 0.93, 0.88),
    (0.92, 0.80, 0.62),
    (0.86, 0.66, 0.55),
    (0.70, 0.78, 0.80),
    (0.80, 0.84, 0.70),
    (0.93, 0.86, 0.70),
    (0.78, 0.70, 0.66),
)
_TRIM: Colour = (0.86, 0.84, 0.80)


def _pick(rng: np.random.Generator, options: tuple[Colour, ...]) -> Colour:
    return options[int(rng.integers(len(options)))]


def _stone(centre: Point, size: Point, tint: Colour = _TRIM, material: str = "concrete") -> Mesh:
    return box(centre, size, Surface(material, "manmade", tint))


def _gable_roof(width: Real, depth: Real, eaves: Real, rise: Real, tint: Colour) -> list[Mesh]:
    over = 0.45
    front, back, side = over, -depth - over, width / 2 + 0.25
    ridge = -depth / 2
    drop = eaves - over * rise / (depth / 2)
    slopes = [
        [(front, -side, drop), (front, side, drop), (ridge, side, eaves + rise), (ridge, -side, eaves + rise)],
        [(back, side, drop), (back, -side, drop), (ridge, -side, eaves + rise), (ridge, side, eaves + rise)],
    ]
    parts = [panel(points, Surface("roof_tiles", "manmade", tint)) for points in slopes]
    for sign in (1.0, -1.0):
        y = sign * width / 2
        triangle = np.array([[(0, y, eaves), (-depth, y, eaves), (ridge, y, eaves + rise)]])
        uvs = np.array([[(0, 0), (depth, 0), (depth / 2, rise)]])
        parts.append(soup(triangle, uvs, Surface("plaster", "manmade")))
    return parts


def house(rng: np.random.Generator, width: Real) -> Mesh:
    """Return a family house with a gable roof, a door, a chimney and a porch."""
    width = 12.0 if width >= 12 else 9.0
    depth, storeys = float(rng.uniform(8, 11)), int(rng.integers(1, 3))
    tint = _pick(rng, _WALLS)
    facade = str(rng.choice(["shutter_facade", "plaster_facade", "brick_facade"]))
    upper_tint = WHITE if facade == "brick_facade" else tint
    eaves = 3.0 * storeys
    parts = [box((-depth / 2, 0, 0), (depth, width, 3.0), Surface("house_door", "manmade", tint))]
    if storeys > 1:
        parts.append(box((-depth / 2, 0, 3.0), (depth, width, eaves - 3.0), Surface(facade, "manmade", upper_tint)))
    parts += _gable_roof(
        width,
        depth,
        eaves,
        float(rng.uniform(2.2, 3.6)),
        _pick(rng, ((1.0, 1.0, 1.0), (0.7, 0.6, 0.6), (0.55, 0.6, 0.68))),
    )
    parts.append(_stone((-depth * 0.35, width * 0.25, eaves + 0.6), (0.7, 0.6, 2.4), WHITE, "brick"))
    parts.append(_stone((0.6, 0, 0), (1.2, 1.8, 0.18)))
    return concatenate(parts)


def _parapet(depth: Real, width: Real, height: Real, tint: Colour) -> list[Mesh]:
    return [
        _stone((-depth / 2 + 0.0, 0, height), (depth + 0.36, width + 0.1, 0.28), tint),
        box((-depth / 2, 0, height + 0.28), (depth - 0.4, width - 0.4, 0.02), Surface("gravel_roof", "manmade")),
    ]


def _roof_plant(rng: np.random.Generator, depth: Real, width: Real, height: Real) -> list[Mesh]:
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        size = (float(rng.uniform(1.2, 3.0)), float(rng.uniform(1.2, 3.0)), float(rng.uniform(0.9, 2.2)))
        centre = (-depth * float(rng.uniform(0.3, 0.7)), width * float(rng.uniform(-0.3, 0.3)), height + 0.28)
        parts.append(box(centre, size, Surface("corrugated", "manmade")))
    return parts


def town_house(rng: np.random.Generator, width: Real) -> Mesh:
    """Return three to five storeys over shops or a hall door, with cornice, balconies, awnings."""
    bays = max(round(width / 3.0), 2)
    width = bays * 3.0
    depth, storeys = float(rng.uniform(10, 14)), int(rng.integers(2, 5))
    facade = str(rng.choice(["brick_facade", "plaster_facade", "shutter_facade"]))
    tint = WHITE if facade == "brick_facade" else _pick(rng, _WALLS)
    has_shop = bool(rng.random() < 0.6)
    ground, storey = (4.0, 3.0) if has_shop else (3.0, 3.0)
    top = ground + storeys * storey
    base = "shop_front" if has_shop else "house_door"
    base_tint = WHITE if has_shop else tint
    parts = [
        box((-depth / 2, 0, 0), (depth, width, ground), Surface(base, "manmade", base_tint)),
        box((-depth / 2, 0, ground), (depth, width, top - ground), Surface(facade, "manmade", tint)),
        _stone((-depth / 2, 0, ground - 0.12), (depth + 0.3, width + 0.02, 0.24)),
        *_parapet(depth, width, top, _TRIM),
        *_roof_plant(rng, depth, width, top),
    ]
    if has_shop:
        for bay in range(int(width // 4)):
            if rng.random() < 0.6:
                y = -width / 2 + 4.0 * (bay + 0.5)
                colour = _pick(rng, ((0.75, 0.16, 0.14), (0.15, 0.40, 0.26), (0.92, 0.90, 0.84), (0.16, 0.26, 0.5)))
                awning: list[Point] = [
                    (1.3, y - 1.6, 2.45),
                    (1.3, y + 1.6, 2.45),
                    (0.02, y + 1.6, 3.05),
                    (0.02, y - 1.6, 3.05),
                ]
                parts.append(panel(awning, Surface("shirt", "manmade", colour)))
    if facade != "brick_facade" and rng.random() < 0.6:
        for level in range(storeys):
            for bay in range(bays):
                if (bay + level) % 2 == 0:
                    y, z = -width / 2 + 3.0 * (bay + 0.5), ground + level * storey + 0.55
                    parts.append(_stone((0.45, y, z), (0.9, 2.0, 0.14)))
                    parts.append(
                        box(
                            (0.88, y, z + 0.14), (0.05, 2.0, 0.85), Surface("corrugated", "manmade", (0.25, 0.26, 0.28))
                        )
                    )
    return concatenate(parts)


def office(rng: np.random.Generator, width: Real) -> Mesh:
    """Return an office block or a glass tower on a recessed ground floor with columns."""
    is_glass = bool(rng.random() < 0.5)
    bay = 3.0 if is_glass else 3.5
    width = max(round(width / bay), 3) * bay
    depth, storeys = float(rng.uniform(12, 16)), int(rng.integers(4, 10))
    storey = 3.5
    top = 4.0 + storeys * storey
    facade = "glass_facade" if is_glass else "office_facade"
    tint = _pick(rng, ((1.0, 1.0, 1.0), (0.85, 0.95, 1.05), (1.1, 1.0, 0.85)))
    parts = [
        box((-depth / 2 - 1.0, 0, 0), (depth - 2.0, width - 1.0, 4.0), Surface("terminal_facade", "manmade")),
        box((-depth / 2, 0, 4.0), (depth, width, top - 4.0), Surface(facade, "manmade", tint)),
        *_parapet(depth, width, top, _TRIM),
        *_roof_plant(rng, depth, width, top),
    ]
    for y in np.arange(-width / 2 + 0.5, width / 2, bay * 2):
        parts.append(_stone((-0.4, float(y), 0), (0.6, 0.6, 4.0)))
    return concatenate(parts)


def warehouse(rng: np.random.Generator, width: Real) -> Mesh:
    """Return a shed of corrugated sheet with a roller door and a painted band."""
    depth, height = float(rng.uniform(12, 18)), float(rng.uniform(5.5, 8))
    tint = _pick(rng, ((0.75, 0.80, 0.86), (0.86, 0.82, 0.72), (0.62, 0.70, 0.64), (0.80, 0.80, 0.80)))
    parts = [
        box((-depth / 2, 0, 1.0), (depth, width, height - 1.0), Surface("corrugated", "manmade", tint)),
        _stone((-depth / 2, 0, 0), (depth + 0.1, width + 0.1, 1.0)),
        box(
            (-depth / 2, 0, height - 0.9),
            (depth + 0.1, width + 0.1, 0.9),
            Surface("metal_panels", "manmade", _pick(rng, ((0.7, 0.2, 0.16), (0.16, 0.3, 0.6), (0.2, 0.45, 0.3)))),
        ),
        panel(
            [(0.06, -2.2, 0), (0.06, 2.2, 0), (0.06, 2.2, 4.2), (0.06, -2.2, 4.2)],
            Surface("metal_panels", "manmade", (0.9, 0.9, 0.9)),
        ),
        *_roof_plant(rng, depth, width, height),
    ]
    return concatenate(parts)


BUILDERS: dict[str, Callable[[np.random.Generator, float], Mesh]] = {
    "house": house,
    "town_house": town_house,
    "office": office,
    "warehouse": warehouse,
}
