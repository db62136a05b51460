"""Whether a field that went on with all frames, after it was judged, is still as good as what was judged.

What was held out is fitted then, so no figure of the published field is of something it never saw. The same rays are
rendered at the judgement and at the end instead: a phase that harmed the field shows as a fall, by camera.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from teachers.nerf.config import FitGateConfig, NerfConfig
from teachers.nerf.quality import MAX_JUDGED_RAYS, NO_LIDAR, Render, evenly, psnr_of
from teachers.nerf.scene_rays import SceneRays
from teachers.quality import at_most, undecided

Scores = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Per group of frames (``seen`` and ``joined`` in the second phase) and camera: ``psnr`` and ``lidar_abs_rel``."""


def scores_by_camera(
    render: Render, rays: SceneRays, seen: tuple[int, ...], camera_names: tuple[str, ...], config: NerfConfig
) -> dict[str, dict[str, dict[str, float]]]:
    """Return PSNR and absolute relative depth error of every camera, over evenly drawn rays of all images.

    Errors are pooled over a camera's images; depth is undefined where opacity is low, and then wrong by all of it. What
    has no ray has NaN.

    Args:
        render: The field.
        rays: All frames that the second phase fits.
        seen: Those of them that the first phase was fitted to.
        camera_names: Names of the cameras.
        config: The fit.
    """
    image, pixel = _even_pixels(rays)
    batch = rays.pixel_rays(image, pixel)
    squared_error = (render(batch).rgb - batch.rgb).square().mean(dim=-1)
    lidar_image, relative_error = _depth_errors(render, rays, config)
    was_seen = torch.isin(rays.image_frame, torch.tensor(seen))
    scores = {}
    for group, belongs in (("seen", was_seen), ("joined", ~was_seen)):
        if not bool(belongs.any()):
            continue
        scores[group] = {
            name: {
                "psnr": psnr_of(squared_error[(belongs & of_camera)[image]]),
                "lidar_abs_rel": _mean(relative_error, (belongs & of_camera)[lidar_image]),
            }
            for camera, name in enumerate(camera_names)
            for of_camera in [rays.image_camera == camera]
        }
    return scores


def whole_checks(before: Scores, after: Scores, config: FitGateConfig) -> dict[str, dict[str, Any]]:
    """Return the checks that no camera became worse by more than the gate allows; each names the worst place."""
    falls = _changes(before, after, "psnr", sign=-1.0)
    rises = _changes(before, after, "lidar_abs_rel", sign=1.0)
    return {
        "whole_psnr_drop": _worst(falls, config.max_psnr_drop),
        "whole_abs_rel_rise": _worst(rises, config.max_abs_rel_rise)
        if rises
        else undecided(config.max_abs_rel_rise, NO_LIDAR),
    }


def _worst(changes: dict[str, float], threshold: float) -> dict[str, Any]:
    if not changes:
        return at_most(math.nan, threshold)
    where = max(changes, key=lambda place: math.inf if math.isnan(changes[place]) else changes[place])
    return {**at_most(changes[where], threshold), "where": where}


def _changes(before: Scores, after: Scores, figure: str, *, sign: float) -> dict[str, float]:
    """Return by how much a figure became worse, by place; what was undefined before has no change."""
    changes = {}
    for group, cameras in before.items():
        for camera, scores in cameras.items():
            then, now = scores[figure], after[group][camera][figure]
            if then is not None and math.isfinite(then):
                changes[f"{camera}, {group} frames"] = math.nan if now is None else sign * (now - then)
    return changes


def _even_pixels(rays: SceneRays) -> tuple[Tensor, Tensor]:
    per_image = max(16, MAX_JUDGED_RAYS // len(rays.shown_images))
    images, pixels = [], []
    for image in rays.shown_images.tolist():
        seen = rays.seen_pixels(image)
        picked = evenly(len(seen), per_image)
        images.append(torch.full((len(picked),), image))
        pixels.append(seen[picked])
    return torch.cat(images), torch.cat(pixels)


def _depth_errors(render: Render, rays: SceneRays, config: NerfConfig) -> tuple[Tensor, Tensor]:
    """Return image and relative depth error of evenly drawn LiDAR pixels; a depth that is undefined is wrong by all."""
    count = len(rays.lidar_pixel)
    if count == 0:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    picked = evenly(count)
    image = rays.lidar_pixel_image[picked]
    rendered = render(rays.pixel_rays(image, rays.lidar_pixel[picked]))
    measured = rays.lidar_pixel_depth[picked] * rays.bounds.metres_per_unit
    error = (rendered.termination_depth - measured).abs() / measured
    error = torch.where(rendered.opacity >= config.min_opacity, error, 1.0)
    near = measured <= config.losses.max_depth_m
    return image[near], error[near]


def _mean(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else math.nan
