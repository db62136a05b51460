"""Light, rain and thin things: each changes what it should and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.procedural.appearance.lighting import make_lighting
from storage.procedural.appearance.wet_ground import wet_patch
from storage.procedural.conditions import Conditions
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import RenderedView, render_view
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.world.mesh import Mesh, Surface
from storage.procedural.world.solids import box, panel
from storage.procedural.world.traffic import AlongRoad, Road, constant_speed
from storage.procedural.world.world import World, build_world
from storage.taxonomy import NO_SURFACE, SurfaceKind, Theme, class_named, occ3d_table

HARD_GROUND = (11, 12, 13)
LEVEL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
ROAD = [(-80.0, -80.0, 0.0), (80.0, -80.0, 0.0), (80.0, 80.0, 0.0), (-80.0, 80.0, 0.0)]


def world_of(stuff: list[Mesh], wetness: float) -> World:
    return World(
        theme=Theme.STREET,
        seed=0,
        duration_s=2.0,
        lighting=make_lighting(np.random.default_rng(0), "overcast", wetness=wetness),
        stuff=[panel(ROAD, Surface("asphalt", "driveable_surface")), *stuff],
        actors=[],
        ego=AlongRoad(road=Road(curvature=0.0), start=0.0, offset=0.0, direction=1, profile=constant_speed(5.0, 2.0)),
    )


def look(world: World) -> RenderedView:
    intrinsics = np.array([[80.0, 0, 64], [0, 80.0, 40], [0, 0, 1]])
    camera = PosedCamera(time_us=0, camera_to_world=LEVEL, intrinsics=intrinsics, height=80, width=128)
    return render_view(world, camera, antialias=False)


def test_rain_changes_the_colour_of_hard_ground_and_nothing_else(street):
    camera = CAMERAS[1]
    posed = PosedCamera(
        time_us=0,
        camera_to_world=camera.camera_to_ego(),
        intrinsics=camera.intrinsics(90, 160),
        height=90,
        width=160,
    )
    dry = render_view(street, posed, antialias=False)
    light, street.lighting = street.lighting, replace(street.lighting, wetness=0.9)
    try:
        wet = render_view(street, posed, antialias=False)
    finally:
        street.lighting = light
    for name in ("termination_depth", "semantics", "instance"):
        np.testing.assert_array_equal(getattr(dry, name), getattr(wet, name))
    changed = np.any(dry.image != wet.image, axis=-1)
    is_ground = np.isin(occ3d_table()[dry.semantics], HARD_GROUND)
    assert not changed[~is_ground].any()
    assert changed[is_ground].mean() > 0.9
    is_wet = wet.surface == SurfaceKind.WET_GROUND
    assert not is_wet[~is_ground].any()
    assert is_wet[is_ground].mean() > 0.9  # kerbs stand upright
    assert not (dry.surface == SurfaceKind.WET_GROUND).any()
    np.testing.assert_array_equal(dry.surface == NO_SURFACE, np.isnan(dry.termination_depth))


@pytest.mark.parametrize(
    ("material", "kind"),
    [("glass_facade", "GLASS"), ("vehicle_glass", "GLASS"), ("fuselage", "FUSELAGE"), ("brick", "OTHER")],
)
def test_surfaces_say_what_they_are_made_of(material, kind):
    seen = look(world_of([box((14.0, 0.0, 0.0), (1.0, 12.0, 5.0), Surface(material, "manmade"))], 1.0))
    stands = seen.semantics == class_named("manmade").class_id
    assert stands.sum() > 500
    assert (seen.surface[stands] == SurfaceKind[kind]).all()


def test_wet_ground_mirrors_what_stands_on_it_and_dry_ground_does_not():
    wall = box((14.0, 0.0, 0.0), (1.0, 12.0, 5.0), Surface("plain", "manmade", (1.3, 0.05, 0.05)))
    differences = []
    for wetness in (0.0, 1.0):
        with_wall, without = (look(world_of(stuff, wetness)) for stuff in ([wall], []))
        is_ground = with_wall.semantics == class_named("driveable_surface").class_id
        near = is_ground & (with_wall.termination_depth < 10)
        assert near.sum() > 500
        red = [v.image[near].astype(float) @ [1.0, -0.5, -0.5] for v in (with_wall, without)]
        differences.append((red[0] - red[1]).mean())
    assert abs(differences[0]) < 1.0  # only the wall's weak shadow
    assert differences[1] > 4.0


def test_wet_ground_looks_the_same_twice():
    np.testing.assert_array_equal(look(world_of([], 0.8)).image, look(world_of([], 0.8)).image)


@settings(max_examples=30, deadline=None)
@given(wetness=st.floats(0.05, 1.0), elevation=st.floats(0.01, 1.5), x=st.floats(-300, 300), y=st.floats(-300, 300))
def test_wet_patch_stays_within_physics(wetness, elevation, x, y):
    position = np.array([[x, x + 3.0], [y, y], [0.0, 0.0]], np.float32)
    normal = np.repeat(np.array([[0.0], [0.0], [1.0]], np.float32), 2, axis=1)
    ray = np.repeat(np.array([[np.cos(elevation)], [0.0], [-np.sin(elevation)]], np.float32), 2, axis=1)
    wet = wet_patch(wetness, position, normal, ray)
    assert ((wet.mirror >= 0.0) & (wet.mirror <= 1.0)).all()
    assert ((wet.albedo > 0.5) & (wet.albedo <= 1.0)).all()
    np.testing.assert_allclose(np.linalg.norm(wet.mirrored, axis=0), 1.0, atol=1e-5)
    assert (wet.mirrored[2] > 0.0).all()
    steep = wet_patch(wetness, position, normal, np.repeat(np.array([[0.0], [0.0], [-1.0]], np.float32), 2, axis=1))
    assert (steep.mirror <= wet.mirror + 1e-6).all()  # water mirrors more at grazing angles
    np.testing.assert_array_equal(steep.albedo, wet.albedo)  # and is where it is from wherever it is seen


def test_sun_stands_where_it_is_told():
    light = make_lighting(np.random.default_rng(3), "sunny", sun_elevation_deg=30.0, sun_azimuth_deg=60.0)
    expected = [np.cos(np.pi / 6) * np.cos(np.pi / 3), np.cos(np.pi / 6) * np.sin(np.pi / 3), 0.5]
    np.testing.assert_allclose(light.towards_sun, expected, atol=1e-6)
    drawn, again = (make_lighting(np.random.default_rng(3), "sunny") for _ in range(2))
    np.testing.assert_array_equal(drawn.towards_sun, again.towards_sun)
    assert not np.allclose(drawn.towards_sun, light.towards_sun)


@pytest.mark.parametrize("theme", list(Theme))
def test_thin_structures_add_to_a_scene_that_stays_the_same(theme, request):
    plain: World = request.getfixturevalue(str(theme))
    thin = build_world(theme, plain.seed, conditions=Conditions(lighting="sunny", thin_structures=True))
    count = len(plain.static_mesh) - sum(len(a.mesh_at(0)) for a in plain.actors if not a.is_moving)
    corners = thin.static_mesh.corners
    # Surroundings come first, then what was added, then the still actors.
    np.testing.assert_array_equal(corners[:count], plain.static_mesh.corners[:count])
    np.testing.assert_array_equal(corners[len(corners) - len(plain.static_mesh) + count :],
                                  plain.static_mesh.corners[count:])  # fmt: skip
    added = corners[count : count + len(corners) - len(plain.static_mesh)]
    assert len(added) > 500
    sides = np.linalg.norm(added - np.roll(added, 1, axis=1), axis=-1)
    assert np.median(sides.min(axis=1)) < 0.06  # thin
    np.testing.assert_array_equal(plain.ego_to_world(3_000_000), thin.ego_to_world(3_000_000))
    # The way of the ego stays free up to the height of a lorry.
    path = np.array([plain.ego_to_world(t)[:2, 3] for t in range(0, 10_000_000, 500_000)])
    middle = added.mean(axis=1)
    gap = np.linalg.norm(middle[:, None, :2] - path, axis=-1).min(axis=1)
    assert (middle[gap < 1.5][:, 2] > 4.3).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lighting", "moonlight"),
        ("sun_elevation_deg", 0.0),
        ("sun_elevation_deg", 91.0),
        ("sun_azimuth_deg", 400.0),
        ("wetness", -0.1),
        ("wetness", 1.5),
        ("wetness", float("nan")),
    ],
)
def test_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Conditions(**{field: value})
