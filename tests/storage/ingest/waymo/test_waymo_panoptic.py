"""Panoptic labels of images: written from the procedural world, read back, and moved with the pixels they label."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import LensDistortion, plan_undistortion
from storage.ingest.run import ingest_scene
from storage.ingest.waymo.panoptic import CAMERA_CLASSES, decode_panoptic, encode_panoptic, stored_panoptic
from storage.ingest.waymo.scene import panoptic_divisor_of
from storage.ingest.waymo.v1 import WaymoV1Segment, find_segment
from storage.ingest.waymo.v2 import WaymoV2Segment
from storage.keys import SceneKey
from storage.procedural.sensing.render import render_camera
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from storage.taxonomy import CLASSES, SKY
from storage.testing.waymo.panoptic import DIVISOR, WAYMO_CAMERA_CLASS_OF, waymo_camera_table
from storage.testing.waymo.writer import generate_waymo_dataset

KEY = SceneKey("waymo", "scene-0001")
LABELLED, UNLABELLED = 0, 1
SIZE = (6, 9)


def test_recorded_labels_come_back_byte_for_byte(written):
    root = written.root
    is_v2 = (root / "vehicle_pose").is_dir()
    segment = WaymoV2Segment(root, "scene-0001") if is_v2 else WaymoV1Segment(root, find_segment(root, "scene-0001"))
    assert len(written.frames[LABELLED].content.panoptics) == 5
    for index, frame in enumerate(written.frames):
        assert dict(segment.content(index).panoptics) == dict(frame.content.panoptics)


def test_stored_labels_are_what_a_pinhole_camera_sees_there(written, scene):
    """Lens, map and pose of the exposure at once, against an independent renderer."""
    world = written.capture.world
    for camera in range(scene.num_cameras):
        classes, instances = scene.panoptic(LABELLED, camera)
        height, width = scene.image_size(camera)
        time_us = scene.camera_timestamp_us(LABELLED, camera) - scene.timestamp_us(0)
        pose = world.ego_to_world(time_us) @ scene.camera_to_ego(camera)
        view = render_camera(world, time_us, pose, scene.intrinsics(camera), height, width, antialias=False)
        same = classes == waymo_camera_table()[view.semantics]
        # At 96 columns a pixel is a large part of a pole: what differs lies on edges.
        assert same.mean() > 0.85
        assert same.mean() > (classes[:, 2:] == waymo_camera_table()[view.semantics][:, :-2]).mean()
        assert (instances == view.instance).mean() > 0.95
    assert {"TYPE_ROAD", "TYPE_SKY"} <= {CAMERA_CLASSES[n] for n in np.unique(scene.panoptic(LABELLED, 2)[0])}


def test_a_frame_that_nobody_labelled_has_none(scene):
    assert all(scene.panoptic(UNLABELLED, camera) is None for camera in range(scene.num_cameras))
    assert scene.attributes["panoptic_images"] == 5


def test_what_the_numbers_mean_is_recorded(scene):
    assert scene.attributes["panoptic_categories"] == {str(n): name for n, name in enumerate(CAMERA_CLASSES)}
    assert scene.attributes["panoptic_divisor"] == DIVISOR


def test_the_numbers_are_waymos():
    module = pytest.importorskip("waymo_open_dataset.protos.camera_segmentation_pb2")
    assert dict(module.CameraSegmentation.Type.items()) == {name: n for n, name in enumerate(CAMERA_CLASSES)}


def test_a_pinhole_camera_keeps_its_labels_byte_for_byte(v2, tmp_path):
    config = dataclasses.replace(v2.config, has_distortion=False, top_shape=(2, 8), near_shape=(1, 4), spin_steps=1)
    home = Home(tmp_path / "home")
    generate_waymo_dataset(home, tmp_path / "raw", config, source_format="waymo_v2")
    ingest_scene(home, KEY)
    scene = SceneReader.open(home, KEY)
    content = WaymoV2Segment(tmp_path / "raw", KEY.scene_name).content(LABELLED)
    for camera, name in enumerate(scene.camera_names):
        labels = decode_panoptic(content.panoptics[name], scene.image_size(camera), name)
        classes, instances = scene.panoptic(LABELLED, camera)
        np.testing.assert_array_equal(classes * DIVISOR + instances, labels)


# --- one image -------------------------------------------------------------------------------------------------------


def labels_of_rows() -> np.ndarray:
    return np.repeat(np.arange(SIZE[0], dtype=np.uint16)[:, None] * DIVISOR + 7, SIZE[1], axis=1)


def eight_bits() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", SIZE[::-1]).save(buffer, "PNG")
    return buffer.getvalue()


def test_labels_are_not_blended():
    """Between road and sky there is no building, though its number may lie between theirs."""
    intrinsics = np.array([[7.0, 0, 4.5], [0, 7.0, 3.0], [0, 0, 1]])
    plan = plan_undistortion(intrinsics, LensDistortion(k1=-0.3), SIZE)
    labels = np.where(np.indices(SIZE).sum(axis=0) % 2, np.uint16(20 * DIVISOR), np.uint16(25 * DIVISOR))
    png = stored_panoptic(encode_panoptic(labels), DIVISOR, size=SIZE, undistortion=plan.build_map(), key="x")
    moved = decode_panoptic(png, SIZE, "x")
    assert set(np.unique(moved)) == {20 * DIVISOR, 25 * DIVISOR}
    assert (moved != labels).any()
    wanted = plan.build_map().apply(
        np.repeat(np.where(labels == 20 * DIVISOR, 255, 0).astype(np.uint8)[..., None], 3, -1)
    )
    clear = np.abs(wanted[..., 0].astype(int) - 127) > 100
    np.testing.assert_array_equal(moved[clear] == 20 * DIVISOR, wanted[..., 0][clear] > 127)


@pytest.mark.parametrize(
    ("png", "message"),
    [
        (b"", "are no PNG that decodes"),
        (b"GIF89a", "are no PNG that decodes"),
        (encode_panoptic(labels_of_rows())[:-30], "are no PNG that decodes"),
        (encode_panoptic(labels_of_rows()[:, :5]), "are 6 x 5 of mode I;16, want (6, 9) of 16 bits"),
        (eight_bits(), "of mode L, want"),
        (encode_panoptic(labels_of_rows() + np.uint16(24 * DIVISOR)), "pixel (5, 0) has class 29, want 0 to 28"),
    ],
)
def test_labels_that_cannot_be_are_refused(png, message):
    with pytest.raises(SourceDataError) as caught:
        stored_panoptic(png, DIVISOR, size=SIZE, undistortion=None, key="frame/FRONT")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.IMAGE_INVALID, "frame/FRONT")
    assert message in caught.value.message


@pytest.mark.parametrize("divisor", [0, -1, 65536])
def test_a_divisor_that_cannot_be_is_refused(divisor):
    with pytest.raises(SourceDataError, match=f"panoptic_label_divisor is {divisor}") as caught:
        panoptic_divisor_of(divisor, "frame/FRONT")
    assert caught.value.kind == ErrorKind.TABLE_INVALID


def test_every_class_of_the_procedural_world_has_a_waymo_class():
    assert set(WAYMO_CAMERA_CLASS_OF) == {entry.name for entry in (*CLASSES, SKY)}
    table = waymo_camera_table()
    assert {CAMERA_CLASSES[table[c.class_id]] for c in (*CLASSES, SKY)} == set(WAYMO_CAMERA_CLASS_OF.values())
