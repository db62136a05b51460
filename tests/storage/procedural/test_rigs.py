"""What the rigs see of the space around them, and that a fisheye records like any other camera."""

import numpy as np
import pytest

from storage.geometry.transforms import rotation_error
from storage.procedural.config import ProceduralConfig
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.rigs import AIRSIDE_CAMERAS, RIGS, drawn_rig
from storage.procedural.writers.recorder import Recorder

SIZE = (90, 160)


def posed(camera) -> PosedCamera:
    return PosedCamera(
        time_us=0,
        camera_to_world=camera.camera_to_ego(),
        intrinsics=camera.intrinsics(*SIZE),
        height=SIZE[0],
        width=SIZE[1],
        fisheye=None if camera.fisheye is None else np.array(camera.fisheye),
    )


def ring(radius: float, height: float) -> np.ndarray:
    angle = np.arange(360) * (2 * np.pi / 360)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(360, height)], axis=1)


@pytest.mark.parametrize("name", list(RIGS))
def test_cameras_have_names_and_rotations(name):
    cameras = RIGS[name]
    assert len({c.name for c in cameras}) == len(cameras)
    assert all(rotation_error(c.camera_to_ego()[:3, :3]) < 1e-12 for c in cameras)


def test_airside_rig_has_four_of_each_kind():
    assert [c.fisheye is None for c in AIRSIDE_CAMERAS] == [True] * 4 + [False] * 4


def test_fisheyes_see_the_ground_all_around_and_pinholes_the_distance():
    def seen(cameras, points):
        return np.mean(np.any([posed(c).holds(posed(c).project(points)) for c in cameras], axis=0))

    pinholes, fisheyes = AIRSIDE_CAMERAS[:4], AIRSIDE_CAMERAS[4:]
    assert seen(fisheyes, ring(4.0, 0.0)) == 1.0
    assert seen(fisheyes, ring(30.0, 2.0)) == 1.0
    assert seen(pinholes, ring(4.0, 0.0)) < 0.2
    assert seen(pinholes, ring(60.0, 2.0)) > 0.9


def test_airside_rig_records_a_frame(airside):
    config = ProceduralConfig(
        rig="airside", source_format="manifest", image_height=SIZE[0], image_width=SIZE[1], antialias=False
    )
    frame = Recorder(config, airside, np.eye(4), np.random.default_rng(0)).record(0)
    assert [e.name for e in frame.exposures] == [c.name for c in AIRSIDE_CAMERAS]
    assert frame.exposures[0].camera.fisheye is None
    exposure = frame.exposures[5]
    assert exposure.camera.fisheye is not None
    assert tuple(exposure.camera.fisheye) == AIRSIDE_CAMERAS[5].fisheye
    # The fisheye looks down beside the car: most of what it sees is near.
    assert np.nanmedian(exposure.view.termination_depth) < np.nanmedian(frame.exposures[0].view.termination_depth)
    near = frame.is_visible[90:110, 90:110, 2:4]  # the ground within four metres, bumpers excepted
    assert near.mean() > 0.8


def test_drawn_rigs_differ_in_all_that_depth_depends_on_and_see_all_around():
    rigs = [drawn_rig(seed) for seed in range(40)]
    assert {len(rig) for rig in rigs} == {5, 6, 7}
    focals = np.array([np.median([c.focal_share for c in rig]) for rig in rigs])
    heights = np.array([rig[0].position[2] for rig in rigs])
    assert focals.max() > 1.8 * focals.min()
    assert heights.max() > 1.7 * heights.min()
    for rig in rigs:
        seen = np.mean(np.any([posed(c).holds(posed(c).project(ring(40.0, 2.0))) for c in rig], axis=0))
        assert seen > 0.7
    assert drawn_rig(3) == drawn_rig(3)
    assert drawn_rig(3) != drawn_rig(4)


def test_a_drawn_rig_records_a_frame(airside):
    size = {"image_height": SIZE[0], "image_width": SIZE[1], "antialias": False}
    config = ProceduralConfig(rig="drawn", source_format="manifest", seed=5, **size)
    frame = Recorder(config, airside, np.eye(4), np.random.default_rng(0)).record(0)
    assert [e.name for e in frame.exposures] == [c.name for c in drawn_rig(5)]


@pytest.mark.parametrize("rig", ["airside", "drawn"])
def test_nuscenes_tables_are_of_its_own_rig(rig):
    with pytest.raises(ValueError, match="want source_format 'manifest'"):
        ProceduralConfig(rig=rig)
