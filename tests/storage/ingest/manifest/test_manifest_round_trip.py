"""What a converter writes is what a scene store holds."""

import numpy as np
import pytest

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import invert_se3
from storage.ingest.manifest.manifest import RigManifest, load_manifest, manifest_schema, parse_manifest
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, load_source
from storage.keys import SceneKey
from storage.scenes.store import SceneReader

KEY = SceneKey("apron", "stand-1")


@pytest.fixture
def reader(ingested) -> SceneReader:
    return ingested[2]


def test_the_manifest_is_read_as_it_was_written(ingested):
    recording = ingested[0]
    manifest = load_manifest(recording.root)
    assert isinstance(manifest, RigManifest)
    assert parse_manifest(manifest.to_json()) == manifest
    assert manifest.to_json() == recording.document
    assert manifest.rigs["tug"].cameras[0].valid_mask == "masks/left.png"
    assert manifest_schema()["$id"] == recording.document["schema"]


def test_scenes_are_listed_with_the_manifests_own_name_and_licence(ingested):
    source = load_source(ingested[1], "apron")
    assert (source.format, source.version, source.licence) == ("manifest", "2026-11", "CC0-1.0")
    assert [str(key) for key in list_scenes(source)] == ["apron.stand-1", "apron.stand-2"]


def test_cameras_keep_their_models(reader):
    assert reader.camera_names == ("left", "front")
    np.testing.assert_array_equal(reader.fisheye(0), [0.02, -0.004, 0.001, -0.0002])
    assert np.isnan(reader.fisheye(1)).all()
    # Given from the first pixel's centre, kept from its corner; a pinhole's lens is undone, which may raise its focals.
    np.testing.assert_array_equal(reader.intrinsics(0), [[9, 0, 16], [0, 9, 12], [0, 0, 1]])
    np.testing.assert_allclose(reader.intrinsics(1)[:2, 2], [18, 9])
    assert reader.intrinsics(1)[0, 0] >= 30.0
    assert reader.attributes["undistortion"]["front"]["lens"] == [-0.1, 0.01, 0.0, 0.001, 0.0]


def test_fisheye_images_stay_as_recorded(ingested):
    recording, _, reader = ingested
    assert reader.image_bytes(1, 0) == (recording.root / "stand-1/left/1.jpg").read_bytes()
    assert reader.image_bytes(1, 1) != (recording.root / "stand-1/front/1.jpg").read_bytes()
    assert reader.image(1, 1).shape == (18, 36, 3)


def test_poses_are_those_of_each_exposure(reader):
    np.testing.assert_allclose(reader.ego_to_world(0), np.eye(4), atol=1e-12)
    # 4 m/s along the vehicle's own x; exposures 20 ms before and 10 ms after the reference instant.
    np.testing.assert_allclose(reader.ego_to_world(2)[:3, 3], [0.8, 0, 0], atol=1e-9)
    np.testing.assert_allclose(reader.camera_ego_to_world(2, 0)[:3, 3], [0.72, 0, 0], atol=1e-9)
    np.testing.assert_allclose(reader.camera_ego_to_world(2, 1)[:3, 3], [0.84, 0, 0], atol=1e-9)


def test_points_are_moved_with_the_vehicle(reader):
    """What stands still is seen twice from a moving vehicle and falls into one place, the same in every frame."""
    first = reader.ego_to_world(0)[:3, :3] @ reader.lidar_points(0)[0, :3]
    for frame in range(reader.num_frames):
        points = reader.lidar_points(frame)
        np.testing.assert_allclose(points[0, :3], points[1, :3], atol=1e-5)
        np.testing.assert_allclose(points[:, :3] + reader.ego_to_world(frame)[:3, 3], [first, first], atol=1e-5)
        np.testing.assert_allclose(points[:, 3], [0.25, 0.5])


def test_boxes_and_points_agree(reader):
    boxes = reader.boxes()
    assert set(boxes.category) == {"belt_loader"}
    np.testing.assert_allclose(boxes.centre[0], reader.lidar_points(0)[0, :3], atol=1e-5)
    point = np.append(boxes.centre[1], 1.0)
    in_camera = (invert_se3(reader.camera_to_world(1, 0)) @ point)[:3]
    pixel, _ = project_camera(in_camera, reader.intrinsics(0), reader.fisheye(0))
    assert ((pixel > 0) & (pixel < (32, 24))).all()


def test_what_shows_the_vehicle_itself_is_marked(reader):
    is_valid = reader.is_valid(0)
    assert is_valid[:20].all()
    assert not is_valid[20:].any()
    half = reader.is_valid(0, size=(12, 16))
    np.testing.assert_array_equal(half, is_valid[::2, ::2])
    assert not reader.is_valid(0, size=(7, 16))[5:].any()  # a pixel that covers both counts as the vehicle
    assert reader.is_valid(1).all()


def test_a_part_of_it(recording_home):
    ingest_scene(recording_home, KEY, IngestConfig(cameras=("front",), max_frames=2))
    reader = SceneReader.open(recording_home, KEY)
    assert (reader.camera_names, reader.num_frames) == (("front",), 2)
    assert set(reader.boxes().frame_index.tolist()) == {0, 1}


def test_every_file_is_in_the_provenance(ingested):
    recording, home, reader = ingested
    sources = home.provenance(reader.version).sources
    wanted = {"masks/left.png", *(f"stand-1/{name}.parquet" for name in ("poses", "frames", "images", "boxes"))}
    wanted |= {str(p.relative_to(recording.root)) for p in (recording.root / "stand-1").glob("*/*.*")}
    assert set(sources) == wanted | {"rig_manifest.json#stand-1"}
    assert home.provenance(reader.version).licence == "CC0-1.0"


def test_another_scene_of_the_manifest_changes_nothing(recording_home, recording):
    first = ingest_scene(recording_home, KEY)
    document = recording.document
    document["scenes"].pop()
    document["description"] = "fewer"
    recording.write(document)
    assert ingest_scene(recording_home, KEY).reused
    document["rigs"]["tug"]["cameras"][0]["intrinsics"]["fx"] = 9.5
    recording.write(document)
    assert ingest_scene(recording_home, KEY).version.digest != first.version.digest
