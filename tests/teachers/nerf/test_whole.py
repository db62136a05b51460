import dataclasses
import math

import pytest
import torch

from teachers.nerf.config import FitGateConfig, NerfConfig
from teachers.nerf.quality import FieldRendering
from teachers.nerf.scene_rays import RayBatch, SceneRays, measure_bounds
from teachers.nerf.whole import scores_by_camera, whole_checks

CONFIG = NerfConfig(image_height=18, image_width=32)
NAMES = ("FRONT", "LEFT")
SEEN = (0, 4)


@pytest.fixture(scope="module")
def rays(wall_scene) -> SceneRays:
    return SceneRays(wall_scene, (0, 2, 4), measure_bounds(wall_scene, (0, 4)), image_size=(18, 32))


def field(rays: SceneRays, *, colour_error=0.0, depth_factor=1.0, camera=None, frame=None, opacity=1.0):
    """A renderer that knows every ray of ``rays``, but errs at a camera or frame."""
    known = rays.pixel_rays(rays.lidar_pixel_image, rays.lidar_pixel)
    depth_of = {
        (*origin, *direction): depth
        for origin, direction, depth in zip(
            known.origins.tolist(), known.directions.tolist(), rays.lidar_pixel_depth.tolist(), strict=True
        )
    }

    def render(batch: RayBatch) -> FieldRendering:
        errs = torch.ones(len(batch.origins), dtype=torch.bool)
        if camera is not None:
            errs &= batch.camera_index == camera
        if frame is not None:
            errs &= batch.frame_index == frame
        depth = torch.tensor(
            [
                depth_of.get((*o, *d), 1.0)
                for o, d in zip(batch.origins.tolist(), batch.directions.tolist(), strict=True)
            ]
        )
        return FieldRendering(
            rgb=batch.rgb + 0.01 + torch.where(errs, colour_error, 0.0)[:, None],
            termination_depth=depth * rays.bounds.metres_per_unit * torch.where(errs, depth_factor, 1.0),
            opacity=torch.where(errs, opacity, 1.0),
        )

    return render


def scores(rays: SceneRays, render):
    return scores_by_camera(render, rays, SEEN, NAMES, CONFIG)


def test_scores_are_told_apart_by_camera_and_by_what_was_seen(rays):
    found = scores(rays, field(rays, colour_error=0.09, depth_factor=1.2, camera=1, frame=2))
    for group, name in (("seen", "FRONT"), ("seen", "LEFT"), ("joined", "FRONT")):
        assert found[group][name]["psnr"] == pytest.approx(40.0, abs=0.01)
        assert found[group][name]["lidar_abs_rel"] == pytest.approx(0.0, abs=1e-6)
    assert found["joined"]["LEFT"]["psnr"] == pytest.approx(20.0, abs=0.01)
    assert found["joined"]["LEFT"]["lidar_abs_rel"] == pytest.approx(0.2, abs=1e-5)


def test_a_field_that_only_became_better_passes(rays):
    before = scores(rays, field(rays, colour_error=0.09, depth_factor=1.2, frame=2))
    checks = whole_checks(before, scores(rays, field(rays)), FitGateConfig())
    assert all(check["passed"] for check in checks.values())


@pytest.mark.parametrize(
    ("harm", "check", "where"),
    [
        ({"colour_error": 0.005, "camera": 1, "frame": 0}, "whole_psnr_drop", "LEFT, seen frames"),
        ({"colour_error": 0.005, "camera": 0, "frame": 2}, "whole_psnr_drop", "FRONT, joined frames"),
        ({"depth_factor": 1.1, "camera": 1}, "whole_abs_rel_rise", "LEFT, "),
        ({"opacity": 0.2, "camera": 0, "frame": 2}, "whole_abs_rel_rise", "FRONT, joined frames"),
        ({"colour_error": math.nan, "camera": 0, "frame": 2}, "whole_psnr_drop", "FRONT, joined frames"),
    ],
)
def test_harm_to_one_camera_is_caught_and_named(rays, harm, check, where):
    checks = whole_checks(scores(rays, field(rays)), scores(rays, field(rays, **harm)), FitGateConfig())
    assert not checks[check]["passed"]
    assert checks[check]["where"].startswith(where)
    other = next(name for name in checks if name != check)
    assert checks[other]["passed"]


def test_what_had_no_figure_before_has_no_change(rays):
    before = scores(rays, field(rays))
    undefined = {g: {c: dict.fromkeys(f, None) for c, f in cameras.items()} for g, cameras in before.items()}
    after = {**before, "joined": {**before["joined"], "LEFT": {"psnr": None, "lidar_abs_rel": None}}}
    assert whole_checks({"seen": before["seen"], "joined": undefined["joined"]}, after, FitGateConfig())[
        "whole_psnr_drop"
    ]["passed"]
    assert not whole_checks(before, after, FitGateConfig())["whole_psnr_drop"]["passed"]


def test_without_lidar_its_rise_is_undecided(rays):
    blind = SceneRays.__new__(SceneRays)
    blind.__dict__.update(rays.__dict__)
    nothing = slice(0, 0)
    blind.lidar_pixel, blind.lidar_pixel_image = rays.lidar_pixel[nothing], rays.lidar_pixel_image[nothing]
    found = scores_by_camera(field(rays), blind, SEEN, NAMES, dataclasses.replace(CONFIG))
    assert math.isnan(found["seen"]["FRONT"]["lidar_abs_rel"])
    checks = whole_checks(found, found, FitGateConfig())
    assert checks["whole_psnr_drop"]["passed"]
    assert not checks["whole_abs_rel_rise"]["passed"]
    assert checks["whole_abs_rel_rise"]["undecided"] == "the scene has no LiDAR"
