"""Ablation: each part of the method is judged by runs with and without it, over seeds, on held-out scenes.

``python -m student.experiments.ablation HOME`` needs a home where ``distillnerf run --variant
depth_contracted_virtual`` (or ``demo``) froze a training set. It fits every variant of the paper's ablation with every
seed on the same targets, evaluates each, and writes a table as JSON and a picture. Existing checkpoints and evaluations
are reused.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Literal

import torch
import tyro
from scipy.stats import t as student_t

from storage.freed_memory import reuse_freed_memory
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from student.config import StudentConfig, Variant
from student.data.training_set import load_training_set
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.presets.students import student_preset
from student.reporting.plots import ablation_plot
from student.training.fit import fit_student

logger = logging.getLogger("student.experiments.ablation")

_TARGETS: Variant = "depth_contracted_virtual"
"""Variant whose training set holds everything that the others read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One of the paper's claims about a part of the method.

    Attributes:
        text: The claim in words.
        figure: Headline figure of an evaluation in which it should show.
        better: Direction in which the figure improves.
        without: Variant without the part.
        variant: Variant with the part.
    """

    text: str
    figure: str
    better: Literal["higher", "lower"]
    without: Variant
    variant: Variant


CLAIMS = (
    Claim(
        text="depth distillation lowers depth error",
        figure="depth_truth.abs_rel",
        better="lower",
        without="no_distillation",
        variant="depth",
    ),
    Claim(
        text="contraction lowers depth error beyond 50 m",
        figure="depth_truth.far_abs_rel",
        better="lower",
        without="depth",
        variant="depth_contracted",
    ),
    Claim(
        text="virtual views raise PSNR from poses the car never had",
        figure="lateral_truth.psnr",
        better="higher",
        without="depth_contracted",
        variant="depth_contracted_virtual",
    ),
)
FIGURES = (
    "reconstruction.psnr",
    "next_frame.psnr",
    "lateral_truth.psnr",
    "depth_truth.abs_rel",
    "depth_truth.far_abs_rel",
    "depth_lidar.abs_rel",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Values of a figure over seeds.

    Attributes:
        mean: Mean over seeds; NaN if no seed has the figure.
        half_width: Half width of the 95 % interval of the mean (Student's t); NaN for a single seed.
        values: Value of each seed.
    """

    mean: float
    half_width: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise values."""
        if len(values) < 2:
            return cls(mean=mean(values) if values else math.nan, half_width=math.nan, values=tuple(values))
        quantile = float(student_t.ppf(0.975, len(values) - 1))
        return cls(
            mean=mean(values), half_width=quantile * stdev(values) / math.sqrt(len(values)), values=tuple(values)
        )


def verdict(claim: Claim, change: Spread) -> str:
    """Return the verdict on a claim from the change of its figure, which is paired by seed so that scatter cancels."""
    gain = change.mean if claim.better == "higher" else -change.mean
    if not math.isfinite(change.half_width):
        return "one seed says nothing"
    if abs(gain) <= change.half_width:
        return "not decided"
    return "confirmed" if gain > 0 else "contradicted"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Fit and evaluate every variant with every seed.

    Attributes:
        home: Home of targets and checkpoints.
        store_url: Location of array stores, as s3://bucket/prefix. The default is DISTILLNERF_STORE_URL, or else the
            home.
        preset: Size of the student.
        variants: Variants to compare.
        seeds: Seeds of weights, order and views; the targets stay the same.
        steps: Optimisation steps of each fit; the preset's own by default.
        frames_per_scene: Held-out frames scored per scene.
        output: Folder for ``ablation.json`` and ``ablation.svg``; the home by default.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    store_url: str | None = field(default_factory=store_url_from_environment)
    preset: Literal["demo", "tiny", "small", "paper"] = "demo"
    variants: tuple[Variant, ...] = ("no_distillation", "depth", "depth_contracted", "depth_contracted_virtual")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    frames_per_scene: int = 5
    output: Path | None = None
    threads: int | None = None

    def run(self) -> dict[str, object]:
        """Fit and evaluate everything, write both files, and return the content of the JSON."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        home = Home(self.home, store_url=self.store_url)
        found: dict[Variant, list[Mapping[str, float]]] = {variant: [] for variant in self.variants}
        for seed in self.seeds:
            for variant in self.variants:
                found[variant].append(self._figures(home, variant, seed))
        record = summarise(found)
        record |= {"settings": asdict(self) | {"home": self.home.name}, "scenes": self._scenes(home)}
        folder = self.output or self.home
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ablation.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (folder / "ablation.svg").write_text(ablation_plot({str(k): v for k, v in found.items()}, FIGURES))
        return record

    def _figures(self, home: Home, variant: Variant, seed: int) -> Mapping[str, float]:
        partition = f"ablation-{variant}-seed{seed}"
        config = self._config(variant, seed)
        checkpoint = fit_student(
            home, partition, config, lambda _, done, __: _tell(partition, done), training_set=_TARGETS
        )
        evaluation = EvaluationConfig(
            max_frames_per_scene=self.frames_per_scene, panel_frames=0, checkpoint_digest=checkpoint.version.digest
        )
        headline = evaluate_checkpoint(home, partition, evaluation).metrics["headline"]
        figures = {name: float(headline[name]) for name in FIGURES if headline.get(name) is not None}
        logger.info("%s: %s", partition, ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
        return figures

    def _config(self, variant: Variant, seed: int) -> StudentConfig:
        config = student_preset(self.preset, variant)
        steps = self.steps or config.fit.max_steps
        # From one start: the shipped student was taught what the claims are about.
        fit = replace(
            config.fit, initial=None, max_steps=steps, seed=seed, validate_every=steps, max_validation_samples=1
        )
        return replace(config, fit=replace(fit, runtime=replace(fit.runtime, trackers=())))

    def _scenes(self, home: Home) -> dict[str, list[str]]:
        frozen = load_training_set(home, _TARGETS)
        return {
            "train": [scene.key for scene in frozen.scenes if scene.train_frames],
            "held_out": [scene.key for scene in frozen.scenes if scene.validation_frames],
        }


def summarise(found: Mapping[Variant, Sequence[Mapping[str, float]]]) -> dict[str, object]:
    """Return figures by variant, and the verdict on each claim whose two variants were run."""
    figures = {
        variant: {name: asdict(Spread.of([run[name] for run in runs if name in run])) for name in FIGURES}
        for variant, runs in found.items()
    }
    claims = []
    for claim in CLAIMS:
        if claim.variant not in found or claim.without not in found:
            continue
        pairs = zip(found[claim.without], found[claim.variant], strict=True)
        changes = [b[claim.figure] - a[claim.figure] for a, b in pairs if claim.figure in a and claim.figure in b]
        change = Spread.of(changes)
        claims.append(asdict(claim) | {"change": asdict(change), "verdict": verdict(claim, change)})
    return {"figures": figures, "claims": claims}


def _tell(partition: str, done: float) -> None:
    logger.info("%s: %.0f %%", partition, 100 * done)


if __name__ == "__main__":
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    record = tyro.cli(Ablation).run()
    logger.info("%s", json.dumps(record["claims"], indent=2))
