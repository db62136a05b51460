"""Materials: a painted texture, its size, and its reflectivity for LiDAR light."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt32

from storage.procedural.appearance import texture_facades as facades
from storage.procedural.appearance import texture_objects as objects
from storage.procedural.appearance import texture_surfaces as surfaces
from storage.procedural.appearance.painting import SIZE, Canvas
from storage.taxonomy import SurfaceKind

Real = float | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Appearance shared by many faces; a face adds its own tint.

    Attributes:
        name: Unique name.
        paint: Function that draws the texture.
        tile: Width and height of one texture tile, metres; (1, 1) for textures of a unit square, whose meshes give u
            and v in [0, 1] themselves.
        reflectivity: Share of LiDAR light returned at normal incidence, [0, 1].
        surface: What makes it hard to measure.
    """

    name: str
    paint: Callable[[], Canvas]
    tile: tuple[Real, Real]
    reflectivity: float
    surface: SurfaceKind = SurfaceKind.OTHER


def _material(
    painter: Callable[[], Canvas],
    width: Real,
    height: Real,
    reflectivity: float,
    surface: SurfaceKind = SurfaceKind.OTHER,
) -> Material:
    tile = (width, height)
    return Material(name=painter.__name__, paint=painter, tile=tile, reflectivity=reflectivity, surface=surface)


MATERIALS: tuple[Material, ...] = (
    _material(surfaces.asphalt, 8, 8, 0.12),
    _material(surfaces.concrete, 5, 5, 0.35),
    _material(surfaces.pavers, 4, 4, 0.3),
    _material(surfaces.apron, 15, 15, 0.32),
    _material(surfaces.grass, 6, 6, 0.25),
    _material(surfaces.soil, 6, 6, 0.2),
    _material(surfaces.kerb, 4, 4, 0.35),
    _material(surfaces.road_paint, 3, 3, 0.75),
    _material(surfaces.brick, 2.4, 2.4, 0.35),
    _material(surfaces.plaster, 6, 6, 0.5),
    _material(surfaces.roof_tiles, 4, 4, 0.3),
    _material(surfaces.gravel_roof, 6, 6, 0.25),
    _material(surfaces.metal_panels, 3, 3, 0.45),
    _material(surfaces.corrugated, 3, 3, 0.4),
    _material(surfaces.wood, 2, 2, 0.35),
    _material(surfaces.bark, 1.5, 1.5, 0.25),
    _material(surfaces.foliage, 2.5, 2.5, 0.35),
    _material(surfaces.car_paint, 4, 4, 0.4),
    _material(surfaces.vehicle_glass, 2, 2, 0.06, SurfaceKind.GLASS),
    _material(surfaces.rubber, 0.8, 0.8, 0.05),
    _material(surfaces.dark_metal, 1, 1, 0.3),
    _material(surfaces.plain, 1, 1, 0.4),
    _material(surfaces.cloth, 1, 1, 0.3),
    _material(surfaces.skin, 0.5, 0.5, 0.4),
    _material(surfaces.hedge, 2, 2, 0.35),
    _material(surfaces.belt, 1, 1, 0.08),
    _material(facades.brick_facade, 12, 12, 0.3),
    _material(facades.plaster_facade, 12, 12, 0.4),
    _material(facades.shutter_facade, 12, 12, 0.4),
    _material(facades.office_facade, 14, 14, 0.3),
    _material(facades.glass_facade, 12, 14, 0.15, SurfaceKind.GLASS),
    _material(facades.terminal_facade, 16, 16, 0.15, SurfaceKind.GLASS),
    _material(facades.shop_front, 16, 4, 0.25),
    _material(facades.house_door, 12, 3, 0.35),
    _material(objects.wheel, 1, 1, 0.1),
    _material(objects.cone, 1, 1, 0.7),
    _material(objects.barrier_stripes, 1, 1, 0.7),
    _material(objects.hazard_stripes, 1, 1, 0.6),
    _material(objects.plastic_barrier, 2, 1, 0.5),
    _material(objects.sign_stop, 1, 1, 0.95),
    _material(objects.sign_limit, 1, 1, 0.95),
    _material(objects.sign_warning, 1, 1, 0.95),
    _material(objects.sign_direction, 1, 1, 0.95),
    _material(objects.stand_number, 1, 1, 0.9),
    _material(objects.traffic_light, 1, 1, 0.2),
    _material(objects.fuselage, 1, 1, 0.5, SurfaceKind.FUSELAGE),
    _material(objects.livery, 1, 1, 0.5),
    _material(objects.bus_side, 3, 1, 0.35),
    _material(objects.truck_box, 6, 3, 0.45),
    _material(objects.hi_vis, 1, 1, 0.95),
    _material(objects.shirt, 0.5, 0.5, 0.35),
    _material(objects.luggage, 1.6, 1.6, 0.3),
    _material(objects.container, 1.6, 1.6, 0.5),
    _material(objects.billboard, 1, 1, 0.5),
    _material(objects.lamp_red, 0.3, 0.3, 0.8),
    _material(objects.lamp_white, 0.3, 0.3, 0.8),
    _material(objects.number_plate, 1, 1, 0.9),
)

