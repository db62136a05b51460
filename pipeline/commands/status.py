"""The command that shows what is done, stale, failed, running or missing, scene by scene and asset by asset."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import HomeCommand
from pipeline.status import STATES, PartitionState, State, count_states
from pipeline.workflow import states_of
from storage.kinds import KINDS

_MARKS: dict[State, str] = {
    "done": "[green]✓[/green]",
    "stale": "[yellow]~[/yellow]",
    "failed": "[red]✗[/red]",
    "running": "[cyan]▸[/cyan]",
    "missing": "[dim]·[/dim]",
}
_MAX_REASONS = 20


@dataclass(frozen=True, kw_only=True)
class Status(HomeCommand):
    """Show which scenes have which assets: done, stale, failed with the reason, running, or missing.

    A stale version was made from something that has changed since: an input or the code. Settings are not compared.

    Attributes:
        scenes: Show these scenes only, by key.
        all: Show a line for every scene, and not only for those that lack something.
        json: Print JSON: one object for each partition of each asset.
    """

    scenes: tuple[str, ...] = ()
    all: bool = False
    json: bool = False

    def run(self, console: Console) -> int:
        """Print the tables; return 1 if something failed."""
        home = self.open_home(must_exist=True)
        states = [one for one in states_of(home) if not self.scenes or one.partition in self.scenes]
        unknown = set(self.scenes) - {one.partition for one in states}
        if unknown:
            raise ValueError(
                f"scene {sorted(unknown)[0]!r} is no scene of this home: 'distillnerf scenes list' has all"
            )
        if self.json:
            console.print_json(json.dumps([dataclasses.asdict(one) for one in states]))
        else:
            self._tell(states, console)
        return 1 if any(one.state == "failed" for one in states) else 0

    def _tell(self, states: Sequence[PartitionState], console: Console) -> None:
        of_scenes = [one for one in states if KINDS[one.asset].partitioned_by == "scene"]
        # There are more letters than assets of scenes.
        letters = dict(zip(dict.fromkeys(one.asset for one in of_scenes), ascii_letters, strict=False))
        console.print(_counts(states, letters))
        for line in _scene_lines(of_scenes, letters, show_all=self.all or bool(self.scenes)):
            console.print(line, soft_wrap=True)
        told = [one for one in states if one.state in ("failed", "running", "stale")]
        told.sort(key=lambda one: STATES.index(one.state) if one.state != "failed" else -1)
        for one in told[:_MAX_REASONS]:
            console.print(
                f"{_MARKS[one.state]} {one.state} {escape(one.asset)}/{escape(one.partition)}: {escape(one.reason)}",
                soft_wrap=True,
            )
        if len(told) > _MAX_REASONS:
            console.print(f"... and {len(told) - _MAX_REASONS} more; --json has all")


def _counts(states: Sequence[PartitionState], letters: dict[str, str]) -> Table:
    table = Table("", "asset", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for state in STATES:
        table.add_column(f"{_MARKS[state]} {state}", justify="right", no_wrap=True)
    for asset, counts in count_states(states).items():
        numbers = [str(counts[state] or "") for state in STATES]
        table.add_row(letters.get(asset, ""), asset, *numbers)
    return table


def _scene_lines(states: Sequence[PartitionState], letters: dict[str, str], *, show_all: bool) -> list[str]:
    """Return a line of marks for each scene, under the letters of the assets; complete scenes are only counted.

    A scene is complete if it has what any scene has.
    """
    rows: dict[str, dict[str, State]] = {}
    for one in sorted(states, key=lambda one: one.partition):
        rows.setdefault(one.partition, {})[one.asset] = one.state
    used = {one.asset for one in states if one.state != "missing"}
    shown = {
        key: row for key, row in rows.items() if show_all or any(row[asset] != "done" for asset in used) or not used
    }
    if not rows:
        return ["no scenes yet: 'distillnerf run' or 'distillnerf ingest' register a recording"]
    width = max(map(len, ["scene", *shown]))
    lines = [f"{'scene':<{width}}  {' '.join(letters.values())}"] if shown else []
    for key, row in shown.items():
        marks = " ".join(_MARKS[row[asset]] for asset in letters)
        lines.append(f"{escape(key):<{width}}  {marks}")
    if len(shown) < len(rows):
        lines.append(f"{len(rows) - len(shown)} of {len(rows)} scenes are complete")
    return lines
