"""Paths of cameras: recorded, beside it, between frames, around a point."""

import numpy as np
import pytest

from storage.geometry.transforms import invert_se3
from student.applications.camera_path import PathConfig, camera_path, forward_camera
from tests.student.evaluation.conftest import NUM_CAMERAS, NUM_FRAMES


def path(reader, cameras=(0, 1), **settings):
    config = PathConfig(**{"kind": "recorded", "first": 0, "last": NUM_FRAMES - 1, **settings})
    return camera_path(reader, config, cameras)


def world_pose(reader, view):
    return reader.camera_to_world(view.frame, view.camera) @ view.virtual_to_camera


def test_a_recorded_path_is_what_was_recorded(scene_reader):
    steps = path(scene_reader)
    assert [step.frame for step in steps] == list(range(NUM_FRAMES))
    assert [step.time_s for step in steps] == [0.0, 0.5, 1.0]
    for step in steps:
        assert [view.camera for view in step.views] == [0, 1]
        assert all(view.is_recorded and np.array_equal(view.virtual_to_camera, np.eye(4)) for view in step.views)


def test_between_two_frames_cameras_move_evenly_and_the_nearer_frame_stands_for_them(scene_reader):
    steps = path(scene_reader, steps_per_frame=4, first=1, last=2)
    assert [step.frame for step in steps] == [1, 1, 1, 2, 2]
    assert [step.views[0].is_recorded for step in steps] == [True, False, False, False, True]
    np.testing.assert_allclose([step.time_s for step in steps], [0, 0.125, 0.25, 0.375, 0.5])
    start, end = (scene_reader.camera_to_world(frame, 1) for frame in (1, 2))
    for share, step in zip((0, 0.25, 0.5, 0.75, 1), steps, strict=True):
        pose = world_pose(scene_reader, step.views[1])
        np.testing.assert_allclose(pose[:3, 3], (1 - share) * start[:3, 3] + share * end[:3, 3], atol=1e-9)
        np.testing.assert_allclose(pose[:3, :3], start[:3, :3], atol=1e-9)


def test_an_offset_is_in_the_vehicles_axes_and_a_turn_is_to_the_left(scene_reader):
    for step in path(scene_reader, offset_m=(1.0, 2.0, 0.5), turn_deg=90.0):
        for view in step.views:
            assert not view.is_recorded
            in_ego = invert_se3(scene_reader.ego_to_world(view.frame)) @ world_pose(scene_reader, view)
            x, y, z = scene_reader.camera_to_ego(view.camera)[:3, 3]
            np.testing.assert_allclose(in_ego[:3, 3], [1.0 - y, 2.0 + x, 0.5 + z], atol=1e-9)
            looks = scene_reader.camera_to_ego(view.camera)[:3, 2]
            np.testing.assert_allclose(in_ego[:3, 2], [-looks[1], looks[0], looks[2]], atol=1e-9)


def test_an_orbit_looks_at_its_centre_from_all_around_and_upright(scene_reader):
    centre = np.array([3.0, -1.0, 0.4])
    steps = path(scene_reader, kind="orbit", first=1, last=1, orbit_views=6, orbit_radius_m=4.0, orbit_height_m=3.0,
                 orbit_centre_m=tuple(centre))  # fmt: skip
    assert len(steps) == 6
    assert {(step.frame, step.time_s, len(step.views)) for step in steps} == {(1, 0.0, 1)}
    stands = []
    for step in steps:
        in_ego = invert_se3(scene_reader.ego_to_world(1)) @ world_pose(scene_reader, step.views[0])
        np.testing.assert_allclose(invert_se3(in_ego) @ [*centre, 1.0], [0, 0, 5.0, 1], atol=1e-9)
        np.testing.assert_allclose(in_ego[:3, :3].T @ in_ego[:3, :3], np.eye(3), atol=1e-9)
        assert np.linalg.det(in_ego[:3, :3]) == pytest.approx(1.0)
        assert in_ego[2, 0] == pytest.approx(0.0, abs=1e-9)  # the horizon is level
        assert in_ego[2, 1] < 0  # and the sky is above
        stands.append(in_ego[:3, 3])
    np.testing.assert_allclose(np.mean(stands, axis=0), centre + np.array([0, 0, 3.0]), atol=1e-9)
    np.testing.assert_allclose(stands[0], centre + np.array([-4.0, 0, 3.0]), atol=1e-9)  # from behind


def test_the_camera_that_looks_ahead(scene_reader):
    assert forward_camera(scene_reader) == 0
    assert scene_reader.num_cameras == NUM_CAMERAS


def test_what_is_no_path_is_refused(scene_reader):
    with pytest.raises(ValueError, match="frames 0 to 2"):
        path(scene_reader, last=3)
    with pytest.raises(ValueError, match="cameras"):
        path(scene_reader, cameras=(0, 2))
    for wrong in ({"first": 2, "last": 1}, {"steps_per_frame": 0}, {"orbit_radius_m": 0.0}, {"orbit_views": 0},
                  {"offset_m": (np.nan, 0.0, 0.0)}):  # fmt: skip
        with pytest.raises(ValueError, match="want"):
            path(scene_reader, **wrong)
