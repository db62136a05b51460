"""The command that compares two versions: what differs, and where the difference comes from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import HomeCommand
from pipeline.commands.references import find_version
from pipeline.version_diff import Comparison, Difference, Facet, compare
from storage.digests import canonical_json
from storage.stores.provenance import InputVersion

_TITLES: dict[Facet, str] = {
    "data": "data",
    "config": "configuration",
    "code": "code",
    "weights": "weights",
    "seed": "seed",
    "licence": "licence",
    "packages": "packages (no part of a digest)",
}
_MAX_NAMED = 3
_MAX_ROWS = 12


@dataclass(frozen=True, kw_only=True)
class Diff(HomeCommand):
    """Compare two checkpoints, or two versions of any one kind: data, configuration, code, weights, gates, figures.

    Attributes:
        first: A student's variant, kind/partition[@digest], or the folder of an artifact.
        second: The version to compare it with, named in the same way and of the same kind.
        json: Print JSON.
    """

    first: Annotated[str, tyro.conf.Positional]
    second: Annotated[str, tyro.conf.Positional]
    json: bool = False

    def run(self, console: Console) -> int:
        """Print the differences; return 1 if there are any, as diff does."""
        home = self.open_home(must_exist=True)
        first, second = find_version(home, self.first), find_version(home, self.second)
        compared = compare(home, first, second)
        if self.json:
            console.print_json(json.dumps(compared.as_json()))
        else:
            console.print(f"[bold]-[/bold] {escape(str(first))}\n[bold]+[/bold] {escape(str(second))}")
            tell_comparison(compared, console)
        return 0 if first.digest == second.digest else 1


def tell_comparison(compared: Comparison, console: Console) -> None:
    """Print a comparison, one section for each aspect."""
    _tell_changed(compared, console)
    for facet, title in _TITLES.items():
        of = [one for one in compared.differences if one.facet == facet]
        if of:
            console.print(f"\n[bold]{title}[/bold]")
            for one in of[:_MAX_ROWS]:
                console.print(f"  {_told(one)}", soft_wrap=True)
            if len(of) > _MAX_ROWS:
                console.print(f"  ... and {len(of) - _MAX_ROWS} more; --json has all")
    _tell_pairs("gates", {name: tuple(map(_gate, pair)) for name, pair in compared.gates.items()}, console)
    _tell_pairs("figures", compared.figures, console)


def _tell_changed(compared: Comparison, console: Console) -> None:
    if not compared.changed and not compared.only_first and not compared.only_second:
        console.print("no difference")
        return
    console.print("\n[bold]versions[/bold]")
    for kind, count in compared.changed.items():
        console.print(f"  {count} {kind} differ")
    for sign, only in (("-", compared.only_first), ("+", compared.only_second)):
        for kind in dict.fromkeys(one.kind for one in only):
            of = [one for one in only if one.kind == kind]
            console.print(f"  {sign} {len(of)} {kind}: {_named_partitions(of)}", soft_wrap=True)


def _named_partitions(versions: Sequence[InputVersion]) -> str:
    return _listed([version.partition for version in versions])


def _told(one: Difference) -> str:
    where = one.kind if not one.partitions else f"{one.kind} of {_listed(one.partitions)}"
    return f"{escape(one.name)}: {_spelt(one.first)} → {_spelt(one.second)}  [dim]{where}[/dim]"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return escape(", ".join(names[:_MAX_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _tell_pairs(title: str, pairs: Mapping[str, tuple[Any, ...]], console: Console) -> None:
    if not pairs:
        return
    table = Table(title, "-", "+", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name, (first, second) in list(pairs.items())[:_MAX_ROWS]:
        table.add_row(escape(name), _spelt(first), _spelt(second))
    console.print(table)
    if len(pairs) > _MAX_ROWS:
        console.print(f"... and {len(pairs) - _MAX_ROWS} more; --json has all")


def _gate(check: Mapping[str, Any] | None) -> str:
    return "-" if check is None else f"{_spelt(check['value'])} {'✓' if check['passed'] else '✗'}"


def _spelt(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(value if isinstance(value, str) else canonical_json(value))
