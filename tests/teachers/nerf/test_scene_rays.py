import numpy as np
import pytest
import torch

from storage.errors import SourceDataError
from teachers.nerf.scene_rays import (
    SceneBounds,
    SceneRays,
    lidar_points_world,
    measure_bounds,
    project_lidar,
    read_sky_mask,
    split_frames,
)

SCENE_KEY = "test.wall"


@pytest.fixture(scope="module")
def rays(wall_home, wall_scene) -> SceneRays:
    frames = (0, 2, 4)
    return SceneRays(
        wall_scene,
        frames,
        measure_bounds(wall_scene, frames),
        image_size=(18, 32),
        is_sky=read_sky_mask(wall_home, SCENE_KEY, None),
    )


def world_points(batch, bounds: SceneBounds, distance: torch.Tensor) -> torch.Tensor:
    return (batch.origins + batch.directions * distance[:, None]) * bounds.metres_per_unit + torch.tensor(
        bounds.centre_m
    )


def on_a_surface(points: torch.Tensor, tolerance: float) -> torch.Tensor:
    ground = points[:, 2].abs() < tolerance
    wall = (points[:, 1] - 6.0).abs() < tolerance
    return ground | wall


def test_beams_end_on_surfaces(rays):
    beams = torch.arange(len(rays.lidar_distances))
    batch = rays.lidar_beams(beams)
    assert batch.num_camera_rays == 0
    points = world_points(batch, rays.bounds, batch.lidar_depth)
    assert bool(on_a_surface(points, 0.01).all())
    assert torch.allclose(batch.directions.norm(dim=1), torch.ones(len(beams)), atol=1e-5)


def test_projected_returns_agree_with_the_surfaces_that_pixels_see(rays):
    batch = rays.pixel_rays(rays.lidar_pixel_image, rays.lidar_pixel)
    points = world_points(batch, rays.bounds, rays.lidar_pixel_depth)
    # A return lies anywhere in its pixel, the ray through the centre: at grazing angles that is decimetres.
    assert float(on_a_surface(points, 0.5).to(torch.float32).mean()) > 0.97
    assert not bool(rays.is_sky[rays.lidar_pixel_image, rays.lidar_pixel].to(torch.float32).mean() > 0.02)


def test_a_drawn_batch_is_camera_rays_then_beams(rays):
    batch = rays.draw(torch.Generator().manual_seed(0), pixel_rays=50, lidar_pixel_rays=20, lidar_rays=30)
    assert len(batch.origins) == 100
    assert batch.num_camera_rays == 70
    assert bool(torch.isnan(batch.lidar_depth[:50]).all())
    assert bool(torch.isfinite(batch.lidar_depth[50:]).all())
    assert batch.is_sky is not None
    blue = batch.rgb[batch.is_sky]
    assert bool((blue[:, 2] > blue[:, 0]).all()), "colour and sky mask are of the same pixels"
    assert set(batch.frame_index.unique().tolist()) <= {0, 2, 4}
    assert not bool(batch.return_moves.any())
    again = rays.draw(torch.Generator().manual_seed(0), pixel_rays=50, lidar_pixel_rays=20, lidar_rays=30)
    assert torch.equal(batch.origins, again.origins)


def test_box_holds_cameras_and_lies_in_the_unit_cube(wall_scene):
    bounds = measure_bounds(wall_scene, (0, 4))
    assert max(bounds.half_extent) == 1.0
    centres = np.stack([wall_scene.camera_to_world(f, c)[:3, 3] for f in (0, 4) for c in (0, 1)])
    assert bool((np.abs(bounds.to_scene_units(centres)) <= np.asarray(bounds.half_extent)).all())


def test_moving_returns_are_known_again_on_both_kinds_of_rays(wall_scene):
    frames = (0, 4)
    bounds = measure_bounds(wall_scene, frames)
    moves = [lidar_points_world(wall_scene, f)[:, 1] > 5.9 for f in frames]  # the wall, say
    rays = SceneRays(wall_scene, frames, bounds, image_size=(18, 32), returns_move=moves)
    batch = rays.lidar_beams(torch.arange(len(rays.lidar_distances)))
    on_wall = world_points(batch, bounds, batch.lidar_depth)[:, 1] > 5.9
    assert torch.equal(on_wall, batch.return_moves)
    drawn = rays.draw(torch.Generator().manual_seed(0), pixel_rays=5, lidar_pixel_rays=200, lidar_rays=0)
    points = world_points(drawn, bounds, drawn.lidar_depth)[5:]
    agree = (points[:, 1] > 5.5) == drawn.return_moves[5:]
    assert float(agree.to(torch.float32).mean()) > 0.95


