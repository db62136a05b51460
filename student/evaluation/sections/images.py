"""Image quality: rendered views against the images of a camera, of a teacher or of the true world."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from student.evaluation.results import Baseline, Figure, Section, figure_of, finite_or_none
from student.metrics import bootstrap_mean, peak_signal_to_noise, structural_similarity

_UNTOUCHED = "Prediction clamped to [0, 1], one value per image, all held-out frames, reference as stored."
_PAPER = (
    "The paper's protocol: prediction not clamped, {pooling}, one frame per scene (the second, or the first held out)."
)


@dataclass(slots=True)
class _Series:
    values: list[float] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)

    undefined: int = 0
    infinite: int = 0

    def add(self, scene: str, value: float) -> None:
        self.values.append(value)
        self.scenes.append(scene)
        self.undefined += np.isnan(value)
        self.infinite += np.isinf(value)

    def left_out(self) -> str:
        """Say of how many frames the mean is without, for a definition; nothing where it is of all."""
        parts = ((self.undefined, "without a pixel to score"), (self.infinite, "equal to the reference"))
        told = " and ".join(f"{count} {what}" for count, what in parts if count)
        return f" The mean leaves out {told}, of {len(self.values)} frames." if told else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptual:
    """A perceptual distance between images.

    Attributes:
        name: Name of the figure.
        label: Label of the figure.
        definition: What it computes, one sentence.
        distance: Function of rendered views and reference, both in [0, 1], that returns the mean over views.
    """

    name: str
    label: str
    definition: str
    distance: Callable[
        [Float[np.ndarray, "views height width channels"], Float[np.ndarray, "views height width channels"]], float
    ]


@dataclass(slots=True, kw_only=True)
class ImageScores:
    """PSNR and SSIM of one kind of view, under both protocols (DistillNeRF Tab. 1).

    The published protocol scores the second frame of each scene (DistillNeRF Sec. 4.1).

    Attributes:
        name: Name of the section.
        title: Title of the section.
        reference: Name of the images that the views are compared with.
        note: Description of the views, one sentence.
        unavailable: Reason to give if there are no figures.
        seed: Seed of the bootstrap.
        perceptual: Perceptual distance; None to leave it out.
    """

    name: str
    title: str
    reference: str
    note: str
    unavailable: str
    seed: int = 0
    perceptual: Perceptual | None = None
    _series: dict[tuple[str, str], _Series] = field(default_factory=dict)

    def add(
        self,
        scene: str,
        predicted: Float[np.ndarray, "views height width channels"],
        reference: Float[np.ndarray, "views height width channels"],
        *,
        baselines: Mapping[str, Float[np.ndarray, "views height width channels"]],
        is_paper_frame: bool,
        is_valid: Bool[np.ndarray, "views height width"] | None = None,
    ) -> None:
        """Score the views of one frame; a view without a pixel to score is skipped.

        Args:
            scene: Scene key, for the bootstrap.
            predicted: Rendered images, not clamped.
            reference: Images to compare with, in [0, 1].
            baselines: Images of trivial predictors, by label; every call has the same labels.
            is_paper_frame: True if the paper's protocol scores this frame too.
            is_valid: True for pixels to score: those that show the world and not the vehicle itself. None if all do.
        """
        if is_valid is None:
            is_valid = np.ones(reference.shape[:3], bool)
        for label, images in {"": predicted, **baselines}.items():
            clamped = np.clip(images, 0.0, 1.0)
            each = [peak_signal_to_noise(*view) for view in zip(clamped, reference, is_valid, strict=True)]
            self._add("psnr", label, scene, _mean_of_defined(each))
            self._add("ssim", label, scene, _mean_ssim(clamped, reference, is_valid))
            if self.perceptual is not None:
                # What is not scored must not be seen either: there both images are the same.
                shown = np.where(is_valid[..., None], clamped, reference)
                self._add(self.perceptual.name, label, scene, self.perceptual.distance(shown, reference))
            if is_paper_frame:
                self._add("paper_psnr", label, scene, peak_signal_to_noise(images, reference, is_valid))
                self._add("paper_ssim", label, scene, _mean_ssim(images, reference, is_valid))

    def _add(self, name: str, label: str, scene: str, value: float | np.floating) -> None:
        self._series.setdefault((name, label), _Series()).add(scene, float(value))

    def section(self) -> Section:
        """Return the section; it is unavailable if no view was scored."""
        figures = []
        if self._series:
            figures += [
                self._figure("psnr", "PSNR", "dB", f"Peak signal-to-noise ratio. {_UNTOUCHED}"),
                self._figure("ssim", "SSIM", "", f"Structural similarity, 7 x 7 uniform window. {_UNTOUCHED}"),
            ]
            if self.perceptual is not None:
                of = self.perceptual
                definition = f"{of.definition} {_UNTOUCHED}"
                figures.append(self._figure(of.name, of.label, "", definition, better="lower"))
        if ("paper_psnr", "") in self._series:
            pooled = _PAPER.format(pooling="one error pooled over the cameras of a frame")
            each = _PAPER.format(pooling="one value per image")
            figures += [
                self._figure("paper_psnr", "PSNR, paper's protocol", "dB", f"Peak signal-to-noise ratio. {pooled}"),
                self._figure("paper_ssim", "SSIM, paper's protocol", "", f"Structural similarity. {each}"),
            ]
        return Section(
            name=self.name,
            title=self.title,
            quality="image",
            reference=self.reference,
            note=self.note,
            unavailable="" if figures else self.unavailable,
            figures=tuple(figures),
        )

    def _figure(
        self,
        name: str,
        label: str,
        unit: str,
        definition: str,
        *,
        better: Literal["higher", "lower"] = "higher",
    ) -> Figure:
        series = self._series[name, ""]
        baselines = [
            Baseline(label=rival, value=finite_or_none(bootstrap_mean(s.values, s.scenes).mean))
            for (figure, rival), s in self._series.items()
            if figure == name and rival
        ]
        return figure_of(
            name,
            label,
            bootstrap_mean(series.values, series.scenes, seed=self.seed),
            definition=definition + series.left_out(),
            better=better,
            unit=unit,
            baselines=baselines,
            protocol="paper" if name.startswith("paper_") else "full",
        )


@dataclass(slots=True, kw_only=True)
class FeatureScores:
    """PSNR of rendered foundation features against the teacher's, by source (DistillNeRF Tab. 1)."""

    seed: int = 0
    _series: dict[tuple[str, str], _Series] = field(default_factory=dict)

    def add(
        self,
        scene: str,
        source: str,
        predicted: Float[np.ndarray, "views height width channels"],
        reference: Float[np.ndarray, "views height width channels"],
        *,
        mean_feature: Float[np.ndarray, " channels"] | None,
        is_valid: Bool[np.ndarray, "views height width"] | None = None,
        is_paper_frame: bool = False,
    ) -> None:
        """Score one frame's feature maps, both on one grid, in the reduced space of [0, 1].

        Args:
            scene: Scene key.
            source: "clip" or "dinov2".
            predicted: Rendered features.
            reference: Stored target.
            mean_feature: Mean training feature, a trivial prediction; None if no training frame was read.
            is_valid: True for pixels that show the world; None if all do.
            is_paper_frame: True if the paper's protocol scores the frame too.
        """
        values = {"": peak_signal_to_noise(predicted, reference, is_valid)}
        if mean_feature is not None:
            constant = np.broadcast_to(mean_feature, reference.shape).astype(reference.dtype)
            values["mean training feature"] = peak_signal_to_noise(constant, reference, is_valid)
        for label, value in values.items():
            self._series.setdefault((source, label), _Series()).add(scene, value)
            if is_paper_frame:
                self._series.setdefault((f"paper_{source}", label), _Series()).add(scene, value)

    def section(self, *, unavailable: str) -> Section:
        """Return the section; ``unavailable`` is the reason to give if there are no figures."""
        sources = sorted({source for source, _ in self._series}, key=lambda name: (name.startswith("paper_"), name))
        figures = tuple(self._figure(source) for source in sources)
        return Section(
            name="features",
            title="Feature rendering",
            quality="semantic",
            reference="the image teacher's reduced features",
            note="The teacher is no truth: this tells how well it is imitated, not whether it is right.",
            unavailable="" if figures else unavailable,
            figures=figures,
        )

    def _figure(self, source: str) -> Figure:
        series = self._series[source, ""]
        rivals: Sequence[Baseline] = [
            Baseline(label=label, value=finite_or_none(bootstrap_mean(s.values, s.scenes).mean))
            for (of, label), s in self._series.items()
            if of == source and label
        ]
        model, is_paper = source.removeprefix("paper_"), source.startswith("paper_")
        label = f"{'CLIP' if model == 'clip' else 'DINOv2'} feature PSNR"
        frames = "One frame per scene (the second, or the first held out); grid and range are ours." if is_paper else ""
        return figure_of(
            f"{'paper_' if is_paper else ''}psnr_{model}",
            f"{label}, paper's protocol" if is_paper else label,
            bootstrap_mean(series.values, series.scenes, seed=self.seed),
            definition=f"PSNR of the reduced features, one error pooled over the cameras of a frame. {frames}".strip()
            + series.left_out(),
            better="higher",
            unit="dB",
            baselines=rivals,
            protocol="paper" if is_paper else "full",
        )


def _mean_ssim(
    images: Float[np.ndarray, "views height width channels"],
    reference: Float[np.ndarray, "views height width channels"],
    is_valid: Bool[np.ndarray, "views height width"],
) -> float:
    return _mean_of_defined([structural_similarity(*view) for view in zip(images, reference, is_valid, strict=True)])


def _mean_of_defined(values: Sequence[float]) -> float:
    """Return the mean over views with a defined figure; NaN, which the bootstrap drops, if there is none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
