"""A camera of the procedural world that looks through a lens: one ray a pixel, bent where the lens bends it."""

import numpy as np
from jaxtyping import Float, Float32, UInt8

from storage.geometry.distortion import undistort
from storage.ingest.waymo.scene import WaymoCamera
from storage.procedural.appearance.shading import shade, to_display
from storage.procedural.world.world import World

_RAYS_PER_STEP = 16384


def rays_through_lens(
    world: World, time_us: int, camera: WaymoCamera
) -> tuple[Float[np.ndarray, " 3"], Float32[np.ndarray, "pixels 3"]]:
    """Return the camera's origin in world (metres) and the unit direction through each pixel's centre, row by row."""
    height, width = camera.size
    focal = np.array([camera.intrinsics[0, 0], camera.intrinsics[1, 1]])
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    pixels = np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1)
    plane = undistort((pixels - camera.intrinsics[:2, 2]) / focal, camera.lens)
    camera_to_world = world.ego_to_world(time_us) @ camera.camera_to_ego
    rays = np.column_stack([plane, np.ones(len(plane))]) @ camera_to_world[:3, :3].T
    return camera_to_world[:3, 3], (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


def render_through_lens(world: World, time_us: int, camera: WaymoCamera) -> UInt8[np.ndarray, "height width 3"]:
    """Render a camera as its lens shows the world."""
    origin, directions = rays_through_lens(world, time_us, camera)
    snapshot = world.snapshot(time_us)
    radiance = np.empty((3, len(directions)), np.float32)
    for start in range(0, len(directions), _RAYS_PER_STEP):
        part = np.ascontiguousarray(directions[start : start + _RAYS_PER_STEP])
        hits = snapshot.first_hits(np.broadcast_to(origin.astype(np.float32), part.shape).copy(), part)
        radiance[:, start : start + len(part)] = shade(
            snapshot.table, snapshot, world.lighting, origin, part, hits, float(1.0 / camera.intrinsics[0, 0])
        )
    return to_display(radiance).reshape(*camera.size, 3)
