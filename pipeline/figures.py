"""Figures of an evaluation on the console, as the report shows them: value, interval, and what stands beside it."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from student.evaluation.history import CHIEF_FIGURES
from student.evaluation.results import TOO_NARROW, EvaluationResult, Figure


def tell_figures(
    result: EvaluationResult, console: Console, *, title: str, only: Sequence[str] | None = CHIEF_FIGURES
) -> None:
    """Print main figures of an evaluation beside what they should beat, and what a reader must know.

    Args:
        result: The evaluation.
        console: Where to print.
        title: Heading of the table.
        only: Names of the figures to show, in their order; None for all.
    """
    found = {name: figure for name, _, figure in result.main_figures()}
    shown = list(found) if only is None else [name for name in only if name in found]
    if not shown:
        shown = list(found)
    table = Table(
        "figure", "value\n95 %", "beside it", title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 1, 0)
    )
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for name in shown:
        figure = found[name]
        beside = "\n".join(f"{b.value:.4g} {escape(b.label)}" for b in figure.baselines if b.value is not None)
        table.add_row(escape(name), f"{_value(figure)}\n{_interval(figure)}".rstrip(), beside)
    if shown:
        console.print(table)
        console.print("[green]green[/green]: better than every predictor that ignores the input; [red]red[/red]: not")
    if any(found[name].resampled == "frame" for name in shown):
        console.print(f"* {TOO_NARROW}: frames of one scene resemble each other; five scenes give an honest interval")
    for sentence in (result.scored_on, *result.notes):
        if sentence:
            console.print(escape(sentence[0].upper() + sentence[1:]), soft_wrap=True)
    if absent := [section for section in result.sections if section.unavailable]:
        reasons = "; ".join(f"{s.name} ({s.unavailable.removeprefix('not available: ')})" for s in absent)
        console.print(f"not available: {escape(reasons)}", soft_wrap=True)
    if len(found) > len(shown):
        console.print(f"{len(found) - len(shown)} more figures in the report")


def _value(figure: Figure) -> str:
    """Return a value with its unit, green if it beats every trivial predictor and red if not."""
    text = f"{figure.value:.4g} {figure.unit}".rstrip()
    colour = {True: "green", False: "red", None: ""}[figure.beats_baselines]
    return f"[{colour}]{text}[/{colour}]" if colour else text


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:.3g} to {figure.high:.3g}" + ("*" if figure.resampled == "frame" else "")
