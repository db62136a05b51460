"""Small pictures of stored versions, in the colours of every other picture."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from storage.kinds import KINDS
from storage.previews.pictures import UNDEFINED_COLOUR, depth_image, label_colour
from storage.previews.thumbnails import calibration_jpeg, thumbnail_jpeg
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from storage.taxonomy import OCC3D_FREE, SKY_ID

HALF, WHOLE = 88, 176
NEAR = 24.0


def picture(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def draw(home: Home, kind: str, name: str, values: np.ndarray) -> np.ndarray:
    """Store an array, every other required one of its kind 0, and return the picture."""
    sizes = dict(zip(KINDS[kind].arrays[name].axes, values.shape, strict=True))

    def write(group: zarr.Group) -> dict[str, object]:
        for other, spec in KINDS[kind].arrays.items():
            if spec.optional and other != name:
                continue
            shape = tuple(sizes.get(axis, int(axis) if axis.isdigit() else 1) for axis in spec.axes)
            write_target(group, kind, other, values if other == name else np.zeros(shape, spec.dtype))
        return {}

    made = materialize_arrays(home, Provenance(kind=kind, partition="test.a", licence="CC0-1.0"), write)
    return picture(thumbnail_jpeg(home, made.version))


def halves(home: Home, kind: str, name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour of the left and of the right half of an array's picture."""
    drawn = draw(home, kind, name, values)
    assert drawn.shape[1] == WHOLE
    return drawn[20:-20, 20 : HALF - 20].mean(axis=(0, 1)), drawn[20:-20, HALF + 20 : -20].mean(axis=(0, 1))


def left_and_right(left: float, right: float, dtype: type) -> np.ndarray:
    return np.repeat(np.array([left, right], dtype), HALF)[None, None, None].repeat(HALF, axis=2)


def test_depth_is_drawn_near_to_far_and_grey_where_undefined(tmp_path: Path):
    depth = left_and_right(5.0, np.nan, np.float16)
    left, right = halves(Home(tmp_path), "teacher_depth", "termination_depth", depth)
    np.testing.assert_allclose(left, depth_image(np.full((1, 1), 5.0))[0, 0], atol=NEAR)
    np.testing.assert_allclose(right, UNDEFINED_COLOUR, atol=4)


def test_labels_have_the_colours_of_their_classes(tmp_path: Path):
    left, right = halves(Home(tmp_path), "scene_truth", "semantics", left_and_right(4, SKY_ID, np.uint8))
    np.testing.assert_allclose(left, label_colour(4), atol=NEAR)
    np.testing.assert_allclose(right, label_colour(SKY_ID), atol=NEAR)


def test_voxels_are_seen_from_above(tmp_path: Path):
    labels = np.full((1, 200, 200, 16), OCC3D_FREE, np.uint8)
    labels[..., 0] = 11
    labels[:, :, 100:, 3] = 4  # higher, to the left
    left, right = halves(Home(tmp_path), "weak_labels", "voxel_label", labels)
    np.testing.assert_allclose(left, label_colour(4), atol=NEAR)
    np.testing.assert_allclose(right, label_colour(11), atol=NEAR)


def test_features_that_differ_look_different_and_undefined_ones_are_grey(tmp_path: Path):
    features = np.random.default_rng(0).normal(0, 0.01, (1, 1, HALF, WHOLE, 5)).astype(np.float16)
    features[..., : HALF // 2, HALF:, 0] += 1
    features[..., HALF // 2 :, :, :] = np.nan
    drawn = draw(Home(tmp_path), "clip_features", "features", features)
    np.testing.assert_allclose(drawn[HALF // 2 + 10 :].mean(axis=(0, 1)), UNDEFINED_COLOUR, atol=4)
    left, right = drawn[5:35, 10 : HALF - 10].mean(axis=(0, 1)), drawn[5:35, HALF + 10 : -10].mean(axis=(0, 1))
    assert np.abs(left - right).max() > 60


def test_features_that_are_undefined_everywhere_are_grey(tmp_path: Path):
    drawn = draw(Home(tmp_path), "clip_features", "features", np.full((1, 1, HALF, WHOLE, 5), np.nan, np.float16))
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), UNDEFINED_COLOUR, atol=4)


@pytest.mark.parametrize("is_masked", [False, True])
def test_a_rigs_picture_shows_its_returns_where_the_camera_sees_them(tmp_path: Path, is_masked: bool):
    height, width = 90, 320
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (20, 20, 20)).save(buffer, "JPEG", quality=95)
    lines = np.stack(np.meshgrid([1.0], np.linspace(-3, 3, 4000), [0.1, 0.2, 0.3], [1.0]), axis=-1).reshape(-1, 4)
    scene = SceneData(
        camera_names=("CAM",),
        image_sizes=((height, width),),
        intrinsics=np.array([[[80.0, 0, width / 2], [0, 80.0, height / 2], [0, 0, 1]]]),
        camera_to_ego=np.array([[[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]]),
        timestamp_us=np.array([0]),
        ego_to_world=np.eye(4)[None],
        camera_timestamp_us=np.array([[0]]),
        camera_ego_to_world=np.eye(4)[None, None],
        jpegs=((buffer.getvalue(),),),
        lidar_points=(np.where(np.arange(4) == 3, lines, 5 * lines).astype(np.float32),),
        lidar_to_ego=np.eye(4),
    )
    if is_masked:
        scene = replace(scene, is_valid=(np.zeros((height, width), bool),))
    made = materialize_arrays(
        home := Home(tmp_path),
        Provenance(kind="scene", partition="test.a", licence="CC0-1.0"),
        lambda group: write_scene(group, scene) or {},
    )
    drawn = picture(calibration_jpeg(home, made.version))
    is_drawn = np.ptp(drawn, axis=-1) > 60
    assert is_drawn[18:42].any() != is_masked
    assert not is_drawn[height // 2 + 5 :].any()
