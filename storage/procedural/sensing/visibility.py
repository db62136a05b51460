"""Visibility of voxels from the sensors, by casting rays in the world itself.

A camera sees a voxel if its ray towards the voxel's centre enters the voxel, or if the ray of one of its pixels ends
there. A LiDAR sees the voxels that its returned beams cross or end in. Both follow Occ3D's definition of its masks,
with surfaces in place of occupied voxels.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32

from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.geometry.voxel_rays import crossed_voxels
from storage.procedural.sensing.occupancy import voxel_centres
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.sensors import LidarSweep
from storage.procedural.world.world import Snapshot

Visibility = Bool[np.ndarray, "200 200 16"]


def camera_visibility(
    snapshot: Snapshot,
    grid_to_world: Float[np.ndarray, "4 4"],
    camera: PosedCamera,
    termination_depth: Float32[np.ndarray, "height width"],
) -> Visibility:
    """Return whether a camera sees each voxel at its own instant.

    Args:
        snapshot: The world at the camera's instant.
        grid_to_world: Pose of the grid's frame.
        camera: Camera in the world.
        termination_depth: Depth that the camera rendered, metres; NaN where nothing was hit.
    """
    grid_to_camera = invert_se3(camera.camera_to_world) @ grid_to_world
    origin = invert_se3(grid_to_camera)[:3, 3]
    centres = voxel_centres().reshape(-1, 3)
    seen = np.zeros(len(centres), bool)
    candidates = np.flatnonzero(camera.holds(camera.project(apply_se3(grid_to_world, centres))))
    towards = centres[candidates] - origin
    distance = np.linalg.norm(towards, axis=1)
    # The ray towards the centre is inside the slab of one axis once less than half a voxel is left along it.
    enters = 1.0 - np.min(0.5 * OCC3D_GRID.voxel_size / np.maximum(np.abs(towards), 1e-9), axis=1)
    limit = (distance * np.maximum(enters, 0.0)).astype(np.float32)
    directions = np.ascontiguousarray((towards / distance[:, None]) @ grid_to_world[:3, :3].T, np.float32)
    origins = np.broadcast_to(camera.origin.astype(np.float32), directions.shape).copy()
    seen[candidates] = ~snapshot.is_occluded(origins, directions, limit)
    depth = termination_depth.reshape(-1)
    hit = np.flatnonzero(np.isfinite(depth))
    ends = camera.origin + camera.rays(camera.pixel_centres()[hit]).astype(np.float64) * depth[hit, None]
    seen[
        OCC3D_GRID.flat_inside(
            np.floor(OCC3D_GRID.in_voxels(apply_se3(invert_se3(grid_to_world), ends))).astype(np.int64)
        )
    ] = True
    return seen.reshape(OCC3D_GRID.shape)


def lidar_visibility(
    snapshot: Snapshot,
    grid_to_world: Float[np.ndarray, "4 4"],
    lidar_to_world: Float[np.ndarray, "4 4"],
    sweep: LidarSweep,
) -> Visibility:
    """Return whether a sweep's beams cross or end in each voxel; beams without return are ignored.

    Args:
        snapshot: The world at the sweep's instant. Beams end on its surfaces; the noise of their ranges is ignored.
        grid_to_world: Pose of the grid's frame.
        lidar_to_world: Pose of the sensor.
        sweep: Returns of the sweep.
    """
    seen = np.zeros(int(np.prod(OCC3D_GRID.shape)), bool)
    rays = sweep.points @ lidar_to_world[:3, :3].T.astype(np.float32)
    directions = np.ascontiguousarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), np.float32)
    origins = np.broadcast_to(lidar_to_world[:3, 3].astype(np.float32), directions.shape).copy()
    hits = snapshot.first_hits(origins, directions)
    met = hits.face >= 0  # rounding can send a beam past the edge that it met
    ends = lidar_to_world[:3, 3] + directions[met].astype(np.float64) * hits.distance[met, None]
    world_to_grid = invert_se3(grid_to_world)
    start = OCC3D_GRID.in_voxels(apply_se3(world_to_grid, lidar_to_world[None, :3, 3]))[0]
    seen[OCC3D_GRID.flat_inside(crossed_voxels(start, OCC3D_GRID.in_voxels(apply_se3(world_to_grid, ends))))] = True
    return seen.reshape(OCC3D_GRID.shape)
