"""Street furniture: lamps, signals, signs, cones, barriers, benches, bins, shelters.

Local frame: origin on the ground; signs and signals face +x.
"""

import numpy as np

from storage.procedural.world.mesh import WHITE, Colour, Mesh, Real, Surface, concatenate, soup
from storage.procedural.world.solids import box, cylinder, panel, ring, tube

_STEEL: Colour = (0.50, 0.52, 0.54)


def _post(height: Real, radius: Real, tint: Colour = _STEEL) -> Mesh:
    return cylinder((0, 0, 0), (0, 0, height), radius, Surface("dark_metal", "pole", tint), end_radius=radius * 0.75)


def street_lamp(rng: np.random.Generator) -> Mesh:
    """Return a lamp post whose arm reaches along +x."""
    height = float(rng.uniform(6.5, 8.5))
    tint = (0.35, 0.38, 0.36) if rng.random() < 0.5 else (0.75, 0.76, 0.78)
    return concatenate(
        [
            _post(height, 0.10, tint),
            cylinder((0, 0, 0), (0, 0, 0.9), 0.15, Surface("dark_metal", "pole", tint)),
            cylinder((0, 0, height), (1.8, 0, height + 0.35), 0.05, Surface("dark_metal", "pole", tint), segments=6),
            box((1.95, 0, height + 0.26), (0.8, 0.26, 0.14), Surface("plain", "pole", (0.7, 0.7, 0.7))),
        ]
    )


def _plate(kind: str, size: tuple[Real, Real], z: Real, tint: Colour = WHITE) -> list[Mesh]:
    """Return a sign face towards +x with a grey back; its outline follows its kind."""
    width, height = size
    if kind in ("sign_stop", "sign_limit"):
        count = 8 if kind == "sign_stop" else 20
        outline = ring((0.0, 0.0, 0.0), 0.5, count, axis="x")
        turned = 0.5 + (outline[:, 1:] if count != 8 else outline[:, 1:] @ _turn(np.pi / 8))
    elif kind == "sign_warning":
        turned = np.array([(0.0, 0.04), (1.0, 0.04), (0.5, 0.94)])
    else:
        turned = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    places = (turned - 0.5) * (width, height)
    front = np.stack([np.full(len(places), 0.06), places[:, 0], places[:, 1] + z], 1)
    triangles = np.stack([np.broadcast_to(front[0], (len(front) - 2, 3)), front[1:-1], front[2:]], 1)
    uvs = np.stack([np.broadcast_to(turned[0], (len(front) - 2, 2)), turned[1:-1], turned[2:]], 1)

    back = triangles[:, ::-1] - np.array([0.02, 0, 0])
    return [
        soup(triangles, uvs, Surface(kind, "traffic_sign", tint)),
        soup(back, uvs, Surface("dark_metal", "traffic_sign", (0.8, 0.8, 0.8))),
    ]


def _turn(angle: Real) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def sign(rng: np.random.Generator, kind: str | None = None) -> Mesh:
    """Return a traffic sign on a post."""
    kind = kind or str(rng.choice(["sign_stop", "sign_limit", "sign_limit", "sign_warning", "sign_direction"]))
    if kind == "sign_direction":
        tint = WHITE if rng.random() < 0.6 else (0.4, 1.0, 0.5)
        plate = _plate(kind, (2.2, 1.3), 3.0, tint)
        posts = [_post(3.6, 0.06), _post(3.6, 0.06)]
        posts[0].corners[..., 1] += 0.7
        posts[1].corners[..., 1] -= 0.7
        return concatenate([*plate, *posts])
    return concatenate([*_plate(kind, (0.78, 0.78), 2.5), _post(2.9, 0.035)])


def stand_sign() -> Mesh:
    """Return an airport stand number board on a post."""
    return concatenate([*_plate("stand_number", (1.3, 1.1), 3.4), _post(3.6, 0.08)])


def traffic_signal(arm: Real) -> Mesh:
    """Return a signal with one head on the post and one on an arm along -y over the road."""
    parts = [_post(5.8, 0.11, (0.3, 0.32, 0.32))]
    if arm > 0:
        parts.append(
            cylinder((0, 0, 5.5), (0, -arm, 5.7), 0.06, Surface("dark_metal", "pole", (0.3, 0.32, 0.32)), segments=6)
        )
    for y, z in ((0.0, 2.6), *(((-arm, 5.0),) if arm > 0 else ())):
        head = box((0.16, y, z), (0.22, 0.34, 0.95), Surface("plain", "traffic_light", (0.14, 0.15, 0.14)))
        x = 0.275
        face = panel(
            [(x, y - 0.16, z + 0.02), (x, y + 0.16, z + 0.02), (x, y + 0.16, z + 0.93), (x, y - 0.16, z + 0.93)],
            Surface("traffic_light", "traffic_light"),
            unit=True,
        )
        parts += [head, face]
    return concatenate(parts)


def cone() -> Mesh:
    """Return a traffic cone 0.75 m high."""
    base = box((0, 0, 0), (0.42, 0.42, 0.04), Surface("plain", "traffic_cone", (0.2, 0.2, 0.2)))
    rings = np.stack([ring((0, 0, z), r, 12) for z, r in ((0.04, 0.16), (0.40, 0.095), (0.75, 0.035))])
    body = tube(rings, Surface("cone", "traffic_cone"), unit=True)
    body.uvs[:] = body.uvs[..., ::-1]  # the texture wants v along the height
    return concatenate([base, body])


def plastic_barrier() -> Mesh:
    """Return a water-filled road barrier 2 m long along x."""
    return box((0, 0, 0), (2.0, 0.5, 0.95), Surface("plastic_barrier", "barrier"), taper=(0.98, 0.4))


