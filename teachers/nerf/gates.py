"""Quality gates of what is rendered from a field: each compares with evidence that the rendering was not made from.

Every figure is that of the worst camera, view or frame, so that one wrong camera of six is not averaged away.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import t as student_t

from teachers.nerf.confidence import PixelVerdict
from teachers.nerf.config import GateConfig, TeacherDepthConfig, VirtualViewsConfig
from teachers.nerf.evidence import RenderEvidence
from teachers.nerf.quality import depth_errors
from teachers.quality import at_least, at_most, gate, undecided

_MIN_SCALE = 0.02
"""Errors below this are noise: a pose that explains a view by less than this better does not count."""


_CONFIDENCE = 0.99
"""Confidence of a pose's gain. The best of six poses of six cameras is judged, so chance has many tries."""

_MIN_VARIETY = 0.08
"""Least variety of recorded colours, [0, 1], that a view's error is held against."""


class Worst(NamedTuple):
    """A figure where it is worst."""

    value: float
    where: str


def depth_metrics(evidence: RenderEvidence, fit_passed: bool, config: TeacherDepthConfig) -> dict[str, Any]:
    """Return figures and quality gate of depth maps at recorded cameras."""
    metrics = _figures(evidence)
    worst = worst_figures(evidence)
    checks: dict[str, dict[str, Any]] = {
        "fit_passed": _fit_check(fit_passed),
        "lidar_abs_rel": at_most(metrics["lidar_abs_rel"], config.max_abs_rel, hint=_HINTS["lidar_abs_rel"]),
        "lidar_contradicted_share": at_most(
            metrics["lidar_contradicted_share"], config.max_contradicted_share, hint=_HINTS["lidar_contradicted_share"]
        ),
        "lidar_coverage": at_least(metrics["lidar_coverage"], config.min_coverage, hint=_HINTS["lidar_coverage"]),
        "valid_share": at_least(metrics["valid_share"], config.min_valid_share, hint=_HINTS["valid_share"]),
        **_worst_checks(worst, config.gate),
    }
    return {**metrics, **_spell_worst(worst), "quality": gate(_as_far_as_known(checks, evidence))}


def view_metrics(evidence: RenderEvidence, fit_passed: bool, config: VirtualViewsConfig) -> dict[str, Any]:
    """Return figures and quality gate of views that no camera had."""
    metrics = _figures(evidence)
    worst = worst_figures(evidence)
    checks = {
        "fit_passed": _fit_check(fit_passed),
        "valid_share": at_least(metrics["valid_share"], config.min_valid_share, hint=_HINTS["valid_share"]),
        **_worst_checks(worst, config.gate),
    }
    return {**metrics, **_spell_worst(worst), "quality": gate(_as_far_as_known(checks, evidence))}


def worst_figures(evidence: RenderEvidence) -> dict[str, Worst]:
    """Return the figures that are judged where they are worst.

    ``depth_bias``
        Median absolute logarithm of rendered over measured depth: a scale that is off. Of a camera and view.
    ``depth_misplaced``, ``colour_misplaced``
        Share of the error of a camera and view, over all frames, that the poses of other cameras, frames and views
        explain; 0 if its own explains it best.
    ``depth_misplaced_once``, ``colour_misplaced_once``
        The same of a single frame.
    ``depth_shifted``, ``colour_shifted``
        The same of a pose 0.3 m aside, over all frames, as far as the places that they were taken from agree on it.
    ``colour_explained``
        Share of the variety of recorded colours that a camera's views reproduce; a black image has none of it. A camera
        that records next to none is judged as if it recorded a little, because grain alone is as large.
    """
    found = {"depth_bias": _worst(np.abs(_nanmedian(evidence.bias)), evidence)}
    for name, errors, of_own, rival in (
        ("depth", evidence.depth_error, evidence.depth_own, evidence.depth_rival),
        ("colour", evidence.colour_error, evidence.colour_own, evidence.colour_rival),
    ):
        is_compared = np.isfinite(of_own) & np.isfinite(rival)
        own, other = (np.where(is_compared, e, np.nan) for e in (of_own, rival))
        found[f"{name}_misplaced"] = _worst(_gain(_nanmean(own), _nanmean(other)), evidence)
        found[f"{name}_misplaced_once"] = _worst(_gain(own, other), evidence)
        found[f"{name}_shifted"] = _worst(_gain_beyond_chance(errors, evidence.places), evidence)
    explained = 1 - _nanmean(evidence.colour_error[..., 0]) / np.maximum(_nanmean(evidence.colour_range), _MIN_VARIETY)
    return found | {"colour_explained": _worst(explained, evidence, sign=-1)}


def _worst_checks(worst: dict[str, Worst], limits: GateConfig) -> dict[str, dict[str, Any]]:
    thresholds = {
        "bias": limits.max_depth_bias,
        "misplaced": limits.max_misplaced,
        "once": limits.max_misplaced_once,
        "shifted": limits.max_shifted,
        "explained": limits.min_colour_explained,
    }
    return {
        name: (at_least if name == "colour_explained" else at_most)(
            figure.value, thresholds[name.rsplit("_", 1)[1]], where=figure.where, hint=_HINTS[name]
        )
        for name, figure in worst.items()
    }


