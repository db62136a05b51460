import dataclasses
import io
import tracemalloc

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.errors import IntegrityError
from storage.geometry.transforms import from_rotation_translation, quat_wxyz_to_rotation
from storage.scenes.schema import PINHOLE_SCENE_SCHEMA, UNLABELLED, SceneBoxes, SceneData, SceneFrame
from storage.scenes.store import SceneReader, write_scene


def encode(image: np.ndarray, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def poses(rng: np.random.Generator, *batch: int) -> np.ndarray:
    return from_rotation_translation(
        quat_wxyz_to_rotation(rng.normal(size=(*batch, 4))), rng.uniform(-50, 50, (*batch, 3))
    )


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)
POINTS = st.lists(st.integers(0, 40), min_size=1, max_size=3)


def random_scene(seed: int, sizes: list, num_points: list, boxes: int, location: str) -> SceneData:
    """Return a scene of one frame for each number of points and one camera for each image size."""
    rng = np.random.default_rng(seed)
    frames, cameras = len(num_points), len(sizes)
    return SceneData(
        camera_names=tuple(f"CAM_{i}" for i in range(cameras)),
        image_sizes=tuple(sizes),
        intrinsics=rng.uniform(1, 2000, (cameras, 3, 3)),
        fisheye=np.where(np.arange(cameras)[:, None] % 2, rng.uniform(-0.1, 0.1, (cameras, 4)), np.nan),
        camera_to_ego=poses(rng, cameras),
        timestamp_us=np.arange(frames) + rng.integers(0, 2**60),
        ego_to_world=poses(rng, frames),
        camera_timestamp_us=rng.integers(0, 2**60, (frames, cameras)),
        camera_ego_to_world=poses(rng, frames, cameras),
        jpegs=tuple(tuple(encode(rng.integers(0, 256, (*s, 3), np.uint8)) for s in sizes) for _ in range(frames)),
        lidar_points=tuple(rng.normal(size=(n, 4)).astype(np.float32) for n in num_points),
        lidar_to_ego=poses(rng),
        boxes=SceneBoxes(
            frame_index=rng.integers(0, frames, boxes),
            centre=rng.normal(size=(boxes, 3)),
            size=rng.uniform(0.1, 5, (boxes, 3)),
            quat_wxyz=rng.normal(size=(boxes, 4)),
            category=tuple("cat" for _ in range(boxes)),
            instance=tuple(f"i{i}" for i in range(boxes)),
            num_lidar_points=rng.integers(-1, 9, boxes),
        ),
        attributes={"location": location, "nested": {"a": [1, 2.5, None]}},
    )


def test_a_store_from_before_fisheyes_holds_pinholes():
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, random_scene(0, [(3, 4), (2, 2)], [1], 0, ""))
    del group["fisheye"]
    with pytest.raises(IntegrityError, match="fisheye"):
        SceneReader(group)
    group.attrs["schema"] = PINHOLE_SCENE_SCHEMA
    assert all(np.isnan(SceneReader(group).fisheye(camera)).all() for camera in range(2))


@given(
    seed=st.integers(0, 2**32 - 1), sizes=SIZES, points=POINTS, boxes=st.integers(0, 3), location=st.text(max_size=5)
)
def test_what_is_written_is_read(seed, sizes, points, boxes, location):
    scene = random_scene(seed, sizes, points, boxes, location)
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, scene)
    reader = SceneReader(group)

    assert reader.camera_names == scene.camera_names
    for camera, lens in enumerate(scene.fisheye):
        np.testing.assert_array_equal(reader.fisheye(camera), lens)
    assert reader.attributes == scene.attributes
    assert (reader.num_frames, reader.num_cameras) == (len(scene.jpegs), len(scene.camera_names))
    np.testing.assert_array_equal(reader.lidar_to_ego, scene.lidar_to_ego)
    for frame, points in enumerate(scene.lidar_points):
        assert reader.timestamp_us(frame) == scene.timestamp_us[frame]
        np.testing.assert_array_equal(reader.lidar_points(frame), points)
        np.testing.assert_array_equal(reader.ego_to_world(frame), scene.ego_to_world[frame])
        for camera in range(reader.num_cameras):
            assert reader.image_bytes(frame, camera) == scene.jpegs[frame][camera]
            assert reader.image(frame, camera).shape == (*reader.image_size(camera), 3)
            assert reader.camera_timestamp_us(frame, camera) == scene.camera_timestamp_us[frame, camera]
            to_world = scene.camera_ego_to_world[frame, camera] @ scene.camera_to_ego[camera]
            np.testing.assert_allclose(reader.camera_to_world(frame, camera), to_world)
            through = scene.ego_to_world[frame] @ reader.camera_to_reference_ego(frame, camera)
            np.testing.assert_allclose(through, to_world, atol=1e-9)
    for camera, size in enumerate(scene.image_sizes):
        assert reader.image_size(camera) == size
        np.testing.assert_array_equal(reader.intrinsics(camera), scene.intrinsics[camera])
        np.testing.assert_array_equal(reader.camera_to_ego(camera), scene.camera_to_ego[camera])
    boxes = reader.boxes()
    for name in ("frame_index", "centre", "size", "quat_wxyz", "num_lidar_points"):
        np.testing.assert_array_equal(getattr(boxes, name), getattr(scene.boxes, name))
    assert (boxes.category, boxes.instance) == (scene.boxes.category, scene.boxes.instance)


