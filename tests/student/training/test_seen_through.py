"""Voxels that cameras see through: before what the teachers see, in the sky without end, and nowhere else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from storage.geometry.voxel_grid import OCC3D_GRID
from storage.scenes.store import SceneReader
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.sample import InputTargets
from student.data.training_set import load_training_set
from student.model.types import CameraInputs
from student.training.seen_through import seen_through

SIZE = (36, 64)
FOCAL = 32.0
AHEAD = np.array([[0, 0, 1, 0.0], [-1, 0, 0, 0.0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
"""A camera 1.5 m above the ego frame's origin that looks along +x."""
Frame = tuple[CameraInputs, InputTargets]


def frame(depth: float, *, sky: bool = False, image_scale: int = 2) -> Frame:
    """One camera that looks ahead at a plane, given by its distance along every ray; or at the sky."""
    height, width = (image_scale * side for side in SIZE)
    intrinsics = torch.tensor([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]]) * image_scale
    intrinsics[2, 2] = 1.0
    inputs = CameraInputs(
        images=torch.zeros(1, 1, 3, height, width),
        intrinsics=intrinsics[None, None],
        camera_to_reference_ego=torch.from_numpy(AHEAD).float()[None, None],
        camera_is_present=torch.ones(1, 1, dtype=torch.bool),
        fisheye=torch.full((1, 1, 4), torch.nan),
        is_valid=torch.ones(1, 1, height, width, dtype=torch.bool),
    )
    targets = InputTargets(
        lidar_depth=torch.full((1, 1, *SIZE), torch.nan),
        teacher_depth=torch.full((1, 1, *SIZE), depth),
        is_sky=torch.full((1, 1, *SIZE), sky),
        is_sky_known=torch.ones(1, 1, *SIZE, dtype=torch.bool),
    )
    return inputs, targets


def free(of: Frame) -> np.ndarray:
    return seen_through(*of).reshape(OCC3D_GRID.shape)


def along_x(is_free: np.ndarray) -> np.ndarray:
    """The voxels straight ahead, at the camera's height."""
    return is_free[:, 100, 6]


X = OCC3D_GRID.centres(np.stack([np.arange(200), np.full(200, 100), np.full(200, 6)], axis=1))[:, 0]


def test_what_lies_before_a_surface_is_free_and_nothing_behind_it_is() -> None:
    ahead = along_x(free(frame(20.0)))
    assert ahead[(X > 2.0) & (X < 18.0)].all()
    assert not ahead[X > 18.7].any()  # less than the error that a rendered depth is granted
    assert not ahead[X < 0.0].any()


def test_the_sky_is_free_without_end() -> None:
    ahead = along_x(free(frame(np.nan, sky=True)))
    assert ahead[X > 2.0].all()


@pytest.mark.parametrize("known", [True, False])
def test_where_nothing_is_known_nothing_is_seen_through(*, known: bool) -> None:
    inputs, targets = frame(np.nan, sky=not known)
    assert not seen_through(inputs, replace(targets, is_sky_known=torch.full_like(targets.is_sky, known))).any()


def test_a_surface_that_a_mask_calls_sky_is_a_surface() -> None:
    np.testing.assert_array_equal(free(frame(20.0, sky=True)), free(frame(20.0)))


def test_what_stands_beside_the_middle_of_a_voxel_hides_it() -> None:
    """A pole one pixel wide, between the pixels of the middles of the two voxels that it goes through."""
    inputs, targets = frame(35.0)
    depth = targets.teacher_depth.clone()
    depth[..., 34] = 10.0
    is_free, open_road = free((inputs, replace(targets, teacher_depth=depth))), free((inputs, targets))
    for right in (-0.6, -1.0):
        voxel = OCC3D_GRID.flat_of(np.array([[10.2, right, 1.5]]))
        column = int(SIZE[1] / 2 - right * FOCAL / 10.2)
        assert column in {33, 35}
        assert open_road.reshape(-1)[voxel].all()
        assert not is_free.reshape(-1)[voxel].any()
    assert is_free[(X > 2.0) & (X < 8.0), 100, 6].all()


def test_pixels_of_the_own_vehicle_and_absent_cameras_say_nothing() -> None:
    inputs, targets = frame(20.0)
    own = replace(inputs, is_valid=torch.zeros_like(inputs.is_valid))
    absent = replace(inputs, camera_is_present=torch.zeros(1, 1, dtype=torch.bool))
    assert not seen_through(own, targets).any()
    assert not seen_through(absent, targets).any()


def test_a_fisheye_sees_through_what_a_pinhole_does() -> None:
    """With k1 to k4 of 0 both have nearly the same rays near the axis."""
    inputs, targets = frame(20.0)
    lens = replace(inputs, fisheye=torch.zeros(1, 1, 4))
    fisheye, pinhole = along_x(seen_through(lens, targets).reshape(OCC3D_GRID.shape)), along_x(free((inputs, targets)))
    assert (fisheye & pinhole).sum() > 0.9 * pinhole.sum()


def test_nothing_that_a_scene_holds_is_seen_through(student_config: StudentConfig, shared_world: Any) -> None:
    """The yard's ground and wall are in no voxel that is called free, and much of its air is."""
    shared_world.freeze("seen-through", student_config)
    frozen = load_training_set(shared_world.home, "seen-through")
    dataset = FrameDataset(shared_world.home, frozen, "train", student_config.data)
    reader = SceneReader.open(shared_world.home, "yard.a")
    for index, (_, number) in enumerate(dataset.samples):
        is_free = seen_through(*dataset.with_depth(index))
        assert not is_free[OCC3D_GRID.flat_of(reader.lidar_points(number)[:, :3])].any()
        height = OCC3D_GRID.centres(np.stack(np.unravel_index(np.flatnonzero(is_free), OCC3D_GRID.shape), axis=1))[:, 2]
        assert len(height) > 5_000
        assert height.min() > 0.2
