import dataclasses
import math

import pytest
import torch

from teachers.nerf.config import FitGateConfig, NerfConfig
from teachers.nerf.quality import FieldRendering, depth_errors, judge_fit
from teachers.nerf.scene_rays import RayBatch, SceneRays, measure_bounds, read_sky_mask

CONFIG = NerfConfig(image_height=18, image_width=32, gate=FitGateConfig(min_psnr=25.0, max_abs_rel=0.1))


@pytest.fixture(scope="module")
def held_out(wall_home, wall_scene) -> SceneRays:
    mask = read_sky_mask(wall_home, "test.wall", None)
    return SceneRays(wall_scene, (2,), measure_bounds(wall_scene, (0, 4)), image_size=(18, 32), is_sky=mask)


def oracle(rays: SceneRays, *, depth_factor: float = 1.0, opacity_in_sky: float = 0.0):
    """A renderer that knows the analytic scene."""

    def render(batch: RayBatch) -> FieldRendering:
        scale = rays.bounds.metres_per_unit
        origin = batch.origins * scale + torch.tensor(rays.bounds.centre_m)
        ground = torch.where(batch.directions[:, 2] < -1e-6, -origin[:, 2] / batch.directions[:, 2], math.inf)
        wall = torch.where(batch.directions[:, 1] > 1e-6, (6.0 - origin[:, 1]) / batch.directions[:, 1], math.inf)
        wall = torch.where(origin[:, 2] + wall * batch.directions[:, 2] <= 4.0, wall, math.inf)
        depth = torch.minimum(ground, wall)
        hit = depth < 60.0
        rgb = batch.rgb if batch.num_camera_rays == len(batch.origins) else torch.zeros(len(batch.origins), 3)
        return FieldRendering(
            rgb=rgb + 0.01,
            termination_depth=torch.where(hit, depth * depth_factor, 60.0),
            opacity=torch.where(hit, 1.0, opacity_in_sky),
        )

    return render


def test_a_right_field_passes(held_out):
    metrics = judge_fit(oracle(held_out), held_out, CONFIG)
    assert metrics["psnr"] == pytest.approx(40.0, abs=0.1)
    assert metrics["lidar_abs_rel"] < 0.05
    assert metrics["lidar_beam_abs_rel"] < 1e-3
    assert metrics["lidar_coverage"] > 0.97
    assert metrics["sky_opacity"] == 0.0
    assert metrics["quality"]["passed"]


def test_wrong_depth_fails_by_as_much_as_it_is_wrong(held_out):
    metrics = judge_fit(oracle(held_out, depth_factor=1.3), held_out, CONFIG)
    assert metrics["lidar_beam_abs_rel"] == pytest.approx(0.3, abs=0.01)
    assert not metrics["quality"]["passed"]
    assert not metrics["quality"]["checks"]["static_lidar_abs_rel"]["passed"]


def test_a_solid_sky_fails(held_out):
    metrics = judge_fit(oracle(held_out, opacity_in_sky=0.9), held_out, CONFIG)
    assert metrics["sky_opacity"] == pytest.approx(0.9, abs=0.05)
    assert not metrics["quality"]["checks"]["sky_opacity"]["passed"]


def test_an_undefined_score_never_passes(held_out):
    def nothing(batch: RayBatch) -> FieldRendering:
        rays = len(batch.origins)
        return FieldRendering(
            rgb=torch.full((rays, 3), math.nan), termination_depth=torch.zeros(rays), opacity=torch.zeros(rays)
        )

    metrics = judge_fit(nothing, held_out, CONFIG)
    assert not metrics["quality"]["passed"]
    assert not metrics["quality"]["checks"]["static_psnr"]["passed"]
    assert not metrics["quality"]["checks"]["static_lidar_abs_rel"]["passed"]


def test_without_a_mask_the_sky_is_not_judged(wall_scene):
    rays = SceneRays(wall_scene, (2,), measure_bounds(wall_scene, (0, 4)), image_size=(18, 32))
    metrics = judge_fit(oracle(rays), rays, dataclasses.replace(CONFIG, use_sky_mask=False))
    assert "sky_opacity" not in metrics
    assert "sky_opacity" not in metrics["quality"]["checks"]


def test_depth_errors_by_hand():
    errors = depth_errors(torch.tensor([2.0, 12.0]), torch.tensor([1.0, 10.0]))
    assert errors["abs_rel"] == pytest.approx(0.6)
    assert errors["rmse_m"] == pytest.approx(math.sqrt(2.5))
    assert errors["delta_1"] == pytest.approx(0.5)
    assert math.isnan(depth_errors(torch.zeros(0), torch.zeros(0))["abs_rel"])


def test_what_moves_is_left_out_of_the_static_scores(wall_scene):
    rays = SceneRays(wall_scene, (2,), measure_bounds(wall_scene, (0, 4)), image_size=(18, 32))
    right = oracle(rays)
    rays.is_moving[0, ::2] = True
    rays.pixels[0, ::2] = 255 - rays.pixels[0, ::2]  # something stood there that no other frame shows

    def render(batch: RayBatch) -> FieldRendering:
        rendered = right(batch)
        if batch.num_camera_rays != rays.pixels.shape[1] or not bool((batch.camera_index == 0).all()):
            return rendered
        rgb = rendered.rgb.clone()
        rgb[::2] = 1.0 - rgb[::2]
        return dataclasses.replace(rendered, rgb=rgb)

    metrics = judge_fit(render, rays, dataclasses.replace(CONFIG, use_sky_mask=False))
    assert metrics["static_psnr"] == pytest.approx(40.0, abs=0.1)
    assert metrics["psnr"] < 35.0