def test_returns_that_a_nearer_surface_hides_are_dropped():
    intrinsics = np.array([[20.0, 0, 16], [0, 20.0, 12], [0, 0, 1]])
    columns = np.linspace(-0.5, 0.5, 60)
    near = np.stack([columns * 5, np.zeros(60), np.full(60, 5.0)], axis=1)
    far = np.stack([columns * 20, np.full(60, 0.8), np.full(60, 20.0)], axis=1)  # one pixel lower, four times as far
    alone, _, _ = project_lidar(far, np.eye(4), intrinsics, image_size=(24, 32))
    pixel, depth, source = project_lidar(np.concatenate([near, far]), np.eye(4), intrinsics, image_size=(24, 32))
    assert source.max() < 60, "all that is left are the near ones"
    assert len(alone) > 10
    assert depth.max() < 6.0
    assert len(pixel) == len(set(pixel.tolist()))


def test_frames_are_held_out_from_the_middle():
    split = split_frames(10, holdout_every=4)
    assert split.held_out == (2, 6)
    assert split.train == (0, 1, 3, 4, 5, 7, 8, 9)
    with pytest.raises(SourceDataError, match="too few"):
        split_frames(2, holdout_every=4)


@pytest.fixture(scope="module")
def fisheye_rays(fisheye_wall_scene) -> SceneRays:
    bounds = measure_bounds(fisheye_wall_scene, (0, 1))
    return SceneRays(fisheye_wall_scene, (0, 1), bounds, image_size=(18, 32))


class TestFisheye:
    def test_returns_land_on_what_their_pixels_see(self, fisheye_rays):
        rays = fisheye_rays
        of_fisheye = rays.image_camera[rays.lidar_pixel_image] == 1
        batch = rays.pixel_rays(rays.lidar_pixel_image[of_fisheye], rays.lidar_pixel[of_fisheye])
        points = world_points(batch, rays.bounds, rays.lidar_pixel_depth[of_fisheye])
        assert len(points) > 20
        assert float(on_a_surface(points, 0.5).to(torch.float32).mean()) > 0.95

    def test_no_ray_is_drawn_where_the_camera_sees_nothing(self, fisheye_rays):
        assert len(fisheye_rays.seen_pixels(0)) == 18 * 32
        assert 100 < len(fisheye_rays.seen_pixels(1)) < 18 * 32
        drawn = fisheye_rays.draw(torch.Generator().manual_seed(0), pixel_rays=16_000, lidar_pixel_rays=0, lidar_rays=0)
        assert bool(torch.isfinite(drawn.directions).all())
        seen = set(fisheye_rays.seen_pixels(1).tolist())
        hit = {tuple(d) for d in drawn.directions[drawn.camera_index == 1].tolist()}
        assert len(hit) == len(seen)  # every pixel that is seen, and no other


def test_no_ray_goes_through_a_pixel_that_shows_the_vehicle(wall_scene, monkeypatch):
    size, bounds = (18, 32), measure_bounds(wall_scene, (0, 2))
    whole = SceneRays(wall_scene, (0, 2), bounds, image_size=size)
    seen = np.ones(size, bool)
    seen[12:] = False
    monkeypatch.setattr(wall_scene, "is_valid", lambda camera, *, size: seen if camera == 0 else np.ones(size, bool))
    masked = SceneRays(wall_scene, (0, 2), bounds, image_size=size)
    assert len(masked.seen_pixels(0)) == seen.sum()
    assert len(masked.seen_pixels(1)) == seen.size
    batch = masked.draw(torch.Generator().manual_seed(0), pixel_rays=4000, lidar_pixel_rays=500, lidar_rays=1)
    of_camera = (batch.camera_index == 0)[:-1]
    lowest = masked.camera_directions[0].view(*size, 3)[11, :, 1].max()
    down = torch.tensor(wall_scene.camera_to_world(0, 0)[:3, 1], dtype=torch.float32)
    assert bool((batch.directions[:-1][of_camera] @ down <= lowest + 1e-4).all())
    hidden = (whole.image_camera[whole.lidar_pixel_image] == 0) & (whole.lidar_pixel >= 12 * 32)
    assert 0 < int(hidden.sum()) == len(whole.lidar_pixel) - len(masked.lidar_pixel)
    assert len(masked.lidar_distances) == len(whole.lidar_distances), "beams are the LiDAR's, whatever a camera sees"
