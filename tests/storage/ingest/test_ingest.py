import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest

from storage.digests import file_digest
from storage.errors import ErrorKind, SourceDataError, SourceMovedError
from storage.geometry.transforms import apply_se3, invert_se3, quat_wxyz_to_rotation
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import _READERS, ingest_scene, open_recording
from storage.ingest.scene_writer import _describe
from storage.ingest.source import list_scenes, usual_source
from storage.ingest.source_config import SOURCE_FORMATS
from storage.keys import SceneKey
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader
from storage.stores import catalog
from storage.stores.versioned import Home

KEY = SceneKey("tiny", "scene-0001")


def test_scene_store_holds_what_the_raw_files_hold(tiny_home, tiny):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)

    assert scene.camera_names == ("CAM_FRONT", "CAM_BACK")
    assert (scene.num_frames, scene.image_size(0)) == (3, (18, 32))
    for frame in range(3):
        assert scene.timestamp_us(frame) == 1_000_000 + 500_000 * frame
        for camera, name in enumerate(scene.camera_names):
            raw = (tiny.root / tiny.file("scene-0001", name, frame)).read_bytes()
            assert scene.image_bytes(frame, camera) == raw
            assert scene.camera_timestamp_us(frame, camera) == scene.timestamp_us(frame) - 10_000 * (camera + 1)


def test_everything_that_tables_say_of_a_scene_reaches_its_store(tiny):
    """A field that is renamed or new on one side alone may not fall back to its default."""
    raw = open_recording(tiny.source(), KEY.scene_name, IngestConfig()).raw
    raw = replace(raw, fisheye=np.full((2, 4), np.nan), is_valid=(None, np.ones((18, 32), dtype=bool)))
    described = _describe(raw)
    for name in {field.name for field in fields(SceneData)} - {"jpegs", "lidar_points"}:
        assert getattr(described, name) is getattr(raw, name), name


def test_world_is_the_first_reference_ego_pose(tiny_home):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)

    np.testing.assert_allclose(scene.ego_to_world(0), np.eye(4), atol=1e-9)
    # The recorded offset leads back to the source's own coordinates.
    world_to_global = np.array(scene.attributes["world_to_global"])
    np.testing.assert_allclose((world_to_global @ scene.ego_to_world(2))[:3, 3], [604.0, 1601.0, 0.0], atol=1e-9)


def test_each_camera_keeps_the_pose_of_its_own_exposure(tiny_home):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)

    world_to_global = np.array(scene.attributes["world_to_global"])
    for frame in range(3):
        for camera in range(2):
            seen = world_to_global @ scene.camera_ego_to_world(frame, camera)
            yaw = 0.3 + 0.1 * frame - 0.002 * (camera + 1)
            np.testing.assert_allclose(seen[:2, 0], [np.cos(yaw), np.sin(yaw)], atol=1e-9)
            assert seen[0, 3] == pytest.approx(600 + 2 * frame - 0.04 * (camera + 1))
    # The forward camera looks along the vehicle's x, the backward one against it.
    np.testing.assert_allclose(scene.camera_to_ego(0)[:3, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(scene.camera_to_ego(1)[:3, 2], [-1, 0, 0], atol=1e-12)


def test_lidar_comes_in_the_ego_frame(tiny_home, tiny):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)

    raw = np.fromfile(tiny.root / tiny.file("scene-0001", "LIDAR_TOP", 1), "<f4").reshape(-1, 5)
    points = scene.lidar_points(1)
    assert points.dtype == np.float32
    # The sensor is turned by -90 degrees about z: its x is the vehicle's -y.
    wanted = np.column_stack([raw[:, 1] + 0.9, -raw[:, 0], raw[:, 2] + 1.8, raw[:, 3]])
    np.testing.assert_allclose(points, wanted, atol=1e-5)


def test_boxes_come_in_world_with_length_first(tiny_home):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)

    boxes = scene.boxes()
    assert boxes.frame_index.tolist() == [0, 1, 2]
    assert boxes.category == ("vehicle.car",) * 3
    assert set(boxes.instance) == {"scene-0001/car"}
    np.testing.assert_allclose(boxes.size, [[4.5, 1.8, 1.6]] * 3)
    world_to_global = np.array(scene.attributes["world_to_global"])
    np.testing.assert_allclose(apply_se3(world_to_global, boxes.centre), [[610, 1600, 0.8]] * 3, atol=1e-9)
    # Box and first pose both have a yaw of 0.3, so the box is not turned in world.
    np.testing.assert_allclose(quat_wxyz_to_rotation(boxes.quat_wxyz), [np.eye(3)] * 3, atol=1e-9)


def test_provenance_reaches_the_raw_files(tiny_home, tiny):
    version = ingest_scene(tiny_home, KEY).version
    provenance = tiny_home.provenance(version)

    for channel in ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP"):
        file = tiny.file("scene-0001", channel, 2)
        assert provenance.sources[file] == file_digest(tiny.root / file)
    assert "v1.0-mini/ego_pose.json#scene-0001" in provenance.sources
    assert not [name for name in provenance.sources if "scene-0002" in name]
    assert provenance.licence == "CC0-1.0"
    assert provenance.calibration_digest
    used_by = catalog.dependents(
        tiny_home.objects, kind=catalog.RAW_FILE, partition=tiny.file("scene-0001", "CAM_FRONT", 0)
    )
    assert [v.digest for v in used_by] == [version.digest]


def test_second_ingest_is_a_look_up(tiny_home):
    first = ingest_scene(tiny_home, KEY)
    second = ingest_scene(tiny_home, KEY)
    assert (first.reused, second.reused) == (False, True)
    assert second.version == first.version
    assert second.metrics == first.metrics


