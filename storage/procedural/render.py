"""Exact camera views of a world: colour, termination depth, semantics, instances."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from storage.procedural.classes import SKY_ID
from storage.procedural.raycast import Hits
from storage.procedural.shading import shade, to_display
from storage.procedural.world import Snapshot, World

_CHUNK = 16384
_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedView:
    """What a camera sees, exactly.

    Attributes:
        image: sRGB.
        termination_depth: Metres along the unit ray through the pixel's centre; NaN = sky.
        semantics: Class ids of ``storage.procedural.classes``; 255 = sky.
        instance: Actor number, 0 for surroundings and sky.
    """

    image: UInt8[np.ndarray, "height width 3"]
    termination_depth: Float32[np.ndarray, "height width"]
    semantics: UInt8[np.ndarray, "height width"]
    instance: UInt16[np.ndarray, "height width"]


def render_camera(
    world: World,
    time_us: int,
    camera_to_world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
    *,
    antialias: bool = True,
) -> RenderedView:
    """Render a pinhole camera (OpenCV axes) at any pose and time.

    Depth, semantics and instances are those of the ray through the pixel's centre. Colour takes
    four more rays where neighbouring pixels see different things, unless ``antialias`` is False.

    Args:
        world: What to look at.
        time_us: Microseconds; within the world's span.
        camera_to_world: Pose; the world frame is the ego's pose at time 0.
        intrinsics: Pixels, with pixel (0, 0) centred at (0.5, 0.5).
        height: Image rows.
        width: Image columns.
        antialias: Whether edges get more rays.

    Raises:
        ValueError: If the pose or intrinsics are not finite, or the size is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image size must be positive, got {height} x {width}")
    if not (np.isfinite(camera_to_world).all() and np.isfinite(intrinsics).all()):
        raise ValueError("camera_to_world and intrinsics must be finite")
    snapshot = world.snapshot(time_us)
    v, u = np.mgrid[0:height, 0:width]
    pixels = np.stack([u.reshape(-1) + 0.5, v.reshape(-1) + 0.5], 1)
    radiance, hits = _trace(world, snapshot, camera_to_world, intrinsics, pixels)
    solid = hits.face >= 0
    face = np.where(solid, hits.face, 0)
    table = snapshot.table
    semantics = np.where(solid, table.class_id[face], np.uint8(SKY_ID)).reshape(height, width)
    instance = np.where(solid, table.instance[face], 0).astype(np.uint16).reshape(height, width)
    depth = np.where(solid, hits.distance, np.float32(np.nan)).reshape(height, width)
    if antialias:
        key = np.where(solid, table.material[face].astype(np.int32), -1).reshape(height, width)
        key = key + (semantics.astype(np.int32) << 8) + (instance.astype(np.int32) << 16)
        edge = np.flatnonzero(_edges(key, depth))
        total = radiance[:, edge]
        for offset in _SUBPIXELS:
            extra, _ = _trace(world, snapshot, camera_to_world, intrinsics, pixels[edge] + offset)
            total = total + np.minimum(extra, 2.0)
        radiance[:, edge] = total / (1 + len(_SUBPIXELS))
    return RenderedView(
        image=to_display(radiance).reshape(height, width, 3),
        termination_depth=depth,
        semantics=semantics,
        instance=instance,
    )


def _edges(
    key: Float[np.ndarray, "height width"] | np.ndarray, depth: Float32[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Return pixels beside a change of surface or a jump in depth."""
    inverse = np.nan_to_num(1.0 / depth, nan=0.0)
    edge = np.zeros(key.shape, bool)
    for axis in (0, 1):
        differs = np.diff(key, axis=axis) != 0
        # Planes are linear in inverse depth, so a jump shows in its second difference.
        bend = np.abs(np.diff(inverse, 2, axis=axis)) > 0.02 * np.maximum(
            np.take(inverse, range(1, inverse.shape[axis] - 1), axis=axis), 0.004
        )
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        middle = [slice(None)] * 2
        first[axis], second[axis], middle[axis] = slice(0, -1), slice(1, None), slice(1, -1)
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
        edge[tuple(middle)] |= bend
    return edge


def _trace(
    world: World,
    snapshot: Snapshot,
    camera_to_world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    pixels: Float[np.ndarray, "rays 2"],
) -> tuple[Float[np.ndarray, "3 rays"], Hits]:
    """Return radiance and hits of the rays through ``pixels``, chunk by chunk."""
    to_world = camera_to_world[:3, :3] @ np.linalg.inv(intrinsics)
    origin = camera_to_world[:3, 3]
    pixel_angle = 1.0 / float(intrinsics[0, 0])
    radiance = np.empty((3, len(pixels)), np.float32)
    hits = Hits(
        distance=np.empty(len(pixels), np.float32),
        face=np.empty(len(pixels), np.int32),
        u=np.empty(len(pixels), np.float32),
        v=np.empty(len(pixels), np.float32),
    )
    for start in range(0, len(pixels), _CHUNK):
        part = slice(start, start + _CHUNK)
        rays = pixels[part] @ to_world[:, :2].T + to_world[:, 2]
        rays /= np.sqrt(np.einsum("nc,nc->n", rays, rays))[:, None]
        directions = rays.astype(np.float32)
        origins = np.broadcast_to(origin.astype(np.float32), directions.shape).copy()
        found = snapshot.first_hits(origins, directions)
        radiance[:, part] = shade(snapshot.table, snapshot, world.lighting, origin, directions, found, pixel_angle)
        hits.distance[part], hits.face[part] = found.distance, found.face
        hits.u[part], hits.v[part] = found.u, found.v
    return radiance, hits
