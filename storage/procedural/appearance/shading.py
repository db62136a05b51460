"""The shading kernel: texture, light, shadow, reflection and haze of ray hits.

Everything is float32 structure-of-arrays, in chunks that stay in the processor's cache. So plain numpy shades about a
million rays a second on one core.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int16, Int32, Integer, UInt8

from storage.procedural.appearance.lighting import Lighting
from storage.procedural.appearance.materials import MATERIALS, texture_atlas
from storage.procedural.appearance.painting import SIZE
from storage.procedural.appearance.wet_ground import WetPatch, wet_patch
from storage.procedural.world.mesh import Mesh
from storage.procedural.world.raycast import Hits
from storage.taxonomy import SurfaceKind, occ3d_table

_LOG_SIZE = SIZE.bit_length() - 1
_NORMAL, _UV, _TINT, _DENSITY = slice(0, 9), slice(9, 15), slice(15, 18), 18
_SHADOW_BIAS = np.float32(2e-3)
_HARD_GROUND = (11, 12, 13)  # driveable surface, other flat ground, sidewalk
_LEVEL = 0.95
_UP = np.array([[0.0], [0.0], [1.0]], np.float32)
_NOWHERE = np.zeros(0, np.int64)
_KIND_OF_MATERIAL = np.array([material.surface for material in MATERIALS], np.uint8)


@runtime_checkable
class Surroundings(Protocol):
    """Geometry that answers shadow rays and mirrored rays."""

    def first_hits(self, origins: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]) -> Hits:
        """Return the first hits of rays."""
        ...

    def is_occluded(
        self, origins: Float[np.ndarray, "rays 3"], directions: Float[np.ndarray, "rays 3"]
    ) -> Bool[np.ndarray, " rays"]:
        """Return whether each ray is blocked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceTable:
    """Per-face shading attributes of a mesh, one row per attribute.

    Attributes:
        rows: Normal at the first corner and its two differences; texture coordinate in tiles and
            its two differences; tint; log2 of texels per metre.
        material: Texture layer.
        class_id: Semantic class.
        instance: Instance number, 0 for stuff.
        is_ground: Whether rain wets the face: flat, hard ground.
    """

    rows: Float[np.ndarray, "19 faces"]
    material: Int16[np.ndarray, " faces"]
    class_id: UInt8[np.ndarray, " faces"]
    instance: Int32[np.ndarray, " faces"]
    is_ground: Bool[np.ndarray, " faces"]


def face_table(mesh: Mesh) -> FaceTable:
    """Return the attributes of a mesh that shading reads."""
    tile = texture_atlas().tile[mesh.material][:, None]
    uv = mesh.uvs / tile
    rows = np.empty((19, len(mesh)), np.float32)
    normals = np.stack(
        [mesh.normals[:, 0], mesh.normals[:, 1] - mesh.normals[:, 0],
         mesh.normals[:, 2] - mesh.normals[:, 0]], 1,
    )  # fmt: skip
    rows[_NORMAL] = normals.reshape(-1, 9).T
    edges = np.stack([uv[:, 0] - np.floor(uv[:, 0]), uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 1)
    rows[_UV] = edges.reshape(-1, 6).T
    rows[_TINT] = mesh.tint.T
    edge_1, edge_2 = mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0]
    area = np.linalg.norm(np.cross(edge_1, edge_2), axis=1)
    uv_area = np.abs(edges[:, 1, 0] * edges[:, 2, 1] - edges[:, 1, 1] * edges[:, 2, 0])
    texels = SIZE * np.sqrt(np.maximum(uv_area, 1e-12) / np.maximum(area, 1e-12))
    rows[_DENSITY] = np.log2(np.maximum(texels, 1e-3))
    is_ground = np.isin(occ3d_table()[mesh.class_id], _HARD_GROUND) & (np.abs(mesh.normals[:, 0, 2]) > _LEVEL)
    return FaceTable(
        rows=rows, material=mesh.material, class_id=mesh.class_id, instance=mesh.instance, is_ground=is_ground
    )