def test_missing_raw_files_do_not_quarantine_a_scene_that_is_stored(tiny_home, tiny):
    stored = ingest_scene(tiny_home, KEY).version
    next((tiny.root / "samples").rglob("*.jpg")).unlink()
    with pytest.raises(SourceMovedError, match=f"{stored} stays in use"):
        ingest_scene(tiny_home, KEY)
    tiny.root.rename(tiny.root.with_name("unmounted"))
    with pytest.raises(SourceMovedError, match="reroot OLD NEW"):
        ingest_scene(tiny_home, KEY)
    assert catalog.quarantined(tiny_home.objects).num_rows == 0
    assert tiny_home.latest("scene", str(KEY)) == stored


def test_same_data_in_another_place_has_the_same_digest(tiny_home, tiny, tmp_path):
    here = ingest_scene(tiny_home, KEY).version
    moved = tmp_path / "moved"
    tiny.root.rename(moved)
    other = Home(tmp_path / "other")
    (other.root / "sources").mkdir(parents=True)
    source = json.loads((tiny_home.root / "sources" / "tiny.json").read_text())
    (other.root / "sources" / "tiny.json").write_text(json.dumps({**source, "root": str(moved)}))
    assert ingest_scene(other, KEY).version.digest == here.digest


@pytest.mark.parametrize(
    ("table", "token", "change"),
    [
        ("ego_pose", "scene-0001/1/CAM_BACK", {"translation": [602.0, 1600.6, 0.0]}),
        ("calibrated_sensor", "scene-0001/calibration-CAM_BACK", {"translation": [-0.6, 0.0, 1.5]}),
        ("sample_annotation", "scene-0001/1/car", {"size": [1.9, 4.5, 1.6]}),
    ],
)
def test_a_changed_row_makes_a_new_version(tiny_home, tiny, table, token, change):
    before = ingest_scene(tiny_home, KEY).version
    tiny.set(table, token, **change)
    after = ingest_scene(tiny_home, KEY)
    assert not after.reused
    assert after.version.digest != before.digest
    assert tiny_home.latest("scene", str(KEY)) == after.version
    assert tiny_home.find("scene", str(KEY), before.digest) == before


def test_a_change_in_another_scene_makes_none(tiny_home, tiny):
    before = ingest_scene(tiny_home, KEY).version
    tiny.set("ego_pose", "scene-0002/1/CAM_BACK", translation=[602.0, 1600.6, 0.0])
    assert ingest_scene(tiny_home, KEY).version == before


def test_config_selects_cameras_and_frames(tiny_home):
    ingest_scene(tiny_home, KEY, IngestConfig(cameras=("CAM_BACK",), max_frames=2))
    scene = SceneReader.open(tiny_home, KEY)
    assert scene.camera_names == ("CAM_BACK",)
    assert scene.num_frames == 2
    assert scene.boxes().frame_index.max() == 1


def test_optional_tables_that_are_empty_are_reported(tiny_home):
    ingest_scene(tiny_home, KEY)
    assert SceneReader.open(tiny_home, KEY).attributes["empty_tables"] == ["attribute"]


def test_progress_reaches_one(tiny_home):
    seen = []
    ingest_scene(tiny_home, KEY, on_progress=lambda stage, fraction, _: seen.append((stage, fraction)))
    assert seen[0][0] == "hash"
    assert seen[-1] == ("read", 1.0)


def test_two_processes_make_one_version(tiny_home):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        made = list(pool.map(ingest_scene, [tiny_home] * 2, [KEY] * 2))
    assert made[0].version == made[1].version
    assert sorted(m.reused for m in made) == [False, True]
    assert len(tiny_home.versions("scene")) == 1


def test_every_format_has_a_reader_and_a_usual_name(tmp_path):
    assert tuple(_READERS) == SOURCE_FORMATS
    named = {name: usual_source(name, tmp_path) for name in SOURCE_FORMATS if name != "manifest"}  # it names itself
    assert {name: source.format for name, source in named.items()} == {name: name for name in named}
    assert (named["nuscenes"].dataset, named["nuscenes"].version) == ("nuscenes", "v1.0-mini")


def test_scenes_are_listed_in_table_order(tiny):
    assert list_scenes(tiny.source()) == [SceneKey("tiny", "scene-0001"), SceneKey("tiny", "scene-0002")]


def test_listing_goes_on_past_bad_names_when_someone_listens(tiny):
    tiny.edit("scene", lambda rows: [*rows, {**rows[1], "token": "x"}, {**rows[0], "token": "y", "name": "a/b"}])
    rejected: list[SourceDataError] = []
    assert list_scenes(tiny.source(), on_rejected=rejected.append) == [SceneKey("tiny", "scene-0001")]
    assert [e.kind for e in rejected] == [ErrorKind.SCENE_DUPLICATE, ErrorKind.NAME_INVALID]
    with pytest.raises(SourceDataError, match="scene-0002"):
        list_scenes(tiny.source())


def test_tables_are_loaded_again_after_they_changed(tiny_home, tiny):
    assert len(list_scenes(tiny.source())) == 2
    tiny.edit("scene", lambda rows: rows[:1])
    assert len(list_scenes(tiny.source())) == 1


def test_devkit_leaves_pillows_bomb_guard_alone(tiny):
    from PIL import Image

    list_scenes(tiny.source())
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS < 200_000_000


def test_camera_poses_relative_to_the_reference_are_small(tiny_home):
    ingest_scene(tiny_home, KEY)
    scene = SceneReader.open(tiny_home, KEY)
    moved = invert_se3(scene.ego_to_world(1)) @ scene.camera_ego_to_world(1, 1)
    assert 0 < np.linalg.norm(moved[:3, 3]) < 0.1
