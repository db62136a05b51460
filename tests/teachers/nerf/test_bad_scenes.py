"""Scenes that lack something: what is drawn and judged then, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from storage.errors import ErrorKind, SourceDataError
from storage.scenes.store import SceneReader
from teachers.nerf.config import FitGateConfig, NerfConfig
from teachers.nerf.quality import FieldRendering, judge_fit, shift_check
from teachers.nerf.scene_rays import RayBatch, SceneRays, measure_bounds, split_frames

CONFIG = NerfConfig(image_height=18, image_width=32, gate=FitGateConfig(min_psnr=25.0), use_sky_mask=False)
FRONT, LEFT = 0, 1


def rays_of(home, scene_key: str, frames=(0, 1, 2, 3, 4)) -> SceneRays:
    scene = SceneReader.open(home, scene_key)
    return SceneRays(scene, frames, measure_bounds(scene, frames), image_size=(18, 32))


def draw(rays: SceneRays, count: int = 3000) -> RayBatch:
    return rays.draw(torch.Generator().manual_seed(0), pixel_rays=count, lidar_pixel_rays=count, lidar_rays=count)


def sees(batch: RayBatch) -> FieldRendering:
    """A field that sees what the images show, 0.01 brighter, five units away."""
    count = len(batch.origins)
    rgb = batch.rgb if batch.num_camera_rays else torch.zeros(count, 3)
    return FieldRendering(rgb=rgb + 0.01, termination_depth=torch.full((count,), 5.0), opacity=torch.ones(count))


class TestNoLidar:
    def test_the_box_is_that_of_the_cameras_and_what_they_see(self, lacking_home, wall_scene):
        scene = SceneReader.open(lacking_home, "test.no-lidar")
        bounds = measure_bounds(scene, (0, 4))
        low = np.asarray(bounds.centre_m) - bounds.half_extent_m
        high = np.asarray(bounds.centre_m) + bounds.half_extent_m
        for frame in (0, 4):
            centre = scene.camera_to_world(frame, FRONT)[:3, 3]
            assert (centre - low >= (30, 30, 3)).all()
            assert (high - centre >= (30, 30, 10)).all()
        assert max(measure_bounds(wall_scene, (0, 4)).half_extent_m) != max(bounds.half_extent_m)

    def test_random_pixels_take_the_place_of_returns(self, lacking_home):
        batch = draw(rays_of(lacking_home, "test.no-lidar"), 100)
        assert batch.num_camera_rays == len(batch.origins) == 300
        assert bool(batch.lidar_depth.isnan().all())

    def test_depth_is_undecided_and_images_decide(self, lacking_home):
        rays = rays_of(lacking_home, "test.no-lidar", (2,))
        quality = judge_fit(sees, rays, CONFIG)["quality"]
        assert quality["passed"]
        for name in ("static_lidar_abs_rel", "lidar_coverage"):
            assert quality["checks"][name]["undecided"] == "the scene has no LiDAR"
            assert not quality["checks"][name]["passed"], "undecided is never shown as good"
        blind = judge_fit(lambda batch: dataclasses.replace(sees(batch), rgb=1.0 - batch.rgb), rays, CONFIG)
        assert not blind["quality"]["passed"]

    def test_a_broken_lidar_is_not_taken_for_none(self, wall_scene, monkeypatch):
        points = wall_scene.lidar_points(0)[:40]
        monkeypatch.setattr(wall_scene, "lidar_points", lambda _frame: points)
        with pytest.raises(SourceDataError, match="want none or at least 400") as caught:
            measure_bounds(wall_scene, (0, 4))
        assert caught.value.kind == ErrorKind.LIDAR_INVALID


class TestBlackImages:
    def test_they_are_found_and_named(self, lacking_home, wall_scene):
        assert rays_of(lacking_home, "test.black").blank_images == [(1, FRONT), (2, FRONT)]
        bounds = measure_bounds(wall_scene, (0, 4))
        assert not SceneRays(wall_scene, (0, 2), bounds, image_size=(18, 32)).blank_images

    def test_no_ray_goes_through_them(self, lacking_home):
        rays = rays_of(lacking_home, "test.black")
        batch = draw(rays)
        camera_rays = slice(batch.num_camera_rays)
        drawn = set(zip(batch.frame_index[camera_rays].tolist(), batch.camera_index[camera_rays].tolist(), strict=True))
        assert drawn == {(f, c) for f in range(5) for c in (FRONT, LEFT)} - {(1, FRONT), (2, FRONT)}
        assert batch.num_camera_rays == 6000
        assert len(rays.lidar_distances) == len(rays_of(lacking_home, "test.still").lidar_distances), "beams are kept"

    def test_they_are_not_judged(self, lacking_home):
        rays = rays_of(lacking_home, "test.black", (2,))

        def misses_the_black(batch: RayBatch) -> FieldRendering:
            rendered = sees(batch)
            is_black = batch.camera_index == FRONT
            return dataclasses.replace(rendered, rgb=rendered.rgb + 0.9 * is_black[:, None])

        assert judge_fit(misses_the_black, rays, CONFIG)["psnr"] == pytest.approx(40.0, abs=0.1)

    def test_a_night_is_not_black(self, lacking_home):
        rays = rays_of(lacking_home, "test.still", (0,))
        rays.pixels[0] = rays.pixels[0] // 20  # under 13 of 255
        lamps = rays.seen_pixels(0)[::40]
        rays.pixels[0, lamps] = 60
        assert not rays._is_blank(0)
        rays.pixels[0, lamps] = 3
        rays.pixels[0] = rays.pixels[0].clamp(max=3)
        assert rays._is_blank(0)

    def test_a_scene_of_nothing_else_is_refused(self, lacking_home):
        scene = SceneReader.open(lacking_home, "test.black")
        black = np.zeros((18, 32, 3), np.uint8)
        scene.resized_image = lambda *_, **__: black  # type: ignore[method-assign]
        with pytest.raises(SourceDataError, match="every image is blank"):
            SceneRays(scene, (1, 2), measure_bounds(scene, (1, 2)), image_size=(18, 32))


class TestNoMotion:
    def test_held_out_views_are_no_new_ones_and_the_gate_says_so(self, lacking_home):
        rays = rays_of(lacking_home, "test.still")
        of = {f: rays.origins[rays.image_frame == f] for f in range(5)}
        check = shift_check(of[2], torch.cat([of[1], of[3]]), metres_per_unit=rays.bounds.metres_per_unit)
        assert "stands still" in check["undecided"]
        assert not check["passed"]
        assert check["value"] == pytest.approx(0.0, abs=1e-3)

    def test_a_drive_is_judged_from_elsewhere(self, wall_scene):
        rays = SceneRays(wall_scene, (0, 2, 4), measure_bounds(wall_scene, (0, 4)), image_size=(18, 32))
        of = {f: rays.origins[rays.image_frame == f] for f in (0, 2, 4)}
        check = shift_check(of[2], torch.cat([of[0], of[4]]), metres_per_unit=rays.bounds.metres_per_unit)
        assert check["passed"]
        assert check["value"] == pytest.approx(1.3, abs=0.5)  # LEFT stands half a metre behind FRONT


@pytest.mark.parametrize("frames", [1, 2])
def test_a_scene_of_too_few_frames_to_be_judged_is_refused(frames):
    with pytest.raises(SourceDataError, match=f"{frames} frames are too few.*want at least 3"):
        split_frames(frames, holdout_every=4)
