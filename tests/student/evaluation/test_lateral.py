import numpy as np
import pytest
import torch

from storage.geometry.transforms import invert_se3
from storage.previews.pictures import from_uint8
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.world.world import build_world
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.evaluation.lateral import LateralTruth
from student.model.types import TargetCameras

HEIGHT, WIDTH = 16, 28
START_US = 1_000_000_000


@pytest.mark.slow
def test_the_true_world_is_seen_from_where_the_cameras_were_and_from_beside_them(tmp_path):
    world = build_world("street", 3, duration_s=2.0)
    rig = CAMERAS[:2]
    times = np.array([0, 500_000])
    exposures = times[:, None] + [camera.delay_us for camera in rig]
    size = (2 * HEIGHT, 2 * WIDTH)
    scene = SceneData(
        camera_names=tuple(camera.name for camera in rig),
        image_sizes=(size,) * 2,
        intrinsics=np.stack([camera.intrinsics(*size) for camera in rig]),
        camera_to_ego=np.stack([camera.camera_to_ego() for camera in rig]),
        timestamp_us=START_US + times,
        ego_to_world=np.stack([world.ego_to_world(int(t)) for t in times]),
        camera_timestamp_us=START_US + exposures,
        camera_ego_to_world=np.stack([[world.ego_to_world(int(t)) for t in row] for row in exposures]),
        jpegs=((b"", b""),) * 2,
        lidar_points=(np.zeros((0, 4), np.float32),) * 2,
        lidar_to_ego=np.eye(4),
    )
    home = Home(tmp_path)
    materialize_arrays(home, Provenance(kind="scene", partition="p.a"), lambda g: write_scene(g, scene) or {})
    reader = SceneReader.open(home, "p.a")
    frame = 1
    poses = np.stack([reader.camera_to_reference_ego(frame, camera) for camera in range(2)])
    intrinsics = np.stack([camera.intrinsics(HEIGHT, WIDTH) for camera in rig])
    cameras = TargetCameras(
        intrinsics=torch.from_numpy(intrinsics).float()[None],
        camera_to_reference_ego=torch.from_numpy(poses).float()[None],
        target_is_present=torch.ones(1, 2, dtype=torch.bool),
        render_height=HEIGHT,
        render_width=WIDTH,
    )
    lateral = LateralTruth(world, reader)
    same, images = lateral.views(frame, cameras, np.eye(4))
    torch.testing.assert_close(same.camera_to_reference_ego, cameras.camera_to_reference_ego)
    left = np.eye(4)
    left[0, 3] = -1.0
    moved, beside = lateral.views(frame, cameras, left)
    for index, camera in enumerate(rig):
        time_us = int(exposures[frame, index])
        pose = world.ego_to_world(time_us) @ camera.camera_to_ego()
        seen = render_camera(world, time_us, pose, camera.intrinsics(*size), *size)
        assert np.mean(np.abs(images[index] - from_uint8(seen.image))) < 2e-3
        to_the_left = render_camera(world, time_us, pose @ left, camera.intrinsics(*size), *size)
        assert np.mean(np.abs(beside[index] - from_uint8(to_the_left.image))) < 2e-3
        assert np.mean(np.abs(beside[index] - images[index])) > 0.01
        step = invert_se3(poses[index]) @ moved.camera_to_reference_ego[0, index].double().numpy()
        np.testing.assert_allclose(step[:3, 3], [-1.0, 0.0, 0.0], atol=1e-5)
