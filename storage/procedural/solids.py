"""The solids everything is built from: quads, boxes, tubes, cylinders, blobs.

All wind counter-clockwise seen from outside.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from storage.procedural.mesh import Mesh, Point, Surface, concatenate, cross, soup


def quads(
    points: Float[np.ndarray, "quads 4 3"],
    uvs: Float[np.ndarray, "quads 4 2"],
    surface: Surface,
    normals: Float[np.ndarray, "quads 4 3"] | None = None,
) -> Mesh:
    """Return quads split in two triangles each; corners run counter-clockwise."""
    order = np.array([0, 1, 2, 0, 2, 3])
    return soup(
        np.asarray(points, np.float32)[:, order].reshape(-1, 3, 3),
        np.asarray(uvs, np.float32)[:, order].reshape(-1, 3, 2),
        surface,
        None if normals is None else np.asarray(normals, np.float32)[:, order].reshape(-1, 3, 3),
    )


def panel(
    corners: Sequence[Point],
    surface: Surface,
    *,
    unit: bool = False,
) -> Mesh:
    """Return one quad; u runs along its first edge, v along its last one."""
    points = np.asarray(corners, np.float32)
    width = 1.0 if unit else float(np.linalg.norm(points[1] - points[0]))
    height = 1.0 if unit else float(np.linalg.norm(points[3] - points[0]))
    uvs = np.array([[(0, 0), (width, 0), (width, height), (0, height)]], np.float32)
    return quads(points[None], uvs, surface)


def box(
    centre: Point,
    size: Point,
    surface: Surface,
    *,
    top: Surface | None = None,
    unit: bool = False,
    taper: tuple[float, float] = (1.0, 1.0),
    bottom: bool = True,
) -> Mesh:
    """Return an upright box whose sides share continuous u along the perimeter.

    Args:
        centre: Centre of the base.
        size: Length, width, height.
        surface: Of the sides.
        top: Of the lid and base; the sides' when None.
        unit: Whether v spans [0, 1] over the height (u stays in metres).
        taper: Scale of the lid along x and y against the base.
        bottom: Whether the base is closed.
    """
    (cx, cy, cz), (length, width, height) = centre, size
    x, y = length / 2, width / 2
    base = np.array([(x, -y), (x, y), (-x, y), (-x, -y)], np.float32)
    lid = base * np.asarray(taper, np.float32)
    low = np.concatenate([base + np.array((cx, cy)), np.full((4, 1), cz)], 1)
    high = np.concatenate([lid + np.array((cx, cy)), np.full((4, 1), cz + height)], 1)
    following = np.array([1, 2, 3, 0])
    sides = np.stack([low, low[following], high[following], high], 1)
    run = np.concatenate([[0.0], np.cumsum([width, length, width, length])])
    rise = 1.0 if unit else height
    uvs = np.array([[(run[i], 0), (run[i + 1], 0), (run[i + 1], rise), (run[i], rise)] for i in range(4)])
    parts = [quads(sides, uvs, surface)]
    flat_uv = np.array([[(0, 0), (width, 0), (width, length), (0, length)]])
    lids = [high[None]] + ([low[None, ::-1]] if bottom else [])
    parts += [quads(lid_points, flat_uv, top or surface) for lid_points in lids]
    return concatenate(parts)


def tube(
    rings: Float[np.ndarray, "rings segments 3"],
    surface: Surface,
    *,
    unit: bool = False,
    smooth: bool = True,
    caps: bool = True,
    cap: Surface | None = None,
) -> Mesh:
    """Return the skin through closed rings: cylinders, cones, trunks, fuselages, car bodies.

    Rings run counter-clockwise seen against the direction in which they follow each other. u
    follows the rings' order (the axis), v goes around. A cap's unit texture fills it once.
    """
    rings = np.asarray(rings, np.float32)
    count = len(rings)
    closed = np.concatenate([rings, rings[:, :1]], 1)
    around = np.linalg.norm(np.diff(closed, axis=1), axis=2)
    v = np.concatenate([np.zeros((count, 1)), np.cumsum(around, 1)], 1)
    centres = rings.mean(1)
    u = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centres, axis=0), axis=1))])
    if unit:
        v = v / np.maximum(v[:, -1:], 1e-6)
        u = u / max(float(u[-1]), 1e-6)
    uv = np.stack([np.broadcast_to(u[:, None], v.shape), v], -1)

    def corners_of(grid: np.ndarray) -> np.ndarray:
        cells = [grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]]
        return np.stack(cells, 2).reshape(-1, 4, grid.shape[-1])

    points = corners_of(closed)[:, ::-1]
    normals = corners_of(_ring_normals(closed))[:, ::-1] if smooth else None
    parts = [quads(points, corners_of(uv)[:, ::-1], surface, normals)]
    if caps:
        parts += [_cap(rings[0], cap or surface, flip=True), _cap(rings[-1], cap or surface, flip=False)]
    return concatenate(parts)


def _ring_normals(closed: Float[np.ndarray, "rings points 3"]) -> Float[np.ndarray, "rings points 3"]:
    rings = closed[:, :-1]
    around = np.roll(rings, -1, 1) - np.roll(rings, 1, 1)
    along = np.gradient(rings, axis=0)
    normal = cross(around, along)
    length = np.linalg.norm(normal, axis=2, keepdims=True)
    # A ring that shrank to a point has no tangent; borrow the axis direction there.
    axis = np.broadcast_to(np.gradient(rings.mean(1), axis=0)[:, None], normal.shape).copy()
    axis[: len(axis) // 2] *= -1
    axis /= np.maximum(np.linalg.norm(axis, axis=2, keepdims=True), 1e-9)
    normal = np.where(length > 1e-9, normal / np.maximum(length, 1e-9), axis)
    return np.concatenate([normal, normal[:, :1]], 1)


def _cap(
    ring: Float[np.ndarray, "segments 3"],
    surface: Surface,
    *,
    flip: bool,
) -> Mesh:
    centre = ring.mean(0)
    following = np.roll(ring, -1, 0)
    middle = np.broadcast_to(centre, ring.shape)
    triangles = np.stack([middle, ring, following], 1)
    angle = np.linspace(0, 2 * np.pi, len(ring) + 1)
    edge = 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
    uvs = np.stack([np.full((len(ring), 2), 0.5), edge[:-1], edge[1:]], 1)
    if flip:
        triangles, uvs = triangles[:, ::-1], uvs[:, ::-1]
    return soup(triangles, uvs, surface)


def ring(
    centre: Point, radius: float, segments: int, *, axis: str = "z", radius_2: float | None = None
) -> Float[np.ndarray, "segments 3"]:
    """Return a circle or ellipse around ``axis``, counter-clockwise seen against that axis."""
    angle = np.arange(segments) * (2 * np.pi / segments)
    first, second = radius * np.cos(angle), (radius_2 or radius) * np.sin(angle)
    nought = np.zeros(segments)
    columns = {
        "x": (nought, first, second),
        "y": (second, nought, first),
        "z": (first, second, nought),
    }[axis]
    return np.stack(columns, 1) + np.asarray(centre)


def cylinder(
    start: Point,
    end: Point,
    radius: float,
    surface: Surface,
    *,
    end_radius: float | None = None,
    segments: int = 8,
    unit: bool = False,
    cap: Surface | None = None,
) -> Mesh:
    """Return a cylinder or truncated cone between two points."""
    start_, end_ = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = (end_ - start_) / np.linalg.norm(end_ - start_)
    seed = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.9 else np.array([0, 1.0, 0])
    first = cross(axis, seed)
    first /= np.linalg.norm(first)
    second = cross(axis, first)
    angle = np.arange(segments)[:, None] * (2 * np.pi / segments)
    circle = np.cos(angle) * first + np.sin(angle) * second
    last = radius if end_radius is None else end_radius
    return tube(
        np.stack([start_ + radius * circle, end_ + last * circle]),
        surface,
        unit=unit,
        cap=cap,
    )


def blob(
    centre: Point,
    radii: Point,
    surface: Surface,
    *,
    roughness: float = 0.0,
    rng: np.random.Generator | None = None,
    segments: int = 10,
    rings: int = 7,
) -> Mesh:
    """Return an ellipsoid, its surface displaced by up to ``roughness`` of the radius."""
    polar = np.linspace(0.0, np.pi, rings + 1)[::-1]
    shells = []
    for angle in polar:
        radius = 1.0 + (
            roughness * (rng.random(segments) * 2 - 1) if rng is not None and roughness > 0 else np.zeros(segments)
        )
        if angle in (polar[0], polar[-1]):
            radius[:] = radius[0]
        turn = np.arange(segments) * (2 * np.pi / segments)
        shells.append(
            np.stack(
                [
                    np.sin(angle) * np.cos(turn) * radius,
                    np.sin(angle) * np.sin(turn) * radius,
                    np.cos(angle) * radius,
                ],
                1,
            )
        )
    points = np.stack(shells) * np.asarray(radii) + np.asarray(centre)
    return tube(points, surface, caps=False)
