"""Twenty seconds of traffic at twelve hertz obey physics: no jerks, no ghosts, wheels and feet on the ground."""

import numpy as np
import pytest

from storage.geometry.transforms import invert_se3, rotation_error
from storage.procedural.config import ProceduralConfig
from storage.procedural.world.traffic import AcrossRoad, Actor, Road, constant_speed
from storage.procedural.world.world import World, build_world

DURATION_S, RATE_HZ = 20.0, 12.0
EGO_SIZE = (4.8, 1.9, 1.7)
# Two people of seed 3 of the airside theme once walked through each other after 15 s.
WORLDS = (("street", 2), ("airside", 3))


@pytest.fixture(scope="module", params=WORLDS, ids=lambda p: p[0])
def world(request) -> World:
    theme, seed = request.param
    return build_world(theme, seed, duration_s=DURATION_S)


def times_us(rate_hz: float) -> list[int]:
    return [round(t * 1e6) for t in np.arange(0.0, DURATION_S + 1e-9, 1.0 / rate_hz)]


def movers(world: World) -> list[Actor]:
    return [actor for actor in world.actors if actor.is_moving]


def test_a_scene_may_last_twenty_seconds_at_any_rate():
    for rate in (2.0, 5.0, 12.0):
        config = ProceduralConfig(frames_per_scene=int(20 * rate) + 1, keyframe_rate_hz=rate)
        assert config.keyframe_time_us(config.frames_per_scene - 1) == 20_000_000
        assert config.duration_s >= 20.0


def test_neighbouring_frames_obey_physics(world):
    instants = times_us(RATE_HZ)
    for motion in [world.ego, *(actor.motion for actor in movers(world))]:
        poses = np.stack([motion.local_to_world(t) for t in instants])
        assert rotation_error(poses[:, :3, :3]).max() < 1e-9
        velocity = np.diff(poses[:, :3, 3], axis=0) * RATE_HZ
        acceleration = np.diff(velocity, axis=0) * RATE_HZ
        speed = np.linalg.norm(velocity, axis=1)
        assert speed.max() < 16.0
        assert np.abs(acceleration[:, :2]).max() < 3.5
        assert np.abs(velocity[:, 2]).max() < 1.0  # a kerb is stepped onto, not jumped
        turned = invert_se3(poses[:-1])[:, :3, :3] @ poses[1:, :3, :3]
        yaw_rate = np.abs(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])) * RATE_HZ
        assert yaw_rate.max() < 0.5
        # It goes where it points.
        moving = speed > 0.5
        sideways = np.abs(np.einsum("nc,nc->n", velocity, poses[:-1, :3, 1]))[moving]
        assert sideways.max(initial=0.0) < 0.1


def test_nothing_passes_through_anything(world):
    still = [actor for actor in world.actors if not actor.is_moving]
    still_boxes = [(actor.box_to_world(0), actor.size) for actor in still]
    for instant in times_us(2.0):
        ego = world.ego_to_world(instant)
        boxes = [(actor.box_to_world(instant), actor.size) for actor in movers(world)]
        centred = ego.copy()
        centred[2, 3] += EGO_SIZE[2] / 2
        boxes.append((centred, EGO_SIZE))
        for index, one in enumerate(boxes):
            for other in [*boxes[index + 1 :], *still_boxes]:
                assert not overlap(one, other), f"at {instant} us: {one} and {other}"


def overlap(one, other, *, shrink: float = 0.1) -> bool:
    """Return whether two boxes that stand upright meet, each ``shrink`` smaller on every side."""
    (pose_a, size_a), (pose_b, size_b) = one, other
    offset = pose_b[:3, 3] - pose_a[:3, 3]
    if np.linalg.norm(offset[:2]) > (np.hypot(*size_a[:2]) + np.hypot(*size_b[:2])) / 2:
        return False
    if abs(offset[2]) > (size_a[2] + size_b[2]) / 2 - shrink:
        return False
    for axis in (pose_a[:3, 0], pose_a[:3, 1], pose_b[:3, 0], pose_b[:3, 1]):
        half = sum(abs(axis @ pose[:3, i]) * (size[i] / 2 - shrink) for pose, size in (one, other) for i in (0, 1))
        if abs(axis @ offset) >= half:
            return False
    return True


def test_boxes_that_meet_are_found():
    box = (np.eye(4), (4.0, 2.0, 1.5))
    for shift, expected in ((3.5, True), (3.9, False), (30.0, False)):
        moved = np.eye(4)
        moved[0, 3] = shift
        assert overlap(box, (moved, (4.0, 2.0, 1.5))) is expected


def test_wheels_and_feet_stand_on_the_ground(world):
    """Look down beside each mover's origin, past itself: the ground is where its lowest point is."""
    caster = world.snapshot(0).static
    checked = 0
    for actor in movers(world):
        for instant in times_us(0.5):
            pose = actor.motion.local_to_world(instant)
            ego = world.ego_to_world(instant)
            if actor.class_name == "aircraft" or np.linalg.norm(pose[:2, 3] - ego[:2, 3]) > 80:
                continue
            origin = (pose[:3, 3] + [0.0, 0.0, 0.6]).astype(np.float32)[None]
            found = caster.first_hits(origin, np.array([[0.0, 0.0, -1.0]], np.float32))
            ground = 0.6 - float(found.distance[0])
            on_kerb = isinstance(actor.motion, AcrossRoad) and 0.01 < pose[2, 3] < 0.14
            assert abs(ground) < (0.16 if on_kerb else 0.02), f"{actor.class_name} {actor.instance} at {instant} us"
            lowest = actor.mesh_at(instant).corners[..., 2].min() - pose[2, 3]
            assert -0.1 < lowest < 0.09  # arches of wheels reach below the road; legs that are apart lift both feet
            checked += 1
    assert checked > 50


def test_someone_who_crosses_climbs_the_kerb_and_comes_to_rest():
    motion = AcrossRoad(
        road=Road(curvature=0.0),
        s=5.0,
        start=-6.0,
        direction=1,
        profile=constant_speed(1.4, DURATION_S),
        kerbs=(-4.0, 4.0),
        step=0.15,
        reach=11.2,
    )
    poses = np.stack([motion.local_to_world(t) for t in times_us(RATE_HZ)])
    offset, height = poses[:, 1, 3], poses[:, 2, 3]
    np.testing.assert_allclose(height[np.abs(offset) > 4.0], 0.15, atol=1e-9)
    np.testing.assert_allclose(height[np.abs(offset) < 3.5], 0.0, atol=1e-9)
    assert (np.diff(offset) >= 0).all()
    assert offset[-1] == pytest.approx(5.2, abs=0.02)
    assert np.diff(offset)[-1] * RATE_HZ < 0.02
