"""The command that lists, shows, rebuilds and verifies the content of a home."""

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import CommandGroup, HomeCommand
from pipeline.commands.references import find_version
from storage.errors import PipelineError
from storage.stores import catalog
from storage.stores.verification import Finding, mend_stores, verify_home
from storage.stores.versioned import check_readable, give_up, rebuild_catalog


@dataclass(frozen=True, kw_only=True)
class List(HomeCommand):
    """List every version that the catalogue knows.

    Attributes:
        kind: Take versions of this kind only.
        partition: Take versions of this partition only.
        quarantined: List refused partitions and the reasons instead.
        json: Print JSON.
    """

    kind: str | None = None
    partition: str | None = None
    quarantined: bool = False
    json: bool = False

    def run(self, console: Console) -> int:
        """Print the list."""
        home = self.open_home(must_exist=True)
        rows = (catalog.quarantined(home.objects) if self.quarantined else catalog.versions(home.objects)).to_pylist()
        rows = [
            row
            for row in rows
            if self.partition in (None, row["partition"]) and (self.quarantined or self.kind in (None, row["kind"]))
        ]
        if self.json:
            console.print_json(json.dumps(rows))
        elif self.quarantined:
            console.print(_quarantine_table(rows))
        else:
            _print_versions(rows, console)
        return 0


@dataclass(frozen=True, kw_only=True)
class Show(HomeCommand):
    """Show one version: its place, its provenance, its figures and its gate.

    Attributes:
        version: kind/partition[@digest], a student's variant, or the folder of an artifact.
    """

    version: Annotated[str, tyro.conf.Positional]

    def run(self, console: Console) -> int:
        """Print the version as JSON."""
        home = self.open_home(must_exist=True)
        found = find_version(home, self.version)
        record = {
            "version": str(found),
            "url": home.url(found),
            "snapshot": found.snapshot_id,
            "form": str(found.form),
            "provenance": json.loads(home.provenance(found).to_json()),
            "metrics": home.metrics(found),
        }
        console.print_json(json.dumps(record))
        return 0


@dataclass(frozen=True, kw_only=True)
class Rebuild(HomeCommand):
    """Make the catalogue, which is only an index, again from the stores."""

    def run(self, console: Console) -> int:
        """Rebuild the catalogue."""
        errors: list[PipelineError] = []
        count = rebuild_catalog(self.open_home(must_exist=True), errors.append)
        for error in errors:
            console.print(f"[red]not listed[/red] {escape(str(error))}", soft_wrap=True)
        console.print(f"{count} versions")
        return 1 if errors else 0


@dataclass(frozen=True, kw_only=True)
class Verify(HomeCommand):
    """Read every byte of every version, compare stores with catalogue, and list what is damaged or in only one.

    Attributes:
        kind: Take versions of this kind only.
        partition: Take versions of this partition only.
        set_aside: Set damaged versions aside, so that asking for them builds them again, after stores that lost a
            branch were mended. Nothing is deleted.
        record: Record the content of versions of earlier releases that have no record, as it is now.
    """

    kind: str | None = None
    partition: str | None = None
    set_aside: bool = False
    record: bool = False

    def run(self, console: Console) -> int:
        """Verify, and return 1 if anything is not as it should be."""
        home = self.open_home(must_exist=True)
        counts: Counter[Finding] = Counter()
        num_versions = 0
        for error in mend_stores(home, self.kind, self.partition) if self.set_aside else ():
            console.print(f"[red]not mended[/red] {escape(error.key)}: {escape(error.message)}", soft_wrap=True)
        for verdict in verify_home(home, self.kind, self.partition):
            finding = verdict.finding
            if verdict.version is not None:
                num_versions += 1
                if self.record and finding == "without record":
                    with home.lock(verdict.version.kind, verdict.version.partition):
                        check_readable(home, verdict.version)
                    finding = "whole"
            counts[finding] += 1
            if finding not in ("whole", "without record"):
                text = f"[red]{finding}[/red] {escape(verdict.key)}: {escape(verdict.message)}"
                console.print(text, soft_wrap=True)
            if self.set_aside and finding == "damaged" and verdict.version is not None:
                with home.lock(verdict.version.kind, verdict.version.partition):
                    give_up(home, verdict.version)
                console.print(f"  {escape(verdict.key)} is set aside; asking for it builds it again", soft_wrap=True)
        rest = "".join(f", {counts[finding]} {finding}" for finding in _OTHER_FINDINGS if counts[finding])
        console.print(f"{num_versions} versions, {counts['damaged']} damaged{rest}", soft_wrap=True)
        if counts["not read"]:
            console.print("Nothing is known of what was not read: mend the machine, then verify again.", soft_wrap=True)
        return 1 if counts.keys() - {"whole", "without record"} else 0


_OTHER_FINDINGS: tuple[Finding, ...] = ("store at fault", "not read", "lost", "not in the catalogue", "without record")


def _print_versions(rows: list[dict[str, Any]], console: Console) -> None:
    """Print a line for each version, in 80 columns for names of usual length; ``--json`` has every field in full."""
    rows.sort(key=lambda row: (row["kind"], row["partition"], row["created_at"]))
    width = max(25, *(2 + len(row["partition"]) for row in rows)) if rows else 25
    console.print(f"[bold]{'kind and partition':<{width}} digest   made, UTC        took s gate licence[/bold]")
    gates = {True: "✓", False: "✗", None: " "}
    for kind, of_kind in itertools.groupby(rows, lambda row: row["kind"]):
        console.print(f"[bold]{kind}[/bold]")
        lines = (
            f"  {row['partition']:<{width - 2}} {row['digest'][:8]} {row['created_at'][:16].replace('T', ' ')} "
            f"{row['wall_time_s']:<6.0f} {gates[row['gate_passed']]}    {row['licence']}"
            for row in of_kind
        )
        # At once and as it is: a table of rich takes seconds for thousands of rows.
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _quarantine_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("partition", "error", "key", "message", "at", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for row in sorted(rows, key=lambda row: row["at"]):
        table.add_row(*(escape(str(row[name])) for name in ("partition", "error_kind", "key", "message", "at")))
    return table


_Action = (
    Annotated[List, tyro.conf.subcommand(name="list")]
    | Annotated[Show, tyro.conf.subcommand(name="show")]
    | Annotated[Rebuild, tyro.conf.subcommand(name="rebuild")]
    | Annotated[Verify, tyro.conf.subcommand(name="verify")]
)


@dataclass(frozen=True, kw_only=True)
class CatalogCommand(CommandGroup[_Action]):
    """List, show, rebuild and verify the versions of a home."""
