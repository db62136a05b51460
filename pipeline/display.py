"""Progress on the terminal: each worker's task, its share done, and the time that the rest will take."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.progress import spell_figures

_SECONDS_BETWEEN_LINES = 20.0


class Display:
    """Shows tasks as bars on a terminal, and as lines elsewhere.

    Args:
        console: Console to draw on.
        total: Number of tasks.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._last_line: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._waits: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._overall = self._progress.add_task("all", total=total, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, task: str) -> None:
        """Show that a task has begun, or begins again."""
        if task in self._bars:
            self._progress.remove_task(self._bars.pop(task))
        self._bars[task] = self._progress.add_task(task, total=1.0, figures="")
        self._last_line[task] = time.monotonic()

    def advance(self, task: str, event: Mapping[str, Any]) -> None:
        """Show the progress of a task."""
        figures = spell_figures(event["figures"])
        description = f"{task}: {event['asset']}"
        self._progress.update(
            self._bars[task], description=description, completed=event["fraction"], figures=figures[:60]
        )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line[task] >= _SECONDS_BETWEEN_LINES:
            self._last_line[task] = now
            self._print(f"  … {description} {event['fraction']:.0%} {figures}")

    def waiting(self, task: str, holder: str) -> None:
        """Say what a task waits for, once for each that it waits for."""
        if task in self._bars and self._waits.get(task) != holder:
            self._waits[task] = holder
            self._print(f"  … {task} waits for {escape(holder)}")

    def tell(self, line: str) -> None:
        """Say something that no task reports."""
        self._print(f"[yellow]{escape(line)}[/yellow]")

    def finish(self, task: str, *, succeeded: bool, note: str) -> None:
        """Show that a task has ended, and its outcome."""
        self._done += 1
        self._progress.remove_task(self._bars.pop(task))
        elapsed = time.monotonic() - self._started
        left = elapsed / self._done * (self._total - self._done)
        self._progress.update(self._overall, completed=self._done, figures=f"about {left:.0f} s left")
        mark = "[green]✓[/green]" if succeeded else "[red]✗[/red]"
        self._print(f"{mark} [{self._done}/{self._total}] {task} [dim]{note}[/dim]")

    def _print(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)
