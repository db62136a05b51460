"""The command that makes assets of many scenes: those named, those that lack them, those that failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import SceneCommand
from pipeline.commands.runs import tell_failures
from pipeline.presets import PresetName
from pipeline.run import run_tasks
from pipeline.status import PartitionState, State
from pipeline.tasks import Task
from pipeline.workflow import add_partitions, plan, prepare_home, states_of
from storage.kinds import KINDS
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class Backfill(SceneCommand):
    """Make some assets of many scenes, such as the teachers of new scenes.

    Name the scenes, or take those that lack an asset (--missing), whose last attempt failed (--failed), or that were
    made from something that has changed (--stale). What the assets need and is not there is made first. Settings given
    here hold for this command alone.

    Attributes:
        assets: Assets to make, such as sky_mask or nerf_teacher; 'distillnerf status' lists them.
        scenes: Scenes to take, by key.
        missing: Take the scenes that have no version of an asset.
        failed: Take the scenes whose last attempt at an asset failed.
        stale: Take the scenes whose version of an asset is out of date.
        dry_run: Print what would be made, and make nothing.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    assets: Annotated[tuple[str, ...], tyro.conf.Positional]
    scenes: tuple[str, ...] = ()
    missing: bool = False
    failed: bool = False
    stale: bool = False
    dry_run: bool = False

    def run(self, console: Console) -> int:
        """Make them, and return 1 if one failed."""
        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        flags: dict[State, bool] = {"missing": self.missing, "failed": self.failed, "stale": self.stale}
        chosen: list[State] = [state for state in flags if flags[state]]
        if not self.scenes and not chosen:
            raise ValueError("which scenes? want --scenes KEY ..., --missing, --failed or --stale")
        states = states_of(home)
        check_goals(self.assets, self.scenes, states)
        goals = choose_goals(self.assets, self.scenes, chosen, states)
        there = {(one.asset, one.partition) for one in states if one.state in ("done", "running")}
        tasks = plan(goals, selection, with_upstream=True, is_there=lambda *node: node in there)
        return make(home, tasks, console, dry_run=self.dry_run, environment=self.environment)


def make(
    home: Home,
    tasks: Sequence[Task],
    console: Console,
    *,
    dry_run: bool = False,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Execute tasks on a home, or only list them, and return the exit code."""
    if not tasks:
        console.print("nothing to make")
        return 0
    if dry_run:
        for task in tasks:
            console.print(f"{escape(task.partition or '')}  {', '.join(task.assets)}", soft_wrap=True)
        console.print(f"{len(tasks)} runs")
        return 0
    prepare_home(home)
    add_partitions(home, [t.partition for t in tasks if t.partition and KINDS[t.assets[0]].partitioned_by == "scene"])
    outcome = run_tasks(tasks, home.root, console, environment=environment)
    tell_failures(outcome, console)
    return 0 if outcome.succeeded else 1


def check_goals(assets: Sequence[str], scenes: Sequence[str], states: Sequence[PartitionState]) -> None:
    """Check that assets are made scene by scene, and that the home knows the scenes.

    Raises:
        ValueError: If one is not.
    """
    known = list(dict.fromkeys(one.asset for one in states if KINDS[one.asset].partitioned_by == "scene"))
    for asset in assets:
        if asset not in known:
            raise ValueError(f"{asset!r} is no asset that is made scene by scene; those are {', '.join(known)}")
    keys = {one.partition for one in states if one.asset in known}
    for scene in scenes:
        if scene not in keys:
            raise ValueError(f"scene {scene!r} is no scene of this home: 'distillnerf scenes add' adds it")


def choose_goals(
    assets: Sequence[str], scenes: Sequence[str], chosen: Sequence[State], states: Sequence[PartitionState]
) -> dict[str, list[str | None]]:
    """Return the scenes to make of each asset: those named, of which only those in a chosen state if any is chosen."""
    goals: dict[str, list[str | None]] = {asset: [] for asset in assets}
    for one in states:
        is_named = not scenes or one.partition in scenes
        if one.asset in goals and is_named and (not chosen or one.state in chosen):
            goals[one.asset].append(one.partition)
    return goals
