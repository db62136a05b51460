"""What a full nuScenes release holds beside annotated keyframes: sweeps, attributes, lidarseg, splits."""

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.nuscenes.splits import split_scenes, splits_of_scene
from storage.ingest.nuscenes.sweeps import MAX_OFFSET_US, choose_frames
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene, open_recording
from storage.ingest.source import expand_splits
from storage.keys import SceneKey
from storage.scenes.store import SceneReader

KEY = SceneKey("tiny", "scene-0001")
PERIODS = {"LIDAR_TOP": 50_000, "CAM_FRONT": 83_000, "CAM_BACK": 83_000}
LANDMARKS = np.array([[620.0, 1605.0, 1.0], [590.0, 1620.0, 3.0], [640.0, 1590.0, 0.5]])


def pose_at(time_us: int) -> np.ndarray:
    """4 m/s ahead, 1 m/s aside and a slow turn: at a keyframe's sweep exactly the pose of the tiny release."""
    seconds = time_us * 1e-6 - 1.0
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", 0.3 + 0.2 * seconds).as_matrix()
    pose[:3, 3] = [600.0 + 4.0 * seconds, 1600.0 + 1.0 * seconds, 0.0]
    return pose


def add_sweeps(tiny) -> None:
    """Fill the time between the keyframes of the first scene, and let the LiDAR see three things that stand still."""
    rows, poses = tiny.rows("sample_data"), tiny.rows("ego_pose")
    mounting = np.eye(4)
    mounting[:3, :3], mounting[:3, 3] = Rotation.from_euler("z", -90, degrees=True).as_matrix(), [0.9, 0.0, 1.8]
    for channel, period in PERIODS.items():
        chain = [r for r in rows if r["token"].startswith("scene-0001/") and r["token"].endswith(channel)]
        for before, after in itertools.pairwise(chain):
            for time_us in range(before["timestamp"] + period, after["timestamp"] - period // 2, period):
                token = f"scene-0001/{channel}/{time_us}"
                file = before["filename"].replace("samples/", "sweeps/").replace("__0.", f"__{time_us}.")
                file = file.replace("__1.", f"__{time_us}.")
                (tiny.root / file).parent.mkdir(parents=True, exist_ok=True)
                if channel == "LIDAR_TOP":
                    shutil.copyfile(tiny.root / before["filename"], tiny.root / file)
                else:  # another exposure shows something else
                    with Image.open(tiny.root / before["filename"]) as image:
                        image.putpixel((0, 0), (time_us // 1000 % 256, time_us // 256_000 % 256, 0))
                        image.save(tiny.root / file, quality=95)
                x, y, z, w = Rotation.from_matrix(pose_at(time_us)[:3, :3]).as_quat()
                poses.append({"token": token, "timestamp": time_us, "rotation": [w, x, y, z]})
                poses[-1]["translation"] = pose_at(time_us)[:3, 3].tolist()
                new = {**before, "token": token, "ego_pose_token": token, "timestamp": time_us, "filename": file}
                rows.append({**new, "is_key_frame": False})
        ours = [r for r in rows if r["token"].startswith("scene-0001/") and f"/{channel}/" in r["filename"]]
        ours.sort(key=lambda r: r["timestamp"])
        for before, after in itertools.pairwise(ours):
            before["next"], after["prev"] = after["token"], before["token"]
        if channel == "LIDAR_TOP":
            for row in ours:
                ego = np.c_[LANDMARKS, np.ones(3)] @ np.linalg.inv(pose_at(row["timestamp"]) @ mounting).T
                points = np.c_[ego[:, :3], [10.0, 20.0, 30.0], np.zeros(3)]
                points = np.vstack([points, [[0.0, 0.0, -1.0, 99.0, 0.0]]])  # the vehicle's own roof
                (tiny.root / row["filename"]).write_bytes(points.astype("<f4").tobytes())
    tiny.edit("sample_data", lambda _: rows)
    tiny.edit("ego_pose", lambda _: poses)


def test_every_exposure_becomes_a_frame(tiny_home, tiny):
    add_sweeps(tiny)
    ingest_scene(tiny_home, KEY, IngestConfig(frames="sweeps"))
    reader = SceneReader.open(tiny_home, KEY)
    assert reader.num_frames == 13  # 12 Hz for a second, both ends included
    keyframes = [i for i, token in enumerate(reader.attributes["sample_tokens"]) if token is not None]
    assert [reader.timestamp_us(i) for i in keyframes] == [1_000_000, 1_500_000, 2_000_000]
    assert reader.boxes().frame_index.tolist() == keyframes
    for camera in range(2):
        times = [reader.camera_timestamp_us(f, camera) for f in range(reader.num_frames)]
        assert (np.diff(times) >= 80_000 - 10_000).all()  # no image twice
        for frame in set(range(reader.num_frames)) - set(keyframes):
            assert abs(times[frame] - reader.timestamp_us(frame)) <= MAX_OFFSET_US
            expected = np.linalg.inv(pose_at(1_000_000)) @ pose_at(times[frame])
            np.testing.assert_allclose(reader.camera_ego_to_world(frame, camera), expected, atol=1e-9)


def test_sweeps_of_a_window_fall_into_place(tiny_home, tiny):
    add_sweeps(tiny)
    ingest_scene(tiny_home, KEY, IngestConfig(lidar_window_s=0.12))
    reader = SceneReader.open(tiny_home, KEY)
    assert reader.attributes["lidar_window_s"] == 0.12
    for frame, num_sweeps in enumerate((3, 5, 3)):
        points = reader.lidar_points(frame)
        assert len(points) == 3 * num_sweeps + 1  # what hit the vehicle is kept of its own sweep alone
        expected = np.c_[LANDMARKS, np.ones(3)] @ np.linalg.inv(pose_at(reader.timestamp_us(frame))).T
        for landmark, intensity in enumerate((10.0, 20.0, 30.0)):
            seen = points[points[:, 3] == intensity, :3]
            assert len(seen) == num_sweeps
            np.testing.assert_allclose(seen, np.tile(expected[landmark, :3], (num_sweeps, 1)), atol=1e-4)


def test_a_chain_in_a_circle_is_refused(tiny_home, tiny):
    add_sweeps(tiny)
    tiny.set("sample_data", "scene-0001/CAM_FRONT/1156000", next="scene-0001/0/CAM_FRONT")
    with pytest.raises(SourceDataError, match="leads back to scene-0001/0/CAM_FRONT"):
        ingest_scene(tiny_home, KEY, IngestConfig(frames="sweeps"))


@given(
    seed=st.integers(0, 1 << 20),
    num_keyframes=st.integers(1, 4),
    phase=st.integers(-40_000, 40_000),
    jitter=st.integers(0, 15_000),
)
def test_frames_share_no_image_and_keep_every_keyframe(seed, num_keyframes, phase, jitter):
    random = np.random.default_rng(seed)
    sweeps = np.cumsum(random.integers(45_000, 55_000, 12 * num_keyframes))
    images = [phase + np.cumsum(random.integers(83_000 - jitter, 83_001 + jitter, 9 * num_keyframes)) for _ in range(3)]
    keys = np.sort(random.choice(len(sweeps), num_keyframes, replace=False))
    keys = keys[np.insert(np.diff(keys) > 3, 0, True)]
    own = np.stack([[int(np.argmin(abs(t - sweeps[k]))) for t in images] for k in keys])
    if len(own) > 1 and not (np.diff(own, axis=0) > 0).all():
        return  # two keyframes of one image: no recording has them
    chosen, image_of = choose_frames(sweeps, images, keys.tolist(), own)
    assert set(keys) <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert (np.diff(image_of, axis=0) > 0).all()
    for row, frame in enumerate(chosen):
        if frame in keys:
            np.testing.assert_array_equal(image_of[row], own[list(keys).index(frame)])
        else:
            assert max(abs(t[i] - sweeps[frame]) for t, i in zip(images, image_of[row], strict=True)) <= MAX_OFFSET_US


def test_boxes_carry_their_attributes(tiny_home, tiny):
    tiny.edit("attribute", lambda rows: [*rows, {"token": "a", "name": "vehicle.parked", "description": ""}])
    tiny.set("sample_annotation", "scene-0001/1/car", attribute_tokens=["a"])
    ingest_scene(tiny_home, KEY)
    assert SceneReader.open(tiny_home, KEY).boxes().attributes == ((), ("vehicle.parked",), ())


def test_tables_of_annotations_may_be_left_out(tiny_home, tiny):
    for table in ("attribute", "visibility", "sample_annotation", "instance", "category"):
        tiny.path(table).unlink()
    made = ingest_scene(tiny_home, KEY)
    assert made.metrics["boxes"] == 0
    missing = SceneReader.open(tiny_home, KEY).attributes["missing_tables"]
    assert set(missing) == {"attribute", "visibility", "sample_annotation", "instance", "category"}


def test_attributes_that_cannot_be_looked_up_are_left_out_and_reported(tiny_home, tiny):
    tiny.set("sample_annotation", "scene-0001/1/car", attribute_tokens=["a"])
    tiny.path("attribute").unlink()
    ingest_scene(tiny_home, KEY)
    reader = SceneReader.open(tiny_home, KEY)
    assert reader.attributes["missing_tables"] == ["attribute"]
    assert reader.boxes().attributes == ((), (), ())


@pytest.fixture
def labelled(tiny):
    """The release with lidarseg: a class for each point of the first scene's keyframes."""
    tiny.edit("category", lambda rows: [{**row, "name": "vehicle.car", "index": 17} for row in rows])
    rows = []
    (tiny.root / "lidarseg" / "v1.0-mini").mkdir(parents=True)
    for frame in range(3):
        file = f"lidarseg/v1.0-mini/{frame}_lidarseg.bin"
        (tiny.root / file).write_bytes(bytes([17, frame] * 25))
        rows.append({"token": f"l{frame}", "sample_data_token": f"scene-0001/{frame}/LIDAR_TOP", "filename": file})
    tiny.path("lidarseg").write_text(json.dumps(rows))
    return tiny


def test_points_carry_their_classes(tiny_home, labelled):
    ingest_scene(tiny_home, KEY)
    reader = SceneReader.open(tiny_home, KEY)
    assert reader.attributes["lidarseg_categories"] == {"17": "vehicle.car"}
    for frame in range(3):
        assert reader.lidar_labels(frame).tolist() == [17, frame] * 25
    assert "lidarseg/v1.0-mini/1_lidarseg.bin" in tiny_home.provenance(reader.version).sources
    other = SceneKey("tiny", "scene-0002")
    ingest_scene(tiny_home, other)
    assert SceneReader.open(tiny_home, other).lidar_labels(0) is None


def test_labels_of_which_only_some_were_unpacked_matter_to_their_own_scene(tiny_home, labelled):
    """The devkit counts files of labels for the whole release, and takes none of its scenes if one is not there."""
    (labelled.root / "lidarseg/v1.0-mini/1_lidarseg.bin").unlink()
    ingest_scene(tiny_home, SceneKey("tiny", "scene-0002"))
    with pytest.raises(SourceDataError, match=r"1_lidarseg\.bin: is not a file below"):
        ingest_scene(tiny_home, KEY)


def test_maps_need_not_be_there(tiny_home, tiny):
    """Nothing reads them, and whoever unpacks the blobs of one scene may have none."""
    shutil.rmtree(tiny.root / "maps")
    tiny.path("map").unlink()
    tiny.path("panoptic").write_text("no table that is read")
    ingest_scene(tiny_home, KEY)
    assert SceneReader.open(tiny_home, KEY).attributes["missing_tables"] == []


def test_labels_of_another_sweep_are_refused(tiny_home, labelled):
    (labelled.root / "lidarseg/v1.0-mini/1_lidarseg.bin").write_bytes(b"\0" * 49)
    with pytest.raises(SourceDataError, match="labels 49 points, its sweep has 50"):
        ingest_scene(tiny_home, KEY)


def test_swapped_camera_names_are_refused(tiny_home, tiny):
    """The tables give the front camera's rows files out of the back camera's folder."""
    for frame in range(3):
        names = [tiny.file("scene-0001", camera, frame) for camera in ("CAM_BACK", "CAM_FRONT")]
        for camera, name in zip(("CAM_FRONT", "CAM_BACK"), names, strict=True):
            tiny.set("sample_data", f"scene-0001/{frame}/{camera}", filename=name)
    with pytest.raises(SourceDataError, match="a file of CAM_BACK, want one of CAM_FRONT") as caught:
        ingest_scene(tiny_home, KEY)
    assert caught.value.kind == ErrorKind.TABLE_INVALID


def test_official_splits_by_name():
    assert split_scenes("mini_val", "v1.0-mini") == ("scene-0103", "scene-0916")
    sizes = {name: len(split_scenes(name, "v1.0-trainval")) for name in ("train", "val")}
    assert sizes == {"train": 700, "val": 150}
    assert len(split_scenes("test", "v1.0-test")) == 150
    assert splits_of_scene("scene-0916", "v1.0-mini") == ["mini_val"]
    assert "val" in splits_of_scene("scene-0916", "v1.0-trainval")
    assert splits_of_scene("scene-0916", "v2.0-own") == []
    with pytest.raises(SourceDataError, match="mini_train, mini_val"):
        split_scenes("val", "v1.0-mini")


def test_a_scene_knows_its_splits(tiny):
    recording = open_recording(tiny.source(), "scene-0001", IngestConfig())
    assert recording.raw.attributes["splits"] == []


def test_the_name_of_a_split_stands_for_its_scenes(tiny):
    tiny.set("scene", "scene-0002", name="scene-0916")
    source = tiny.source()
    assert expand_splits(source, ["mini_val", "scene-0001", "scene-0916"]) == ["scene-0916", "scene-0001"]
    with pytest.raises(SourceDataError, match="none of the scenes of split 'mini_train' is there"):
        expand_splits(source, ["mini_train"])
    with pytest.raises(SourceDataError, match="has no split 'val'"):
        expand_splits(source, ["val"])