_INDEX = {material.name: index for index, material in enumerate(MATERIALS)}


def material_index(name: str) -> int:
    """Return the index of the material called ``name``; raise ValueError if there is none."""
    if name not in _INDEX:
        raise ValueError(f"unknown material {name!r}")
    return _INDEX[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextureAtlas:
    """Every texture at every mip level, packed for the shading kernel.

    Attributes:
        texels: 8-bit channels red, green, blue, gloss from the low byte up. Colours hold the
            square root of linear albedo, which spends the 8 bits where the eye needs them.
        level_offset: First texel of each mip level; within a level, layers lie one after another.
        num_levels: Mip levels, from ``SIZE`` down to one texel.
        tile: Metres per tile of each layer, ``materials 2``.
        reflectivity: LiDAR reflectivity of each layer.
    """

    texels: UInt32[np.ndarray, " texels"]
    level_offset: tuple[int, ...]
    num_levels: int
    tile: Float[np.ndarray, "materials 2"]
    reflectivity: Float[np.ndarray, " materials"]


def _pack(canvas: Float[np.ndarray, "rows columns 4"]) -> UInt32[np.ndarray, " texels"]:
    bytes_ = np.empty(canvas.shape, np.uint8)
    bytes_[..., :3] = np.sqrt(canvas[..., :3]) * np.float32(255.0) + np.float32(0.5)
    bytes_[..., 3] = canvas[..., 3] * np.float32(255.0) + np.float32(0.5)
    return bytes_.view(np.uint32).reshape(-1)


def _halved(canvas: Float[np.ndarray, "rows columns 4"]) -> Float[np.ndarray, "rows_2 columns_2 4"]:
    rows = canvas[0::2] + canvas[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


@cache
def texture_atlas() -> TextureAtlas:
    """Paint every material once per process and return the atlas."""
    num_levels = SIZE.bit_length()
    levels: list[list[UInt32[np.ndarray, " texels"]]] = [[] for _ in range(num_levels)]
    for material in MATERIALS:
        canvas = np.clip(material.paint(), 0.0, 1.0)
        for level in range(num_levels):
            levels[level].append(_pack(canvas))
            if level < num_levels - 1:
                canvas = _halved(canvas)
    sizes = [sum(len(layer) for layer in level) for level in levels]
    return TextureAtlas(
        texels=np.concatenate([layer for level in levels for layer in level]),
        level_offset=tuple(int(x) for x in np.concatenate([[0], np.cumsum(sizes)[:-1]])),
        num_levels=num_levels,
        tile=np.array([material.tile for material in MATERIALS], np.float32),
        reflectivity=np.array([material.reflectivity for material in MATERIALS], np.float32),
    )
