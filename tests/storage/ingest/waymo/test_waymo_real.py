"""One real Waymo frame (v1) loads whole, and its geometry agrees with what its own makers projected."""

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from storage.audits.stored_versions import audit_geometry
from storage.digests import bytes_digest
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.cameras import project
from storage.geometry.distortion import LensDistortion, distort
from storage.geometry.transforms import apply_se3, invert_se3, rotation_error
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import list_scenes, register_source
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.projection import projection_ious
from storage.ingest.waymo.v1 import WaymoV1Segment
from storage.ingest.waymo.v2 import list_segments_v2, read_vehicle_poses
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home

pytestmark = pytest.mark.external_data

KEY = SceneKey("waymo", "1024360143612057520_3580_000_3600_000")
FILE = "pvps_data_one_frame.tfrecord"
CAMERAS = ("SIDE_LEFT", "FRONT_LEFT", "FRONT", "FRONT_RIGHT", "SIDE_RIGHT")


@pytest.fixture(scope="module")
def real(external_data, tmp_path_factory) -> SimpleNamespace:
    pytest.importorskip("waymo_open_dataset", reason="pip install --no-deps waymo-open-dataset-tf-2-12-0")
    root = external_data / "waymo"
    if not root.is_dir():
        pytest.skip(f"no Waymo recording at {root}")
    home = Home(tmp_path_factory.mktemp("waymo"))
    source = SourceConfig(dataset="waymo", format="waymo_v1", root=root, version="v1.4", licence="non-commercial")
    register_source(home, source)
    made = ingest_scene(home, KEY, IngestConfig(allow_missing_lidar=True))
    return SimpleNamespace(
        home=home,
        source=source,
        made=made,
        scene=SceneReader.open(home, KEY, made.version.digest),
        segment=WaymoV1Segment(root, FILE),
    )


def test_whole_frame_is_there(real):
    assert list_scenes(real.source) == [KEY]
    assert real.scene.camera_names == CAMERAS
    assert [real.scene.image_size(c) for c in range(5)] == [(886, 1920), *[(1280, 1920)] * 3, (886, 1920)]
    boxes = real.scene.boxes()
    assert len(boxes.category) == 75
    assert set(boxes.category) == {"TYPE_VEHICLE", "TYPE_PEDESTRIAN", "TYPE_SIGN", "TYPE_CYCLIST"}
    assert sum(len(r) for r in real.segment.info.headers[0].projected.values()) == 62
    assert len(real.segment.info.lasers["TOP"].inclinations) == 64
    assert real.scene.attributes["location"] == "location_sf"
    assert real.scene.attributes["unknown_fields"] == 0


def test_no_lidar_is_said_not_invented(real):
    assert real.scene.lidar_points(0).shape == (0, 4)
    assert real.scene.attributes["frames_without_lidar"] == [0]
    with pytest.raises(SourceDataError, match="no LiDAR") as caught:
        ingest_scene(real.home, KEY)
    assert caught.value.kind == ErrorKind.LIDAR_INVALID


def test_boxes_project_onto_the_files_own_rectangles(real):
    ious = projection_ious(real.segment.info)
    assert len(ious) == 62
    assert np.median(ious) >= 0.999
    assert ious.min() >= 0.95
    findings = {finding.name: finding for finding in audit_geometry(real.scene)}
    assert findings["projected_label_iou"].outcome == "passed"
    assert findings["projected_label_iou"].value == np.median(ious)


