"""Commands that make stores: demo, run, ingest."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import SceneCommand
from pipeline.memory import PeakMemory
from pipeline.presets import PresetName
from pipeline.run import RunOutcome, run_tasks
from pipeline.run_config import HomeSelection
from pipeline.workflow import (
    add_partitions,
    generate_recordings,
    plan,
    prepare_home,
    register_scenes,
    run_everything,
    with_split,
)
from storage.counted import counted
from storage.ingest.source import expand_splits, usual_source
from storage.ingest.source_config import SourceConfig, SourceFormat
from storage.keys import SceneKey
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class Demo(SceneCommand):
    """Run everything from raw frames to an evaluated student, on generated drives.

    Attributes:
        home: Folder of everything that it writes.
    """

    default_preset: ClassVar[PresetName | None] = "demo"
    home: str | None = "demo"

    def run(self, console: Console) -> int:
        """Generate drives, then run everything on them."""
        home = self.open_home()
        selection = self.selection(home)
        prepare_home(home)
        console.print(f"[bold]demo[/bold] in {escape(home.address)}", soft_wrap=True)
        with PeakMemory() as memory:
            unsplit = dataclasses.replace(selection, train_scenes=(), validation_scenes=())
            keys, generated = generate_recordings(home, unsplit, console)
            split = with_split(selection, keys, ())
            return run_and_tell(home, split, keys, console, memory, generated, environment=self.environment)


@dataclass(frozen=True, kw_only=True)
class _SourceCommand(SceneCommand):
    """Base of commands that register a source.

    Attributes:
        format: Format of the recording; `manifest` is a rig manifest, for your own vehicle.
        root: Folder of the recording.
        version: Release inside the folder, for nuScenes the folder of its tables (v1.0-mini by default).
        scenes: Names of the scenes wanted, or of official splits such as mini_train; by default all.
        dataset: Name of the data set here; by default that of the format, or of the manifest.
        licence: Terms of use, recorded in the provenance of everything made from it; by default those of the manifest.
        link_roots: Further folders that links inside the root may lead into, such as other disks.
    """

    format: Annotated[SourceFormat, tyro.conf.Positional]
    root: Annotated[Path, tyro.conf.Positional]
    version: str | None = None
    scenes: tuple[str, ...] = ()
    dataset: str | None = None
    licence: str | None = None
    link_roots: tuple[Path, ...] = ()

    def source(self) -> SourceConfig:
        """Return the source that the flags describe.

        Raises:
            SourceDataError: If a rig manifest is missing or not valid.
        """
        given = {"version": self.version, "dataset": self.dataset, "licence": self.licence}
        return dataclasses.replace(
            usual_source(self.format, self.root),
            **{k: v for k, v in given.items() if v is not None},
            link_roots=self.link_roots,
        )

    def register(self, home: Home) -> list[str]:
        """Register the source and return the keys of the scenes wanted."""
        source = self.source()
        prepare_home(home)
        return register_scenes(home, source, self.scenes)


@dataclass(frozen=True, kw_only=True)
class Run(_SourceCommand):
    """Run everything on a recording: ingest, teachers, student, evaluation and report, all through Dagster.

    Attributes:
        held_out: Names of scenes (or official splits) on which the student is judged; by default the last ones. With a
            single scene, some of its frames are held out instead.
        follow_basis: Fit the feature bases anew on all scenes to learn from. By default those of the home's first run
            stay, because every feature of every scene would be made again.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    held_out: tuple[str, ...] = ()
    follow_basis: bool = False

    def run(self, console: Console) -> int:
        """Register the recording, then run everything on its scenes."""
        home = self.open_home()
        selection = self.selection(home)
        keys = self.register(home)
        source = self.source()
        held_out = [str(SceneKey(source.dataset, name)) for name in expand_splits(source, self.held_out)]
        scenes = counted(len(keys), "scene")
        console.print(f"[bold]{scenes}[/bold] of {escape(str(self.root))} in {escape(home.address)}")
        with PeakMemory() as memory:
            split = with_split(selection, keys, held_out, follow_basis=self.follow_basis)
            return run_and_tell(home, split, keys, console, memory, environment=self.environment)


@dataclass(frozen=True, kw_only=True)
class Ingest(_SourceCommand):
    """Register a recording and read its scenes into stores."""

    default_preset: ClassVar[PresetName | None] = "tiny"

    def run(self, console: Console) -> int:
        """Register the recording and ingest its scenes."""
        home = self.open_home()
        selection = self.selection(home)
        keys = self.register(home)
        selection.save(home.root)  # what was asked for, on top of what the home keeps
        add_partitions(home, keys)
        made = ("scene", "scene_audit", "input_images")
        tasks = plan(dict.fromkeys(made, keys), selection)
        outcome = run_tasks(tasks, home.root, console, environment=self.environment)
        tell_failures(outcome, console)
        return 0 if outcome.succeeded else 1


def run_and_tell(
    home: Home,
    selection: HomeSelection,
    scene_keys: list[str],
    console: Console,
    memory: PeakMemory,
    before: RunOutcome | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run everything for a selection, print the outcome, and return the exit code."""
    add_partitions(home, scene_keys)
    outcome, summary = run_everything(home, selection, console, memory, before, environment=environment)
    tell_failures(outcome, console)
    for key, reason in summary["left_out"].items():
        console.print(f"[yellow]not learned from[/yellow] {escape(key)}: {escape(reason)}", soft_wrap=True)
    evaluation = home.latest("student_evaluation", selection.variant)
    if evaluation is not None:
        from pipeline.figures import tell_figures
        from student.evaluation.results import EvaluationResult

        result = EvaluationResult.from_json(home.metrics(evaluation))
        tell_figures(result, console, title=f"student {selection.variant} on held-out frames")
    peak = summary["peak_memory_bytes"] / 2**30
    console.print(f"{summary['wall_time_s']:.0f} s, peak memory {peak:.1f} GiB over all processes")
    console.print(f"summary  {escape(str(home.root / 'summary.json'))}", soft_wrap=True)
    if summary["report"] is not None:
        console.print(f"report   {escape(str(home.root / 'report' / 'index.html'))}", soft_wrap=True)
    console.print(f"Dagster  distillnerf ui --home {escape(home.address)}", soft_wrap=True)
    return 0 if outcome.succeeded else 1


def tell_failures(outcome: RunOutcome, console: Console) -> None:
    """Print one line for each failure with its remedy, and the tasks that could not start."""
    for failure in outcome.failures:
        console.print(f"[red]failed[/red] {escape(failure['asset'])}: {escape(failure['message'])}", soft_wrap=True)
        if failure.get("advice"):
            console.print(f"       {escape(failure['advice'])}", soft_wrap=True)
    if outcome.blocked:
        console.print(f"[yellow]not started[/yellow] {escape(', '.join(outcome.blocked))}", soft_wrap=True)
