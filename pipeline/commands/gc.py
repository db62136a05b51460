"""The command that removes what nobody needs from a home: what killed writers left, and old runs of Dagster."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import HomeCommand
from storage.stores.litter import sweep
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class Gc(HomeCommand):
    """Remove what killed writers left: unfinished versions and files, objects no version needs. No version is removed.

    Attributes:
        dry_run: Show what would be removed, and remove nothing.
        set_aside: Remove also what was set aside because it could not be read.
        runs_older_than_days: Remove also the runs of Dagster that ended so many days ago, with events and logs. The
            last run of each partition stays, made or failed, and so do those of a backfill that goes on.
    """

    dry_run: bool = False
    set_aside: bool = False
    runs_older_than_days: float | None = None

    def run(self, console: Console) -> int:
        """Sweep, and print each piece, the bytes in all and the number of runs."""
        home = self.open_home(must_exist=True)
        total = 0
        for found in sweep(home, dry_run=self.dry_run, aside=self.set_aside):
            size = "stays" if found.sort == "in use" else f"{found.num_bytes:,} bytes"
            console.print(f"{found.sort}: {escape(found.place)}, {size}", soft_wrap=True)
            total += found.num_bytes
        verb = "would be removed" if self.dry_run else "removed"
        console.print(f"{total:,} bytes {verb}", soft_wrap=True)
        if self.runs_older_than_days is not None:
            console.print(f"{self._forget_runs(home, self.runs_older_than_days):,} old runs {verb}")
        return 0

    def _forget_runs(self, home: Home, days: float) -> int:
        from pipeline.definitions import asset_graph
        from pipeline.instance import open_instance
        from pipeline.run_history import forget_run, old_runs

        if days < 0:
            raise ValueError(f"runs_older_than_days must not be negative, got {days}")
        with open_instance(home.root) as instance:
            old = old_runs(instance, asset_graph(), datetime.now(UTC) - timedelta(days=days))
            for run_id in () if self.dry_run else old:
                forget_run(instance, run_id)
        return len(old)
