"""Commands on the places that a home's recordings are read from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import CommandGroup, HomeCommand
from storage.errors import PipelineError
from storage.ingest.source import load_source, registered_datasets, reroot_sources


@dataclass(frozen=True, kw_only=True)
class Reroot(HomeCommand):
    """Name the new place of raw data that was moved, for all sources in it at once; stores are not touched.

    Attributes:
        old: Folder that was moved, or a folder above it; it need not be there any more.
        new: Its new place.
    """

    old: Annotated[Path, tyro.conf.Positional]
    new: Annotated[Path, tyro.conf.Positional]

    def run(self, console: Console) -> int:
        """Change the sources, and return 1 if none lies in the old place."""
        home = self.open_home(must_exist=True)
        changed = reroot_sources(home, self.old, self.new)
        for dataset, source in changed.items():
            console.print(f"{escape(dataset)} is read from {escape(str(source.root))}", soft_wrap=True)
        if not changed:
            known = ", ".join(registered_datasets(home)) or "none is registered"
            console.print(f"no source lies in {escape(str(self.old))} ({escape(known)})", soft_wrap=True)
        return 0 if changed else 1


@dataclass(frozen=True, kw_only=True)
class Sources(HomeCommand):
    """List the registered sources and the folders that they are read from, and return 1 if one is not there."""

    def run(self, console: Console) -> int:
        """Print a line for each source."""
        home, found = self.open_home(must_exist=True), 0
        for dataset in registered_datasets(home):
            try:
                place = str(load_source(home, dataset).root)
            except PipelineError as error:
                place, found = str(error), 1
            console.print(f"{escape(dataset)}: {escape(place)}", soft_wrap=True)
        return found


_Action = (
    Annotated[Reroot, tyro.conf.subcommand(name="reroot")] | Annotated[Sources, tyro.conf.subcommand(name="sources")]
)


@dataclass(frozen=True, kw_only=True)
class HomeSourcesCommand(CommandGroup[_Action]):
    """Show and change the places that a home's recordings are read from."""
