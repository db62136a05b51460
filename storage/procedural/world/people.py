"""People: walking, standing and cycling, in everyday clothes or high-visibility vests.

Local frame: x forward, z up, origin on the ground under the body.
"""

import numpy as np

from storage.procedural.world.mesh import Colour, Mesh, Point, Real, Surface, concatenate
from storage.procedural.world.solids import blob, box, cylinder, tube

_CLOTHES: tuple[Colour, ...] = (
    (0.75, 0.18, 0.16),
    (0.16, 0.26, 0.48),
    (0.85, 0.83, 0.78),
    (0.12, 0.12, 0.13),
    (0.30, 0.42, 0.26),
    (0.86, 0.66, 0.22),
    (0.45, 0.26, 0.42),
    (0.25, 0.50, 0.55),
)
_TROUSERS: tuple[Colour, ...] = ((0.16, 0.19, 0.28), (0.13, 0.13, 0.14), (0.42, 0.36, 0.28), (0.30, 0.31, 0.33))
_SKINS: tuple[Colour, ...] = ((1.0, 0.92, 0.86), (0.86, 0.70, 0.58), (0.62, 0.45, 0.36), (0.42, 0.30, 0.25))
_HAIR: tuple[Colour, ...] = ((0.12, 0.09, 0.07), (0.35, 0.22, 0.12), (0.72, 0.58, 0.32), (0.5, 0.5, 0.5))


def _limb(start: Point, end: Point, radius: Real, material: str, tint: Colour) -> Mesh:
    return cylinder(start, end, radius, Surface(material, "pedestrian", tint), end_radius=radius * 0.75, segments=6)


def _torso(sections: list[tuple[Real, Real, Real, Real]], material: str, tint: Colour, *, unit: bool) -> Mesh:
    """Return a skin through ellipses given as (x, z, depth, half width)."""
    angle = np.arange(8) * (np.pi / 4)
    rings = np.array(
        [
            np.stack([x + depth * np.cos(angle), wide * np.sin(angle), np.full(8, z)], 1)
            for x, z, depth, wide in sections
        ]
    )
    body = tube(rings, Surface(material, "pedestrian", tint), unit=unit)
    if unit:  # a vest's texture wants v along the height, which a tube calls u
        body.uvs[:] = body.uvs[..., ::-1]
    return body


def _head(rng: np.random.Generator, x: Real, z: Real, *, helmet: Colour | None) -> list[Mesh]:
    skin = _SKINS[int(rng.integers(len(_SKINS)))]
    hair = helmet or _HAIR[int(rng.integers(len(_HAIR)))]
    return [
        _limb((x, 0, z - 0.12), (x, 0, z), 0.055, "skin", skin),
        blob((x, 0, z + 0.08), (0.095, 0.08, 0.12), Surface("skin", "pedestrian", skin), segments=8, rings=5),
        blob(
            (x - 0.02, 0, z + 0.13),
            (0.10, 0.092, 0.09),
            Surface("plain" if helmet else "cloth", "pedestrian", hair),
            segments=8,
            rings=5,
        ),
    ]


def pedestrian(rng: np.random.Generator, phase: Real | None = None, *, hi_vis: bool = False) -> Mesh:
    """Return a person walking at gait ``phase`` (radians), or standing if that is None."""
    scale = float(rng.uniform(0.92, 1.06))
    trousers = _TROUSERS[int(rng.integers(len(_TROUSERS)))]
    top = _CLOTHES[int(rng.integers(len(_CLOTHES)))]
    top_material = "hi_vis" if hi_vis else str(rng.choice(["cloth", "cloth", "shirt"]))
    sleeve = "cloth" if hi_vis else top_material
    has_bag = bool(rng.random() < 0.35)
    swing = 0.0 if phase is None else 0.42 * np.sin(phase)
    hip, parts = 0.90, []
    for side in (1.0, -1.0):
        turn = swing * side
        lift = 0.0 if phase is None else max(0.0, float(np.cos(phase) * side)) * 0.45
        knee = (0.44 * np.sin(turn) + 0.06 * lift, 0.10 * side, hip - 0.44 * np.cos(turn))
        shin = turn - lift
        foot = (knee[0] + 0.42 * np.sin(shin), 0.10 * side, max(knee[2] - 0.42 * np.cos(shin), 0.05))
        parts.append(_limb((0, 0.09 * side, hip), knee, 0.085, "cloth", trousers))
        parts.append(_limb(knee, foot, 0.065, "cloth", trousers))
        parts.append(
            box(
                (foot[0] + 0.05, foot[1], foot[2] - 0.05),
                (0.26, 0.10, 0.09),
                Surface("plain", "pedestrian", (0.15, 0.13, 0.12)),
            )
        )
        arm = -0.8 * turn
        shoulder: Point = (0, 0.21 * side, 1.40)
        elbow = (0.28 * np.sin(arm), 0.25 * side, 1.40 - 0.28 * np.cos(arm))
        hand = (elbow[0] + 0.25 * np.sin(arm + 0.35), 0.25 * side, elbow[2] - 0.25 * np.cos(arm + 0.35))
        parts.append(_limb(shoulder, elbow, 0.052, sleeve, top))
        parts.append(_limb(elbow, hand, 0.042, sleeve, top))
    tint = (1.0, 1.0, 1.0) if hi_vis else top
    parts.append(
        _torso(
            [(0, 0.84, 0.11, 0.16), (0, 1.05, 0.10, 0.15), (0, 1.30, 0.12, 0.19), (0, 1.46, 0.08, 0.16)],
            top_material,
            tint,
            unit=hi_vis,
        )
    )
    if has_bag and not hi_vis:
        colour = _CLOTHES[int(rng.integers(len(_CLOTHES)))]
        parts.append(box((-0.19, 0, 1.02), (0.16, 0.28, 0.40), Surface("cloth", "pedestrian", colour)))
    parts += _head(rng, 0.0, 1.56, helmet=(0.95, 0.95, 0.9) if hi_vis and rng.random() < 0.4 else None)
    mesh = concatenate(parts)
    mesh.corners[:] *= np.float32(scale)
    return mesh


def rider(rng: np.random.Generator, phase: Real) -> Mesh:
    """Return a person seated on a bicycle, pedalling at ``phase`` radians."""
    top = _CLOTHES[int(rng.integers(len(_CLOTHES)))]
    trousers = _TROUSERS[int(rng.integers(len(_TROUSERS)))]
    parts = []
    for side in (1.0, -1.0):
        turn = phase + (0.0 if side > 0 else np.pi)
        foot = (0.05 + 0.16 * np.cos(turn), 0.11 * side, 0.33 + 0.16 * np.sin(turn))
        knee = (0.26 + 0.04 * np.cos(turn), 0.11 * side, 0.70 + 0.10 * np.sin(turn))
        parts.append(_limb((-0.2, 0.09 * side, 0.98), knee, 0.085, "cloth", trousers))
        parts.append(_limb(knee, foot, 0.06, "cloth", trousers))
        parts.append(_limb((0.12, 0.19 * side, 1.38), (0.36, 0.25 * side, 1.02), 0.05, "cloth", top))
    parts.append(
        _torso(
            [(-0.24, 0.92, 0.12, 0.16), (-0.1, 1.15, 0.11, 0.15), (0.1, 1.38, 0.11, 0.18), (0.16, 1.48, 0.07, 0.12)],
            "cloth",
            top,
            unit=False,
        )
    )
    helmet = _CLOTHES[int(rng.integers(len(_CLOTHES)))] if rng.random() < 0.6 else None
    parts += _head(rng, 0.22, 1.56, helmet=helmet)
    return concatenate(parts)
