"""Quality of the sky: rendered opacity against the true sky, or against LiDAR returns, which are no sky."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from student.evaluation.results import NO_GROUND_TRUTH, Baseline, Figure, Section, figure_of, finite_or_none
from student.inference.occupancy import BinaryCounts
from student.metrics import average_precision, bootstrap_mean, bootstrap_statistic


@dataclass(slots=True, kw_only=True)
class SkyScores:
    """Sky of held-out images. A ray counts as sky if its opacity is less than 0.5.

    Attributes:
        reference: What says where the sky is, in words.
        seed: Seed of the bootstrap.
    """

    reference: str
    seed: int = 0
    _counts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    _precision: list[float] = field(default_factory=list)
    _scenes: list[str] = field(default_factory=list)
    _num_pixels: int = 0
    _returns_called_sky: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    _scenes_of_returns: list[str] = field(default_factory=list)

    def add(
        self,
        scene: str,
        sky_probability: Float[np.ndarray, "views height width"],
        is_sky: Bool[np.ndarray, "views height width"],
        *,
        is_seen: Bool[np.ndarray, "views height width"] | None = None,
        rivals: Mapping[str, Bool[np.ndarray, "views height width"]],
    ) -> None:
        """Score one frame; a frame without any sky is left out.

        Args:
            scene: Scene key.
            sky_probability: Probability of sky, 1 - opacity.
            is_sky: True sky.
            is_seen: True for pixels that have a ray; None if all have, as in a pinhole.
            rivals: Sky by other predictors, by label; every call has the same labels.
        """
        if not is_sky.any():
            return
        seen = np.ones_like(is_sky) if is_seen is None else is_seen
        self._scenes.append(scene)
        self._num_pixels += int(seen.sum())
        self._precision.append(average_precision(sky_probability[seen], is_sky[seen]))
        for label, predicted in {"": sky_probability > 0.5, **rivals}.items():
            counts = BinaryCounts.of(predicted[seen], is_sky[seen])
            union = counts.true_positive + counts.false_positive + counts.false_negative
            self._counts.setdefault(label, []).append((float(counts.true_positive), float(union)))

    def add_returns(
        self,
        scene: str,
        sky_probability: Float[np.ndarray, "views height width"],
        is_return: Bool[np.ndarray, "views height width"],
        *,
        rivals: Mapping[str, Bool[np.ndarray, "views height width"]],
    ) -> None:
        """Score the pixels of one frame in which a LiDAR return falls: none of them is sky.

        This is one-sided. It finds things that are taken for sky, and never sky that is taken for things.

        Args:
            scene: Scene key.
            sky_probability: Probability of sky, 1 - opacity.
            is_return: Pixels with a return.
            rivals: Sky by other predictors, by label; every call has the same labels.
        """
        if not is_return.any():
            return
        self._scenes_of_returns.append(scene)
        for label, predicted in {"": sky_probability > 0.5, **rivals}.items():
            pair = float(predicted[is_return].sum()), float(is_return.sum())
            self._returns_called_sky.setdefault(label, []).append(pair)

    def section(self) -> Section:
        """Return the section; it is unavailable if no truth has sky, and no LiDAR return was scored."""
        figures = (*self._figures(), *self._figure_of_returns())
        return Section(
            name="sky",
            title="Sky",
            quality="geometric",
            reference=self.reference if self._scenes else "LiDAR returns, which are no sky",
            note="A ray of which less than half ends on something is called sky.",
            unavailable="" if figures else NO_GROUND_TRUTH,
            figures=figures,
        )

    def _figure_of_returns(self) -> tuple[Figure, ...]:
        if not self._scenes_of_returns:
            return ()
        own = np.array(self._returns_called_sky[""])
        return (
            figure_of(
                "returns_called_sky",
                "LiDAR returns called sky",
                bootstrap_statistic(own, self._scenes_of_returns, _ratio, seed=self.seed),
                definition="Share of the pixels with a LiDAR return that are called sky. It is one-sided: sky that is "
                "taken for a thing goes unnoticed.",
                better="lower",
                counted="pixels",
                count=int(own[:, 1].sum()),
                baselines=[
                    Baseline(label=label, value=finite_or_none(_ratio(np.sum(pairs, axis=0))))
                    for label, pairs in self._returns_called_sky.items()
                    if label
                ],
            ),
        )

    def _figures(self) -> tuple[Figure, ...]:
        if not self._scenes:
            return ()
        rivals = [
            Baseline(label=label, value=finite_or_none(_ratio(np.sum(pairs, axis=0))))
            for label, pairs in self._counts.items()
            if label
        ]
        overlap = bootstrap_statistic(np.array(self._counts[""]), self._scenes, _ratio, seed=self.seed)
        ranking = bootstrap_mean(self._precision, self._scenes, seed=self.seed)
        return (
            figure_of(
                "iou",
                "IoU",
                overlap,
                definition="Pixels called sky in both, over pixels called sky in either, summed over held-out frames.",
                better="higher",
                counted="pixels",
                count=self._num_pixels,
                baselines=rivals,
            ),
            figure_of(
                "average_precision",
                "average precision",
                ranking,
                definition="Area under the precision-recall curve of 1 - opacity, per frame, then averaged.",
                better="higher",
            ),
        )


def _ratio(pair: Float[np.ndarray, " 2"]) -> float:
    return float(pair[0] / pair[1]) if pair[1] else float("nan")
