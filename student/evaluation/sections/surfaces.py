"""Error of depth by kind of surface: glass, fuselage, wet ground, low texture, dark returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from student.evaluation.results import Baseline, Figure, figure_of, finite_or_none
from student.evaluation.surfaces import CRITERIA, Surfaces
from student.metrics import bootstrap_statistic, depth_scores

_Terms = Float[np.ndarray, "3"]
_Quantity = Literal["abs_rel", "coverage"]
_QUANTITIES: dict[_Quantity, tuple[str, Literal["higher", "lower"], str]] = {
    "abs_rel": ("AbsRel", "lower", "Mean of |error| / true range over all pixels of the kind; a ray that hits nothing "
                "counts as 80 m."),
    "coverage": ("coverage", "higher", "Share of the kind's pixels where the student's ray hits something."),
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class SurfaceErrors:
    """Sums of relative errors over the pixels of each kind of surface.

    Attributes:
        seed: Seed of the bootstrap.
    """

    seed: int = 0
    _frames: list[tuple[str, dict[tuple[str, str], dict[str, _Terms]]]] = field(default_factory=list)

    def add(
        self,
        scene: str,
        entries: Mapping[str, tuple[Float[np.ndarray, "views height width"], Float[np.ndarray, "views height width"]]],
        surfaces: Surfaces,
    ) -> None:
        """Add one frame.

        Args:
            scene: Scene key, for the bootstrap.
            entries: Predicted and true distance, metres, by predictor; one is called ``student``.
            surfaces: Pixels of each kind.
        """
        found = {
            kind: {label: _terms(depth[pixels], truth[pixels]) for label, (depth, truth) in entries.items()}
            for kind, pixels in surfaces.items()
        }
        self._frames.append((scene, found))

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures of all kinds, by criterion; a kind without a pixel has no value and a count of 0."""
        kinds = dict.fromkeys(kind for _, found in self._frames for kind in found)
        return tuple(self._figure(kind, of) for of in _QUANTITIES for kind in kinds)

    def note(self) -> str:
        """Return which kinds had no pixel; empty if all had some."""
        empty = [f.label for f in self.figures() if f.name.startswith("abs_rel") and not f.count]
        return f" No pixel was of the kind {', '.join(empty)}." if empty else ""

    def _figure(self, kind: tuple[str, str], quantity: _Quantity) -> Figure:
        criterion, name = kind
        label, better, definition = _QUANTITIES[quantity]
        scenes = [scene for scene, _ in self._frames]
        rows = {
            of: np.array([found.get(kind, {}).get(of, np.zeros(3)) for _, found in self._frames])
            for of in dict.fromkeys(of for _, found in self._frames for of in found.get(kind, {}))
        }
        own = rows["student"]
        rivals = [
            Baseline(label=of, value=finite_or_none(_value(row.sum(axis=0), quantity)))
            for of, row in rows.items()
            if of != "student" and quantity == "abs_rel"
        ]
        figure = figure_of(
            f"{quantity}_{name.replace(' ', '_')}",
            name,
            bootstrap_statistic(own, scenes, lambda terms: _value(terms, quantity), seed=self.seed),
            definition=f"{definition} {CRITERIA[criterion]}",
            better=better,
            counted="pixels",
            count=int(own[:, 2].sum()),
            baselines=rivals,
        )
        return replace(figure, group=f"{label} by {criterion}")


def _terms(predicted: Float[np.ndarray, " n"], reference: Float[np.ndarray, " n"]) -> _Terms:
    """Return the summed relative error, the number of defined predictions, and the number of pixels in range."""
    scores = depth_scores(predicted, reference, clip=False)
    if scores.num_pixels == 0:
        return np.zeros(3)
    return np.array([scores.abs_rel, scores.coverage, 1.0]) * scores.num_pixels


def _value(terms: _Terms, quantity: _Quantity) -> float:
    error, defined, count = terms
    if count == 0:
        return float("nan")
    return float((error if quantity == "abs_rel" else defined) / count)
