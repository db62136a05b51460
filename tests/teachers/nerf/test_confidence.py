"""Which rendered pixels are valid."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from teachers.nerf.confidence import (
    SKY_DISTANCE_M,
    PixelVerdict,
    Witness,
    agrees_with_map,
    ask_witnesses,
    beside_return,
    judge_rays,
    log_depth_ratio,
    parallax,
    verdict_of,
)
from teachers.nerf.config import ConfidenceConfig
from teachers.nerf.rendered_views import RecordedViews, judge_frame

INTRINSICS = np.array([[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1]])
SIZE = (24, 32)


def test_rays_end_leave_or_are_fog() -> None:
    opacity = np.array([1.0, 0.9, 0.5, 0.05, 1.0, 1.0, 0.0], np.float32)
    depth = np.array([5.0, 300.0, 5.0, 60.0, 5.0, 5.0, 60.0], np.float32)
    has_ray = np.array([True, True, True, True, False, True, True])
    is_sky = np.array([False, False, False, True, False, True, False])
    limits = {"min_opacity": 0.8, "max_sky_opacity": 0.1, "max_depth_m": 200.0}
    verdict, distance = judge_rays(depth, opacity, has_ray, is_sky, **limits)
    V = PixelVerdict
    assert verdict.tolist() == [V.VALID, V.TOO_FAR, V.FOG, V.VALID, V.NO_RAY, V.SKY_DISPUTED, V.SKY_DISPUTED]
    assert distance[[0, 3]].tolist() == [5.0, SKY_DISTANCE_M]
    assert np.isnan(np.delete(distance, [0, 3])).all()
    assert judge_rays(depth, opacity, has_ray, None, **limits)[0][-2:].tolist() == [V.VALID, V.VALID]


def test_the_first_fault_counts() -> None:
    first, second = np.array([True, False, False]), np.array([True, True, False])
    verdict = verdict_of([(PixelVerdict.FOG, first), (PixelVerdict.UNSEEN, second)])
    assert verdict.tolist() == [PixelVerdict.FOG, PixelVerdict.UNSEEN, PixelVerdict.VALID]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_a_road_agrees_with_its_own_map_however_grazing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5, indexing="ij")

    def road(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        ray = np.stack([(u - 16) / 20, (v - 12) / 20, np.ones_like(u)], axis=-1)
        return 1.6 / np.maximum(ray[..., 1], 1e-3) * np.linalg.norm(ray, axis=-1)

    depth = road(columns, rows).astype(np.float32)
    pixels = np.stack([rng.uniform(1, 31, 200), rng.uniform(14, 23, 200)], axis=-1)
    distance = road(pixels[:, 0], pixels[:, 1])
    assert agrees_with_map(pixels, distance, depth, tolerance=0.01).all()
    for wrong in (1.05, 1 / 1.05):
        found = log_depth_ratio(pixels, distance * wrong, depth)
        assert np.median(found) == pytest.approx(-math.log(wrong), abs=0.01)


def test_nothing_agrees_with_what_is_unknown() -> None:
    depth = np.full(SIZE, np.nan, np.float32)
    assert not agrees_with_map(np.array([[5.0, 5.0]]), np.array([3.0]), depth, tolerance=10.0).any()


def wall_of(place: float, *, frame: int = 0, is_fitted: bool = True, at_m: float = 10.0) -> Witness:
    """A camera at ``place`` along x that looks along z at a wall with a horizontal ramp of colour."""
    pose = np.eye(4)
    pose[0, 3] = place
    v, u = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    ray = np.stack([(u - 16) / 20, (v - 12) / 20, np.ones_like(u)], axis=-1)
    colour = np.repeat(((place + at_m * ray[..., :1]) / 40 + 0.5), 3, axis=-1)
    return Witness(
        frame=frame,
        is_fitted=is_fitted,
        camera_to_world=pose,
        intrinsics=INTRINSICS,
        fisheye=np.full(4, np.nan),
        termination_depth=(at_m * np.linalg.norm(ray, axis=-1)).astype(np.float32),
        image=colour.astype(np.float32),
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_testimony_is_that_of_asking_everybody_about_every_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    witnesses = [wall_of(rng.uniform(-3, 3), frame=f, is_fitted=bool(rng.integers(2))) for f in (0, 0, 1, 2)]
    points = np.stack([rng.uniform(-9, 9, 60), rng.uniform(-5, 5, 60), rng.choice([10.0, 10.05, 8.0, 13.0], 60)], -1)
    moves, origins = rng.random(60) < 0.3, np.zeros((60, 3))
    found = ask_witnesses(
        points, moves, witnesses, frame=0, origins=origins, tolerance=0.02, min_parallax=0.1, enough=len(witnesses) + 1
    )
    for index, point in enumerate(points):
        count, rgb, places = 0, None, [origins[index]]
        for witness in witnesses:
            if moves[index] and witness.frame != 0:
                continue
            in_camera = apply_se3(invert_se3(witness.camera_to_world), point[None])[0]
            u, v = project_camera(in_camera[None], INTRINSICS, None)[0][0]
            if not (0 <= u < SIZE[1] and 0 <= v < SIZE[0]):
                continue
            pixel = np.array([[u, v]])
            distance = np.array([np.linalg.norm(in_camera)])
            if not agrees_with_map(pixel, distance, witness.termination_depth, tolerance=0.02)[0]:
                continue
            rgb = witness.image[int(v), int(u)] if rgb is None else rgb
            place = witness.camera_to_world[:3, 3]
            if witness.is_fitted and all(parallax(point[None], p[None], place)[0] >= 0.1 for p in places):
                count += 1
                places.append(place)
        assert found.num_confirming[index] == count
        assert np.isnan(found.rgb[index]).all() if rgb is None else (found.rgb[index] == rgb).all()


def test_sky_needs_no_parallax_and_a_surface_does() -> None:
    witness, origin = wall_of(0.0), np.zeros((1, 3))
    settings = {"frame": 0, "origins": origin, "tolerance": 0.02, "min_parallax": 0.01, "enough": 1}
    point, still = np.array([[0.1, 0.1, 10.0]]), np.zeros(1, bool)
    assert ask_witnesses(point, still, [witness], **settings).num_confirming.tolist() == [0]
    sky = np.array([[0.0, 0.0, SKY_DISTANCE_M]])
    above = wall_of(0.0, at_m=SKY_DISTANCE_M)
    assert ask_witnesses(sky, still, [above], **settings).num_confirming.tolist() == [1]


def test_who_stands_where_another_stood_is_no_second_witness() -> None:
    """Frames of a vehicle that stands agree with each other, right or wrong: they are one view of one field."""
    point, still = np.array([[0.1, 0.1, 10.0]]), np.zeros(1, bool)
    settings = {"frame": 0, "origins": np.zeros((1, 3)), "tolerance": 0.02, "min_parallax": 0.02, "enough": 3}
    aside, again, farther = wall_of(0.5), wall_of(0.5, frame=1), wall_of(1.0, frame=1)
    for witnesses, count in (((aside, again), 1), ((aside, farther), 2), ((aside, again, farther), 2)):
        assert ask_witnesses(point, still, witnesses, **settings).num_confirming.tolist() == [count]


def test_a_return_of_another_frame_proves_nothing_about_what_moves() -> None:
    points, moves = np.zeros((2, 3)), np.array([False, True])
    far, near = KDTree(np.full((1, 3), 9.0)), KDTree(np.full((1, 3), 0.1))
    reach = np.full(2, 0.3)
    assert beside_return(points, moves, far, [near], reach_m=reach).tolist() == [True, False]
    assert beside_return(points, moves, near, [far], reach_m=reach).tolist() == [True, True]


def test_each_surface_has_a_reach_of_its_own() -> None:
    """Beside the vehicle a return 0.2 m away is another surface; at six metres it is the same."""
    points, still = np.zeros((2, 3)), np.zeros(2, bool)
    returns = KDTree(np.array([[0.2, 0.0, 0.0]]))
    nothing = KDTree(np.full((1, 3), 9.0))
    reach = np.array([0.05 * 2.0, 0.3])
    assert beside_return(points, still, returns, [], reach_m=reach).tolist() == [False, True]
    assert beside_return(points, still, nothing, [returns], reach_m=reach).tolist() == [False, True]


def test_parallax_is_the_angle_at_the_point() -> None:
    point, origin = np.array([[0.0, 0.0, 1.0]]), np.zeros((1, 3))
    assert parallax(point, origin, np.array([1.0, 0.0, 0.0]))[0] == pytest.approx(math.pi / 4)
    assert parallax(point, origin, np.array([0.0, 0.0, -5.0]))[0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("fitted", [True, False])
def test_what_the_image_does_not_show_is_not_valid_where_the_field_was_not_fitted(
    wall_scene, render_wall, fitted
) -> None:
    def render(frame, camera, poses, size):
        views = render_wall(frame, camera, poses, size)
        if frame == 2:
            views.rgb[:, 10:20, 20:40] = 1 - views.rgb[:, 10:20, 20:40]  # as if something stood there in the image
        return views

    recorded = RecordedViews(
        wall_scene,
        render,
        is_sky=None,
        fitted_frames=range(5) if fitted else (0, 1, 3, 4),
        max_lidar_m=50.0,
        map_size=(36, 64),
        image_size=(36, 64),
        config=ConfidenceConfig(),
    )
    verdict = judge_frame(recorded, recorded.views(2), is_recorded=True).verdict[1, 0]
    assert (verdict[12:18, 22:38] == PixelVerdict.COLOUR).all() != fitted
    assert (verdict == PixelVerdict.VALID).mean() > 0.6
