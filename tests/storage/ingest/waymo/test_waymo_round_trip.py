"""Procedural Waymo files, read back, are what was written; and the same world as its nuScenes twin."""

import dataclasses
import importlib
import io
import time

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from storage.digests import bytes_digest, file_digest
from storage.errors import SourceDataError
from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest import known_digests
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, load_source
from storage.ingest.waymo.notr import notr_config
from storage.ingest.waymo.projection import projection_ious
from storage.ingest.waymo.v1 import WaymoV1Segment, find_segment
from storage.ingest.waymo.v2 import WaymoV2Segment
from storage.keys import SceneKey
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.procedural.sensing.render import render_camera
from storage.procedural.world.world import World
from storage.procedural.writers.truth import WorldRecipe
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from storage.testing.waymo.writer import generate_waymo_dataset

KEY = SceneKey("waymo", "scene-0001")
# Poses of pixels are float32 in global coordinates of some 3e4 m: 2 mm apart, so off by at most one.
POINT_TOLERANCE_M = 2e-3


def test_scene_is_listed(written):
    assert list_scenes(load_source(written.home, "waymo")) == [KEY]


def test_both_returns_of_all_lasers_come_back(written, scene):
    for index, frame in enumerate(written.frames):
        points = scene.lidar_points(index)
        assert len(points) == len(frame.points_world)
        world = apply_se3(scene.ego_to_world(index), points[:, :3].astype(np.float64))
        assert np.abs(world - frame.points_world).max() < POINT_TOLERANCE_M
        second = [np.count_nonzero(s.returns[1].values[..., 0] > 0) for s in frame.content.sweeps]
        assert second[0] > 20


def test_pixel_poses_matter(written, scene):
    """Without them points would be off by what the vehicle moves in half a revolution."""
    sweep = written.frames[0].content.sweeps[0]
    assert sweep.pixel_pose is not None
    moved = np.ptp(sweep.pixel_pose[0, :, 3:5].astype(np.float64), axis=0)
    assert np.linalg.norm(moved) > 100 * POINT_TOLERANCE_M


def test_range_images_and_projections_are_kept_exactly(written):
    segment = _segment(written)
    for index, frame in enumerate(written.frames):
        for seen, wanted in zip(segment.content(index).sweeps, frame.content.sweeps, strict=True):
            assert seen.name == wanted.name
            for one, other in zip(seen.returns, wanted.returns, strict=True):
                np.testing.assert_array_equal(one.values, other.values)
                np.testing.assert_array_equal(one.projection, other.projection)
            np.testing.assert_array_equal(seen.pixel_pose, wanted.pixel_pose)


def test_camera_projections_name_the_pixel_of_the_point(written):
    sweep = written.frames[0].content.sweeps[0]
    numbers = sweep.returns[0].projection[..., 0]
    assert set(np.unique(numbers)) >= {0, 1, 2, 3, 4, 5}
    is_front = numbers == 1
    columns, rows = sweep.returns[0].projection[..., 1][is_front], sweep.returns[0].projection[..., 2][is_front]
    height, width = written.capture.cameras["FRONT"].size
    assert columns.min() >= 0
    assert columns.max() < width
    assert rows.min() >= 0
    assert rows.max() < height
    # The laser turns clockwise, so the columns of its range image advance with those of the camera's.
    rings = [sweep.returns[0].projection[r, is_front[r], 1] for r in range(is_front.shape[0])]
    assert all((np.diff(ring) >= -1).all() for ring in rings)


