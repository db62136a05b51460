"""The whole data set: official devkit, scene store, ground truth, idempotence."""

import json

import numpy as np
import pytest
from PIL import Image

from storage.errors import SourceDataError
from storage.geometry.cameras import project, unproject
from storage.geometry.transforms import (
    apply_se3,
    from_rotation_translation,
    invert_se3,
    quat_wxyz_to_rotation,
    rotate,
)
from storage.ingest.nuscenes.occ3d import labels_path, read_labels
from storage.ingest.nuscenes.tables import load_tables
from storage.ingest.source import list_scenes, load_source
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import MANIFEST, generate_dataset
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.writers.truth import read_recipe
from storage.stores.arrays import check_target, read_target
from storage.taxonomy import SKY_ID, Theme


@pytest.fixture(scope="module")
def devkit(generated):
    load_tables(generated.root, generated.config.version)
    from nuscenes import NuScenes  # not before, or it lifts Pillow's guard for the whole process

    return NuScenes(version=generated.config.version, dataroot=str(generated.root), verbose=False)


def pose_of(record) -> np.ndarray:
    rotation = quat_wxyz_to_rotation(np.array(record["rotation"]))
    return from_rotation_translation(rotation, np.array(record["translation"]))


def test_devkit_walks_every_chain(devkit, generated):
    assert len(devkit.scene) == 2
    assert len(devkit.map) == 2
    for scene in devkit.scene:
        sample, count = devkit.get("sample", scene["first_sample_token"]), 0
        while True:
            count += 1
            assert set(sample["data"]) == {"LIDAR_TOP", *(c.name for c in CAMERAS)}
            assert sample["anns"]
            if not sample["next"]:
                break
            sample = devkit.get("sample", sample["next"])
        assert sample["token"] == scene["last_sample_token"]
        assert count == scene["nbr_samples"] == generated.config.frames_per_scene
    for instance in devkit.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            annotation = devkit.get("sample_annotation", token)
            token, count = annotation["next"], count + 1
        assert count == instance["nbr_annotations"]
        assert annotation["token"] == instance["last_annotation_token"]
    for annotation in devkit.sample_annotation:
        assert devkit.get("visibility", annotation["visibility_token"])
        assert all(devkit.get("attribute", t) for t in annotation["attribute_tokens"])


def test_global_frame_is_far_away_and_turned(devkit):
    poses = np.array([p["translation"] for p in devkit.ego_pose])
    assert np.all(np.linalg.norm(poses[:, :2], axis=1) > 150)
    assert all(abs(p["rotation"][3]) > 1e-3 for p in devkit.ego_pose)
    by_time = {p["timestamp"] for p in devkit.ego_pose}
    assert len(by_time) == len(devkit.ego_pose)  # every sensor has its own instant


