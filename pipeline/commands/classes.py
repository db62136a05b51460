"""``distillnerf classes``: look at a list of your own classes, and choose its thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import Command, CommandGroup, ConfiguredCommand
from pipeline.display import Display
from pipeline.run_config import HomeSelection
from storage.stores.versioned import Home
from student.inference.class_list import ClassList, load_class_list

if TYPE_CHECKING:
    from student.applications.class_thresholds import ThresholdChoice
    from student.applications.deployment import DeployedStudent


@dataclass(frozen=True, kw_only=True)
class ShowClasses(Command):
    """Read a list and print what it says, or what is wrong with it.

    Attributes:
        classes: YAML file, or the name of a shipped list.
    """

    classes: Annotated[str, tyro.conf.Positional]

    def run(self, console: Console) -> int:
        """Print the list."""
        found = load_class_list(self.classes)
        table = Table("label", "class", "prompts", "negatives", "threshold", "in Occ3D", "truth")
        for label, entry in zip(found.labels[-len(found.classes) :], found.classes, strict=True):
            prompts = "; ".join(", ".join(words) for words in entry.concepts)
            threshold = "" if entry.threshold is None else f"{entry.threshold:.3f}"
            table.add_row(
                str(label),
                escape(entry.name),
                escape(prompts),
                escape(", ".join(entry.negatives)),
                threshold,
                entry.occ3d,
                ", ".join(entry.truth),
            )
        console.print(table)
        console.print(f"{escape(found.name)}, digest {found.digest[:12]}")
        for key, value in (found.thresholds_from or {}).items():
            console.print(f"thresholds: {escape(key)} {escape(value)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class FitClasses(ConfiguredCommand):
    """Choose the thresholds of a list for a student, and write the list with them.

    On truth, they are chosen on training frames with exact truth: the largest F1 with enough precision; figures of
    held-out frames stand beside them. On verdicts of people (distillnerf labels accept): the lowest one with enough.

    Attributes:
        classes: YAML file, or the name of a shipped list.
        out: File to write.
        precision: Smallest precision that a threshold must reach; a class without one keeps none.
        frames: Training frames, and held-out frames, of each scene.
        on: What thresholds are chosen on.
    """

    classes: Annotated[str, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    precision: float = 0.3
    frames: int = 4
    on: Literal["truth", "verdicts"] = "truth"

    def run(self, console: Console) -> int:
        """Choose, print and write."""
        if not 0 <= self.precision <= 1 or self.frames < 1:
            raise ValueError(f"precision {self.precision}, frames {self.frames}: want in [0, 1] and at least 1")
        if self.out.suffix not in (".yaml", ".yml"):
            raise ValueError(f"{self.out}: want a .yaml file to write")
        classes = load_class_list(self.classes)
        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        home.require("student_checkpoint", selection.variant)
        chosen_on = {"min_precision": f"{self.precision:g}"}
        if self.on == "verdicts":
            from student.applications.class_thresholds import choose_on_verdicts

            choices, verdicts = choose_on_verdicts(home, selection.variant, classes, min_precision=self.precision)
            metrics = home.metrics(verdicts)
            chosen_on |= {
                "chosen_on": f"verdicts of {metrics['person']}",
                "verdicts": verdicts.digest,
                "checkpoint": ", ".join(metrics["checkpoints"]),
            }
        else:
            choices, student = self._on_truth(home, selection, classes, console)
            chosen_on |= {
                "chosen_on": "exact truth of training frames",
                "checkpoint": student.checkpoint.digest,
                "temperature": f"{student.point.temperature:.6g}",
            }
        self._write(classes, choices, chosen_on, console)
        return 0

    def _on_truth(
        self, home: Home, selection: HomeSelection, classes: ClassList, console: Console
    ) -> "tuple[dict[str, ThresholdChoice], DeployedStudent]":
        from student.applications.class_thresholds import choose_on_truth

        with Display(console, total=1) as display:
            display.begin("thresholds")

            def tell(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
                display.advance("thresholds", {"asset": stage, "fraction": fraction, "figures": figures})

            chosen = choose_on_truth(
                home,
                selection.variant,
                classes,
                min_precision=self.precision,
                frames_per_scene=self.frames,
                text_encoder=selection.resolve().evaluation.text_encoder,
                on_progress=tell,
            )
            display.finish("thresholds", succeeded=True, note="chosen")
        return chosen

    def _write(
        self,
        classes: ClassList,
        choices: "Mapping[str, ThresholdChoice]",
        chosen_on: Mapping[str, str],
        console: Console,
    ) -> None:
        """Print the thresholds and write the list with them."""
        on_held_out = ("held out: AP", "chance", "precision", "recall")
        columns = on_held_out if any(choice.held_out for choice in choices.values()) else ()
        table = Table("class", "threshold", "precision", "recall", *columns)
        for name, choice in choices.items():
            held_out = choice.held_out or {}
            shown = [held_out.get(key) for key in ("average_precision", "chance", "precision", "recall")][
                : len(columns)
            ]
            table.add_row(
                escape(name), *(_figure(v) for v in (choice.threshold, choice.precision, choice.recall, *shown))
            )
        console.print(table)
        chosen = classes.with_thresholds(
            {name: choice.threshold for name, choice in choices.items()},
            chosen_on,
        )
        self.out.write_text(chosen.to_yaml(), encoding="utf-8")
        without = [name for name, choice in choices.items() if choice.threshold is None]
        console.print(f"{escape(str(self.out))}, digest {chosen.digest[:12]}", soft_wrap=True)
        if without:
            console.print(
                f"no threshold is precise enough, or none known: {escape(', '.join(without))}", soft_wrap=True
            )


def _figure(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"  # noqa: PLR0124 - NaN


_Action = (
    Annotated[ShowClasses, tyro.conf.subcommand(name="show")] | Annotated[FitClasses, tyro.conf.subcommand(name="fit")]
)


@dataclass(frozen=True, kw_only=True)
class ClassesCommand(CommandGroup[_Action]):
    """Look at a list of your own classes, or choose its thresholds."""
