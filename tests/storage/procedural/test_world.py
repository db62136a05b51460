import numpy as np
import pytest

from storage.procedural.appearance.lighting import make_lighting
from storage.procedural.conditions import Conditions
from storage.procedural.sensing.render import render_camera
from storage.procedural.sensing.sensors import CAMERAS
from storage.procedural.world.street_plan import draw_plan
from storage.procedural.world.world import World, build_world
from storage.taxonomy import Theme, class_named, classes_of_theme

SIZE = (54, 96)


def look(world: World, camera_index: int = 1, time_us: int = 0):
    camera = CAMERAS[camera_index]
    pose = world.ego_to_world(time_us) @ camera.camera_to_ego()
    return render_camera(world, time_us, pose, camera.intrinsics(*SIZE), *SIZE)


def test_equal_seeds_give_equal_worlds_and_others_differ(street):
    again = build_world("street", 3, conditions=Conditions(lighting="sunny"))
    np.testing.assert_array_equal(street.static_mesh.corners, again.static_mesh.corners)
    np.testing.assert_array_equal(look(street).image, look(again).image)
    assert draw_plan(np.random.default_rng(1), 50.0) != draw_plan(np.random.default_rng(2), 50.0)


def test_lighting_changes_light_and_nothing_else(airside):
    dusk = World(
        theme=airside.theme,
        seed=airside.seed,
        duration_s=airside.duration_s,
        lighting=make_lighting(np.random.default_rng(0), "dusk"),
        stuff=[airside.static_mesh],
        actors=[actor for actor in airside.actors if actor.is_moving],
        ego=airside.ego,
    )
    day, evening = look(airside), look(dusk)
    np.testing.assert_array_equal(day.termination_depth, evening.termination_depth)
    assert np.abs(day.image.astype(int) - evening.image.astype(int)).mean() > 10


@pytest.mark.parametrize("theme", list(Theme))
def test_ego_starts_at_the_origin_and_drives_smoothly(theme, request):
    world: World = request.getfixturevalue(str(theme))
    np.testing.assert_allclose(world.ego_to_world(0), np.eye(4), atol=1e-9)
    times = np.arange(0, 9_000_000, 100_000)
    path = np.array([world.ego_to_world(int(t))[:3, 3] for t in times])
    velocity = np.diff(path, axis=0) / 0.1
    assert np.linalg.norm(velocity, axis=1).max() < 15.0
    assert np.linalg.norm(np.diff(velocity, axis=0), axis=1).max() / 0.1 < 8.0
    assert path[-1, 0] > 5.0


@pytest.mark.parametrize("theme", list(Theme))
def test_only_classes_of_the_theme_occur(theme, request):
    world: World = request.getfixturevalue(str(theme))
    allowed = {c.class_id for c in classes_of_theme(theme)}
    assert set(np.unique(world.static_mesh.class_id)) <= allowed
    assert {class_named(a.class_name).class_id for a in world.actors} <= allowed


@pytest.mark.parametrize("theme", list(Theme))
def test_no_two_vehicles_touch(theme, request):
    world: World = request.getfixturevalue(str(theme))
    movers = [a for a in world.actors if a.is_moving and a.class_name not in ("pedestrian",)]
    for time_us in (0, 2_000_000, 5_000_000, 9_000_000):
        boxes = [(a.class_name, a.box_to_world(time_us), a.size) for a in movers]
        boxes.append(("ego", world.ego_to_world(time_us), (4.6, 1.8, 1.6)))
        for i, (name, pose, size) in enumerate(boxes):
            for other_name, other_pose, other_size in boxes[:i]:
                local = np.linalg.inv(pose) @ other_pose
                apart = np.abs(local[:2, 3])
                turned = np.abs(local[:2, :2]) @ np.array(other_size[:2]) / 2
                is_apart = apart > np.array(size[:2]) / 2 + turned - 0.25
                assert is_apart.any(), f"{name} and {other_name} overlap at {time_us} us"


def test_actors_have_unique_instances_and_boxes_around_their_meshes(airside):
    assert len({a.instance for a in airside.actors}) == len(airside.actors)
    for actor in airside.actors:
        corners = actor.mesh_at(1_000_000).corners.reshape(-1, 3)
        world_to_box = np.linalg.inv(actor.box_to_world(1_000_000))
        local = corners @ world_to_box[:3, :3].T + world_to_box[:3, 3]
        assert np.all(np.abs(local) <= np.array(actor.size) / 2 + 1e-3)


def test_world_seen_is_rich(street, airside):
    for world in (street, airside):
        views = [look(world, i) for i in range(len(CAMERAS))]
        assert len({int(c) for v in views for c in np.unique(v.semantics)}) >= 8
        for view in views:
            assert view.image.reshape(-1, 3).std(axis=0).min() > 10


@pytest.mark.parametrize("bad", [{"theme": "space"}, {"seed": -1}, {"duration_s": 0.0}])
def test_bad_world_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)) if "theme" not in bad else "space"):
        build_world(**{"theme": "street", "seed": 0, **bad})