def test_ego_drives_on_the_map(devkit, generated):
    for record in devkit.map:
        mask = np.asarray(Image.open(generated.root / record["filename"]))
        scene = next(s for s in devkit.scene if s["log_token"] in record["log_tokens"])
        sample = devkit.get("sample", scene["first_sample_token"])
        pose = devkit.get("ego_pose", devkit.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
        x, y, _ = (round(v / 0.1) for v in pose["translation"])
        assert mask[mask.shape[0] - y, x] == 255
        assert 0.01 < (mask > 0).mean() < 0.5


def test_devkit_projection_agrees_with_exact_depth(devkit, generated):
    """Bring the sweep into each image as the devkit does, through the global frame, and look along that very ray."""
    from nuscenes.utils.data_classes import LidarPointCloud

    def to_global(record):
        ego_to_global = pose_of(devkit.get("ego_pose", record["ego_pose_token"]))
        return ego_to_global @ pose_of(devkit.get("calibrated_sensor", record["calibrated_sensor_token"]))

    key, scene = generated.keys[0], devkit.scene[0]
    recipe = read_recipe(generated.home, key)
    world = recipe.build()
    moving = [a.instance for a in world.actors if a.is_moving]
    sample = devkit.get("sample", scene["first_sample_token"])
    first = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    global_to_world = invert_se3(pose_of(devkit.get("ego_pose", first["ego_pose_token"])))
    errors, limits, count = [], [], 0
    while True:
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(str(generated.root / lidar["filename"])).points[:3].T.astype(np.float64)
        points = apply_se3(to_global(lidar), cloud)
        for camera in CAMERAS:
            image = devkit.get("sample_data", sample["data"][camera.name])
            camera_to_global = to_global(image)
            calibration = devkit.get("calibrated_sensor", image["calibrated_sensor_token"])
            pixels, depth = project(
                apply_se3(invert_se3(camera_to_global), points), np.array(calibration["camera_intrinsic"])
            )
            inside = (depth > 1.0) & np.all((pixels >= 0) & (pixels < (image["width"], image["height"])), axis=1)
            camera_to_world = global_to_world @ camera_to_global
            rays = rotate(camera_to_world, unproject(pixels[inside], np.array(calibration["camera_intrinsic"])))
            distance = np.linalg.norm(points[inside] - camera_to_global[:3, 3], axis=1)
            snapshot = world.snapshot(image["timestamp"] - recipe.start_timestamp_us)
            origins = np.broadcast_to(camera_to_world[:3, 3], rays.shape).astype(np.float32)
            hits = snapshot.first_hits(origins, rays.astype(np.float32))
            static = (hits.face >= 0) & ~np.isin(snapshot.table.instance[hits.face], moving)
            errors.append(np.abs(hits.distance - distance)[static])
            limits.append(np.maximum(0.1, 0.01 * distance)[static])
        count += 1
        if not sample["next"]:
            break
        sample = devkit.get("sample", sample["next"])
    error, limit = np.concatenate(errors), np.concatenate(limits)
    assert count == 3
    assert len(error) > 30_000
    assert np.median(error) < 0.02
    assert np.mean(error < limit) > 0.95  # the rest is hidden from the camera, which looks from another place


def test_boxes_hold_the_points_of_their_instances(devkit, generated):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    counted = 0
    for sample in devkit.sample:
        token = sample["data"]["LIDAR_TOP"]
        path, boxes, _ = devkit.get_sample_data(token)
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            annotation = devkit.get("sample_annotation", box.token)
            inside = int(points_in_box(box, points, wlh_factor=1.05).sum())
            assert inside >= 0.9 * annotation["num_lidar_pts"] - 2
            counted += annotation["num_lidar_pts"]
    assert counted > 1000


def test_images_are_what_the_truth_describes(generated, devkit):
    for key in generated.keys:
        group = generated.home.open_arrays(generated.home.require("scene_truth", str(key)))
        check_target(group, "scene_truth")
        assert group.attrs["use"] == "evaluation only"
        assert group.attrs["camera_names"] == [c.name for c in CAMERAS]
        depth = read_target(group, "scene_truth", "termination_depth")
        semantics = read_target(group, "scene_truth", "semantics")
        assert depth.shape == (3, 6, 90, 160)
        np.testing.assert_array_equal(np.isnan(depth), semantics == SKY_ID)


def test_occ3d_labels_are_the_truth(generated, devkit):
    for key, scene in zip(generated.keys, devkit.scene, strict=True):
        group = generated.home.open_arrays(generated.home.require("scene_truth", str(key)))
        token = scene["first_sample_token"]
        for frame in range(generated.config.frames_per_scene):
            labels = read_labels(labels_path(generated.root, scene["name"], token))
            stored = {
                "occupancy": labels.semantics,
                "occupancy_is_visible": labels.mask_camera,
                "occupancy_is_scanned": labels.mask_lidar,
            }
            for name, array in stored.items():
                np.testing.assert_array_equal(read_target(group, "scene_truth", name, frame), array)
            assert 0.0 < np.mean(labels.mask_lidar & labels.mask_camera) < labels.mask_camera.mean()
            token = devkit.get("sample", token)["next"]
        assert not token


def test_poses_of_the_scene_store_render_the_same_world(generated):
    """World and scene store share one frame, so any pose read back can be rendered exactly."""
    from storage.ingest.raw_scene import IngestConfig
    from storage.ingest.run import ingest_scene
    from storage.scenes.store import SceneReader

    key = generated.keys[0]
    ingest_scene(generated.home, key, IngestConfig())
    reader = SceneReader.open(generated.home, key)
    recipe = read_recipe(generated.home, key)
    world = recipe.build()
    group = generated.home.open_arrays(generated.home.require("scene_truth", str(key)))
    assert list(reader.camera_names) == group.attrs["camera_names"]
    for frame, camera_index in ((0, 1), (2, 4)):
        time_us = int(reader.camera_timestamp_us(frame, camera_index)) - recipe.start_timestamp_us
        height, width = reader.image_size(camera_index)
        pose, intrinsics = reader.camera_to_world(frame, camera_index), reader.intrinsics(camera_index)
        view = render_camera(world, time_us, pose, intrinsics, height, width)
        truth = read_target(group, "scene_truth", "termination_depth", (frame, camera_index))
        error = np.abs(view.termination_depth - truth)
        assert np.nanmedian(error) < 1e-3
        assert np.mean(np.nan_to_num(error) < 0.01 * np.nan_to_num(truth, nan=1.0)) > 0.99
        image = reader.image(frame, camera_index).astype(float)
        assert np.abs(image - view.image).mean() < 4.0  # JPEG at quality 95


def test_generating_again_does_nothing(generated):
    before = {p: p.stat().st_mtime_ns for p in generated.root.rglob("*") if p.is_file()}
    versions = generated.home.versions("scene_truth")
    messages = []
    keys = generate_dataset(
        generated.home, generated.root, generated.config, lambda message, share, _: messages.append((message, share))
    )
    assert keys == generated.keys
    assert messages == [("procedural data set is already there", 1.0)]
    assert {p: p.stat().st_mtime_ns for p in generated.root.rglob("*") if p.is_file()} == before
    assert generated.home.versions("scene_truth") == versions


def test_source_is_registered(generated):
    source = load_source(generated.home, "procedural")
    assert source.root == generated.root
    assert list_scenes(source) == generated.keys
    assert [generated.config.theme(i) for i in range(2)].count(Theme.AIRSIDE) == 1


def test_folder_of_somebody_else_is_never_touched(generated, tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("chapter 1")
    with pytest.raises(SourceDataError, match=MANIFEST):
        generate_dataset(generated.home, tmp_path, generated.config)
    assert precious.read_text() == "chapter 1"


@pytest.mark.nightly
def test_missing_file_is_generated_again_and_equal(generated, tmp_path):
    """A damaged data set is made anew, byte for byte."""
    config = ProceduralConfig(num_scenes=1, frames_per_scene=1, image_height=36, image_width=64, seed=9)
    from storage.stores.versioned import Home

    home, root = Home(tmp_path / "home"), tmp_path / "raw"
    generate_dataset(home, root, config)
    manifest = json.loads((root / MANIFEST).read_text())
    content = {name: (root / name).read_bytes() for name in manifest["files"]}
    (root / manifest["files"][-1]).unlink()
    generate_dataset(home, root, config)
    assert {name: (root / name).read_bytes() for name in manifest["files"]} == content
