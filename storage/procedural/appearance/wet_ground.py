"""Rain on the ground: a film that darkens it, puddles that mirror, ripples that blur the reflection.

Everything depends on the place alone, so every camera sees the same puddle at every instant.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from storage.procedural.appearance.painting import SIZE, noise

_PUDDLE_TILE_M = 44.0
_RIPPLE_TILE_M = 7.0
_PUDDLE_SEED, _RIPPLE_SEED = 9001, 9002
_WATER_F0 = np.float32(0.02)  # reflectance of water at normal incidence
_DARKENING = np.float32(0.42)  # of a soaked, porous surface
_FILM_SHARE = np.float32(0.4)  # how much of a film's mirror image survives its roughness
_FILM_RIPPLE, _PUDDLE_RIPPLE = np.float32(0.022), np.float32(0.004)  # slope, radians


@dataclass(frozen=True, slots=True, kw_only=True)
class WetPatch:
    """The state of the ground at some points.

    Attributes:
        albedo: Factor of the dry albedo.
        mirror: Share of the light that comes from the mirrored direction, [0, 1].
        mirrored: Unit directions of the mirrored rays, pointing upwards.
    """

    albedo: Float[np.ndarray, " points"]
    mirror: Float[np.ndarray, " points"]
    mirrored: Float[np.ndarray, "3 points"]


def wet_patch(
    wetness: float,
    position: Float[np.ndarray, "3 points"],
    normal: Float[np.ndarray, "3 points"],
    ray: Float[np.ndarray, "3 points"],
) -> WetPatch:
    """Return the state of wet ground where rays meet it.

    Args:
        wetness: Wetness of the scene, [0, 1].
        position: Points where the rays meet the ground, world frame, metres.
        normal: Unit normals that face the rays' origin.
        ray: Unit directions of the rays.
    """
    height = _sampled(_PUDDLE_SEED, 1.7, _PUDDLE_TILE_M, position)
    # The lowest ground fills first: at full wetness about a third of it is under water.
    level = np.float32(1.9 - 1.5 * wetness)
    puddle = np.clip((height - level) * np.float32(2.5), 0, 1) * np.float32(min(1.0, 2.0 * wetness))
    film = np.float32(wetness) * np.clip(np.float32(0.75) + np.float32(0.25) * height, 0.2, 1.0)
    slope = _FILM_RIPPLE + puddle * (_PUDDLE_RIPPLE - _FILM_RIPPLE)
    bent = normal.copy()
    bent[0] += slope * _sampled(_RIPPLE_SEED, 1.5, _RIPPLE_TILE_M, position)
    bent[1] += slope * _sampled(_RIPPLE_SEED + 1, 1.5, _RIPPLE_TILE_M, position)
    bent /= np.sqrt(np.einsum("cn,cn->n", bent, bent))
    cosine = np.clip(-np.einsum("cn,cn->n", bent, ray), np.float32(0.01), np.float32(1.0))
    mirrored = ray + np.float32(2.0) * cosine * bent
    mirrored[2] = np.maximum(mirrored[2], np.float32(1e-3))
    mirrored /= np.sqrt(np.einsum("cn,cn->n", mirrored, mirrored))
    fresnel = _WATER_F0 + (1 - _WATER_F0) * (1 - cosine) ** 5
    return WetPatch(
        albedo=1 - _DARKENING * np.maximum(film, puddle),
        mirror=fresnel * (puddle + (1 - puddle) * film * _FILM_SHARE),
        mirrored=mirrored,
    )


@cache
def _field(seed: int, smoothness: float) -> Float[np.ndarray, " texels"]:
    return noise(seed, smoothness).astype(np.float32).reshape(-1)


def _sampled(
    seed: int, smoothness: float, tile: float, position: Float[np.ndarray, "3 points"]
) -> Float[np.ndarray, " points"]:
    """Return tiled noise at x and y, interpolated bilinearly."""
    field, scale = _field(seed, smoothness), np.float32(SIZE / tile)
    x, y = position[0] * scale, position[1] * scale
    x_floor, y_floor = np.floor(x), np.floor(y)
    fx, fy = x - x_floor, y - y_floor
    column, row = x_floor.astype(np.int64) % SIZE, y_floor.astype(np.int64) % SIZE
    right, below = (column + 1) % SIZE, (row + 1) % SIZE
    upper = field.take(row * SIZE + column) * (1 - fx) + field.take(row * SIZE + right) * fx
    lower = field.take(below * SIZE + column) * (1 - fx) + field.take(below * SIZE + right) * fx
    return upper * (1 - fy) + lower * fy
