"""Quick scores on held-out frames while training, beside two predictors that know nothing of the input.

The full evaluation is :mod:`student.evaluation.evaluate`; this one is cheap enough to run often. Its baselines are the
mean colour and the median depth of the frame that is scored; the quality gate compares with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import depth_image, to_uint8
from student.data.dataset import FrameDataset
from student.data.evenly_spaced import evenly_spaced
from student.data.sample import TrainingBatch
from student.metrics import depth_scores, peak_signal_to_noise
from student.model.distillnerf import DistillNeRF
from student.model.types import StudentOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Result of a validation.

    Attributes:
        figures: ``psnr`` and ``psnr_mean_colour`` (dB), ``depth_abs_rel`` of the rendered depth,
            ``coarse_depth_abs_rel`` and ``depth_abs_rel_median`` against LiDAR; None where nothing could be scored.
            Means over frames; empty where nothing was held out.
        pictures: Picture of each sample, with one column per camera: image, rendered image, rendered depth.
    """

    figures: Mapping[str, float | None]
    pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]


def validate(
    model: DistillNeRF, dataset: FrameDataset, *, max_samples: int, max_pictures: int, device: torch.device
) -> Validation:
    """Score evenly spaced held-out frames; the model's training mode is restored.

    Raises:
        PipelineError: If a held-out sample cannot be read.
    """
    was_training = model.training
    model.eval()
    figures: list[dict[str, float]] = []
    pictures: dict[str, np.ndarray] = {}
    try:
        for index in evenly_spaced(range(len(dataset)), max_samples):
            batch = dataset[index].to(device)
            with torch.no_grad():
                output = model(batch.inputs, batch.cameras)
            figures.append(score(output, batch))
            if len(pictures) < max_pictures:
                pictures[batch.keys[0]] = draw(output, batch)
    finally:
        model.train(was_training)
    means = {name: _mean([figure[name] for figure in figures]) for name in figures[0]} if figures else {}
    return Validation(figures=means, pictures=pictures)


def score(output: StudentOutput, batch: TrainingBatch) -> dict[str, float]:
    """Return the figures of :class:`Validation` for one batch; NaN where nothing could be scored."""
    is_present = batch.cameras.target_is_present
    figures: dict[str, float] = {}
    if output.image is not None:
        image = batch.view_targets.image[is_present].cpu().numpy()
        image = image.transpose(0, 2, 3, 1)
        predicted = output.image[is_present].cpu().numpy().transpose(0, 2, 3, 1)
        is_seen = output.is_seen[is_present].cpu().numpy()
        is_seen = resize_nearest(is_seen, *image.shape[1:3], axis=1)
        figures["psnr"] = peak_signal_to_noise(predicted, image, is_seen)
        mean_colour = np.broadcast_to(image[is_seen].mean(axis=0), image.shape)
        figures["psnr_mean_colour"] = peak_signal_to_noise(mean_colour, image, is_seen)
    lidar = batch.view_targets.lidar_depth.cpu().numpy()
    figures["depth_abs_rel"] = _abs_rel(output.termination_depth.cpu().numpy(), lidar)
    coarse_lidar = batch.input_targets.lidar_depth.cpu().numpy()
    figures["coarse_depth_abs_rel"] = _abs_rel(output.coarse_termination_depth.cpu().numpy(), coarse_lidar)
    returns = lidar[np.isfinite(lidar)]
    median = np.full_like(lidar, np.median(returns) if returns.size else np.nan)
    figures["depth_abs_rel_median"] = _abs_rel(median, lidar)
    return figures


def draw(output: StudentOutput, batch: TrainingBatch) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the first sample's views side by side: photograph, rendered image, rendered depth."""
    columns = []
    height, width = batch.view_targets.image.shape[-2:]
    for camera in batch.cameras.target_is_present[0].nonzero()[:, 0].tolist():
        rows = [_photograph(batch.view_targets.image[0, camera])]
        if output.image is not None:
            rows.append(_photograph(output.image[0, camera]))
        depth = depth_image(output.termination_depth[0, camera].cpu().numpy())
        columns.append(np.concatenate([*rows, resize_nearest(depth, height, width)]))
    return np.concatenate(columns, axis=1)


def _photograph(image: Float[torch.Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    return to_uint8(image.movedim(0, -1).cpu().numpy())


def quality_gate(figures: Mapping[str, float | None]) -> dict[str, Any] | None:
    """Return the gate of a checkpoint, which must beat both baselines; None if nothing was held out.

    An undefined figure fails.
    """
    pairs = {"psnr": ("psnr_mean_colour", 1), "depth_abs_rel": ("depth_abs_rel_median", -1)}
    checks = {}
    for name, (baseline_name, sign) in pairs.items():
        if baseline_name in figures:
            value, baseline = figures[name], figures[baseline_name]
            passed = value is not None and baseline is not None and sign * value > sign * baseline
            checks[name] = {"value": value, "threshold": baseline, "passed": passed}
    return {"passed": all(check["passed"] for check in checks.values()), "checks": checks} if checks else None


def _abs_rel(predicted: np.ndarray, lidar: np.ndarray) -> float:
    return depth_scores(predicted, lidar, clip=True).abs_rel


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
