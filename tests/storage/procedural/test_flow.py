"""Optical flow against closed forms, against rigid motion, and against what two images show."""

import numpy as np
import pytest

from storage.geometry.transforms import apply_se3, invert_se3
from storage.procedural.appearance.lighting import make_lighting
from storage.procedural.sensing.flow import OpticalFlow, optical_flow
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_view
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.world.mesh import Mesh, Surface, placement
from storage.procedural.world.solids import box, panel
from storage.procedural.world.traffic import Actor, AlongRoad, Road, constant_speed, make_actor
from storage.procedural.world.world import World
from storage.taxonomy import SKY_ID, Theme

HEIGHT, WIDTH, FOCAL = 48, 64, 40.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
LEVEL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])  # looks along world x
ROAD = Road(curvature=0.0)
FISHEYE = np.array([0.02, -0.004, 0.0, 0.0])


def world_of(stuff: list[Mesh], actors: list[Actor] | None = None) -> World:
    return World(
        theme=Theme.STREET,
        seed=0,
        duration_s=2.0,
        lighting=make_lighting(np.random.default_rng(0), "sunny"),
        stuff=stuff,
        actors=actors or [],
        ego=AlongRoad(road=ROAD, start=0.0, offset=0.0, direction=1, profile=constant_speed(5.0, 2.0)),
    )


def wall(distance: float, half: float = 60.0) -> Mesh:
    corners = [(distance, -half, -half), (distance, half, -half), (distance, half, half), (distance, -half, half)]
    return panel(corners, Surface("concrete", "manmade"))


def car(start: float, offset: float, speed: float) -> Actor:
    motion = AlongRoad(road=ROAD, start=start, offset=offset, direction=1, profile=constant_speed(speed, 2.0))
    return make_actor(1, "car", (box((0, 0, 0), (4, 2, 3), Surface("car_paint", "car")),), motion)


def camera(pose: np.ndarray = LEVEL, time_us: int = 0, fisheye: np.ndarray | None = None) -> PosedCamera:
    return PosedCamera(
        time_us=time_us, camera_to_world=pose, intrinsics=INTRINSICS, height=HEIGHT, width=WIDTH, fisheye=fisheye
    )


@pytest.mark.parametrize("fisheye", [None, FISHEYE])
def test_nothing_moves_from_a_camera_to_itself(street, fisheye):
    same = camera(street.ego_to_world(0) @ LEVEL, fisheye=fisheye)
    found = optical_flow(street, same, same)
    assert np.abs(found.flow).max() < 1e-3
    assert found.is_visible.mean() > 0.999
    assert np.nanmax(np.abs(found.scene_flow)) == 0.0


def test_flow_of_a_wall_is_focal_length_times_shift_over_depth():
    found = optical_flow(world_of([wall(8.0)]), camera(), camera(placement(0, 0.5, 0) @ LEVEL))
    np.testing.assert_allclose(found.flow[..., 0], FOCAL * 0.5 / 8.0, atol=1e-3)
    np.testing.assert_allclose(found.flow[..., 1], 0.0, atol=1e-3)
    # What leaves the image on the right is not seen; all else is.
    assert not found.is_visible[:, -2:].any()
    assert found.is_visible[:, :-3].all()


def test_sky_only_turns():
    yaw = 0.2
    found = optical_flow(world_of([wall(-5.0)]), camera(), camera(placement(0, 30, 0, yaw) @ LEVEL))
    u, v = WIDTH // 2, HEIGHT // 2
    columns = np.arange(WIDTH) + 0.5
    turned = FOCAL * np.tan(np.arctan((columns - WIDTH / 2) / FOCAL) + yaw) + WIDTH / 2
    np.testing.assert_allclose(found.flow[v - 1, :, 0], turned - columns, atol=0.02)
    assert found.is_visible[v, u]
    assert np.isnan(found.scene_flow).all()


def test_flow_of_a_moving_thing_is_its_rigid_motion():
    actor, later = car(12.0, 1.0, 6.0), 800_000
    world = world_of([wall(40.0)], [actor])
    source, target = camera(), camera(placement(2, 0.3, 0, 0.05) @ LEVEL, later)
    view, found = render_view(world, source), optical_flow(world, source, target)
    rows, columns = np.nonzero(view.instance == 1)
    pixels = np.stack([columns, rows], 1) + 0.5
    points = source.origin + source.rays(pixels).astype(float) * view.termination_depth[rows, columns, None]
    step = actor.motion.local_to_world(later) @ invert_se3(actor.motion.local_to_world(0))
    expected = target.project(apply_se3(step, points)) - pixels
    assert len(rows) > 50
    np.testing.assert_allclose(found.flow[rows, columns], expected, atol=2e-3)
    np.testing.assert_allclose(found.scene_flow[rows, columns], np.tile([4.8, 0, 0], (len(rows), 1)), atol=1e-5)


def test_what_a_thing_comes_to_cover_is_not_visible():
    world = world_of([wall(40.0)], [car(-9.0, 0.0, 20.0)])  # behind the camera now, before it in a second
    found = optical_flow(world, camera(), camera(time_us=1_000_000))
    later = render_view(world, camera(time_us=1_000_000), antialias=False)
    assert optical_flow(world, camera(), camera()).is_visible.all()
    np.testing.assert_array_equal(found.is_visible, later.instance == 0)
    assert 0.02 < (later.instance == 1).mean() < 0.9


def test_what_is_behind_the_other_camera_has_no_pixel():
    back = placement(0, 0, 0, np.pi) @ LEVEL
    found = optical_flow(world_of([wall(8.0)]), camera(), camera(back))
    assert np.isnan(found.flow).all()
    assert not found.is_visible.any()


@pytest.mark.parametrize("theme", ["street", "airside"])
@pytest.mark.parametrize("fisheye", [None, FISHEYE])
def test_both_images_show_the_same_where_flow_leads(theme, fisheye, request):
    """End to end: colour at a pixel is the colour where its flow leads, walking people and moving cars included."""
    world: World = request.getfixturevalue(theme)
    height, width = 120, 200
    mount = CAMERAS[1].camera_to_ego()

    def posed(time_us: int) -> PosedCamera:
        return PosedCamera(
            time_us=time_us,
            camera_to_world=world.ego_to_world(time_us) @ mount,
            intrinsics=CAMERAS[1].intrinsics(height, width),
            height=height,
            width=width,
            fisheye=fisheye,
        )

    source, target = posed(500_000), posed(583_000)
    first, second = render_view(world, source), render_view(world, target)
    found: OpticalFlow = optical_flow(world, source, target)
    rows, columns = np.nonzero(found.is_visible & (first.semantics != SKY_ID))
    there = np.floor(np.stack([columns, rows], 1) + 0.5 + found.flow[rows, columns]).astype(int)
    agree = second.semantics[there[:, 1], there[:, 0]] == first.semantics[rows, columns]
    assert agree.mean() > 0.93
    difference = np.abs(second.image[there[:, 1], there[:, 0]].astype(float) - first.image[rows, columns]).mean(axis=1)
    unmoved = np.abs(second.image[rows, columns].astype(float) - first.image[rows, columns]).mean(axis=1)
    assert np.median(difference) < 4.0
    assert difference.mean() < 0.75 * unmoved.mean()