def board_barrier() -> Mesh:
    """Return a striped board on two feet, 2 m long along y, facing +x."""
    parts = [
        box((0, 0, 0.62), (0.05, 2.0, 0.30), Surface("barrier_stripes", "barrier")),
        box((0, 0, 0.22), (0.05, 2.0, 0.18), Surface("barrier_stripes", "barrier")),
    ]
    for y in (-0.75, 0.75):
        parts.append(box((0, y, 0), (0.5, 0.12, 0.08), Surface("plain", "barrier", (0.2, 0.2, 0.2))))
        parts.append(box((0, y, 0.08), (0.05, 0.06, 0.9), Surface("dark_metal", "barrier")))
    return concatenate(parts)


def jersey_barrier(length: Real = 4.0) -> Mesh:
    """Return a concrete barrier along x."""
    return box((0, 0, 0), (length, 0.6, 0.85), Surface("concrete", "barrier"), taper=(1.0, 0.3))


def bench() -> Mesh:
    """Return a wooden bench facing +x."""
    parts = [
        box((0, 0, 0.42), (0.45, 1.8, 0.06), Surface("wood", "street_furniture")),
        box((-0.22, 0, 0.50), (0.05, 1.8, 0.42), Surface("wood", "street_furniture")),
    ]
    for y in (-0.7, 0.7):
        parts.append(box((0, y, 0), (0.42, 0.07, 0.42), Surface("dark_metal", "street_furniture", (0.3, 0.3, 0.3))))
    return concatenate(parts)


def bin_() -> Mesh:
    """Return a litter bin."""
    return concatenate(
        [
            cylinder(
                (0, 0, 0),
                (0, 0, 0.9),
                0.24,
                Surface("corrugated", "street_furniture", (0.22, 0.36, 0.28)),
                end_radius=0.28,
                segments=10,
            ),
            cylinder((0, 0, 0.9), (0, 0, 1.02), 0.30, Surface("dark_metal", "street_furniture"), segments=10),
        ]
    )


def hydrant() -> Mesh:
    """Return a fire hydrant."""
    red: Colour = (0.75, 0.14, 0.12)
    iron = Surface("dark_metal", "street_furniture", red)
    return concatenate(
        [
            cylinder((0, 0, 0), (0, 0, 0.62), 0.12, iron, segments=10),
            cylinder((0, 0, 0.62), (0, 0, 0.78), 0.13, iron, end_radius=0.04, segments=10),
            cylinder((0, -0.2, 0.45), (0, 0.2, 0.45), 0.06, iron, segments=8),
        ]
    )


def bus_shelter() -> Mesh:
    """Return a glazed bus stop with an advertisement, open towards +x."""
    parts = [
        box((0.0, 0, 2.3), (1.7, 4.2, 0.12), Surface("metal_panels", "street_furniture")),
        box((-0.75, 0, 0.25), (0.04, 4.0, 1.9), Surface("vehicle_glass", "street_furniture")),
        box((0.0, -2.0, 0.25), (1.3, 0.10, 1.8), Surface("billboard", "street_furniture"), unit=True),
        box((-0.4, 0.3, 0.45), (0.4, 2.4, 0.06), Surface("wood", "street_furniture")),
    ]
    for x, y in ((-0.75, -2.0), (-0.75, 2.0), (0.65, 2.0), (0.65, -2.0)):
        parts.append(cylinder((x, y, 0), (x, y, 2.3), 0.05, Surface("dark_metal", "street_furniture"), segments=6))
    for y in (-0.6, 1.2):
        parts.append(box((-0.4, y, 0), (0.3, 0.08, 0.45), Surface("dark_metal", "street_furniture")))
    return concatenate(parts)


def billboard() -> Mesh:
    """Return an advertising board on two posts, facing +x."""
    posts = [box((0, y, 0), (0.2, 0.2, 3.0), Surface("dark_metal", "pole")) for y in (-1.6, 1.6)]
    board = panel(
        [(0.12, -2.4, 2.2), (0.12, 2.4, 2.2), (0.12, 2.4, 4.8), (0.12, -2.4, 4.8)],
        Surface("billboard", "manmade"),
        unit=True,
    )
    back = box((0, 0, 2.15), (0.2, 4.9, 2.7), Surface("wood", "manmade"))
    return concatenate([*posts, board, back])


def fence(length: Real, *, is_brick: bool) -> Mesh:
    """Return a garden wall or a picket fence along x."""
    if is_brick:
        wall = box((0, 0, 0), (length, 0.28, 1.1), Surface("brick", "wall"))
        return concatenate([wall, box((0, 0, 1.1), (length, 0.4, 0.1), Surface("concrete", "wall"))])
    parts = [box((0, 0, z), (length, 0.04, 0.10), Surface("wood", "wall", (1.3, 1.25, 1.2))) for z in (0.3, 0.8)]
    for x in np.arange(-length / 2 + 0.1, length / 2, 0.25):
        parts.append(box((float(x), 0.03, 0.05), (0.12, 0.03, 1.05), Surface("wood", "wall", (1.3, 1.25, 1.2))))
    return concatenate(parts)


def bollard() -> Mesh:
    """Return a steel bollard with a reflective band."""
    return concatenate(
        [
            cylinder((0, 0, 0), (0, 0, 0.95), 0.07, Surface("dark_metal", "pole", (0.2, 0.22, 0.24))),
            cylinder((0, 0, 0.72), (0, 0, 0.82), 0.075, Surface("road_paint", "pole")),
        ]
    )
