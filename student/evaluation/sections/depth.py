"""Geometric quality: rendered termination depth against one reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from student.evaluation.results import Baseline, Figure, Section, figure_of, finite_or_none
from student.evaluation.sections.surfaces import SurfaceErrors
from student.evaluation.surfaces import Surfaces
from student.metrics import DepthScores, bootstrap_mean, depth_error_by_range, depth_scores

RANGE_EDGES = np.array([0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 65.0, 80.0])
"""Bins of true range for the plot, metres."""

_LABELS: dict[str, tuple[str, str, Literal["higher", "lower"], str]] = {
    "abs_rel": ("AbsRel", "", "lower", "Mean of |error| / true range."),
    "sq_rel": ("SqRel", "m", "lower", "Mean of squared error / true range."),
    "rmse": ("RMSE", "m", "lower", "Root mean squared error."),
    "rmse_log": ("RMSE log", "", "lower", "Root mean squared difference of natural logarithms."),
    "delta_1": ("δ < 1.25", "", "higher", "Share of pixels within a factor of 1.25."),
    "delta_2": ("δ < 1.25²", "", "higher", "Share of pixels within a factor of 1.25²."),
    "delta_3": ("δ < 1.25³", "", "higher", "Share of pixels within a factor of 1.25³."),
    "coverage": ("coverage", "", "higher", "Share of the reference pixels where the student's ray hits something."),
}
_UNTOUCHED = "All held-out frames, pixels pooled per frame; a ray that hits nothing counts as 80 m."
_PAPER = "The paper's protocol: predictions clipped to 80 m, one frame per scene (the second, or the first held out)."
_FAR_BEGIN = 50.0  # metres: where the published contraction leaves linear space
_FAR = f"Pixels beyond {_FAR_BEGIN:.0f} m of all held-out frames, pooled per frame."

_Protocol = Literal["untouched", "paper", "far"]
_NOTES: dict[_Protocol, str] = {"untouched": _UNTOUCHED, "paper": _PAPER, "far": _FAR}
_NAMES: dict[_Protocol, tuple[str, str]] = {
    "untouched": ("{}", "{}"),
    "paper": ("paper_{}", "{}, paper's protocol"),
    "far": ("far_{}", f"{{}}, beyond {_FAR_BEGIN:.0f} m"),
}


@dataclass(slots=True, kw_only=True)
class DepthReference:
    """All errors against one reference (DistillNeRF Tab. 2), up to 80 m (DistillNeRF Sec. 4.2).

    Attributes:
        name: Name of the section.
        title: Title of the section.
        reference: Reference that is taken as true.
        unavailable: Reason to give if there are no figures.
        seed: Seed of the bootstrap.
    """

    name: str
    title: str
    reference: str
    unavailable: str
    seed: int = 0
    _frames: dict[tuple[str, _Protocol], list[tuple[str, DepthScores]]] = field(default_factory=dict)
    _surfaces: SurfaceErrors = field(init=False)
    _range_error: dict[str, np.ndarray] = field(default_factory=dict)
    _range_count: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start without a frame."""
        self._surfaces = SurfaceErrors(seed=self.seed)

    def add(
        self,
        scene: str,
        predicted: Float[np.ndarray, "views height width"],
        reference: Float[np.ndarray, "views height width"],
        *,
        baselines: Mapping[str, Float[np.ndarray, "views height width"]],
        partial: Mapping[str, Float[np.ndarray, "views height width"]] | None = None,
        is_paper_frame: bool,
        surfaces: Surfaces | None = None,
    ) -> None:
        """Score one frame; a frame without a defined reference in range is skipped.

        Args:
            scene: Scene key, for the bootstrap.
            predicted: Rendered distance along unit rays, metres; NaN where nothing was hit.
            reference: True distance along the same rays, metres; NaN where undefined.
            baselines: Predictions of trivial predictors for the same rays, by label; every call has the same labels.
            partial: Predictions, by label, that are scored only where they are defined.
            is_paper_frame: True if the paper's protocol scores this frame too.
            surfaces: Pixels of each kind of surface, which are scored apart.
        """
        if depth_scores(predicted, reference, clip=True).num_pixels == 0:
            return
        entries = [(label, depth, reference) for label, depth in {"student": predicted, **baselines}.items()]
        for label, depth in (partial or {}).items():
            known = np.where(np.isfinite(depth), reference, np.nan)
            if depth_scores(depth, known, clip=True).num_pixels > 0:
                entries.append((f"{label}, where it is defined", depth, known))
        for label, depth, against in entries:
            self._add(label, "untouched", scene, depth_scores(depth, against, clip=False))
            if is_paper_frame:
                self._add(label, "paper", scene, depth_scores(depth, against, clip=True))
            far = depth_scores(depth, np.where(against > _FAR_BEGIN, against, np.nan), clip=False)
            if far.num_pixels > 0:
                self._add(label, "far", scene, far)
            error, count = depth_error_by_range(depth, against, RANGE_EDGES)
            self._range_error[label] = self._range_error.get(label, 0.0) + error
            self._range_count[label] = self._range_count.get(label, 0) + count
        self._surfaces.add(scene, {label: (depth, against) for label, depth, against in entries}, surfaces or {})

    def _add(self, label: str, protocol: _Protocol, scene: str, scores: DepthScores) -> None:
        self._frames.setdefault((label, protocol), []).append((scene, scores))

    def section(self) -> Section:
        """Return the section; it is unavailable if no pixel had a reference."""
        figures = []
        if self._frames:
            figures += [self._figure(name, "untouched") for name in _LABELS]
        if ("student", "paper") in self._frames:
            figures += [self._figure(name, "paper") for name in _LABELS if name != "coverage"]
        if ("student", "far") in self._frames:
            figures += [self._figure(name, "far") for name in ("abs_rel", "delta_1", "coverage")]
        figures += self._surfaces.figures()
        return Section(
            name=self.name,
            title=self.title,
            quality="geometric",
            reference=self.reference,
            note="Distance along the ray, within 80 m, no scale alignment; the reference is never filled or clamped."
            + self._surfaces.note(),
            unavailable="" if figures else self.unavailable,
            figures=tuple(figures),
        )

    def curve(self) -> dict[str, object] | None:
        """Return mean relative error by range for the plot; None if nothing was scored."""
        if not self._frames:
            return None
        with np.errstate(invalid="ignore"):
            series = {label: (error / self._range_count[label]).tolist() for label, error in self._range_error.items()}
        return {"edges": RANGE_EDGES.tolist(), "series": series, "count": self._range_count["student"].tolist()}

    def _figure(self, name: str, protocol: _Protocol) -> Figure:
        label, unit, better, definition = _LABELS[name]
        named, labelled = _NAMES[protocol]
        own = self._frames["student", protocol]
        values, scenes = _values(own, name), [scene for scene, _ in own]
        rivals = [
            Baseline(label=rival, value=finite_or_none(float(np.mean(_values(frames, name)))))
            for (rival, of), frames in self._frames.items()
            if rival != "student" and of == protocol and name != "coverage"
        ]
        return figure_of(
            named.format(name),
            labelled.format(label),
            bootstrap_mean(values, scenes, seed=self.seed),
            definition=f"{definition} {_NOTES[protocol]}",
            better=better,
            unit=unit,
            counted="pixels",
            count=sum(scores.num_pixels for _, scores in own),
            baselines=rivals,
            protocol="paper" if protocol == "paper" else "full",
        )


def _values(frames: list[tuple[str, DepthScores]], name: str) -> list[float]:
    return [float(getattr(scores, name)) for _, scores in frames]