@pytest.mark.parametrize("fault", ["1 degree", "0.1 m", "no lens"])
def test_projection_sees_a_small_fault(real, fault):
    info = real.segment.info

    def broken(camera):
        moved = camera.camera_to_ego.copy()
        if fault == "no lens":
            return dataclasses.replace(camera, lens=LensDistortion())
        if fault == "0.1 m":
            moved[:3, 3] += moved[:3, 0] * 0.1
        else:
            cos, sin = np.cos(np.radians(1)), np.sin(np.radians(1))
            moved[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ moved[:3, :3]
        return dataclasses.replace(camera, camera_to_ego=moved)

    worse = dataclasses.replace(info, cameras={n: broken(c) for n, c in info.cameras.items()})
    assert np.median(projection_ious(worse)) < np.median(projection_ious(info)) - 0.004


def test_stored_pinhole_agrees_with_the_recorded_lens(real):
    """A point's pixel in the stored image is where the map took the recorded image's pixel of it from."""
    scene, info = real.scene, real.segment.info
    boxes = scene.boxes()
    for index, name in enumerate(CAMERAS):
        camera = info.cameras[name]
        points = apply_se3(invert_se3(scene.camera_to_world(0, index)), boxes.centre)
        points = points[points[:, 2] > 1]
        pixels, _ = project(points, np.broadcast_to(scene.intrinsics(index), (len(points), 3, 3)))
        recorded = distort(points[:, :2] / points[:, 2:], camera.lens)
        recorded = recorded * [camera.intrinsics[0, 0], camera.intrinsics[1, 1]] + camera.intrinsics[:2, 2]
        height, width = camera.size
        inside = ((pixels > 0) & (pixels < [width, height])).all(axis=1)
        # The lens moves a point by tens of pixels at the border, yet nothing by more than five percent of the image.
        assert (np.abs(pixels - recorded)[inside] < 0.05 * width).all()


def test_undistorted_image_matches_recorded_pixels(real):
    """Follow the lens from the stored image back to the recorded one, pixel by pixel, without the map."""
    content = real.segment.content(0)
    index, name = 2, "FRONT"
    camera = real.segment.info.cameras[name]
    with Image.open(io.BytesIO(content.jpegs[name])) as image:
        recorded = np.asarray(image).astype(np.float64)
    stored = real.scene.image(0, index).astype(np.float64)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(5, 1275, 400), rng.integers(5, 1915, 400)
    k = real.scene.intrinsics(index)
    plane = (np.stack([columns, rows], 1) + 0.5 - k[:2, 2]) / [k[0, 0], k[1, 1]]
    source = distort(plane, camera.lens) * [camera.intrinsics[0, 0], camera.intrinsics[1, 1]] + camera.intrinsics[:2, 2]
    nearest = np.floor(source).astype(int)
    # Nearest neighbour against bilinear, and one more JPEG: a shift of one pixel would still show in the mean.
    error = np.abs(stored[rows, columns] - recorded[nearest[:, 1], nearest[:, 0]]).mean()
    assert error < 4.0
    assert np.abs(stored[rows, columns] - recorded[nearest[:, 1] - 4, nearest[:, 0]]).mean() > 1.5 * error


def test_provenance_reaches_every_recorded_image(real):
    sources = real.home.provenance(real.made.version).sources
    content = real.segment.content(0)
    for name in CAMERAS:
        assert sources[f"{FILE}#record0/{name}"] == bytes_digest(content.jpegs[name])
    assert FILE in sources
    record = real.scene.attributes["undistortion"]["FRONT"]
    assert 1.0 <= record["focal_scale"] < 1.01
    assert len(record["map_digest"]) == 64


def test_panoptic_labels_lie_on_the_stored_images(real):
    recorded = real.segment.content(0).panoptics
    assert set(recorded) == set(CAMERAS)
    assert real.scene.attributes["panoptic_images"] == 5
    names = real.scene.attributes["panoptic_categories"]
    for index, name in enumerate(real.scene.camera_names):
        classes, _ = real.scene.panoptic(0, index)
        assert classes.shape == real.scene.image_size(index)
        seen = {names[str(n)] for n in np.unique(classes)}
        assert "TYPE_ROAD" in seen, name
        # The sky is above the road, and no label is made that the recording does not hold.
        sky, road = (classes == list(names.values()).index(c) for c in ("TYPE_SKY", "TYPE_ROAD"))
        if sky.any():
            assert np.nonzero(sky)[0].mean() < np.nonzero(road)[0].mean()
        with Image.open(io.BytesIO(recorded[name])) as image:
            assert set(np.unique(classes)) <= set(np.unique(np.asarray(image) // 1000))


def test_real_v2_vehicle_poses(external_data):
    root = external_data / "waymo" / "v2_testdata"
    if not root.is_dir():
        pytest.skip(f"no Waymo components at {root}")
    (name,) = list_segments_v2(root)
    times, poses = read_vehicle_poses(root, name)
    assert len(times) == 199
    assert np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum() == pytest.approx(7.6, abs=0.1)
    assert rotation_error(poses[:, :3, :3]).max() < 1e-12
