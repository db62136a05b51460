"""Write the true voxels of a procedural Waymo data set in the layout of Occ3D-Waymo, beside its recordings."""

from pathlib import Path

import numpy as np

from storage.geometry.transforms import apply_se3, compose
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.waymo.occ3d import CLASSES, FOLDER, write_waymo_labels
from storage.ingest.waymo.scene import MAIN_LASER
from storage.procedural.sensing.occupancy import OccupancyBuilder
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.sensors import simulate_lidar
from storage.procedural.sensing.visibility import camera_visibility, lidar_visibility
from storage.taxonomy import OCC3D_FREE, OCC3D_NAMES
from storage.testing.waymo.classes import by_our_name
from storage.testing.waymo.rig import WaymoRigConfig
from storage.testing.waymo.writer import captured_frames

FREE_NUMBER = 23
WAYMO_CLASS_OF = by_our_name(
    {
        "TYPE_GENERALOBJECT": "others, barrier",
        "TYPE_VEHICLE": "bus, car, construction_vehicle, trailer, truck",
        "TYPE_PEDESTRIAN": "pedestrian",
        "TYPE_CONSTRUCTION_CONE": "traffic_cone",
        "TYPE_BICYCLE": "bicycle",
        "TYPE_MOTORCYCLE": "motorcycle",
        "TYPE_BUILDING": "manmade",
        "TYPE_VEGETATION": "vegetation",
        "TYPE_ROAD": "driveable_surface",
        "TYPE_WALKABLE": "other_flat, sidewalk, terrain",
    }
)
"""Class of Occ3D-Waymo by that of Occ3D-nuScenes, as far as that tells."""


def write_occ3d_waymo(root: Path, config: WaymoRigConfig, index: int, *, split: str = "training") -> Path:
    """Write the labels of all frames of one scene, and return their folder.

    What a camera sees is told by a pinhole at its place, whatever its lens and shutter; what the LiDAR sees, by one
    sweep of the procedural world's own sensor at the place of the top laser.

    Args:
        root: Root of the recordings.
        config: Settings of the data set.
        index: The scene.
        split: Split that the labels say they are of.
    """
    capture, frames = captured_frames(config, index)
    world, folder = capture.world, root / FOLDER / split / f"{index:03d}"
    builder = OccupancyBuilder(world)
    centres = OCC3D_GRID.centres(np.moveaxis(np.indices(OCC3D_GRID.shape), 0, -1)).reshape(-1, 3)
    numbers = np.full(256, FREE_NUMBER, np.uint8)
    numbers[:OCC3D_FREE] = [CLASSES.index(WAYMO_CLASS_OF[name]) for name in OCC3D_NAMES]
    for frame, captured in enumerate(frames):
        time_us = config.world.keyframe_time_us(frame)
        ego_to_world, snapshot = world.ego_to_world(time_us), world.snapshot(time_us)
        is_seen, is_in_view = (np.zeros(OCC3D_GRID.shape, bool) for _ in range(2))
        for camera in capture.cameras.values():
            posed = PosedCamera(
                time_us=time_us,
                camera_to_world=compose(ego_to_world, camera.camera_to_ego),
                intrinsics=camera.intrinsics,
                height=camera.size[0],
                width=camera.size[1],
                fisheye=None,
            )
            depth = render_view(world, posed, antialias=False).termination_depth
            is_seen |= camera_visibility(snapshot, ego_to_world, posed, depth)
            is_in_view.reshape(-1)[posed.holds(posed.project(apply_se3(ego_to_world, centres)))] = True
        lidar_to_world = compose(ego_to_world, capture.lasers[MAIN_LASER].laser_to_ego)
        sweep = simulate_lidar(world, time_us, lidar_to_world, np.random.default_rng(frame))
        write_waymo_labels(
            folder,
            frame,
            numbers[builder.occupancy(time_us)],
            captured.header.ego_to_global,
            mask_lidar=lidar_visibility(snapshot, ego_to_world, lidar_to_world, sweep),
            mask_camera=is_seen,
            mask_fov=is_in_view,
        )
    return folder
