"""Boxes of a keyframe: the actors that the sensors met, with the share of each that the cameras see."""

import numpy as np
from jaxtyping import Float

from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.sensors import LidarSweep
from storage.procedural.world.mesh import Mesh
from storage.procedural.world.traffic import Actor
from storage.procedural.world.world import Snapshot, World
from storage.procedural.writers.nuscenes_writer import Annotation
from storage.taxonomy import class_named

_MAX_DISTANCE_M = 100.0
_PROBES = 48
_MOVING_MPS = 0.2


def annotate(
    world: World,
    time_us: int,
    sweep: LidarSweep,
    cameras: list[PosedCamera],
    world_to_global: Float[np.ndarray, "4 4"],
) -> list[Annotation]:
    """Return a box for each actor within 100 m of the ego that the LiDAR hit or a camera sees.

    Args:
        world: The world.
        time_us: The keyframe's world time, microseconds.
        sweep: Its LiDAR sweep.
        cameras: Cameras that may see the actors; occluders have their place at ``time_us``.
        world_to_global: Transform to the frame of the annotations.
    """
    snapshot = world.snapshot(time_us)
    hits = np.bincount(sweep.instance, minlength=max((a.instance for a in world.actors), default=0) + 1)
    ego = world.ego_to_world(time_us)[:2, 3]
    found = []
    for actor in world.actors:
        box_to_world = actor.box_to_world(time_us)
        is_near = np.linalg.norm(box_to_world[:2, 3] - ego) <= _MAX_DISTANCE_M
        if not is_near or not class_named(actor.class_name).nuscenes_category:
            continue
        visible = _visible_share(actor.mesh_at(time_us), snapshot, cameras)
        num_lidar_points = int(hits[actor.instance])
        if num_lidar_points == 0 and visible == 0.0:
            continue
        found.append(
            Annotation(
                instance=actor.instance,
                class_name=actor.class_name,
                box_to_global=world_to_global @ box_to_world,
                size=actor.size,
                is_moving=_is_moving(actor, time_us),
                visible_share=visible,
                num_lidar_points=num_lidar_points,
            )
        )
    return found


def _is_moving(actor: Actor, time_us: int) -> bool:
    return actor.is_moving and actor.speed(time_us) > _MOVING_MPS


def _visible_share(mesh: Mesh, snapshot: Snapshot, cameras: list[PosedCamera]) -> float:
    """Return the visible share of the surface probes that face a camera and lie in its image."""
    faces = np.linspace(0, len(mesh) - 1, min(_PROBES, len(mesh))).astype(np.int64)
    points = mesh.corners[faces].mean(axis=1).astype(np.float64)
    normals = mesh.normals[faces].mean(axis=1)
    asked = seen = 0
    for camera in cameras:
        origin = camera.origin
        is_in = camera.holds(camera.project(points))
        towards = points - origin
        distance = np.linalg.norm(towards, axis=1)
        which = np.flatnonzero(is_in & (np.einsum("nc,nc->n", towards, normals) < 0))
        if len(which) == 0:
            continue
        directions = (towards[which] / distance[which, None]).astype(np.float32)
        origins = np.broadcast_to(origin.astype(np.float32), directions.shape).copy()
        limit = np.maximum(distance[which] - 0.05, 0.0).astype(np.float32)
        blocked = snapshot.is_occluded(origins, directions, limit)
        asked += len(which)
        seen += int((~blocked).sum())
    return seen / asked if asked else 0.0
