"""Score images, depth and text-query maps against a reference, in plain numpy.

The evaluation has two protocols, and every figure names its own:

* ``paper`` follows the definitions of the DistillNeRF evaluation: one PSNR per frame with the
  error pooled over its cameras, predictions not clamped; depth clipped to 80 m and pooled per
  frame.
* ``untouched`` scores what a user would save to disk, on every frame: predictions clamped to
  [0, 1], one PSNR per image, depth as predicted.

The reference is used as stored: its sky is not filled, and its depth is not clamped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

MAXIMUM_EVALUATED_DEPTH = 80.0
"""Range in metres beyond which depth is left unscored by both protocols."""

_MINIMUM_EVALUATED_DEPTH = 1e-3
_SSIM_WINDOW = 7


def peak_signal_to_noise(
    predicted: Float[np.ndarray, "*shape"],
    reference: Float[np.ndarray, "*shape"],
    is_valid: Bool[np.ndarray, "*pixels"] | None = None,
) -> float:
    """Return the PSNR in dB of values with a peak of 1, from one mean error over all of them.

    Args:
        predicted: Values to score; they are not clamped.
        reference: True values in [0, 1].
        is_valid: True where values are scored, over the leading axes; None scores all.

    Returns:
        ``-10 log10(MSE)``; infinite for identical inputs, NaN when nothing was given.
    """
    if is_valid is not None:
        predicted, reference = predicted[is_valid], reference[is_valid]
    if predicted.size == 0:
        return float("nan")
    error = float(np.mean((predicted.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return float("inf") if error == 0.0 else float(-10.0 * np.log10(error))


def structural_similarity(
    predicted: Float[np.ndarray, "height width channels"],
    reference: Float[np.ndarray, "height width channels"],
    is_valid: Bool[np.ndarray, "height width"] | None = None,
    *,
    window: int = _SSIM_WINDOW,
) -> float:
    """Return the mean SSIM of an image pair with a peak of 1.

    The window is uniform, the covariance is the sample covariance, and windows that leave the image are dropped. This
    is scikit-image's default, against which it is tested.

    Args:
        predicted: Image to score.
        reference: True image in [0, 1].
        is_valid: Pixels that may be scored. A window with any other pixel is dropped. None scores all.
        window: Odd side of the square window, pixels.

    Returns:
        SSIM in [-1, 1]; NaN when no window is left.

    Raises:
        ValueError: If the window is even, or larger than the image.
    """
    height, width, _ = predicted.shape
    if window % 2 == 0 or window > min(height, width):
        raise ValueError(f"SSIM window must be odd and fit {height}x{width}, got {window}")
    x, y = predicted.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _window_mean(x, window), _window_mean(y, window)
    sample = window**2 / (window**2 - 1)
    variance_x = sample * (_window_mean(x * x, window) - mean_x**2)
    variance_y = sample * (_window_mean(y * y, window) - mean_y**2)
    covariance = sample * (_window_mean(x * y, window) - mean_x * mean_y)
    luminance_floor, contrast_floor = 0.01**2, 0.03**2
    similarity = (
        (2 * mean_x * mean_y + luminance_floor)
        * (2 * covariance + contrast_floor)
        / ((mean_x**2 + mean_y**2 + luminance_floor) * (variance_x + variance_y + contrast_floor))
    )
    if is_valid is not None:
        similarity = similarity[_window_mean(is_valid[..., None].astype(np.float64), window)[..., 0] > 1 - 1e-9]
    return float(similarity.mean()) if similarity.size else float("nan")


def _window_mean(
    values: Float[np.ndarray, "height width channels"], window: int
) -> Float[np.ndarray, "inner_height inner_width channels"]:
    """Average every whole window, by one summed-area table."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1, values.shape[2]))
    table[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    total = table[window:, window:] - table[:-window, window:] - table[window:, :-window] + table[:-window, :-window]
    return total / window**2


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthScores:
    """Error of a depth prediction over the pixels where the reference is defined.

    Attributes:
        abs_rel: Mean of ``|reference - predicted| / reference``.
        sq_rel: Mean of ``(reference - predicted)^2 / reference``, metres.
        rmse: Root mean squared error, metres.
        rmse_log: Root mean squared difference of natural logarithms.
        delta_1: Share of pixels with ``max(ratio, 1/ratio) < 1.25``.
        delta_2: Share of pixels with ``max(ratio, 1/ratio) < 1.25^2``.
        delta_3: Share of pixels with ``max(ratio, 1/ratio) < 1.25^3``.
        coverage: Share of the reference pixels where the prediction is defined.
        num_pixels: Reference pixels scored.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    delta_1: float
    delta_2: float
    delta_3: float
    coverage: float
    num_pixels: int


def depth_scores(
    predicted: Float[np.ndarray, "*shape"],
    reference: Float[np.ndarray, "*shape"],
    *,
    clip: bool,
    maximum: float = MAXIMUM_EVALUATED_DEPTH,
) -> DepthScores:
    """Score termination depth wherever the reference lies in (0.001, ``maximum``) metres.

    A ray that hit nothing is scored as if it ended at ``maximum``: a model gains nothing by abstaining.

    Args:
        predicted: Distance along unit rays, metres. NaN where the ray hit nothing.
        reference: True distance along the same rays, metres. NaN where undefined; those pixels
            are never scored.
        clip: Clip the prediction to the evaluated range first, as the paper does.
        maximum: End of the evaluated range, metres.

    Returns:
        The scores, all NaN when no pixel could be scored.
    """
    with np.errstate(invalid="ignore"):
        is_scored = (reference > _MINIMUM_EVALUATED_DEPTH) & (reference < maximum)
    truth = reference[is_scored].astype(np.float64)
    guess = predicted[is_scored].astype(np.float64)
    is_defined = np.isfinite(guess) & (guess > 0)
    coverage = float(is_defined.mean()) if truth.size else float("nan")
    guess = np.where(is_defined, guess, maximum)
    if clip:
        guess = np.clip(guess, _MINIMUM_EVALUATED_DEPTH, maximum)
    if truth.size == 0:
        nan = float("nan")
        return DepthScores(
            abs_rel=nan, sq_rel=nan, rmse=nan, rmse_log=nan, delta_1=nan, delta_2=nan,
            delta_3=nan, coverage=coverage, num_pixels=int(is_scored.sum()),
        )  # fmt: skip
    error = truth - guess
    ratio = np.maximum(truth / guess, guess / truth)
    return DepthScores(
        abs_rel=float(np.mean(np.abs(error) / truth)),
        sq_rel=float(np.mean(error**2 / truth)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(np.mean((np.log(truth) - np.log(guess)) ** 2))),
        delta_1=float(np.mean(ratio < 1.25)),
        delta_2=float(np.mean(ratio < 1.25**2)),
        delta_3=float(np.mean(ratio < 1.25**3)),
        coverage=coverage,
        num_pixels=int(is_scored.sum()),
    )


def depth_error_by_range(
    predicted: Float[np.ndarray, "*shape"],
    reference: Float[np.ndarray, "*shape"],
    edges: Float[np.ndarray, " edges"],
) -> tuple[Float[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """Sum the relative error of clipped predictions in bins of true range.

    Sums let frames add up, so that a near-empty bin weighs less than a full one.

    Args:
        predicted: Distance along unit rays, metres, NaN where the ray hit nothing.
        reference: True distance, metres, NaN where undefined.
        edges: Ascending bin edges, metres.

    Returns:
        Sum of absolute relative error, and number of pixels, in each bin.
    """
    is_scored = np.isfinite(reference) & (reference >= edges[0]) & (reference < edges[-1])
    truth = reference[is_scored].astype(np.float64)
    guess = predicted[is_scored].astype(np.float64)
    far = float(edges[-1])
    guess = np.clip(np.where(np.isfinite(guess), guess, far), _MINIMUM_EVALUATED_DEPTH, far)
    index = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, len(edges) - 2)
    error = np.bincount(index, weights=np.abs(truth - guess) / truth, minlength=len(edges) - 1)
    return error, np.bincount(index, minlength=len(edges) - 1)


def average_precision(scores: Float[np.ndarray, " n"], is_positive: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the precision-recall curve, a step function over ranks.

    Equal scores enter together, so the value does not depend on the order of the input.

    Returns:
        Average precision in [0, 1]; NaN when there is no positive. Chance level is the share of
        positives.
    """
    num_positive = int(is_positive.sum())
    if num_positive == 0:
        return float("nan")
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    ranked = scores[order]
    hits = np.cumsum(is_positive[order])
    is_last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    hits = hits[is_last_of_tie]
    seen = np.flatnonzero(is_last_of_tie) + 1
    recall_gain = np.diff(hits, prepend=0) / num_positive
    return float(np.sum(recall_gain * hits / seen))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A statistic over frames with a bootstrap interval.

    Attributes:
        mean: The statistic, a mean unless said otherwise; NaN when undefined.
        low: Lower end of the interval; None when there are too few groups.
        high: Upper end of the interval; None when there are too few groups.
        num_values: Number of frames behind the statistic.
        resampled: Unit of resampling: ``"scene"``, ``"frame"`` or ``"none"``.
    """

    mean: float
    low: float | None
    high: float | None
    num_values: int
    resampled: str


def bootstrap_mean(values: Sequence[float], scenes: Sequence[str], *, seed: int = 0) -> Interval:
    """Average one value per frame, with an interval; values that are not finite are dropped.

    Args:
        values: One value per frame.
        scenes: Scene of each value.
        seed: Seed of the resampling.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(values) != len(scenes):
        raise ValueError(f"got {len(values)} values for {len(scenes)} scenes")
    kept = [(value, scene) for value, scene in zip(values, scenes, strict=True) if math.isfinite(value)]
    totals = np.array([[value, 1.0] for value, _ in kept]).reshape(-1, 2)
    return bootstrap_statistic(totals, [scene for _, scene in kept], lambda total: total[0] / total[1], seed=seed)


def bootstrap_statistic(
    totals: Float[np.ndarray, "frames terms"],
    scenes: Sequence[str],
    statistic: Callable[[Float[np.ndarray, " terms"]], float],
    *,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
    minimum_groups: int = 5,
) -> Interval:
    """Compute a statistic of summed terms, and a percentile bootstrap interval of it.

    Frames of one scene resemble each other, so whole scenes are resampled where there are enough of them. Otherwise
    frames are resampled, which understates the spread between scenes. The result says which was done. The interval is
    None with too few frames.

    Args:
        totals: Terms that add up over frames: a value and a 1 for a mean, counts for an IoU.
        scenes: Scene of each frame.
        statistic: Function of the summed terms.
        seed: Seed of the resampling.
        num_resamples: Bootstrap draws.
        level: Coverage of the interval, in (0, 1).
        minimum_groups: Fewest scenes, or frames, that may be resampled.
    """
    num_frames = len(totals)
    if num_frames == 0:
        return Interval(mean=float("nan"), low=None, high=None, num_values=0, resampled="none")
    value = float(statistic(totals.sum(axis=0)))
    unique, group = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    if len(unique) >= minimum_groups:
        resampled = "scene"
    elif num_frames >= minimum_groups:
        resampled, group = "frame", np.arange(num_frames)
    else:
        return Interval(mean=value, low=None, high=None, num_values=num_frames, resampled="none")
    by_group = np.zeros((int(group.max()) + 1, totals.shape[1]))
    np.add.at(by_group, group, totals)
    draws = np.random.default_rng(seed).integers(len(by_group), size=(num_resamples, len(by_group)))
    drawn = np.array([statistic(by_group[draw].sum(axis=0)) for draw in draws])
    drawn = drawn[np.isfinite(drawn)]  # a draw without any positive has no IoU
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if drawn.size else (value, value)
    return Interval(mean=value, low=float(low), high=float(high), num_values=num_frames, resampled=resampled)
