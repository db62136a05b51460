"""Depth against closed forms, labels against what was put there, light against shadow."""

from dataclasses import replace

import numpy as np
import pytest

from storage.geometry.cameras import project_camera, unproject
from storage.geometry.fisheye import unproject_fisheye
from storage.geometry.rays import camera_rays, pixel_grid
from storage.procedural.appearance.lighting import make_lighting
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import render_camera, render_view
from storage.procedural.world.mesh import Mesh, Surface, placement, transformed
from storage.procedural.world.solids import box, panel
from storage.procedural.world.traffic import Actor, AlongRoad, Road, Still, constant_speed, make_actor
from storage.procedural.world.world import World
from storage.taxonomy import SKY_ID, VOID_ID, Theme, class_named

HEIGHT, WIDTH = 60, 96
ROAD = Surface("asphalt", "driveable_surface")


def world_of(stuff: list[Mesh], actors: list[Actor] | None = None) -> World:
    """Return a world of given meshes, sunlit, whose ego drives along x at 5 m/s."""
    return World(
        theme=Theme.STREET,
        seed=0,
        duration_s=2.0,
        lighting=make_lighting(np.random.default_rng(0), "sunny"),
        stuff=stuff,
        actors=actors or [],
        ego=AlongRoad(road=Road(curvature=0.0), start=0.0, offset=0.0, direction=1, profile=constant_speed(5.0, 2.0)),
    )


def looking(yaw_deg: float = 0.0, height: float = 1.5) -> np.ndarray:
    """Return ``camera_to_world`` of a level camera at the origin."""
    yaw = np.radians(yaw_deg)
    pose = np.eye(4)
    pose[:3, :3] = [[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]]
    pose[:3, 3] = (0, 0, height)
    return pose


def pinhole(height: int, width: int) -> np.ndarray:
    """Return intrinsics with a field of view of about 70 degrees across."""
    return np.array([[width * 0.7, 0, width / 2], [0, width * 0.7, height / 2], [0, 0, 1.0]])


def ground():
    return panel([(-80, -80, 0), (80, -80, 0), (80, 80, 0), (-80, 80, 0)], ROAD)


def render(world, *, time_us=0, yaw_deg=0.0, **options):
    return render_camera(world, time_us, looking(yaw_deg), pinhole(HEIGHT, WIDTH), HEIGHT, WIDTH, **options)


