"""The command that removes what killed writers left in a home."""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import HomeCommand
from storage.stores.litter import sweep


@dataclass(frozen=True, kw_only=True)
class Gc(HomeCommand):
    """Remove what killed writers left: unfinished versions and files, objects no version needs. No version is removed.

    Attributes:
        dry_run: Show what would be removed, and remove nothing.
        set_aside: Remove also what was set aside because it could not be read.
    """

    dry_run: bool = False
    set_aside: bool = False

    def run(self, console: Console) -> int:
        """Sweep, and print each piece and the bytes in all."""
        home = self.open_home(must_exist=True)
        total = 0
        for found in sweep(home, dry_run=self.dry_run, aside=self.set_aside):
            size = "stays" if found.sort == "in use" else f"{found.num_bytes:,} bytes"
            console.print(f"{found.sort}: {escape(found.place)}, {size}", soft_wrap=True)
            total += found.num_bytes
        verb = "would be removed" if self.dry_run else "removed"
        console.print(f"{total:,} bytes {verb}", soft_wrap=True)
        return 0
