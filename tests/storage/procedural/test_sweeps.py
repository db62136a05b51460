"""Sweeps between keyframes, and the airside rig as a rig manifest: written, then read by the readers of real data."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from storage.geometry.transforms import from_rotation_translation, invert_se3, quat_wxyz_to_rotation
from storage.ingest.nuscenes.occ3d import labels_path, read_labels
from storage.ingest.nuscenes.tables import load_tables
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.rigs import AIRSIDE_CAMERAS
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.writers.truth import read_recipe
from storage.scenes.store import SceneReader
from storage.stores.arrays import check_target, read_target
from storage.stores.versioned import Home

SIZE = {"image_height": 45, "image_width": 80, "antialias": False}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """One street scene, two keyframes half a second apart, cameras at 6 Hz and the LiDAR at 10 Hz."""
    folder = tmp_path_factory.mktemp("swept")
    config = ProceduralConfig(
        num_scenes=1,
        airside_share=0.0,
        frames_per_scene=2,
        camera_sweep_rate_hz=6.0,
        lidar_sweep_rate_hz=10.0,
        seed=11,
        **SIZE,
    )
    generate_dataset(Home(folder / "home"), folder / "raw", config)
    return folder / "raw", load_tables(folder / "raw", config.version).devkit


def test_every_sensor_has_its_rate(swept):
    root, devkit = swept
    for channel, rate in [("LIDAR_TOP", 10.0), *((c.name, 6.0) for c in CAMERAS)]:
        rows = sorted((r for r in devkit.sample_data if r["channel"] == channel), key=lambda r: r["timestamp"])
        np.testing.assert_allclose(np.diff([r["timestamp"] for r in rows]), 1e6 / rate, atol=2)
        assert [r["is_key_frame"] for r in rows] == [True] + [False] * (len(rows) - 2) + [True]
        assert [r["next"] for r in rows] == [*(r["token"] for r in rows[1:]), ""]
        assert [r["prev"] for r in rows] == ["", *(r["token"] for r in rows[:-1])]
        for row in rows:
            assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
            assert (root / row["filename"]).is_file()
            # As in nuScenes, what lies between keyframes belongs to the sample that follows.
            assert devkit.get("sample", row["sample_token"])["timestamp"] >= row["timestamp"]


def test_devkit_gathers_sweeps_over_the_scene(swept):
    from nuscenes.utils.data_classes import LidarPointCloud

    _, devkit = swept
    last = devkit.get("sample", devkit.scene[0]["last_sample_token"])
    one, _ = LidarPointCloud.from_file_multisweep(devkit, last, "LIDAR_TOP", "LIDAR_TOP", nsweeps=1)
    many, times = LidarPointCloud.from_file_multisweep(devkit, last, "LIDAR_TOP", "LIDAR_TOP", nsweeps=6)
    assert many.points.shape[1] > 4 * one.points.shape[1]
    assert times.max() == pytest.approx(0.5, abs=1e-3)
    # Sweeps moved by their poses lie on the same ground.
    ground = many.points[2, np.abs(many.points[2] + 1.84) < 0.3]
    assert np.std(ground) < 0.08


def test_images_between_keyframes_show_the_world_at_their_own_instant(swept):
    root, devkit = swept
    rows = sorted((r for r in devkit.sample_data if r["channel"] == "CAM_FRONT"), key=lambda r: r["timestamp"])
    images = [np.asarray(Image.open(root / r["filename"])).astype(float) for r in rows]
    steps = [np.abs(b - a).mean() for a, b in pairwise(images)]
    assert min(steps) > 0.3  # none is shown twice
    assert np.abs(images[-1] - images[0]).mean() > 1.2 * max(steps)
    x = [devkit.get("ego_pose", r["ego_pose_token"])["translation"] for r in rows]
    travelled = np.linalg.norm(np.diff(x, axis=0), axis=1)
    assert travelled.min() > 0.3
    assert travelled.max() < 1.3 * travelled.min()


@pytest.fixture(scope="module")
def apron(tmp_path_factory):
    """One airside scene of two frames, recorded by the airside rig into a rig manifest, and ingested."""
    folder = tmp_path_factory.mktemp("apron")
    config = ProceduralConfig(
        dataset="apron",
        num_scenes=1,
        airside_share=1.0,
        frames_per_scene=2,
        rig="airside",
        source_format="manifest",
        seed=4,
        **SIZE,
    )
    home = Home(folder / "home")
    (key,) = generate_dataset(home, folder / "raw", config)
    ingest_scene(home, key, IngestConfig())
    return home, folder / "raw", key


def test_manifest_brings_back_every_camera_and_its_lens(apron):
    home, root, key = apron
    reader = SceneReader.open(home, key)
    assert reader.camera_names == tuple(c.name for c in AIRSIDE_CAMERAS)
    for index, camera in enumerate(AIRSIDE_CAMERAS):
        lens = reader.fisheye(index)
        if camera.fisheye is None:
            assert np.isnan(lens).all()
        else:
            np.testing.assert_array_equal(lens, camera.fisheye)
        np.testing.assert_allclose(reader.intrinsics(index), camera.intrinsics(45, 80), atol=1e-9)
        np.testing.assert_allclose(reader.camera_to_ego(index), camera.camera_to_ego(), atol=1e-9)
    assert json.loads((root / "rig_manifest.json").read_text())["scenes"][0]["rig"] == "airside"
    labels = read_labels(labels_path(root, key.scene_name, "000001"))
    truth = home.open_arrays(home.require("scene_truth", str(key)))
    check_target(truth, "scene_truth")
    np.testing.assert_array_equal(read_target(truth, "scene_truth", "occupancy", 1), labels.semantics)


@pytest.mark.parametrize("camera_index", [0, 5])
def test_ingested_camera_renders_the_recorded_image(apron, camera_index):
    """Pose, lens and time read back through the scene store give the image again, pinhole or fisheye."""
    home, _, key = apron
    reader, recipe = SceneReader.open(home, key), read_recipe(home, key)
    lens = reader.fisheye(camera_index)
    camera = PosedCamera(
        time_us=int(reader.camera_timestamp_us(1, camera_index)) - recipe.start_timestamp_us,
        camera_to_world=reader.camera_to_world(1, camera_index),
        intrinsics=reader.intrinsics(camera_index),
        height=45,
        width=80,
        fisheye=None if np.isnan(lens).any() else lens,
    )
    view = render_view(recipe.build(), camera, antialias=False)
    assert np.abs(reader.image(1, camera_index).astype(float) - view.image).mean() < 5.0  # JPEG at quality 95
    truth = home.open_arrays(home.require("scene_truth", str(key)))
    depth = read_target(truth, "scene_truth", "termination_depth", (1, camera_index))
    close = np.isclose(view.termination_depth, depth, rtol=0.01, equal_nan=True)
    assert close.mean() > 0.98


def test_manifest_boxes_hold_the_points_of_their_instances(apron):
    home, _, key = apron
    reader = SceneReader.open(home, key)
    boxes = reader.boxes()
    points = reader.lidar_points(0)[:, :3] @ reader.ego_to_world(0)[:3, :3].T + reader.ego_to_world(0)[:3, 3]
    found = 0
    for row in np.flatnonzero(boxes.frame_index == 0):
        pose = from_rotation_translation(quat_wxyz_to_rotation(boxes.quat_wxyz[row]), boxes.centre[row])
        local = points @ invert_se3(pose)[:3, :3].T + invert_se3(pose)[:3, 3]
        found += int(np.all(np.abs(local) < boxes.size[row] * 0.525, axis=1).sum())
    assert len(np.unique(boxes.instance)) > 5
    assert found > 300
