"""LiDAR returns land where the camera sees them."""

import io
from dataclasses import replace

import numpy as np
import pytest
import zarr
from PIL import Image

from storage.scenes.lidar import returns_in_image
from storage.scenes.schema import SceneData
from storage.scenes.store import SceneReader, write_scene

HEIGHT, WIDTH = 9, 17
CAMERA_TO_EGO = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
AHEAD, BEHIND, BESIDE, ON_THE_CAR = [11.0, 0, 1.5, 1], [-9.0, 0, 1.5, 1], [1.5, 8.0, 1.5, 1], [1.5, 0, 1.5, 1]
LENS = np.array([-0.05, 0.0, 0.0, 0.0])


def scene() -> SceneData:
    """Return one frame of one camera that stands at x = 1, z = 1.5 and looks ahead."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG")
    return SceneData(
        camera_names=("CAM",),
        image_sizes=((HEIGHT, WIDTH),),
        intrinsics=np.array([[[WIDTH / 2, 0, WIDTH / 2], [0, WIDTH / 2, HEIGHT / 2], [0, 0, 1]]]),
        camera_to_ego=CAMERA_TO_EGO[None],
        timestamp_us=np.array([0]),
        ego_to_world=np.eye(4)[None],
        camera_timestamp_us=np.array([[0]]),
        camera_ego_to_world=np.eye(4)[None, None],
        jpegs=((buffer.getvalue(),),),
        lidar_points=(np.zeros((1, 4), np.float32),),
        lidar_to_ego=np.eye(4),
    )


def see(data: SceneData, *points, **options):
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, data)
    return returns_in_image(SceneReader(group), 0, 0, np.array(points, np.float32), **options)


@pytest.mark.parametrize("size", [None, (HEIGHT, WIDTH), (3 * HEIGHT, 3 * WIDTH)])
def test_a_return_straight_ahead_lands_in_the_middle_at_its_depth(size):
    seen = see(scene(), BEHIND, AHEAD, size=size)
    height, width = size or (HEIGHT, WIDTH)
    assert (seen.index.tolist(), seen.row.tolist(), seen.column.tolist()) == ([1], [height // 2], [width // 2])
    assert seen.camera_depth == pytest.approx([10.0])
    assert seen.termination_depth == pytest.approx([10.0])


def test_returns_behind_beside_and_too_near_are_left_out():
    assert len(see(scene(), BEHIND, BESIDE, ON_THE_CAR).index) == 0


def test_a_fisheye_sees_beside_its_plane_but_not_the_car_it_sits_on():
    data = replace(scene(), fisheye=LENS[None], intrinsics=scene().intrinsics * [[[0.5, 1, 1], [1, 0.5, 1], [1, 1, 1]]])
    seen = see(data, BEHIND, AHEAD, BESIDE, ON_THE_CAR)
    assert seen.index.tolist() == [1, 2]
    assert seen.camera_depth[1] == pytest.approx(0.5)
    assert seen.termination_depth[1] == pytest.approx(np.hypot(0.5, 8.0))


def test_pixels_that_show_the_vehicle_itself_get_no_return():
    is_valid = np.ones((HEIGHT, WIDTH), bool)
    is_valid[HEIGHT // 2 :] = False
    above = [11.0, 0, 4.5, 1]
    assert see(replace(scene(), is_valid=(is_valid,)), AHEAD, above).index.tolist() == [1]


def test_the_pose_is_that_of_the_exposure():
    later = np.eye(4)
    later[0, 3] = 5.0  # the exposure happened five metres further on
    seen = see(replace(scene(), camera_ego_to_world=later[None, None]), AHEAD)
    assert seen.camera_depth == pytest.approx([5.0])
