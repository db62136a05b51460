"""Fit a student on one machine or many: ``torchrun --nproc-per-node 8 -m student.train HOME VARIANT --preset paper``.

The orchestrated pipeline fits students too, in one process. This is the same fit for several: it reads the frozen
training set of the variant from the home, and publishes the same checkpoint there, whatever the number of processes.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from storage.versioned import Home
from student.config import StudentConfig, Variant
from student.config_json import config_from_json
from student.fit import fit_student
from student.presets import student_preset

logger = logging.getLogger("student.train")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fit a student from a frozen training set.

    Attributes:
        home: Folder that holds the stores; all processes must see it.
        variant: What the student is taught, and the name of its training set.
        preset: Size of the run.
        config: A run as JSON, such as the "student" part of a checkpoint's config.json, in place of a preset.
        training_set: Another training set than the variant's own.
        accumulation_steps: Parts in which a process takes its share of a batch.
        recompute_activations: Save memory by computing activations twice.
        precision: Number format of convolutions and linear layers; the run's own where it is not given.
    """

    home: Annotated[Path, tyro.conf.Positional]
    variant: Annotated[Variant, tyro.conf.Positional]
    preset: Literal["demo", "tiny", "small", "paper"] = "paper"
    config: Path | None = None
    training_set: str | None = None
    accumulation_steps: int | None = None
    recompute_activations: bool = False
    precision: Literal["float32", "bfloat16", "float16"] | None = None

    def run(self) -> StudentConfig:
        """Return the run that is asked for.

        Raises:
            IntegrityError: If ``config`` is no run.
            ValueError: If its parts do not fit together.
        """
        if self.config is None:
            run = student_preset(self.preset, self.variant)
        else:
            run = config_from_json(StudentConfig, json.loads(self.config.read_text()), str(self.config))
        fit = run.fit
        if self.precision is not None:
            fit = replace(fit, precision=self.precision)
        if self.accumulation_steps is not None:
            fit = replace(fit, runtime=replace(fit.runtime, accumulation_steps=self.accumulation_steps))
        if self.recompute_activations:
            fit = replace(fit, runtime=replace(fit.runtime, recompute_activations=True))
        return replace(run, fit=fit)


def main() -> None:
    """Fit what the command line asks for."""
    arguments = tyro.cli(Arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    done = fit_student(
        Home(arguments.home), arguments.variant, arguments.run(), _report, training_set=arguments.training_set
    )
    logger.info("%s %s", "already there:" if done.reused else "published:", done.version)


def _report(stage: str, share: float, figures: Mapping[str, Any]) -> None:
    shown = {"loss": "{:.4f}", "steps_per_second": "{:.2f} steps/s", "eta_s": "{:.0f} s left", "psnr": "PSNR {:.2f}"}
    said = [form.format(figures[name]) for name, form in shown.items() if figures.get(name) is not None]
    logger.info("%s %3.0f%% step %d: %s", stage, 100 * share, figures["step"], ", ".join(said))


if __name__ == "__main__":
    main()
