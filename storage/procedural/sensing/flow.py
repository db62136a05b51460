"""Exact optical flow: the place in another image, of any camera and time, of each surface point that a camera sees.

A point keeps its place on its face. The face of a moving actor has its place at the other time, gait included, so flow
is exact for still, rigid and walking things alike. The sky is infinitely far: it only turns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.world.raycast import Hits
from storage.procedural.world.world import Snapshot, World

_SKY_DISTANCE_M = 1e7
_UP = np.array([0.0, 0.0, 1.0], np.float32)
_SAME_SURFACE = 1e-3  # a surface this share nearer than the point, or 1 cm, is the point's own: float32 rays
_SAME_SURFACE_M = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticalFlow:
    """Motion of the surface points that one camera sees, in pixels of another.

    Attributes:
        flow: Vector from each pixel's centre to the place of the same surface point in the target image (right, down),
            pixels; the place may lie outside that image. NaN where the point is behind a target pinhole or outside a
            target lens, or the source pixel is outside its lens.
        is_visible: Whether the target camera sees that point: it lies in the image, with nothing before it.
        scene_flow: Motion of the surface point itself, metres, world frame; NaN for the sky and outside a lens.
    """

    flow: Float32[np.ndarray, "height width 2"]
    is_visible: Bool[np.ndarray, "height width"]
    scene_flow: Float32[np.ndarray, "height width 3"]


def optical_flow(world: World, source: PosedCamera, target: PosedCamera) -> OpticalFlow:
    """Return the optical flow from one camera and time to another; the cameras may be anywhere.

    Args:
        world: The world that both see.
        source: Camera in whose pixels the flow starts.
        target: Camera in whose pixels the flow ends.
    """
    pixels = source.pixel_centres()
    directions = source.rays(pixels)
    is_void = np.isnan(directions[:, 0])
    before = world.snapshot(source.time_us)
    safe = np.where(is_void[:, None], _UP, directions)  # Embree wants finite rays
    found = before.first_hits(_repeated(source.origin, len(pixels)), safe)
    found.face[is_void] = -1
    is_sky = (found.face < 0) & ~is_void
    solid = np.flatnonzero(found.face >= 0)

    after = world.snapshot(target.time_us)
    moved = np.full((len(pixels), 3), np.nan)
    moved[solid] = _displacement(before, after, found, solid)
    distance = np.where(is_sky, _SKY_DISTANCE_M, found.distance)
    points = source.origin + directions.astype(np.float64) * distance[:, None]
    points[solid] += moved[solid]
    points[is_sky] += target.origin - source.origin  # parallax of what is infinitely far

    places = target.project(points)
    visible = np.zeros(len(pixels), bool)
    inside = np.flatnonzero(target.holds(places) & ~is_void)
    visible[inside] = _is_open(after, target.origin, points[inside])
    shape = (source.height, source.width)
    return OpticalFlow(
        flow=(places - pixels).astype(np.float32).reshape(*shape, 2),
        is_visible=visible.reshape(shape),
        scene_flow=moved.astype(np.float32).reshape(*shape, 3),
    )


def _repeated(origin: Float[np.ndarray, " 3"], count: int) -> Float32[np.ndarray, "rays 3"]:
    return np.broadcast_to(origin.astype(np.float32), (count, 3)).copy()


def _displacement(before: Snapshot, after: Snapshot, hits: Hits, which: np.ndarray) -> Float[np.ndarray, "points 3"]:
    """Return the motion of the hit points, metres; faces keep their number from one instant to another."""
    out = np.zeros((len(which), 3))
    face = hits.face[which] - before.static.num_faces
    moving = np.flatnonzero(face >= 0)
    if len(moving) == 0 or before.moving_mesh is None or after.moving_mesh is None:
        return out
    step = after.moving_mesh.corners.astype(np.float64) - before.moving_mesh.corners
    corners = step[face[moving]]
    u, v = (weight[which][moving, None].astype(np.float64) for weight in (hits.u, hits.v))
    out[moving] = (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
    return out


def _is_open(
    snapshot: Snapshot, origin: Float[np.ndarray, " 3"], points: Float[np.ndarray, "points 3"]
) -> Bool[np.ndarray, " points"]:
    """Return whether each point is unobstructed from ``origin``."""
    towards = points - origin
    distance = np.linalg.norm(towards, axis=1)
    directions = (towards / distance[:, None]).astype(np.float32)
    limit = distance - np.maximum(distance * _SAME_SURFACE, _SAME_SURFACE_M)
    return ~snapshot.is_occluded(_repeated(origin, len(points)), directions, limit.astype(np.float32))