def _as_far_as_known(checks: dict[str, dict[str, Any]], evidence: RenderEvidence) -> dict[str, dict[str, Any]]:
    """Return the checks, undecided where the recording cannot tell.

    All figures are taken where beams ended, colours too: without a return, only the check of the fit stays, and beams
    are wanted. A field of images alone may agree with itself and be wrong. From one place, errors of all frames are one
    error, and nothing says how far chance explains it.
    """
    num_returns = int(evidence.num_returns.sum())
    if not num_returns:
        wanted = at_least(num_returns, 1, hint=_HINTS["lidar_returns"])
        judged = {n: c if n == "fit_passed" else undecided(c["threshold"], "no LiDAR") for n, c in checks.items()}
        return {"lidar_returns": wanted, **judged}
    is_compared = np.isfinite(evidence.depth_error[..., 0]).any(axis=(1, 2))
    if len(np.unique(evidence.places[is_compared])) != 1:
        return checks
    one_place = "the vehicle stands: all frames show one view"
    return {n: undecided(c["threshold"], one_place) if n.endswith("_shifted") else c for n, c in checks.items()}


def _fit_check(fit_passed: bool) -> dict[str, Any]:
    return at_least(int(fit_passed), 1, hint="The fit itself missed its gate: see the gate of nerf_teacher.")


_HINTS = {
    "lidar_returns": "Nothing vouches for depth without LiDAR: teach by images, with --variant clip_without_field.",
    "lidar_abs_rel": "The depth is wrong all over: fit for longer, or look at the poses of the recording.",
    "lidar_contradicted_share": "Much of the depth ends elsewhere than the beams: fit for longer, or let things move.",
    "lidar_coverage": "Surfaces that the beams met are fog: fit for longer.",
    "valid_share": "Little of it can be trusted: see share_fog, share_unseen and share_colour for the reason.",
    "depth_bias": "The camera's depth has a wrong scale: look at units, intrinsics and its place on the vehicle.",
    "depth_misplaced": "Another camera's, frame's or view's pose explains this depth better: arrays are exchanged.",
    "depth_misplaced_once": "Another frame's, camera's or view's pose explains this depth better: render it again.",
    "depth_shifted": "A pose 0.3 m aside explains this camera's depth better: look at calibration and timestamps.",
    "colour_misplaced": "Another camera's, frame's or view's pose explains this image better: arrays are exchanged.",
    "colour_misplaced_once": "Another frame's, camera's or view's pose explains this image better: render it again.",
    "colour_shifted": "A pose 0.3 m aside explains this camera's images better: look at calibration and timestamps.",
    "colour_explained": "These images show little of what the camera recorded: look at them; they may be black.",
}
"""What to do about a figure that misses its threshold."""


def _figures(evidence: RenderEvidence) -> dict[str, Any]:
    rendered, measured = torch.from_numpy(np.concatenate(evidence.pairs, axis=1)).to(torch.float32)
    counts = evidence.num_pixels.sum(axis=(0, 1, 2))
    shown = max(1, int(counts.sum() - counts[PixelVerdict.NO_RAY]))
    compared = np.isfinite(evidence.contradicted)
    contradicted = (
        np.average(evidence.contradicted[compared], weights=evidence.num_returns[compared])
        if compared.any()
        else np.nan
    )
    return {
        **{f"lidar_{name}": value for name, value in depth_errors(rendered, measured).items()},
        "lidar_coverage": float(evidence.num_covered.sum() / max(1, evidence.num_returns.sum())),
        "lidar_contradicted_share": float(contradicted),
        "valid_share": float(counts[PixelVerdict.VALID] / shown),
        **{
            f"share_{fault.name.lower()}": float(counts[fault] / shown)
            for fault in PixelVerdict
            if fault not in (PixelVerdict.VALID, PixelVerdict.NO_RAY)
        },
    }


def _spell_worst(worst: dict[str, Worst]) -> dict[str, Any]:
    return {name: figure.value for name, figure in worst.items()}


def _gain(own: Float[np.ndarray, "*shape"], rival: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    gain = np.maximum(0.0, own - rival) / np.maximum(own, _MIN_SCALE)
    return np.where(np.isfinite(rival), gain, np.nan)


def _gain_beyond_chance(
    errors: Float[np.ndarray, "frames cameras views poses"], places: Int64[np.ndarray, " frames"]
) -> Float[np.ndarray, "cameras views"]:
    """Return the share of error that the best other pose explains, as far as places agree on it.

    It is the lower end of a one-sided 99 % interval of the mean over places, by Student's distribution. Frames of one
    place share their errors, and count once. NaN where only one place was compared.
    """
    errors = np.where(np.isfinite(errors).all(axis=-1, keepdims=True), errors, np.nan)
    errors = np.stack([_nanmean(errors[places == place]) for place in np.unique(places)])
    own, gained = _nanmean(errors[..., 0]), errors[..., :1] - errors[..., 1:]
    count = np.isfinite(gained).sum(axis=0)
    mean = _nanmean(gained)
    variance = np.nansum((gained - mean) ** 2, axis=0) / np.maximum(count - 1, 1)
    quantile = student_t.ppf(_CONFIDENCE, np.maximum(count - 1, 1))
    beyond = (mean - quantile * np.sqrt(variance / np.maximum(count, 1))).max(axis=-1)
    gain = np.maximum(0.0, beyond) / np.maximum(own, _MIN_SCALE)
    return np.where(count.min(axis=-1) > 1, gain, np.nan)


def _worst(figures: Float[np.ndarray, "*shape"], evidence: RenderEvidence, *, sign: int = 1) -> Worst:
    """Return the largest of figures of frames, cameras and views, or of cameras and views; the smallest for sign -1."""
    if not np.isfinite(figures).any():
        return Worst(float("nan"), "")
    place = np.unravel_index(np.nanargmax(sign * figures), figures.shape)
    names: Sequence[str] = [f"frame {place[0]}"] if figures.ndim == 3 else []
    names = [*names, evidence.camera_names[int(place[-2])]]
    if len(evidence.view_names) > 1:
        names = [*names, evidence.view_names[int(place[-1])]]
    return Worst(float(figures[place]), ", ".join(names))


def _nanmean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing compared: the figure is undefined
        return np.nanmean(values, axis=0)


def _nanmedian(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, axis=0)
