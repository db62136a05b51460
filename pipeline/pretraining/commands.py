"""What ``python -m pipeline.pretraining`` does: make scenes, fit in rounds, ship, judge by other rigs."""

import json
import logging
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from pipeline.live import Student
from pipeline.presets import PipelineConfig, build_preset
from pipeline.pretraining.rigs import judge_on_rigs, table
from pipeline.pretraining.rounds import fit_rounds, pretraining_fit
from pipeline.pretraining.scenes import make_scenes
from pipeline.pretraining.ship import ship, ship_head
from pipeline.settled import settle
from storage.stores.versioned import Home
from student.config import SHIPPED, OccupancyFitConfig, Variant
from student.training.initial import initial_folder

logger = logging.getLogger(__name__)

_VARIANT: Variant = "clip"


def pretraining_config() -> PipelineConfig:
    """Return the sizes and image teachers of the demo, whose student is the one to be pretrained."""
    return settle(build_preset("demo", variant=_VARIANT), holds_out_frames=False)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Make procedural drives and all their targets; what is there is kept.

    Attributes:
        home: Folder of everything.
        drives: Number of drives to learn from, two scenes each.
        first: Index of the first of them; a home that goes on from shipped weights takes drives that they never saw.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    drives: int = 50
    first: int = 0
    threads: int = 1

    def run(self) -> None:
        """Make what is missing."""
        torch.set_num_threads(self.threads)
        make_scenes(Home(self.home), pretraining_config(), range(self.first, self.first + self.drives))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit the student in rounds, each from the last one's weights and on all scenes that are there by then.

    A round that was stopped goes on where it was.

    Attributes:
        home: Folder of the scenes.
        rounds: Number of rounds to add to those that are complete.
        steps: Optimisation steps of each.
        seconds: Most seconds of each; a round that this ends is not reproducible to the bit.
        depth_steps: Those of them, the first ones, that fit depth alone and are four times as fast.
        initial: Checkpoint that the first round starts from, a folder; by default from nothing.
        anneal: Let the rate of each round fall to a twentieth, as in the last one before the student is shipped.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    rounds: int = 1
    steps: int = 1000
    seconds: float | None = None
    depth_steps: int = 0
    initial: Path | None = None
    anneal: bool = False
    threads: int = 1

    def run(self) -> None:
        """Fit, and print the last round as JSON."""
        torch.set_num_threads(self.threads)
        config = pretraining_config().student
        fit = replace(pretraining_fit(self.steps, self.depth_steps, anneal=self.anneal), max_seconds=self.seconds)
        done = fit_rounds(Home(self.home), replace(config, fit=fit), rounds=self.rounds, initial=self.initial)
        sys.stdout.write(json.dumps(asdict(done[-1]), indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Ship:
    """Put the student of the last complete round into the package.

    Attributes:
        home: Folder of the rounds.
        folder: Folder to write; by default the package's own.
    """

    home: Annotated[Path, tyro.conf.Positional]
    folder: Path = field(default_factory=lambda: initial_folder("shipped"))

    def run(self) -> None:
        """Write it."""
        ship(Home(self.home), self.folder, _VARIANT)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Teach the occupancy head of the shipped student, and what names voxels by it; nothing else changes.

    It learns from the scenes of the last round, or, where there was no round, from all that are complete.

    Attributes:
        home: Folder of the scenes and rounds.
        folder: Folder of the student; by default the package's own.
        steps: Optimisation steps.
        frames: Most frames to learn from.
        features_only: Leave the occupancy head as it is, and teach only what names voxels by it.
        further: Go on from the heads as they are. They start at random otherwise.
        learning_rate: Peak learning rate.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    folder: Path = field(default_factory=lambda: initial_folder("shipped"))
    steps: int = 1500
    frames: int = 256
    features_only: bool = False
    further: bool = False
    learning_rate: float = OccupancyFitConfig().learning_rate
    threads: int = 1

    def run(self) -> None:
        """Teach it, and print what it learned from as JSON."""
        torch.set_num_threads(self.threads)
        config = OccupancyFitConfig(steps=self.steps, max_frames=self.frames, learning_rate=self.learning_rate)
        lesson = ship_head(Home(self.home), self.folder, config, features_only=self.features_only, further=self.further)
        sys.stdout.write(json.dumps(lesson.to_json(), indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Rigs:
    """Judge a student on procedural drives by rigs that no student learned from, against their LiDAR.

    Attributes:
        home: Folder of the recordings, to be made; what is there is kept.
        student: "shipped", or the folder of a packed student.
        drives: Number of drives, two scenes each.
        threads: Number of CPU threads.
    """

    home: Annotated[Path, tyro.conf.Positional]
    student: str = SHIPPED
    drives: int = 3
    threads: int = 1

    def run(self) -> None:
        """Print a table."""
        torch.set_num_threads(self.threads)
        student = Student.from_pretrained(self.student)
        scores = list(judge_on_rigs(Home(self.home), pretraining_config(), student, range(self.drives)))
        sys.stdout.write(table(scores) + "\n")
