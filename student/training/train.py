"""Fit a student on one machine or many.

``torchrun --nproc-per-node 8 -m student.training.train HOME VARIANT --preset paper`` is the command.

The pipeline fits students in one process, or in those of one machine that ``fit.runtime.processes`` asks for; this
module runs the same fit in any number, on many machines too. It reads the variant's frozen training set from the home
and publishes the same checkpoint there, whatever the number of processes.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import PipelineError
from storage.parent_process import end_with_parent
from storage.plain_json import parse_json
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from student.config import StudentConfig, TrackerName, Variant
from student.presets.published import PUBLISHED_RUNS, published_variant
from student.presets.students import student_preset
from student.training.fit import fit_student
from student.training.processes import is_under_torchrun
from student.training.torchrun import tell_error, tell_progress

logger = logging.getLogger("student.training.train")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fit a student from a frozen training set.

    Attributes:
        home: Folder of the home, or s3://bucket/prefix; all processes must see it.
        variant: Name of what the student is taught, and of its training set.
        store_url: Location of array stores, as s3://bucket/prefix. The default is DISTILLNERF_STORE_URL, or else the
            home.
        preset: Size of the run.
        published: Published run to use in place of a preset, by data set and image size. The variant chooses space and
            features. The stores must have its sizes.
        config: JSON file of a run to use in place of a preset, such as the "student" part of a checkpoint's
            config.json.
        training_set: Name of the training set; the variant's own by default.
        accumulation_steps: Parts in which a process takes its share of a batch.
        recompute_activations: Compute activations twice instead of keeping them, to save memory.
        precision: Number format of convolutions and linear layers; the run's own by default.
        device: Device to train on; the run's own by default.
        num_workers: Processes that read samples, for each process that trains; the run's own by default.
        trackers: Services that curves and pictures are sent to; the run's own by default.
        initial: Checkpoint to start from, a folder or "shipped"; the run's own by default, "none" for random weights.
        lpips_weights: Local safetensors file of VGG LPIPS; without it, structural dissimilarity is used.
        messages: File that progress and errors are appended to as lines of JSON, for the program that started this.
        write_config: Write the run as JSON to this file and stop. The file can be edited and given as ``config``.
    """

    home: Annotated[str, tyro.conf.Positional]
    variant: Annotated[Variant, tyro.conf.Positional]
    store_url: str | None = field(default_factory=store_url_from_environment)
    preset: Literal["demo", "tiny", "small", "paper"] = "paper"
    published: Literal[PUBLISHED_RUNS] | None = None  # pyright: ignore[reportInvalidTypeForm]
    config: Path | None = None
    training_set: str | None = None
    accumulation_steps: int | None = None
    recompute_activations: bool = False
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    device: Literal["auto", "cpu", "cuda"] | None = None
    num_workers: int | None = None
    trackers: tuple[TrackerName, ...] | None = None
    initial: str | None = None
    lpips_weights: Path | None = None
    messages: Path | None = None
    write_config: Path | None = None

    def run(self) -> StudentConfig:
        """Return the requested run.

        Raises:
            IntegrityError: If ``config`` does not hold a run.
            ValueError: If its parts do not fit together.
        """
        run = self._chosen()
        runtime = {
            "accumulation_steps": self.accumulation_steps,
            "recompute_activations": self.recompute_activations or None,
            "device": self.device,
            "num_workers": self.num_workers,
            "trackers": self.trackers,
        }
        fit = replace(run.fit, runtime=replace(run.fit.runtime, **_given(runtime)))
        if self.initial is not None:
            fit = replace(fit, initial=None if self.initial == "none" else self.initial)
        return replace(
            run,
            fit=replace(fit, **_given({"precision": self.precision})),
            losses=replace(run.losses, **_given({"lpips_weights": self.lpips_weights})),
        )

    def _chosen(self) -> StudentConfig:
        if self.config is not None and self.published is not None:
            raise ValueError("config and published are two runs: give one")
        if self.config is not None:
            return config_from_json(StudentConfig, parse_json(self.config.read_text()), str(self.config))
        if self.published is not None:
            return published_variant(self.published, self.variant)
        return student_preset(self.preset, self.variant)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def main() -> None:
    """Fit the run that the command line asks for."""
    arguments = tyro.cli(Arguments)
    if is_under_torchrun():
        end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = arguments.run()
    if arguments.write_config is not None:
        arguments.write_config.write_text(json.dumps(config_json(run), indent=1) + "\n")
        logger.info("written: %s", arguments.write_config)
        return
    messages = arguments.messages
    try:
        home = Home(arguments.home, store_url=arguments.store_url)
        tell = _report if messages is None else partial(tell_progress, messages)
        done = fit_student(home, arguments.variant, run, tell, training_set=arguments.training_set)
    except PipelineError as error:
        if messages is not None:
            tell_error(messages, error)
        raise
    logger.info("%s %s", "already there:" if done.reused else "published:", done.version)


def _report(stage: str, share: float, figures: Mapping[str, Any]) -> None:
    shown = {"loss": "{:.4f}", "steps_per_second": "{:.2f} steps/s", "eta_s": "{:.0f} s left", "psnr": "PSNR {:.2f}"}
    said = [form.format(figures[name]) for name, form in shown.items() if figures.get(name) is not None]
    logger.info("%s %3.0f%% step %d: %s", stage, 100 * share, figures["step"], ", ".join(said))


if __name__ == "__main__":
    main()