def one_image_scene(image: np.ndarray) -> SceneReader:
    height, width = image.shape[:2]
    scene = SceneData(
        camera_names=("CAM",),
        image_sizes=((height, width),),
        intrinsics=np.array([[[50.0, 0, width / 2], [0, 50.0, height / 2], [0, 0, 1]]]),
        camera_to_ego=np.eye(4)[None],
        timestamp_us=np.array([0]),
        ego_to_world=np.eye(4)[None],
        camera_timestamp_us=np.array([[0]]),
        camera_ego_to_world=np.eye(4)[None, None],
        jpegs=((encode(image, 100),),),
        lidar_points=(np.zeros((0, 4), np.float32),),
        lidar_to_ego=np.eye(4),
    )
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, scene)
    return SceneReader(group)


@pytest.mark.parametrize("width", [32, 33, 63, 65, 97])
@pytest.mark.parametrize("to_width", [8, 7, 13])
def test_resizing_does_not_shift_the_image(width, to_width):
    """A ramp stays the ramp: the resized pixel shows what lies under its centre, whatever the widths."""
    ramp = np.linspace(20, 235, width)  # value of the pixel whose centre is at index + 0.5
    reader = one_image_scene(np.tile(ramp[None, :, None], (24, 1, 3)).round().astype(np.uint8))
    resized = reader.resized_image(0, 0, height=6, width=to_width).astype(float).mean(axis=(0, 2))
    under_centre = np.interp((np.arange(to_width) + 0.5) * width / to_width - 0.5, np.arange(width), ramp)
    inner = slice(1, -1)  # at the border the filter is cut off
    np.testing.assert_allclose(resized[inner], under_centre[inner], atol=1.5)


def test_resizing_averages_what_it_drops():
    """Stripes finer than the new pixels become grey instead of a false pattern."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    resized = one_image_scene(stripes).resized_image(0, 0, height=11, width=11)
    assert abs(resized.astype(float).mean() - 127.5) < 8
    assert resized.std() < 10


def test_intrinsics_follow_the_size():
    reader = one_image_scene(np.zeros((20, 40, 3), np.uint8))
    np.testing.assert_allclose(reader.intrinsics(0, size=(10, 10)), [[12.5, 0, 5], [0, 25, 5], [0, 0, 1]])


def test_group_that_is_no_scene_is_refused():
    group = zarr.create_group(zarr.storage.MemoryStore())
    with pytest.raises(IntegrityError, match="None"):
        SceneReader(group)


def test_scene_that_lost_an_array_is_refused():
    reader = one_image_scene(np.zeros((4, 4, 3), np.uint8))
    del reader.group["ego_to_world"]
    with pytest.raises(IntegrityError, match="ego_to_world"):
        SceneReader(reader.group)


def test_damaged_image_is_told_by_frame_and_camera():
    reader = one_image_scene(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    data = reader.group["images/CAM/bytes"]
    data[: data.shape[0] // 2] = 0
    for read in (lambda: reader.image(0, 0), lambda: reader.resized_image(0, 0, height=4, width=4)):
        with pytest.raises(IntegrityError, match=r"images/CAM\[0\]"):
            read()


def without_content(num_frames: int, location: str = "") -> SceneData:
    scene = random_scene(0, [(4, 4)], [0] * num_frames, 0, location)
    return dataclasses.replace(scene, jpegs=(), lidar_points=())


@pytest.mark.parametrize("labelled", [(), (0,), (7,), (2, 9)])
def test_long_scenes_have_a_class_for_each_point_or_none_at_all(labelled):
    """More points than are written at once: classes that begin late, and a scene that never has any."""
    num_points, num_frames = 200_000, 12
    classes = np.arange(num_points, dtype=np.int64).astype(np.uint8)
    points = np.zeros((num_points, 4), np.float32)
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    write_scene(
        group,
        without_content(num_frames),
        (SceneFrame(jpegs=(b"x",), points=points, labels=classes if f in labelled else None) for f in range(12)),
    )
    reader = SceneReader(group)
    for frame in range(num_frames):
        seen = reader.lidar_labels(frame)
        if not labelled:
            assert seen is None
        else:
            np.testing.assert_array_equal(seen, classes if frame in labelled else np.full(num_points, UNLABELLED))


def test_memory_does_not_grow_with_the_scene(tmp_path):
    peaks = []
    for num_frames in (50, 150):
        frames = (
            SceneFrame(jpegs=(bytes(300_000),), points=np.zeros((30_000, 4), np.float32)) for _ in range(num_frames)
        )
        group = zarr.open_group(tmp_path / str(num_frames), mode="w")
        tracemalloc.start()
        write_scene(group, without_content(num_frames), frames)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
