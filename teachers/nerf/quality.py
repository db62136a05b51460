"""How good a fit is: images and depth of frames that it never saw."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from teachers.nerf.config import NerfConfig
from teachers.nerf.scene_rays import RayBatch, SceneRays
from teachers.quality import at_least, at_most, gate

_MAX_JUDGED_RAYS = 60_000
"""LiDAR pixels and returns that are judged, drawn evenly: enough for two digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedRays:
    """What a field says about rays.

    Attributes:
        rgb: Colour, [0, 1].
        termination_depth: Metres along unit rays, whatever the opacity.
        opacity: Sum of weights.
    """

    rgb: Float[Tensor, "rays 3"]
    termination_depth: Float[Tensor, " rays"]
    opacity: Float[Tensor, " rays"]


Render = Callable[[RayBatch], RenderedRays]


def judge_fit(render: Render, held_out: SceneRays, config: NerfConfig) -> dict[str, Any]:
    """Return metrics and quality gate of a fit on held-out frames.

    ``psnr`` is the mean over images of the PSNR of each. Depth is scored where LiDAR has a return within
    ``losses.max_depth_m``: ``lidar_*`` at the pixels that returns project to, ``lidar_beam_*`` along the LiDAR's own
    rays, which no occlusion between the two sensors disturbs.
    """
    psnr, sky_opacity = _judge_images(render, held_out)
    picked = _evenly(len(held_out.lidar_pixel))
    rendered = render(held_out.pixel_rays(held_out.lidar_pixel_image[picked], held_out.lidar_pixel[picked]))
    metres = held_out.bounds.metres_per_unit
    scores = {f"lidar_{k}": v for k, v in _depth_scores(rendered, held_out.lidar_pixel_depth[picked] * metres, config)}
    picked = _evenly(len(held_out.lidar_distances))
    rendered = render(held_out.lidar_beams(picked))
    beams = _depth_scores(rendered, held_out.lidar_distances[picked] * metres, config)
    scores |= {f"lidar_beam_{k}": v for k, v in beams}
    checks = {
        "psnr": at_least(psnr, config.gate.min_psnr),
        "lidar_abs_rel": at_most(scores["lidar_abs_rel"], config.gate.max_abs_rel),
        "lidar_coverage": at_least(scores["lidar_coverage"], config.gate.min_coverage),
    }
    metrics: dict[str, Any] = {"psnr": psnr, **scores}
    if sky_opacity is not None:
        metrics["sky_opacity"] = sky_opacity
        checks["sky_opacity"] = at_most(sky_opacity, config.gate.max_sky_opacity)
    return {**metrics, "quality": gate(checks)}


def depth_errors(predicted_m: Float[Tensor, " rays"], measured_m: Float[Tensor, " rays"]) -> dict[str, float]:
    """Return AbsRel, RMSE (metres) and the share within a factor of 1.25; NaN where there is nothing to compare."""
    if len(predicted_m) == 0:
        return {"abs_rel": math.nan, "rmse_m": math.nan, "delta_1": math.nan}
    ratio = torch.maximum(predicted_m / measured_m, measured_m / predicted_m)
    return {
        "abs_rel": float(((predicted_m - measured_m).abs() / measured_m).mean()),
        "rmse_m": float((predicted_m - measured_m).square().mean().sqrt()),
        "delta_1": float((ratio < 1.25).to(torch.float32).mean()),
    }


def _depth_scores(
    rendered: RenderedRays, measured_m: Float[Tensor, " rays"], config: NerfConfig
) -> list[tuple[str, float]]:
    near = measured_m <= config.losses.max_depth_m
    defined = near & (rendered.opacity >= config.min_opacity)
    errors = depth_errors(rendered.termination_depth[defined], measured_m[defined])
    return [*errors.items(), ("coverage", float(defined.sum() / near.sum().clamp_min(1)))]


def _judge_images(render: Render, held_out: SceneRays) -> tuple[float, float | None]:
    pixel = torch.arange(held_out.pixels.shape[1])
    psnrs, sky_sum, sky_count = [], 0.0, 0
    for image in range(len(held_out.pixels)):
        rays = held_out.pixel_rays(torch.full_like(pixel, image), pixel)
        rendered = render(rays)
        error = float((rendered.rgb - rays.rgb).square().mean())
        psnrs.append(-10.0 * math.log10(max(error, 1e-10)) if math.isfinite(error) else math.nan)
        if rays.is_sky is not None:
            sky_sum += float(rendered.opacity[rays.is_sky].sum())
            sky_count += int(rays.is_sky.sum())
    sky = None if held_out.is_sky is None or sky_count == 0 else sky_sum / sky_count
    return sum(psnrs) / len(psnrs), sky


def _evenly(count: int) -> Tensor:
    return torch.linspace(0, max(0, count - 1), min(count, _MAX_JUDGED_RAYS)).round().to(torch.int64)
