"""Trees, bushes and hedges."""

import numpy as np

from storage.procedural.world.mesh import Colour, Mesh, Point, Real, Surface, concatenate, soup
from storage.procedural.world.solids import blob, box, cylinder, tube

_GREENS: tuple[Colour, ...] = (
    (0.95, 1.0, 0.85),
    (0.75, 0.88, 0.62),
    (1.15, 1.08, 0.62),
    (0.62, 0.78, 0.66),
    (1.3, 0.92, 0.48),
)


def _tufts(rng: np.random.Generator, centre: Point, size: Real, tint: Colour, count: int) -> Mesh:
    """Return sprays of leaves that break up a crown's outline: small triangles around its surface."""
    out = rng.normal(size=(count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    middle = np.asarray(centre) + out * (size * rng.uniform(0.9, 1.18, (count, 1))) * (1.0, 1.0, 0.85)
    corners = middle[:, None] + rng.normal(size=(count, 3, 3)) * (0.16 + 0.05 * size)
    uvs = rng.uniform(0, 2.5, (count, 1, 2)) + np.array([[(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)]])
    # Leaves take the light of the crown they belong to, not of their own flat triangle.
    normals = np.repeat(out[:, None], 3, axis=1)
    return soup(corners, uvs, Surface("foliage", "vegetation", tint), normals)


def _trunk(rng: np.random.Generator, height: Real, radius: Real) -> Mesh:
    heights = np.linspace(0.0, height, 4)
    sway = np.cumsum(rng.normal(0, 0.06, (4, 2)), 0) * (heights > 0)[:, None]
    angle = np.arange(8) * (np.pi / 4)
    rings = [
        np.stack(
            [
                sway[i, 0] + radius * (1.25 - 0.22 * i) * np.cos(angle),
                sway[i, 1] + radius * (1.25 - 0.22 * i) * np.sin(angle),
                np.full(8, z),
            ],
            1,
        )
        for i, z in enumerate(heights)
    ]
    return tube(np.array(rings), Surface("bark", "vegetation"))


def broadleaf(rng: np.random.Generator, height: Real | None = None) -> Mesh:
    """Return a deciduous tree: trunk, boughs and overlapping clumps of leaves."""
    height = height or float(rng.uniform(5.5, 9.5))
    trunk_height = height * float(rng.uniform(0.32, 0.42))
    radius = 0.018 * height + 0.05
    tint = _GREENS[int(rng.integers(len(_GREENS)))]
    parts = [_trunk(rng, trunk_height + 0.6, radius)]
    crown = (height - trunk_height) / 2
    for index in range(int(rng.integers(6, 9))):
        angle = index * 2.4 + rng.uniform(0, 0.8)
        reach = crown * float(rng.uniform(0.25, 0.75)) if index else 0.0
        z = trunk_height + crown * float(rng.uniform(0.55, 1.55))
        size = crown * float(rng.uniform(0.42, 0.66))
        centre = (reach * np.cos(angle), reach * np.sin(angle), z)
        shade = float(rng.uniform(0.85, 1.12))
        parts.append(
            blob(
                centre,
                (size, size, size * 0.85),
                Surface("foliage", "vegetation", tuple(np.array(tint) * shade)),
                roughness=0.22,
                rng=rng,
                segments=11,
                rings=8,
            )
        )
        parts.append(_tufts(rng, centre, size, (tint[0] * shade, tint[1] * shade, tint[2] * shade), 70))
        if index < 4:
            parts.append(
                cylinder(
                    (0, 0, trunk_height),
                    centre,
                    radius * 0.5,
                    Surface("bark", "vegetation"),
                    end_radius=radius * 0.2,
                    segments=5,
                )
            )
    return concatenate(parts)


def conifer(rng: np.random.Generator) -> Mesh:
    """Return a conifer of stacked, ragged skirts."""
    height = float(rng.uniform(6.0, 11.0))
    parts = [_trunk(rng, height * 0.5, 0.16)]
    tiers, tint = 6, float(rng.uniform(0.5, 0.75))
    for tier in range(tiers):
        low = height * (0.14 + 0.8 * tier / tiers)
        high = min(low + height * 0.26, height)
        wide = height * 0.21 * (1.05 - tier / tiers)
        angle = np.arange(14) * (2 * np.pi / 14) + rng.uniform(0, 1)
        ragged = wide * (1 + 0.22 * np.where(np.arange(14) % 2, 1, -1) * rng.uniform(0.6, 1.2, 14))
        skirt = np.stack([ragged * np.cos(angle), ragged * np.sin(angle), low - 0.2 * ragged], 1)
        tip = np.stack([0.05 * np.cos(angle), 0.05 * np.sin(angle), np.full(14, high)], 1)
        parts.append(
            tube(
                np.stack([skirt, tip]), Surface("foliage", "vegetation", (tint * 0.8, tint, tint * 0.85)), smooth=False
            )
        )
    return concatenate(parts)


def bush(rng: np.random.Generator) -> Mesh:
    """Return a garden bush."""
    tint = _GREENS[int(rng.integers(len(_GREENS)))]
    parts = []
    for _ in range(3):
        size = float(rng.uniform(0.35, 0.7))
        centre = (float(rng.normal(0, 0.4)), float(rng.normal(0, 0.4)), size * 0.7)
        parts.append(
            blob(
                centre,
                (size, size, size * 0.9),
                Surface("foliage", "vegetation", tint),
                roughness=0.2,
                rng=rng,
                segments=9,
                rings=6,
            )
        )
    return concatenate(parts)


def hedge(length: Real, height: Real) -> Mesh:
    """Return a clipped hedge along x."""
    return box((0, 0, 0), (length, 0.7, height), Surface("hedge", "vegetation"), taper=(1.0, 0.9))
