"""``distillnerf labels``: judge a random sample of weak labels, and read the verdicts back."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.export import label_scene
from pipeline.commands.options import CommandGroup, ConfiguredCommand


@dataclass(frozen=True, kw_only=True)
class LabelSheet(ConfiguredCommand):
    """Draw a random sample of weak labels of each class, and write a page to judge them on.

    The page saves a CSV file, which 'distillnerf labels accept' reads.

    Attributes:
        scenes: Keys of the scenes; by default the held-out ones of the home's last run.
        out: Folder for the page and the empty table; by default below the home.
        per_class: Largest number of labels of each class.
        min_confidence: Smallest probability of a label that may be drawn.
        sample_seed: Seed of the choice.
        classes: Your own classes, a YAML file or the name of a shipped list; by default those of the configuration.
    """

    scenes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    out: Path | None = None
    per_class: int = 20
    min_confidence: float = 0.0
    sample_seed: int = 0
    classes: str | None = None

    def run(self, console: Console) -> int:
        """Label the scenes if needed, and write the sheet."""
        from student.applications.label_sheet import PAGE, TABLE_FILE, SheetConfig, make_sheet

        config = SheetConfig(per_class=self.per_class, min_confidence=self.min_confidence, seed=self.sample_seed)
        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        scenes = self.scenes or selection.validation_scenes or selection.train_scenes
        for scene in scenes:
            label_scene(home, selection, scene, self.classes)
        made = make_sheet(home, selection.variant, scenes, config)
        folder = self.out or home.root / "sheets" / f"{selection.variant}-{made.version.digest[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        made_in = home.open_files(made.version)
        if (folder / PAGE).is_file() and (folder / PAGE).read_bytes() != (made_in / PAGE).read_bytes():
            raise ValueError(f"{folder} holds another sheet: want another --out")
        for name in (PAGE, TABLE_FILE):
            if not (folder / name).is_file():  # a table may hold verdicts already
                shutil.copyfile(made_in / name, folder / name)
        console.print(f"{made.metrics['samples']} labels of {len(made.metrics['drawn'])} classes")
        console.print(escape(str(folder / PAGE)), soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class LabelAccept(ConfiguredCommand):
    """Read the verdicts of sheets into a store, and print the precision of each class.

    Attributes:
        tables: CSV files as the sheet saves them.
        person: Who judged.
    """

    tables: Annotated[tuple[Path, ...], tyro.conf.Positional]
    person: str

    def run(self, console: Console) -> int:
        """Read, store and print."""
        from student.applications.label_sheet import accept_verdicts

        home = self.open_home(must_exist=True)
        made = accept_verdicts(home, self.selection(home).variant, self.tables, self.person)
        table = Table("class", "right", "wrong", "unsure", "precision", "95 % interval")
        for name, score in made.metrics["classes"].items():
            precision = "-" if score["precision"] is None else f"{score['precision']:.2f}"
            counts = (str(score[verdict]) for verdict in ("right", "wrong", "unsure"))
            table.add_row(escape(name), *counts, precision, f"{score['low']:.2f} to {score['high']:.2f}")
        console.print(table)
        console.print(f"{made.metrics['judged']} judged, {made.metrics['not_judged']} not")
        console.print(f"verdicts  {escape(home.url(made.version))}", soft_wrap=True)
        return 0


_Action = (
    Annotated[LabelSheet, tyro.conf.subcommand(name="sheet")]
    | Annotated[LabelAccept, tyro.conf.subcommand(name="accept")]
)


@dataclass(frozen=True, kw_only=True)
class LabelsCommand(CommandGroup[_Action]):
    """Judge a random sample of weak labels, and read the verdicts back."""