def test_poses_times_and_boxes_come_back(written, scene):
    world_to_global = np.array(scene.attributes["world_to_global"])
    boxes = scene.boxes()
    for index, frame in enumerate(written.frames):
        header = frame.header
        assert scene.timestamp_us(index) == header.timestamp_us
        np.testing.assert_allclose(world_to_global @ scene.ego_to_world(index), header.ego_to_global, atol=1e-7)
        for camera, name in enumerate(scene.camera_names):
            exposure = header.exposures[name]
            assert abs(scene.camera_timestamp_us(index, camera) - exposure.pose_timestamp * 1e6) < 1
            seen = world_to_global @ scene.camera_ego_to_world(index, camera)
            np.testing.assert_allclose(seen, exposure.ego_to_global, atol=1e-7)
        mine = boxes.frame_index == index
        assert [boxes.instance[i] for i in np.flatnonzero(mine)] == [b.instance for b in header.boxes]
        ego = apply_se3(invert_se3(scene.ego_to_world(index)), boxes.centre[mine])
        np.testing.assert_allclose(ego, [b.centre for b in header.boxes], atol=1e-6)
    assert "TYPE_VEHICLE" in boxes.category


def test_stored_image_is_what_a_pinhole_camera_sees_there(written, scene):
    """Axes, mounting, pose of the exposure, lens and map at once, against an independent renderer."""
    world = written.capture.world
    for camera in (0, 2):
        height, width = scene.image_size(camera)
        time_us = scene.camera_timestamp_us(0, camera) - scene.timestamp_us(0)
        pose = world.ego_to_world(time_us) @ scene.camera_to_ego(camera)
        view = render_camera(world, time_us, pose, scene.intrinsics(camera), height, width, antialias=False)
        stored, wanted = scene.image(0, camera).astype(float), view.image.astype(float)
        error = np.abs(stored - wanted).mean()
        shifted = np.abs(stored[:, 1:] - wanted[:, :-1]).mean()
        assert error < 10
        assert error < 0.8 * shifted


def test_a_pinhole_camera_keeps_its_bytes(v2, tmp_path):
    config = dataclasses.replace(v2.config, has_distortion=False, top_shape=(2, 8), near_shape=(1, 4), spin_steps=1)
    home = Home(tmp_path / "home")
    generate_waymo_dataset(home, tmp_path / "raw", config, source_format="waymo_v2")
    ingest_scene(home, KEY)
    scene = SceneReader.open(home, KEY)
    content = WaymoV2Segment(tmp_path / "raw", KEY.scene_name).content(0)
    assert [scene.image_bytes(0, i) for i in range(5)] == [content.jpegs[name] for name in scene.camera_names]


def test_rectangles_agree_in_a_moving_scene(v1):
    ious = projection_ious(_segment(v1).info)
    assert len(ious) > 20
    assert np.median(ious) > 0.999


def test_notr_takes_the_three_forward_cameras(written):
    made = ingest_scene(written.home, KEY, notr_config())
    scene = SceneReader.open(written.home, KEY, made.version.digest)
    assert scene.camera_names == ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")
    assert scene.num_frames == 2


def test_max_frames_stops_early(written):
    made = ingest_scene(written.home, KEY, IngestConfig(max_frames=1, cameras=("FRONT",)))
    assert made.metrics["frames"] == 1
    assert made.metrics["images"] == 1


def test_provenance_keeps_the_recorded_images_digests(written, scene):
    sources = written.home.provenance(scene.version).sources
    digests = {bytes_digest(jpeg) for frame in written.frames for jpeg in frame.content.jpegs.values()}
    assert digests <= set(sources.values())
    with Image.open(io.BytesIO(scene.image_bytes(0, 0))) as image:
        assert image.size == (96, 44)