def surface_kinds(table: FaceTable, face: Integer[np.ndarray, "*rays"], wetness: float) -> UInt8[np.ndarray, "*rays"]:
    """Return the ``SurfaceKind`` of faces.

    Args:
        table: Attributes of all faces.
        face: Faces to look at.
        wetness: Wetness of the scene, [0, 1].
    """
    kinds = _KIND_OF_MATERIAL[table.material[face]]
    if wetness > 0:
        kinds = np.where(table.is_ground[face], np.uint8(SurfaceKind.WET_GROUND), kinds)
    return kinds


def joined(first: FaceTable, second: FaceTable) -> FaceTable:
    """Return the table of two meshes; faces of ``second`` are numbered after those of ``first``."""
    return FaceTable(
        rows=np.concatenate([first.rows, second.rows], 1),
        material=np.concatenate([first.material, second.material]),
        class_id=np.concatenate([first.class_id, second.class_id]),
        instance=np.concatenate([first.instance, second.instance]),
        is_ground=np.concatenate([first.is_ground, second.is_ground]),
    )


def sample_texture(
    material: Int16[np.ndarray, " rays"],
    u: Float[np.ndarray, " rays"],
    v: Float[np.ndarray, " rays"],
    level: Float[np.ndarray, " rays"],
) -> Float[np.ndarray, "4 rays"]:
    """Return linear albedo and gloss, bilinear in the nearest mip level.

    Args:
        material: Texture layer.
        u: Texture coordinate in tiles, any value.
        v: The other texture coordinate, in the same unit.
        level: Wanted mip level; values outside the pyramid are clipped.
    """
    atlas = texture_atlas()
    mip = np.clip(level + np.float32(0.5), 0, _LOG_SIZE).astype(np.int32)
    bits = _LOG_SIZE - mip
    size = np.left_shift(1, bits)
    mask = size - 1
    base = np.asarray(atlas.level_offset, np.int64).take(mip) + (material.astype(np.int64) << (2 * bits))
    x = u * size - np.float32(0.5)
    y = v * size - np.float32(0.5)
    x_floor, y_floor = np.floor(x), np.floor(y)
    fx = ((x - x_floor) * 256).astype(np.uint32)
    fy = ((y - y_floor) * 256).astype(np.uint32)
    x_0, y_0 = x_floor.astype(np.int32), y_floor.astype(np.int32)
    x_1, y_1 = (x_0 + 1) & mask, (y_0 + 1) & mask
    x_0 &= mask
    y_0 &= mask
    row_0, row_1 = base + (y_0 << bits), base + (y_1 << bits)
    low = _mix(atlas.texels.take(row_0 + x_0), atlas.texels.take(row_0 + x_1), fx)
    high = _mix(atlas.texels.take(row_1 + x_0), atlas.texels.take(row_1 + x_1), fx)
    texel = _mix(low, high, fy)
    out = np.empty((4, len(u)), np.float32)
    for channel in range(4):
        out[channel] = (texel >> np.uint32(8 * channel)) & np.uint32(0xFF)
    out *= np.float32(1 / 255)
    out[:3] *= out[:3]
    return out


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate four packed 8-bit channels, two at a time."""
    even, keep = np.uint32(0x00FF00FF), np.uint32(8)
    rest = np.uint32(256) - weight
    red_blue = (((first & even) * rest + (second & even) * weight) >> keep) & even
    green_gloss = (((first >> keep) & even) * rest + ((second >> keep) & even) * weight) & ~even
    return red_blue | green_gloss


def shade(
    table: FaceTable,
    surroundings: Surroundings,
    lighting: Lighting,
    origin: Float[np.ndarray, "*#rays 3"],
    directions: Float[np.ndarray, "*rays 3"],
    hits: Hits,
    pixel_angle: float,
    travelled: Float[np.ndarray, " rays"] | None = None,
) -> Float[np.ndarray, "3 rays"]:
    """Return the linear radiance seen along rays.

    Args:
        table: Attributes of the faces that ``hits`` number.
        surroundings: Answer shadow rays, and mirrored rays where the ground is wet.
        lighting: Light of the scene.
        origin: Common origin of the rays, or one for each, world frame.
        directions: Unit directions, world frame.
        hits: First hits of these rays.
        pixel_angle: Angle in radians between neighbouring rays; chooses the mip level.
        travelled: Path of a ray before its origin, metres, if it was mirrored there.
    """
    out = np.empty((3, len(directions)), np.float32)
    sky = np.flatnonzero(hits.face < 0)
    if len(sky):
        out[:, sky] = lighting.sky_colour(np.ascontiguousarray(directions[sky].T))
    solid = np.flatnonzero(hits.face >= 0)
    if len(solid) == 0:
        return out
    face = hits.face.take(solid).astype(np.int64)
    u, v, distance = hits.u.take(solid), hits.v.take(solid), hits.distance.take(solid)
    ray = np.ascontiguousarray(directions.take(solid, axis=0).T)
    rows = table.rows.take(face, axis=1)
    normal = rows[0:3]
    normal += u * rows[3:6]
    normal += v * rows[6:9]
    facing = normal[0] * ray[0] + normal[1] * ray[1] + normal[2] * ray[2]
    length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    normal *= np.where(facing > 0, np.float32(-1), np.float32(1)) / length
    cosine = np.abs(facing) / length
    coordinate = rows[9:11] + u * rows[11:13] + v * rows[13:15]
    way = distance if travelled is None else distance + travelled.take(solid)
    footprint = way * np.float32(pixel_angle) / np.sqrt(np.maximum(cosine, np.float32(0.04)))
    texture = sample_texture(
        table.material.take(face), coordinate[0], coordinate[1],
        np.log2(footprint) + rows[_DENSITY],
    )  # fmt: skip
    albedo, gloss = texture[:3], texture[3]
    albedo *= rows[_TINT]
    start = origin.astype(np.float32)[:, None] if origin.ndim == 1 else origin.take(solid, axis=0).T
    position = ray * distance + start
    ground = np.flatnonzero(table.is_ground.take(face)) if lighting.wetness > 0 else _NOWHERE
    if len(ground):
        wet = wet_patch(lighting.wetness, position[:, ground], normal[:, ground], ray[:, ground])
        albedo[:, ground] *= wet.albedo
        mirror_image = _mirror_image(table, surroundings, lighting, position[:, ground], wet, way[ground], pixel_angle)
    light = _ambient(lighting, normal, position[2])
    visible_sun = _direct(surroundings, lighting, normal, position)
    light += visible_sun * lighting.sun[:, None]
    if lighting.glow > 0:
        light += np.clip((gloss - np.float32(0.9)) * np.float32(10 * lighting.glow), 0, lighting.glow)
    albedo *= light
    _reflect(albedo, gloss, cosine, normal, ray, visible_sun, lighting)
    if len(ground):
        albedo[:, ground] += wet.mirror * (mirror_image - albedo[:, ground])
    veil = np.float32(1.0) - np.exp(distance * np.float32(-lighting.haze))
    albedo += veil * (lighting.horizon[:, None] - albedo)
    out[:, solid] = albedo
    return out


def _mirror_image(
    table: FaceTable,
    surroundings: Surroundings,
    lighting: Lighting,
    position: Float[np.ndarray, "3 rays"],
    wet: WetPatch,
    travelled: Float[np.ndarray, " rays"],
    pixel_angle: float,
) -> Float[np.ndarray, "3 rays"]:
    """Return the radiance that wet ground mirrors; water seen in water counts as dry."""
    origins = np.ascontiguousarray((position + _SHADOW_BIAS * _UP).T)
    directions = np.ascontiguousarray(wet.mirrored.T)
    hits = surroundings.first_hits(origins, directions)
    dry = replace(lighting, wetness=0.0)
    return shade(table, surroundings, dry, origins, directions, hits, pixel_angle, travelled)


def _ambient(
    lighting: Lighting, normal: Float[np.ndarray, "3 rays"], height: Float[np.ndarray, " rays"]
) -> Float[np.ndarray, "3 rays"]:
    """Return hemispheric ambient light, dimmed near the ground on steep and hanging surfaces."""
    up = np.float32(0.5) + np.float32(0.5) * normal[2]
    contact = np.clip(height * np.float32(0.9), 0, 1) * np.float32(0.4) + np.float32(0.6)
    openness = np.where(normal[2] > 0.8, np.float32(1), contact)
    difference = (lighting.sky - lighting.bounce)[:, None]
    return (lighting.bounce[:, None] + up * difference) * openness


def _direct(
    surroundings: Surroundings,
    lighting: Lighting,
    normal: Float[np.ndarray, "3 rays"],
    position: Float[np.ndarray, "3 rays"],
) -> Float[np.ndarray, " rays"]:
    """Return the cosine to the sun, 0 in shadow."""
    sun = lighting.towards_sun
    cosine = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    lit = np.flatnonzero(cosine > 0)
    out = np.zeros(len(cosine), np.float32)
    start = position[:, lit] + _SHADOW_BIAS * normal[:, lit]
    origins = np.ascontiguousarray(start.T)
    towards = np.broadcast_to(sun, origins.shape).copy()
    out[lit] = cosine[lit] * ~surroundings.is_occluded(origins, towards)
    return out


def _reflect(
    colour: Float[np.ndarray, "3 rays"],
    gloss: Float[np.ndarray, " rays"],
    cosine: Float[np.ndarray, " rays"],
    normal: Float[np.ndarray, "3 rays"],
    ray: Float[np.ndarray, "3 rays"],
    visible_sun: Float[np.ndarray, " rays"],
    lighting: Lighting,
) -> None:
    """Add the mirrored sky and the sun's glint to glossy surfaces, in place."""
    which = np.flatnonzero(gloss > 0.12)
    if len(which) == 0:
        return
    n, d, cos = normal[:, which], ray[:, which], cosine[which]
    mirrored = d + (2 * cos) * n
    fresnel = gloss[which] * (np.float32(0.07) + np.float32(0.93) * _fifth_power(1 - cos))
    sky = lighting.sky_colour(mirrored)
    below = mirrored[2] < 0
    sky[:, below] = (lighting.bounce * 0.8)[:, None]
    glint = np.zeros(len(which), np.float32)
    sunlit = np.flatnonzero(visible_sun[which] > 0)
    along = np.clip(np.einsum("c,cn->n", lighting.towards_sun, mirrored[:, sunlit]), 0, 1)
    glint[sunlit] = _sixtieth_power(along) * gloss[which[sunlit]]
    seen = colour[:, which] * (1 - fresnel) + sky * fresnel
    colour[:, which] = seen + glint * np.float32(0.5) * lighting.sun[:, None]


