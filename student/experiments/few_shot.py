"""Few-shot curves: what a head reaches from few labelled scenes, on a pretrained student and on one from nothing.

``python -m student.experiments.few_shot HOME VARIANT`` needs a home with a student and ``occupancy_labels`` of its
scenes. It trains a head for every number of scenes and every start, scores each on the same held-out scenes, and writes
a table as JSON and a picture. Existing heads are reused.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from storage.freed_memory import reuse_freed_memory
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from student.applications.finetune import finetune_head
from student.config import FinetuneConfig, FinetunedPart, FinetuneTask
from student.evaluation.results import EvaluationResult
from student.reporting.plots import few_shot_plot

logger = logging.getLogger("student.experiments.few_shot")

FIGURES: Mapping[FinetuneTask, tuple[str, ...]] = {
    "occupancy": ("occupancy.iou", "occupancy.iou_above_ground", "calibration.ece"),
    "segmentation": ("occupancy.iou", "semantic_occupancy.miou_17", "semantic_occupancy.fmiou_12"),
}
"""Figures of the curves, by task."""


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Train heads on growing numbers of scenes.

    Attributes:
        home: Home of the student and the labels.
        variant: Variant of the student.
        task: What the head tells of a voxel.
        shots: Numbers of labelled scenes to learn from.
        starts: Starts of the student: as it was pretrained, or from nothing.
        seeds: Seeds of weights and order.
        steps: Optimisation steps of each.
        store_url: Location of array stores, as s3://bucket/prefix. The default is DISTILLNERF_STORE_URL, or else the
            home.
        output: Folder for ``few_shot-<task>.json`` and ``.svg``; the home by default.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    variant: Annotated[str, tyro.conf.Positional]
    task: FinetuneTask = "segmentation"
    shots: tuple[int, ...] = (1, 5, 25)
    starts: tuple[FinetunedPart, ...] = ("frozen", "from_nothing")
    seeds: tuple[int, ...] = (0,)
    steps: int = field(default_factory=lambda: FinetuneConfig().steps)
    store_url: str | None = field(default_factory=store_url_from_environment)
    output: Path | None = None
    threads: int | None = None

    def run(self) -> dict[str, Any]:
        """Train and score everything, write both files, and return the content of the JSON."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        home = Home(self.home, store_url=self.store_url)
        rows = [
            self._row(home, start, shots, seed) for shots in self.shots for seed in self.seeds for start in self.starts
        ]
        record = {"settings": asdict(self) | {"home": self.home.name, "output": ""}, "rows": rows}
        folder = self.output or self.home
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"few_shot-{self.task}.json").write_text(json.dumps(record, indent=2) + "\n")
        (folder / f"few_shot-{self.task}.svg").write_text(few_shot_plot(rows, FIGURES[self.task]))
        return record

    def _row(self, home: Home, start: FinetunedPart, shots: int, seed: int) -> dict[str, Any]:
        config = FinetuneConfig(student=start, max_scenes=shots, steps=self.steps, seed=seed)
        name = f"{shots} scenes, {start}, seed {seed}"
        made = finetune_head(home, self.variant, self.task, config, lambda _, done, __: _tell(name, done))
        found = {figure: made.metrics["headline"].get(figure) for figure in FIGURES[self.task]}
        logger.info("%s: %s", name, ", ".join(f"{figure} {value}" for figure, value in found.items()))
        return {
            "start": start,
            "scenes": len(made.metrics["train_scenes"]),
            "frames": made.metrics["train_frames"],
            "seed": seed,
            "head": made.version.digest,
            "figures": found,
            "beside": _beside(made.metrics, FIGURES[self.task]),
        }


def _beside(metrics: Mapping[str, Any], figures: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the figures of what the head should beat, by predictor."""
    found: dict[str, dict[str, float | None]] = {}
    result = EvaluationResult.from_json(metrics["evaluation"])
    for name in figures:
        section, _, figure = name.partition(".")
        for baseline in result.section(section).figure(figure).baselines:
            found.setdefault(baseline.label, {})[name] = baseline.value
    return found


def _tell(name: str, done: float) -> None:
    logger.info("%s: %.0f %%", name, 100 * done)


if __name__ == "__main__":
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logger.info("%s", json.dumps(tyro.cli(FewShot).run()["rows"], indent=2))
