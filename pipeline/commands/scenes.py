"""The commands about the scenes of a home: add, list, retire, retry."""

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.backfill import check_goals, choose_goals, make
from pipeline.commands.options import CommandGroup, ConfiguredCommand, HomeCommand
from pipeline.instance import open_instance
from pipeline.partitions import SCENES
from pipeline.presets import PresetName
from pipeline.run_config import HomeSelection
from pipeline.workflow import add_partitions, plan, states_of
from storage.counted import counted
from storage.ingest.arrivals import Arrival, arrivals
from storage.keys import SceneKey
from storage.scenes.retired import retire, retired_scenes, take_back
from storage.stores import catalog
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class AddScenes(HomeCommand):
    """Give scenes of registered recordings their partitions, so that they can be made; retired ones are taken back.

    Attributes:
        keys: Scenes, each as dataset.scene-name. By default every complete scene of every registered recording.
    """

    keys: Annotated[tuple[str, ...], tyro.conf.Positional] = ()

    def run(self, console: Console) -> int:
        """Add partitions, and return 1 if a scene cannot be added."""
        home = self.open_home(must_exist=True)
        for key in self.keys:
            SceneKey.parse(key)
        known = set(_partitions(home))
        found = {one.key: one for one in arrivals(home, passing_by=known)}
        retired = retired_scenes(home)
        wanted = list(self.keys) or [key for key in found if key not in retired]
        refused = {key: "no registered recording has it" for key in wanted if key not in found}
        refused |= {key: found[key].waits_for for key in wanted if key in found and found[key].waits_for}
        good = [key for key in wanted if key not in refused]
        take_back(home, good)
        add_partitions(home, good)
        new = [key for key in good if key not in known]
        for key, reason in refused.items():
            console.print(f"[yellow]not added[/yellow] {escape(key)}: {escape(reason)}", soft_wrap=True)
        console.print(f"{counted(len(new), 'scene')} added, {len(good) - len(new)} there already")
        return 1 if refused and self.keys else 0


@dataclass(frozen=True, kw_only=True)
class ListScenes(HomeCommand):
    """List every scene of the home and of its registered recordings: what it is for, and what keeps it from use.

    Attributes:
        json: Print JSON.
    """

    json: bool = False

    def run(self, console: Console) -> int:
        """Print the list."""
        home = self.open_home(must_exist=True)
        rows = list_scenes_of(home)
        if self.json:
            console.print_json(json.dumps(rows))
            return 0
        table = Table("scene", "state", "split", "reason", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*(escape(row[name]) for name in ("scene", "state", "split", "reason")))
        console.print(table)
        return 0


def list_scenes_of(home: Home) -> list[dict[str, str]]:
    """Return scene, state, split and reason of each scene that a home or one of its recordings has.

    States: ``in use`` has a partition; ``new`` is complete and has none; ``waiting`` is not complete; ``quarantined``
    was refused; ``retired``.
    """
    retired, known = retired_scenes(home), set(_partitions(home))
    refused = {row["partition"]: row["message"] for row in catalog.quarantined(home.objects).sort_by("at").to_pylist()}
    found = {one.key: one for one in arrivals(home, passing_by=known)}
    selection = HomeSelection.load(home.root)
    train, held_out = (selection.train_scenes, selection.validation_scenes) if selection else ((), ())
    rows = []
    for key in sorted({*known, *found, *retired}):
        state, reason = _state(key, known, found.get(key), retired, refused)
        split = "train" if key in train else "held out" if key in held_out else ""
        rows.append({"scene": key, "state": state, "split": split, "reason": reason})
    return rows


def _state(
    key: str, known: set[str], found: Arrival | None, retired: dict[str, str], refused: dict[str, str]
) -> tuple[str, str]:
    if key in retired:
        return "retired", retired[key]
    if key in refused:
        return "quarantined", refused[key]
    if key in known:
        return "in use", ""
    assert found is not None
    return ("waiting", found.waits_for) if found.waits_for else ("new", "")


@dataclass(frozen=True, kw_only=True)
class RetireScenes(HomeCommand):
    """Take scenes out of use: no sensor adds them again, and commands pass them by. Their stores stay.

    Attributes:
        keys: Scenes, each as dataset.scene-name.
        reason: Why, for those who come later.
    """

    keys: Annotated[tuple[str, ...], tyro.conf.Positional]
    reason: str = "retired by hand"

    def run(self, console: Console) -> int:
        """Retire them."""
        home = self.open_home(must_exist=True)
        partitions = _partitions(home)
        known = {*partitions, *(one.key for one in arrivals(home, passing_by=partitions))}
        selection = HomeSelection.load(home.root)
        for key in self.keys:
            if key not in known:
                raise ValueError(f"scene {key!r} is no scene of this home: 'distillnerf scenes list' has all")
            if selection is not None and key in selection.scenes:
                raise ValueError(
                    f"scene {key!r} is in the split of this home's students: choose another split first, with "
                    "'distillnerf run' or 'distillnerf train --train-scenes ... --held-out-scenes ...'"
                )
        retire(home, self.keys, self.reason)
        with open_instance(home.root) as instance:
            for key in set(self.keys) & set(partitions):
                instance.delete_dynamic_partition(SCENES, key)
        console.print(f"{counted(len(self.keys), 'scene')} retired; all stores stay, and 'scenes add' undoes it")
        return 0


@dataclass(frozen=True, kw_only=True)
class RetryScenes(ConfiguredCommand):
    """Make again what failed of scenes, after their files or settings were mended; success ends the quarantine.

    Attributes:
        keys: Scenes, each as dataset.scene-name; by default all that failed.
        dry_run: Print what would be made, and make nothing.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    keys: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    dry_run: bool = False

    def run(self, console: Console) -> int:
        """Make it, and return 1 if something failed again."""
        home = self.open_home(must_exist=True)
        states = states_of(home)
        check_goals((), self.keys, states)
        failed = list(dict.fromkeys(one.asset for one in states if one.state == "failed"))
        goals = choose_goals(failed, self.keys or _partitions(home), ["failed"], states)
        there = {(one.asset, one.partition) for one in states if one.state in ("done", "running")}
        tasks = plan(goals, self.selection(home), with_upstream=True, is_there=lambda *node: node in there)
        return make(home, tasks, console, dry_run=self.dry_run)


def _partitions(home: Home) -> list[str]:
    with open_instance(home.root) as instance:
        return list(instance.get_dynamic_partitions(SCENES))


_Action = (
    Annotated[AddScenes, tyro.conf.subcommand(name="add")]
    | Annotated[ListScenes, tyro.conf.subcommand(name="list")]
    | Annotated[RetireScenes, tyro.conf.subcommand(name="retire")]
    | Annotated[RetryScenes, tyro.conf.subcommand(name="retry")]
)


@dataclass(frozen=True, kw_only=True)
class ScenesCommand(CommandGroup[_Action]):
    """Add, list, retire and retry the scenes of a home."""