# Products take a tenth of the time of a general power.
def _fifth_power(x: Float[np.ndarray, " rays"]) -> Float[np.ndarray, " rays"]:
    square = x * x
    return square * square * x


def _sixtieth_power(x: Float[np.ndarray, " rays"]) -> Float[np.ndarray, " rays"]:
    fourth = np.square(np.square(x))
    eighth = np.square(fourth)
    sixteenth = np.square(eighth)
    return np.square(sixteenth) * sixteenth * eighth * fourth


_CURVE_STEPS = 4096
_CURVE_MAX = 2.0


def _tone_curve() -> UInt8[np.ndarray, " steps"]:
    x = np.arange(_CURVE_STEPS + 1) / _CURVE_STEPS * _CURVE_MAX
    # A shoulder above 0.6 keeps sunlit white surfaces from clipping.
    rolled = np.where(x < 0.6, x, 0.6 + 0.4 * (1 - np.exp(-(x - 0.6) / 0.4)))
    return np.clip(rolled ** (1 / 2.2) * 255 + 0.5, 0, 255).astype(np.uint8)


_TONE = _tone_curve()


def to_display(radiance: Float[np.ndarray, "3 rays"]) -> UInt8[np.ndarray, "rays 3"]:
    """Return radiance as 8-bit sRGB, channels last."""
    step = np.clip(radiance, 0, _CURVE_MAX) * np.float32(_CURVE_STEPS / _CURVE_MAX)
    return np.ascontiguousarray(_TONE.take(step.astype(np.int32)).T)
