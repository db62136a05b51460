"""Geometry and integrity on a real nuScenes scene, against the official devkit."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from storage.geometry.cameras import project
from storage.geometry.transforms import apply_se3, invert_se3, quat_wxyz_to_rotation
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home

pytestmark = pytest.mark.external_data

KEY = SceneKey("nuscenes", "scene-0916")
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


@pytest.fixture(scope="module")
def real(external_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = external_data / "nuscenes"
    if not root.is_dir():
        pytest.skip(f"no nuScenes recording at {root}")
    home = Home(tmp_path_factory.mktemp("real"))
    source = SourceConfig(dataset="nuscenes", root=root, version="v1.0-mini", licence="CC-BY-NC-SA-4.0")
    register_source(home, source)
    made = ingest_scene(home, KEY)
    from nuscenes import NuScenes  # not before the ingest, which keeps it from lifting Pillow's guard

    devkit = NuScenes(version="v1.0-mini", dataroot=str(root), verbose=False)
    return SimpleNamespace(source=source, made=made, scene=SceneReader.open(home, KEY), devkit=devkit)


def _sample(real: SimpleNamespace, frame: int) -> dict:
    return real.devkit.get("sample", real.scene.attributes["sample_tokens"][frame])


def test_whole_scene_is_there(real):
    assert list_scenes(real.source) == [KEY]
    assert real.scene.camera_names == CAMERAS
    assert real.scene.attributes["empty_tables"] == ["attribute"]
    metrics = real.made.metrics
    assert (metrics["frames"], metrics["images"], metrics["boxes"]) == (41, 246, 2424)
    assert metrics["duration_s"] == pytest.approx(19.9, abs=0.1)


def test_images_are_the_recording_byte_for_byte(real):
    for frame, camera in ((0, 0), (40, 5)):
        row = real.devkit.get("sample_data", _sample(real, frame)["data"][CAMERAS[camera]])
        assert real.scene.image_bytes(frame, camera) == (real.source.root / row["filename"]).read_bytes()
        assert real.scene.camera_timestamp_us(frame, camera) == row["timestamp"]
        assert real.scene.image(frame, camera).shape == (900, 1600, 3)


@pytest.mark.parametrize("frame", [0, 17, 40])
@pytest.mark.parametrize("camera", range(6))
def test_lidar_lands_on_the_pixels_where_the_devkit_puts_it(real, frame, camera, monkeypatch):
    """Ours goes through our own frames, world and store; the devkit's through global coordinates in one go.

    The devkit does so in float32, which at 1800 m from the map's origin costs up to 0.06 pixels; it is given float64.
    """
    from nuscenes.utils.data_classes import LidarPointCloud

    read = LidarPointCloud.from_file
    monkeypatch.setattr(
        LidarPointCloud, "from_file", lambda path: LidarPointCloud(read(path).points.astype(np.float64))
    )
    data = _sample(real, frame)["data"]
    wanted_pixels, wanted_depth, image = real.devkit.explorer.map_pointcloud_to_image(
        data["LIDAR_TOP"], data[CAMERAS[camera]], min_dist=1.0
    )
    image.close()  # the devkit leaves it open

    scene = real.scene
    ego_to_camera = invert_se3(scene.camera_to_reference_ego(frame, camera))
    points = apply_se3(ego_to_camera, scene.lidar_points(frame)[:, :3].astype(np.float64))
    pixels, depth = project(points, scene.intrinsics(camera))
    height, width = scene.image_size(camera)
    u, v = pixels.T
    seen = (depth > 1) & (u > 1) & (u < width - 1) & (v > 1) & (v < height - 1)

    assert seen.sum() == wanted_pixels.shape[1] > 1000
    np.testing.assert_allclose(pixels[seen], wanted_pixels[:2].T, atol=1e-3)
    np.testing.assert_allclose(depth[seen], wanted_depth, atol=1e-5)


def test_boxes_hold_the_points_that_their_annotators_counted(real):
    """Centre, size order, rotation and frames are right together, or the counts would not agree."""
    boxes, scene = real.scene.boxes(), real.scene
    differences = []
    for frame in (0, 20, 40):
        world = apply_se3(scene.ego_to_world(frame), scene.lidar_points(frame)[:, :3].astype(np.float64))
        for index in np.flatnonzero((boxes.frame_index == frame) & (boxes.num_lidar_points >= 20)):
            local = (world - boxes.centre[index]) @ quat_wxyz_to_rotation(boxes.quat_wxyz[index])
            inside = (np.abs(local) <= boxes.size[index] / 2).all(axis=1)
            differences.append(abs(int(inside.sum()) - int(boxes.num_lidar_points[index])))
    assert len(differences) > 20
    assert np.median(differences) <= 1


def test_poses_bring_consecutive_sweeps_together(real):
    with_poses, without = [], []
    for frame in range(10, 30, 4):
        here, there = (_static_points(real.scene, f) for f in (frame, frame + 1))
        there_to_here = invert_se3(real.scene.ego_to_world(frame)) @ real.scene.ego_to_world(frame + 1)
        tree = cKDTree(here)
        with_poses.append(np.median(tree.query(apply_se3(there_to_here, there))[0]))
        without.append(np.median(tree.query(there)[0]))
    ratio = np.mean(without) / np.mean(with_poses)
    assert ratio >= 2.5, f"{np.mean(without):.3f} m apart without poses, {np.mean(with_poses):.3f} m with"


def _static_points(scene: SceneReader, frame: int) -> np.ndarray:
    """Points that tell poses apart: off the ground, whose rings move along with the sensor, and not on the vehicle."""
    points = scene.lidar_points(frame)[:, :3].astype(np.float64)
    distance = np.linalg.norm(points[:, :2], axis=1)
    return points[(points[:, 2] > 0.5) & (distance > 4) & (distance < 30)]


def test_world_is_the_first_pose_and_level(real):
    np.testing.assert_allclose(real.scene.ego_to_world(0), np.eye(4), atol=1e-9)
    up = np.stack([real.scene.ego_to_world(f)[:3, 2] for f in range(41)])
    assert (up[:, 2] > np.cos(np.deg2rad(10))).all()
    assert np.isfinite(real.scene.lidar_points(40)).all()
