"""The solids from which everything is built: quads, boxes, tubes, cylinders, blobs.

All faces wind counter-clockwise seen from outside.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from storage.procedural.world.mesh import Mesh, Point, Real, Surface, concatenate, cross, face_normals, soup


def quads(
    points: Num[np.ndarray, "quads 4 3"],
    uvs: Num[np.ndarray, "quads 4 2"],
    surface: Surface,
    normals: Num[np.ndarray, "quads 4 3"] | None = None,
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
    taper: tuple[Real, Real] = (1.0, 1.0),
) -> Mesh:
    """Return an upright box whose sides share continuous u along the perimeter.

    Args:
        centre: Centre of the base.
        size: Length, width, height.
        surface: Surface of the sides.
        top: Surface of the lid and base; None for that of the sides.
        unit: Whether v spans [0, 1] over the height; u stays in metres.
        taper: Size of the lid along x and y over that of the base.
    """
    (cx, cy, cz), (length, width, height) = centre, size
    x, y = length / 2, width / 2
    base = np.array([(x, -y), (x, y), (-x, y), (-x, -y)], np.float32)
    corners = np.empty((8, 3), np.float32)
    corners[:4, :2] = base + np.array((cx, cy))
    corners[4:, :2] = base * np.array(taper) + np.array((cx, cy))
    corners[:4, 2], corners[4:, 2] = cz, cz + height
    run = np.cumsum([0.0, width, length, width, length])
    rise = 1.0 if unit else height
    side_uvs = [[(run[i], 0), (run[i + 1], 0), (run[i + 1], rise), (run[i], rise)] for i in range(4)]
    flat_uvs = [[(0, 0), (width, 0), (width, length), (0, length)]] * 2
    if top is None:
        return quads(corners[_BOX_SIDES + _BOX_LIDS], np.array(side_uvs + flat_uvs), surface)
    sides = quads(corners[_BOX_SIDES], np.array(side_uvs), surface)
    return concatenate([sides, quads(corners[_BOX_LIDS], np.array(flat_uvs), top)])


_BOX_SIDES = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
_BOX_LIDS = [[4, 5, 6, 7], [3, 2, 1, 0]]


def tube(
    rings: Num[np.ndarray, "rings segments 3"],
    surface: Surface,
    *,
    unit: bool = False,
    smooth: bool = True,
    caps: bool = True,
    cap: Surface | None = None,
) -> Mesh:
    """Return the skin through closed rings: cylinders, cones, trunks, fuselages, car bodies.

    Rings run counter-clockwise seen against the direction in which they follow each other. u follows the rings' order
    (the axis), v goes around. A cap's unit texture fills it once.

    Args:
        rings: Outlines, one after another.
        surface: Surface of the skin.
        unit: Whether u and v span [0, 1]; otherwise they are in metres.
        smooth: Whether the skin shades smoothly.
        caps: Whether both ends are closed.
        cap: Surface of the ends; None for that of the skin.
    """
    rings = np.asarray(rings, np.float32)
    closed = np.concatenate([rings, rings[:, :1]], 1)
    v = _running_length(closed, axis=1)
    u = _running_length(rings.mean(1), axis=0)
    if unit:
        v = v / np.maximum(v[:, -1:], 1e-6)
        u = u / max(float(u[-1]), 1e-6)
    uv = np.stack([np.broadcast_to(u[:, None], v.shape), v], -1)
    corners = [_skin(closed)]
    uvs = [_skin(uv)]
    normals = [_skin(_ring_normals(closed)) if smooth else _flat(corners[0])]
    if caps:
        ends = [_cap(rings[0], flip=True), _cap(rings[-1], flip=False)]
        end_corners, end_uvs = (np.concatenate(parts) for parts in zip(*ends, strict=True))
        if cap is not None:
            skin = soup(corners[0], uvs[0], surface, normals[0])
            return concatenate([skin, soup(end_corners, end_uvs, cap)])
        corners.append(end_corners)
        uvs.append(end_uvs)
        normals.append(_flat(end_corners))
    return soup(np.concatenate(corners), np.concatenate(uvs), surface, np.concatenate(normals))


def _flat(corners: np.ndarray) -> np.ndarray:
    return np.repeat(face_normals(corners)[:, None], 3, axis=1)


def _running_length(points: np.ndarray, axis: int) -> np.ndarray:
    step = np.diff(points, axis=axis)
    length = np.cumsum(np.sqrt((step * step).sum(-1)), axis)
    return np.concatenate([np.zeros_like(length.take([0], axis)), length], axis)


def _skin(grid: np.ndarray) -> np.ndarray:
    """Return the two triangles of every cell of a grid of corners, counter-clockwise seen from outside."""
    a, b, c, d = grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1], grid[:-1, :-1]
    return np.stack([a, b, c, a, c, d], 2).reshape(-1, 3, grid.shape[-1])


def _ring_normals(closed: np.ndarray) -> np.ndarray:
    rings = closed[:, :-1]
    around = np.concatenate([rings[:, 1:], rings[:, :1]], 1) - np.concatenate([rings[:, -1:], rings[:, :-1]], 1)
    along = _gradient(rings)
    normal = cross(around, along)
    length = np.sqrt((normal * normal).sum(2, keepdims=True))
    if length.min() > 1e-9:
        normal /= length
    else:  # a ring that shrank to a point has no tangent: borrow the direction of the axis there
        axis = np.broadcast_to(_gradient(rings.mean(1))[:, None], normal.shape).copy()
        axis[: len(axis) // 2] *= -1
        axis /= np.maximum(np.sqrt((axis * axis).sum(2, keepdims=True)), 1e-9)
        normal = np.where(length > 1e-9, normal / np.maximum(length, 1e-9), axis)
    return np.concatenate([normal, normal[:, :1]], 1)


def _gradient(values: np.ndarray) -> np.ndarray:
    """Return central differences along the first axis, one-sided at its ends, up to a positive factor."""
    step = np.diff(values, axis=0)
    if len(step) == 1:
        return np.concatenate([step, step])
    return np.concatenate([step[:1], step[1:] + step[:-1], step[-1:]])


def _cap(outline: np.ndarray, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return triangles and unit texture coordinates of a fan over a closed outline."""
    following = np.concatenate([outline[1:], outline[:1]])
    middle = np.broadcast_to(outline.mean(0), outline.shape)
    triangles = np.stack([middle, outline, following], 1)
    angle = np.linspace(0, 2 * np.pi, len(outline) + 1)
    edge = 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
    uvs = np.stack([np.full((len(outline), 2), 0.5), edge[:-1], edge[1:]], 1)
    return (triangles[:, ::-1], uvs[:, ::-1]) if flip else (triangles, uvs)


def ring(
    centre: Point, radius: Real, segments: int, *, axis: str = "z", radius_2: Real | None = None
) -> Num[np.ndarray, "segments 3"]:
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
    radius: Real,
    surface: Surface,
    *,
    end_radius: Real | None = None,
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
    roughness: Real = 0.0,
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