@pytest.mark.parametrize("yaw_deg", [0.0, 37.0, 200.0])
def test_depth_of_a_plane_is_the_closed_form(yaw_deg):
    view = render(world_of([ground()]), yaw_deg=yaw_deg)
    _, directions = camera_rays(pinhole(HEIGHT, WIDTH), looking(yaw_deg), height=HEIGHT, width=WIDTH)
    expected = np.where(directions[..., 2] < 0, 1.5 / -directions[..., 2], np.nan)
    expected[expected * np.hypot(directions[..., 0], directions[..., 1]) > 80] = np.nan
    finite = np.isfinite(expected)
    np.testing.assert_allclose(view.termination_depth[finite], expected[finite], rtol=2e-5)
    assert np.isnan(view.termination_depth[: HEIGHT // 2 - 2]).all()


def test_depth_of_a_box_is_the_closed_form():
    target = box((10, 0, 0), (2.0, 3.0, 2.5), Surface("concrete", "manmade"))
    view = render(world_of([ground(), target]))
    _, directions = camera_rays(pinhole(HEIGHT, WIDTH), looking(), height=HEIGHT, width=WIDTH)
    is_box = view.semantics == class_named("manmade").class_id
    assert 100 < is_box.sum() < HEIGHT * WIDTH / 3
    front = 9.0 / directions[..., 0]  # the camera is inside the slab of the box's height: it sees its front alone
    np.testing.assert_allclose(view.termination_depth[is_box], front[is_box], rtol=2e-5)


def test_labels_and_sky():
    cone = make_actor(
        7, "traffic_cone", (box((0, 0, 0), (1, 1, 2), Surface("cone", "traffic_cone")),),
        Still(pose=placement(6, 1, 0)),
    )  # fmt: skip
    view = render(world_of([ground()], [cone]))
    assert set(np.unique(view.semantics)) == {
        class_named(n).class_id for n in ("traffic_cone", "driveable_surface")
    } | {SKY_ID}
    assert np.array_equal(np.isnan(view.termination_depth), view.semantics == SKY_ID)
    assert np.array_equal(view.instance == 7, view.semantics == class_named("traffic_cone").class_id)


def test_moving_actor_is_where_its_motion_says():
    motion = AlongRoad(road=Road(curvature=0.0), start=8.0, offset=0.0, direction=1, profile=constant_speed(4.0, 2.0))
    actor = make_actor(1, "car", (box((0, 0, 0), (2, 2, 3), Surface("car_paint", "car")),), motion)
    world = world_of([ground()], [actor])
    for time_us in (0, 250_000, 1_000_000):
        depth = render(world, time_us=time_us).termination_depth[HEIGHT // 2, WIDTH // 2]
        assert depth == pytest.approx(7.0 + 4.0 * time_us * 1e-6, rel=1e-3)


def test_antialiasing_changes_edges_of_the_image_and_nothing_else():
    world = world_of([ground(), box((10, 0, 0), (2, 3, 2.5), Surface("brick", "manmade"))])
    plain, smooth = render(world, antialias=False), render(world)
    np.testing.assert_array_equal(plain.termination_depth, smooth.termination_depth)
    np.testing.assert_array_equal(plain.semantics, smooth.semantics)
    changed = np.any(plain.image != smooth.image, axis=-1)
    assert 0.005 < changed.mean() < 0.3


def test_shadow_is_darker_than_sunlight():
    roof = panel([(4, -30, 6), (12, -30, 6), (12, 30, 6), (4, 30, 6)], Surface("concrete", "manmade"))
    lit, shaded = world_of([ground()]), world_of([ground(), roof])
    sun = lit.lighting.towards_sun
    # The point of the ground whose sunray passes through the middle of the roof.
    point = np.array([8.0, 0.0, 6.0]) - sun * (6.0 / sun[2])
    pose = looking()
    pose[:3, :3] = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]).T  # straight down
    pose[:3, 3] = (*point[:2], 2.0)
    images = [render_camera(w, 0, pose, pinhole(16, 16), 16, 16).image.astype(float) for w in (lit, shaded)]
    assert images[1].mean() < 0.75 * images[0].mean()


def test_surfaces_are_textured_and_textures_move_with_objects():
    wall = box((4, 0, 0), (1, 8, 5), Surface("brick", "manmade"))
    view = render(world_of([wall]))
    courses = view.image[10:50, 40:56].astype(float).mean(axis=1)  # mortar and bricks alternate down the wall
    assert courses.std(axis=0).min() > 1
    moved = render_camera(
        world_of([transformed(wall, placement(0, 20, 0))]),
        0,
        placement(0, 20, 0) @ looking(),
        pinhole(HEIGHT, WIDTH),
        HEIGHT,
        WIDTH,
    )
    difference = np.abs(moved.image.astype(float) - view.image.astype(float))[view.semantics != SKY_ID]
    assert difference.mean() < 1.0


def test_distant_texture_does_not_alias():
    """Mip levels keep a far wall's variance low between views a hair apart."""
    wall = box((60, 0, 0), (1, 60, 30), Surface("brick", "manmade"))
    near, shifted = looking(), looking()
    shifted[:3, 3] += (0.0, 0.03, 0.0)
    world = world_of([wall])
    images = [
        render_camera(world, 0, pose, pinhole(HEIGHT, WIDTH), HEIGHT, WIDTH).image.astype(float)
        for pose in (near, shifted)
    ]
    assert np.abs(images[0] - images[1]).mean() < 2.0


@pytest.mark.parametrize("bad", ["pose", "intrinsics", "size"])
def test_bad_camera_is_refused(bad):
    pose, intrinsics, height = looking(), pinhole(HEIGHT, WIDTH), HEIGHT
    if bad == "pose":
        pose[0, 3] = np.nan
    elif bad == "intrinsics":
        intrinsics[0, 0] = np.inf
    else:
        height = 0
    with pytest.raises(ValueError, match=r"finite|positive"):
        render_camera(world_of([ground()]), 0, pose, intrinsics, height, WIDTH)


FISHEYE = np.array([0.03, -0.006, 0.001, 0.0])


def fisheye_camera(height: int = 64, width: int = 64, focal: float = 20.0) -> PosedCamera:
    """Return a level camera whose lens sees more than a half space; the image holds its whole circle."""
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return PosedCamera(
        time_us=0, camera_to_world=looking(), intrinsics=intrinsics, height=height, width=width, fisheye=FISHEYE
    )


def test_fisheye_depth_of_a_plane_is_the_closed_form():
    camera = fisheye_camera()
    view = render_view(world_of([ground()]), camera)
    local = unproject_fisheye(pixel_grid(64, 64), camera.intrinsics, FISHEYE)
    down = local[..., 1]  # image rows run downwards, and so does the camera's y
    expected = np.where(down > 0, 1.5 / np.where(down > 0, down, 1.0), np.nan)
    expected[expected * np.sqrt(1 - down**2) > 80] = np.nan
    finite = np.isfinite(expected)
    assert (local[finite][:, 2] < 0).any()  # it sees backwards too
    np.testing.assert_allclose(view.termination_depth[finite], expected[finite], rtol=5e-5)
    assert (view.semantics[finite] == class_named("driveable_surface").class_id).all()


def test_outside_a_fisheye_circle_there_is_nothing():
    camera = replace(fisheye_camera(focal=14.0), fisheye=np.array([-0.1, 0.0, 0.0, 0.0]))  # folds at 105 degrees
    view = render_view(world_of([ground()]), camera)
    outside = np.isnan(unproject_fisheye(pixel_grid(64, 64), camera.intrinsics, np.array([-0.1, 0, 0, 0]))[..., 0])
    assert 0.1 < outside.mean() < 0.9
    np.testing.assert_array_equal(view.semantics == VOID_ID, outside)
    assert np.isnan(view.termination_depth[outside]).all()
    assert (view.instance[outside] == 0).all()
    middle = outside.copy()
    middle[1:-1, 1:-1] = outside[1:-1, 1:-1] & outside[2:, 1:-1] & outside[:-2, 1:-1] & outside[1:-1, 2:]
    middle[1:-1, 1:-1] &= outside[1:-1, :-2]
    assert (view.image[middle] == 0).all()


def test_narrow_fisheye_sees_what_a_pinhole_of_its_middle_sees(street):
    """One ray, two models: wherever both cameras look the same way they meet the same thing."""
    fisheye = replace(fisheye_camera(), camera_to_world=street.ego_to_world(0) @ looking())
    seen = render_view(street, fisheye, antialias=False)
    wide = pinhole(200, 200)
    pixels, depth = project_camera(
        unproject_fisheye(pixel_grid(64, 64), fisheye.intrinsics, FISHEYE).reshape(-1, 3), wide, None
    )
    inside = np.flatnonzero((depth > 0) & np.all((pixels > 0) & (pixels < 200), axis=1))
    rays = unproject(pixels[inside], wide) @ fisheye.camera_to_world[:3, :3].T
    hits = street.snapshot(0).first_hits(
        np.broadcast_to(fisheye.origin, rays.shape).astype(np.float32), rays.astype(np.float32)
    )
    expected = np.where(hits.face >= 0, hits.distance, np.nan)
    found = seen.termination_depth.reshape(-1)[inside]
    assert len(inside) > 400
    agree = np.isclose(found, expected, rtol=1e-3) | (np.isnan(found) & np.isnan(expected))
    assert agree.mean() > 0.995


def test_threads_do_not_change_an_image(street, monkeypatch):
    camera = fisheye_camera(200, 200, 60.0)
    several = render_view(street, camera)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    one = render_view(street, camera)
    # Not bit by bit: linear algebra may cut its sums otherwise among other threads, and a ray on an edge then meets
    # another face. A chunk that was left out or written elsewhere is 4 in 10 pixels.
    assert np.mean(several.image != one.image) < 1e-3
    same = np.isclose(several.termination_depth, one.termination_depth, rtol=1e-5, equal_nan=True)
    assert same.mean() > 0.999


def test_a_lens_of_nan_is_a_pinhole():
    camera = fisheye_camera()
    assert replace(camera, fisheye=np.full(4, np.nan)).fisheye is None


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan, 0.0, 0.0]), np.array([0.0, 0.0, np.inf, 0.0])])
def test_bad_lens_is_refused(bad):
    with pytest.raises(ValueError, match="fisheye"):
        replace(fisheye_camera(), fisheye=bad)
