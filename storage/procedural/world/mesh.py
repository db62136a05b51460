"""Triangle soups with texture coordinates.

Meshes are small and many. A soup has no shared vertices: per-corner normals and texture coordinates stay simple, and
soups are concatenated directly. Units are metres; local frames are x forward, y left, z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int16, Int32, Num, UInt8

from storage.procedural.appearance.materials import material_index
from storage.taxonomy import class_named

Real = float | int
Colour = tuple[Real, Real, Real]
Point = tuple[Real, Real, Real]
WHITE: Colour = (1.0, 1.0, 1.0)


class Surface(NamedTuple):
    """Material, class and tint of a face.

    Attributes:
        material: Name of a material.
        class_name: Semantic class.
        tint: sRGB colour that multiplies the texture; values above 1 brighten.
    """

    material: str
    class_name: str
    tint: Colour = WHITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A triangle soup.

    Attributes:
        corners: Corner positions, metres.
        normals: Unit normals at the corners; equal normals shade flat.
        uvs: Texture coordinates: metres, or [0, 1] for unit textures.
        material: Index into ``MATERIALS``.
        tint: Linear colour that multiplies the texture.
        class_id: Semantic class.
        instance: Instance number, 0 for stuff.
    """

    corners: Float[np.ndarray, "faces 3 3"]
    normals: Float[np.ndarray, "faces 3 3"]
    uvs: Float[np.ndarray, "faces 3 2"]
    material: Int16[np.ndarray, " faces"]
    tint: Float[np.ndarray, "faces 3"]
    class_id: UInt8[np.ndarray, " faces"]
    instance: Int32[np.ndarray, " faces"]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.corners)


def cross(a: Num[np.ndarray, "*batch 3"], b: Num[np.ndarray, "*batch 3"]) -> Num[np.ndarray, "*batch 3"]:
    """Return the cross product, several times faster for small arrays than numpy's general one."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), np.result_type(a, b))
    out[..., 0] = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    out[..., 1] = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    out[..., 2] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return out


def face_normals(corners: Float[np.ndarray, "faces 3 3"]) -> Float[np.ndarray, "faces 3"]:
    """Return unit face normals; a degenerate face gets (0, 0, 1)."""
    normal = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.sqrt((normal * normal).sum(axis=1, keepdims=True))
    return np.where(length > 1e-12, normal / np.maximum(length, 1e-12), (0.0, 0.0, 1.0)).astype(np.float32)


def soup(
    corners: Num[np.ndarray, "faces 3 3"],
    uvs: Num[np.ndarray, "faces 3 2"],
    surface: Surface,
    normals: Num[np.ndarray, "faces 3 3"] | None = None,
) -> Mesh:
    """Return a mesh of one surface; normals default to flat shading."""
    corners = np.ascontiguousarray(corners, np.float32)
    count = len(corners)
    if normals is None:
        normals = np.repeat(face_normals(corners)[:, None], 3, axis=1)
    return Mesh(
        corners=corners,
        normals=np.ascontiguousarray(normals, np.float32),
        uvs=np.ascontiguousarray(uvs, np.float32),
        material=np.full(count, material_index(surface.material), np.int16),
        tint=np.broadcast_to(np.asarray(surface.tint, np.float32) ** np.float32(2.2), (count, 3)).copy(),
        class_id=np.full(count, class_named(surface.class_name).class_id, np.uint8),
        instance=np.zeros(count, np.int32),
    )


def concatenate(meshes: Sequence[Mesh]) -> Mesh:
    """Return one mesh of all faces, in order."""
    if not meshes:
        raise ValueError("cannot concatenate no meshes")
    return Mesh(
        corners=np.concatenate([mesh.corners for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        uvs=np.concatenate([mesh.uvs for mesh in meshes]),
        material=np.concatenate([mesh.material for mesh in meshes]),
        tint=np.concatenate([mesh.tint for mesh in meshes]),
        class_id=np.concatenate([mesh.class_id for mesh in meshes]),
        instance=np.concatenate([mesh.instance for mesh in meshes]),
    )


def chosen(mesh: Mesh, faces: Int[np.ndarray, " chosen"]) -> Mesh:
    """Return a mesh of some faces, in the given order."""
    return Mesh(
        corners=mesh.corners[faces],
        normals=mesh.normals[faces],
        uvs=mesh.uvs[faces],
        material=mesh.material[faces],
        tint=mesh.tint[faces],
        class_id=mesh.class_id[faces],
        instance=mesh.instance[faces],
    )


def transformed(mesh: Mesh, local_to_parent: Float[np.ndarray, "4 4"]) -> Mesh:
    """Return a mesh moved by a rigid transform."""
    rotation = local_to_parent[:3, :3].astype(np.float32)
    return replace(
        mesh,
        corners=mesh.corners @ rotation.T + local_to_parent[:3, 3].astype(np.float32),
        normals=mesh.normals @ rotation.T,
    )


def with_instance(mesh: Mesh, instance: int) -> Mesh:
    """Return the mesh with every face given one instance number."""
    return replace(mesh, instance=np.full(len(mesh), instance, np.int32))


def with_class(mesh: Mesh, class_name: str) -> Mesh:
    """Return the mesh with every face given one class."""
    return replace(mesh, class_id=np.full(len(mesh), class_named(class_name).class_id, np.uint8))


def placement(x: Real, y: Real, z: Real, yaw: Real = 0.0) -> Float[np.ndarray, "4 4"]:
    """Return ``local_to_parent`` of an upright object."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=np.float64)
