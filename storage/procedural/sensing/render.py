"""Exact camera views of a world: colour, termination depth, semantics, instances."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from storage.procedural.appearance.shading import shade, surface_kinds, to_display
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.world.raycast import Hits
from storage.procedural.world.world import Snapshot, World
from storage.taxonomy import NO_SURFACE, SKY_ID, VOID_ID

_CHUNK = 16384
_UP = (0.0, 0.0, 1.0)
_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedView:
    """Exact view of a camera.

    Attributes:
        image: 8-bit sRGB.
        termination_depth: Metres along the unit ray through the pixel's centre; NaN where nothing was hit.
        semantics: Class ids of ``storage.taxonomy``; 255 = sky, 254 = outside a fisheye's image circle.
        instance: Actor number, 0 for surroundings and sky.
        surface: Members of ``SurfaceKind``; 255 where nothing was hit.
    """

    image: UInt8[np.ndarray, "height width 3"]
    termination_depth: Float32[np.ndarray, "height width"]
    semantics: UInt8[np.ndarray, "height width"]
    instance: UInt16[np.ndarray, "height width"]
    surface: UInt8[np.ndarray, "height width"]


def render_camera(
    world: World,
    time_us: int,
    camera_to_world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
    *,
    fisheye: Float[np.ndarray, " 4"] | None = None,
    antialias: bool = True,
) -> RenderedView:
    """Render a camera given by its parameters, which ``PosedCamera`` describes; see ``render_view`` for the rest."""
    camera = PosedCamera(
        time_us=time_us,
        camera_to_world=camera_to_world,
        intrinsics=intrinsics,
        height=height,
        width=width,
        fisheye=fisheye,
    )
    return render_view(world, camera, antialias=antialias)


def render_view(world: World, camera: PosedCamera, *, antialias: bool = True) -> RenderedView:
    """Render a camera at any pose, and at any time within the world's span.

    Depth, semantics and instances are those of the ray through the pixel's centre. Colour takes four more rays where
    neighbouring pixels see different things, if ``antialias`` is True. Pixels outside a fisheye's image circle are
    black, with NaN depth and class ``VOID_ID``.

    Args:
        world: World to render.
        camera: Camera, with its pose and time.
        antialias: Whether edges get more rays.
    """
    height, width = camera.height, camera.width
    snapshot = world.snapshot(camera.time_us)
    pixels = camera.pixel_centres()
    radiance, hits, is_void = _trace(world, snapshot, camera, pixels)
    solid = hits.face >= 0
    face = np.where(solid, hits.face, 0)
    table = snapshot.table
    semantics = np.where(solid, table.class_id[face], np.uint8(SKY_ID))
    semantics[is_void] = VOID_ID
    semantics = semantics.reshape(height, width)
    instance = np.where(solid, table.instance[face], 0).astype(np.uint16).reshape(height, width)
    surface = np.where(solid, surface_kinds(table, face, world.lighting.wetness), np.uint8(NO_SURFACE))
    depth = np.where(solid, hits.distance, np.float32(np.nan)).reshape(height, width)
    if antialias:
        key = np.where(solid, table.material[face].astype(np.int32), -1).reshape(height, width)
        key = key + (semantics.astype(np.int32) << 8) + (instance.astype(np.int32) << 16)
        edge = np.flatnonzero(_edges(key, depth))
        total = radiance[:, edge]
        for offset in _SUBPIXELS:
            extra, _, _ = _trace(world, snapshot, camera, pixels[edge] + offset)
            total = total + np.minimum(extra, 2.0)
        radiance[:, edge] = total / (1 + len(_SUBPIXELS))
    return RenderedView(
        image=to_display(radiance).reshape(height, width, 3),
        termination_depth=depth,
        semantics=semantics,
        instance=instance,
        surface=surface.reshape(height, width),
    )


def _edges(
    key: Float[np.ndarray, "height width"] | np.ndarray, depth: Float32[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Return whether each pixel lies beside a change of surface or a jump in depth."""
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
    world: World, snapshot: Snapshot, camera: PosedCamera, pixels: Float[np.ndarray, "rays 2"]
) -> tuple[Float[np.ndarray, "3 rays"], Hits, Bool[np.ndarray, " rays"]]:
    """Return radiance and hits of the rays through ``pixels``, and which of them lie outside the lens's image."""
    count = len(pixels)
    radiance = np.empty((3, count), np.float32)
    is_void = np.zeros(count, bool)
    hits = Hits(
        distance=np.empty(count, np.float32),
        face=np.empty(count, np.int32),
        u=np.empty(count, np.float32),
        v=np.empty(count, np.float32),
    )
    origin = camera.origin

    def trace_chunk(start: int) -> None:
        part = slice(start, start + _CHUNK)
        directions = camera.rays(pixels[part])
        if camera.fisheye is not None:
            is_void[part] = np.isnan(directions[:, 0])
            directions[is_void[part]] = _UP  # a ray must be finite; what it meets is dropped below
        origins = np.broadcast_to(origin.astype(np.float32), directions.shape).copy()
        found = snapshot.first_hits(origins, directions)
        found.face[is_void[part]] = -1
        seen = shade(snapshot.table, snapshot, world.lighting, origin, directions, found, camera.pixel_angle)
        seen[:, is_void[part]] = 0.0
        radiance[:, part] = seen
        hits.distance[part], hits.face[part] = found.distance, found.face
        hits.u[part], hits.v[part] = found.u, found.v

    starts = range(0, count, _CHUNK)
    if len(starts) < 2:  # a thread takes longer to start
        for start in starts:
            trace_chunk(start)
        return radiance, hits, is_void
    # Numpy and Embree leave the interpreter to others while they work. Threads end with the call: none meets a fork.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(starts))) as threads:
        list(threads.map(trace_chunk, starts))
    return radiance, hits, is_void