def test_both_formats_give_one_scene(v1, v2):
    readers = []
    for one in (v1, v2):
        ingest_scene(one.home, KEY)
        readers.append(SceneReader.open(one.home, KEY))
    a, b = readers
    for frame in range(a.num_frames):
        # The readers' arrays lie in memory otherwise, so their sums may round otherwise: by a step of float32.
        np.testing.assert_allclose(a.lidar_points(frame), b.lidar_points(frame), rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(a.ego_to_world(frame), b.ego_to_world(frame), atol=1e-12)
        for camera in range(a.num_cameras):
            assert a.image_bytes(frame, camera) == b.image_bytes(frame, camera)
    np.testing.assert_allclose(a.boxes().centre, b.boxes().centre, atol=1e-9)


def test_writing_again_changes_nothing(written):
    before = {path: path.stat().st_mtime_ns for path in written.root.rglob("*")}
    source = load_source(written.home, "waymo")
    generate_waymo_dataset(written.home, written.root, written.config, source_format=source.format)
    assert {path: path.stat().st_mtime_ns for path in written.root.rglob("*")} == before


def test_a_folder_of_something_else_is_left_alone(written, tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(SourceDataError, match="no procedural_manifest"):
        generate_waymo_dataset(written.home, tmp_path, written.config, source_format="waymo_v2")


@pytest.fixture(scope="module")
def twin(v2, tmp_path_factory) -> SceneReader:
    """The same world as nuScenes data."""
    folder = tmp_path_factory.mktemp("twin")
    config: ProceduralConfig = dataclasses.replace(
        v2.config.world, dataset="twin", image_height=18, image_width=32, antialias=False
    )
    home = Home(folder / "home")
    world = v2.capture.world

    def build(recipe: WorldRecipe) -> World:
        assert (recipe.theme, recipe.seed, recipe.duration_s) == (world.theme, world.seed, world.duration_s)
        return world  # what the recipe would build again, for seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorldRecipe, "build", build)
        (key,) = generate_dataset(home, folder / "raw", config)
    ingest_scene(home, key)
    return SceneReader.open(home, key)


def test_ego_frame_is_that_of_nuscenes(written, scene, twin):
    assert twin.num_frames == scene.num_frames
    for frame in range(scene.num_frames):
        assert twin.timestamp_us(frame) == scene.timestamp_us(frame)
        np.testing.assert_allclose(scene.ego_to_world(frame), twin.ego_to_world(frame), atol=1e-7)
    waymo, nuscenes = scene.boxes(), twin.boxes()
    by_place = {
        (int(f), instance): (centre, size)
        for f, instance, centre, size in zip(
            nuscenes.frame_index, nuscenes.instance, nuscenes.centre, nuscenes.size, strict=True
        )
    }
    tree = {f: [c for (g, _), (c, _) in by_place.items() if g == f] for f in range(scene.num_frames)}
    distance = [
        cKDTree(np.array(tree[int(f)])).query(centre)[0]
        for f, centre in zip(waymo.frame_index, waymo.centre, strict=True)
    ]
    # Some actors are seen by one rig only; whichever both see stand at the same place to the last digit.
    assert np.mean(np.array(distance) < 1e-6) > 0.8


def test_points_of_both_rigs_lie_on_the_same_surfaces(scene, twin):
    mine, other = (reader.lidar_points(0)[:, :3].astype(np.float64) for reader in (scene, twin))
    near = mine[np.linalg.norm(mine, axis=1) < 15]
    distance = cKDTree(other).query(near)[0]
    turned = cKDTree(other).query(near[:, [1, 0, 2]] * [-1, 1, 1])[0]
    raised = cKDTree(other).query(near + np.array([0, 0, 0.5]))[0]
    assert np.median(distance) < 0.15
    assert np.median(distance) < 0.6 * min(np.median(turned), np.median(raised))


def test_untouched_files_are_hashed_once(written, tmp_path, monkeypatch):
    hashed, now = [], time.time_ns
    module = importlib.import_module(f"storage.ingest.waymo.{_segment(written).info.attributes['source_format'][-2:]}")
    monkeypatch.setattr(module, "file_digest", lambda path: [hashed.append(path), file_digest(path)][1])
    monkeypatch.setattr(known_digests.time, "time_ns", lambda: now() + 3_600_000_000_000)
    sources = []
    for _ in range(2):
        with known_digests.known_digests(tmp_path, "scene", str(KEY)) as known:
            sources.append(_segment(written, known).info.sources)
    assert sources[0] == sources[1]
    assert len(hashed) == len(set(hashed)) > 0


def _segment(written, known=None):
    if (written.root / "vehicle_pose").is_dir():
        return WaymoV2Segment(written.root, KEY.scene_name, known=known)
    return WaymoV1Segment(written.root, find_segment(written.root, KEY.scene_name), known=known)
