"""How good a fit is: images and depth of frames that it never saw, and of all frames before and after it saw them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from teachers.nerf.config import NerfConfig
from teachers.nerf.scene_rays import RayBatch, SceneRays
from teachers.quality import at_least, at_most, gate, undecided

MAX_JUDGED_RAYS = 60_000
"""Pixels, LiDAR pixels or returns that are judged, drawn evenly: enough for two digits."""

NO_LIDAR = "the scene has no LiDAR"
STANDS_STILL = "the vehicle stands still, so no held-out view is a new one"

_MIN_SHIFT_M = 0.1

_MIN_STATIC_SHARE = 0.2
"""An image with less of what stands still has no PSNR of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRendering:
    """What a field says about rays.

    Attributes:
        rgb: Colour, [0, 1].
        termination_depth: Metres along unit rays, whatever the opacity.
        opacity: Sum of weights.
    """

    rgb: Float[Tensor, "rays 3"]
    termination_depth: Float[Tensor, " rays"]
    opacity: Float[Tensor, " rays"]


Render = Callable[[RayBatch], FieldRendering]


def judge_fit(render: Render, held_out: SceneRays, config: NerfConfig) -> dict[str, Any]:
    """Return metrics and quality gate of a fit on held-out frames.

    ``psnr`` is the mean over images of the PSNR of each. Depth is scored where LiDAR has a return within
    ``losses.max_depth_m``: ``lidar_*`` at the pixels that returns project to, ``lidar_beam_*`` along the LiDAR's own
    rays, which no occlusion between the two sensors disturbs. ``static_*`` are the same scores over what stands still,
    and they are what the gate judges: where something that moves stands in a frame that was held out, no fit can know.
    Without any LiDAR, depth has no scores and its checks are undecided.
    """
    metrics = _judge_images(render, held_out)
    checks = {"static_psnr": at_least(metrics["static_psnr"], config.gate.min_psnr)}
    if len(held_out.lidar_pixel) == 0:
        checks |= {
            "static_lidar_abs_rel": undecided(config.gate.max_abs_rel, NO_LIDAR),
            "lidar_coverage": undecided(config.gate.min_coverage, NO_LIDAR),
        }
    else:
        metrics |= _judge_depth(render, held_out, config)
        checks |= {
            "static_lidar_abs_rel": at_most(metrics["static_lidar_abs_rel"], config.gate.max_abs_rel),
            "lidar_coverage": at_least(metrics["lidar_coverage"], config.gate.min_coverage),
        }
    if "sky_opacity" in metrics:
        checks["sky_opacity"] = at_most(metrics["sky_opacity"], config.gate.max_sky_opacity)
    return {**metrics, "quality": gate(checks)}


def _judge_depth(render: Render, held_out: SceneRays, config: NerfConfig) -> dict[str, float]:
    picked = evenly(len(held_out.lidar_pixel))
    image, pixel = held_out.lidar_pixel_image[picked], held_out.lidar_pixel[picked]
    rendered = render(held_out.pixel_rays(image, pixel))
    measured = held_out.lidar_pixel_depth[picked] * held_out.bounds.metres_per_unit
    scores = _depth_scores("lidar", rendered, measured, held_out.is_moving[image, pixel], config)
    picked = evenly(len(held_out.lidar_distances))
    rendered = render(held_out.lidar_beams(picked))
    measured = held_out.lidar_distances[picked] * held_out.bounds.metres_per_unit
    return scores | _depth_scores("lidar_beam", rendered, measured, held_out.lidar_is_moving[picked], config)


def shift_check(
    held_out_origins: Float[Tensor, "images 3"], fitted_origins: Float[Tensor, "fitted 3"], *, metres_per_unit: float
) -> dict[str, Any]:
    """Return how far held-out images stand from fitted ones: the largest distance to the nearest, metres.

    If the vehicle stood still, held-out images are fitted ones again and say nothing about views from elsewhere.

    Args:
        held_out_origins: Camera centres, scene units.
        fitted_origins: Camera centres, scene units.
        metres_per_unit: The metric scale of scene units.
    """
    nearest = torch.cdist(held_out_origins, fitted_origins).min(dim=1).values
    shift_m = metres_per_unit * float(nearest.max())
    if shift_m < _MIN_SHIFT_M:
        return {**undecided(_MIN_SHIFT_M, STANDS_STILL), "value": shift_m}
    return at_least(shift_m, _MIN_SHIFT_M)


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
    prefix: str,
    rendered: FieldRendering,
    measured_m: Float[Tensor, " rays"],
    is_moving: Bool[Tensor, " rays"],
    config: NerfConfig,
) -> dict[str, float]:
    near = measured_m <= config.losses.max_depth_m
    defined = near & (rendered.opacity >= config.min_opacity)
    static = defined & ~is_moving
    scores = {f"{prefix}_coverage": float(defined.sum() / near.sum().clamp_min(1))}
    for name, chosen in ((prefix, defined), (f"static_{prefix}", static)):
        errors = depth_errors(rendered.termination_depth[chosen], measured_m[chosen])
        scores |= {f"{name}_{error}": value for error, value in errors.items()}
    return scores


def _judge_images(render: Render, held_out: SceneRays) -> dict[str, float]:
    psnrs, static_psnrs, sky_opacities = [], [], []
    for image in held_out.shown_images.tolist():
        pixel = held_out.seen_pixels(image)
        rays = held_out.pixel_rays(torch.full_like(pixel, image), pixel)
        rendered = render(rays)
        error = (rendered.rgb - rays.rgb).square().mean(dim=-1)
        psnrs.append(psnr_of(error))
        is_static = ~held_out.is_moving[image, pixel]
        if is_static.to(torch.float32).mean() >= _MIN_STATIC_SHARE:
            static_psnrs.append(psnr_of(error[is_static]))
        if rays.is_sky is not None:
            sky_opacities.append(rendered.opacity[rays.is_sky])
    scores = {"psnr": _mean(psnrs), "static_psnr": _mean(static_psnrs)}
    if sky_opacities and (opacity := torch.cat(sky_opacities)).numel() > 0:
        scores["sky_opacity"] = float(opacity.mean())
    return scores


def psnr_of(squared_error: Float[Tensor, " pixels"]) -> float:
    """Return the PSNR of pooled errors of values in [0, 1], dB; NaN where there are none or one is not finite."""
    error = float(squared_error.mean())
    return -10.0 * math.log10(max(error, 1e-10)) if math.isfinite(error) else math.nan


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def evenly(count: int, most: int = MAX_JUDGED_RAYS) -> Int64[Tensor, " _"]:
    """Return indices below ``count`` at even distances, ``most`` of them at most."""
    return torch.linspace(0, max(0, count - 1), min(count, most)).round().to(torch.int64)
