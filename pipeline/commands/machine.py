"""Commands about the machine: bench, doctor, plan, ui, daemon."""

import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, ClassVar, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.benchmarks import BENCHMARKS, run_benchmark
from pipeline.commands.options import Command, ConfiguredCommand, HomeCommand
from pipeline.presets import PresetName
from storage.stores.versioned import Home


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """Measure one fast path against its reference, in this process and on this machine.

    Attributes:
        name: Name of the benchmark.
        json: Print one JSON object: name, ratio, ours, reference, unit, runs.
        quick: Only show that it runs, in seconds; for benchmarks that have such a version.
    """

    name: Annotated[Literal[tuple(BENCHMARKS)], tyro.conf.Positional]  # pyright: ignore[reportInvalidTypeForm]
    json: bool = False
    quick: bool = False

    def run(self, console: Console) -> int:
        """Run the benchmark."""
        result = run_benchmark(self.name, quick=self.quick)
        if self.json:
            sys.stdout.write(json.dumps(result) + "\n")
        else:
            console.print(
                f"{result['name']}: {result['ratio']:.2f} x  (ours {result['ours']:.4g} {result['unit']}, "
                f"reference {result['reference']:.4g} {result['unit']}, {result['runs']} runs)"
            )
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor(HomeCommand):
    """Examine this machine, and say what is missing and how to get it.

    Attributes:
        json: Print JSON.
    """

    json: bool = False

    def run(self, console: Console) -> int:
        """Examine everything, and return 1 if something required is missing."""
        from pipeline.doctor import examine

        home = self.named_home()
        findings = examine(None if home is None else home.root)
        if self.json:
            console.print_json(json.dumps([finding.as_json() for finding in findings]))
        else:
            marks = {"good": "[green]✓[/green]", "absent": "[yellow]-[/yellow]", "bad": "[red]✗[/red]"}
            for finding in findings:
                console.print(f"{marks[finding.state]} {finding.name:<24} {escape(finding.found)}", soft_wrap=True)
                if finding.fix:
                    console.print(f"  {'':<24} [dim]{escape(finding.fix)}[/dim]", soft_wrap=True)
        return 1 if any(finding.state == "bad" for finding in findings) else 0


@dataclass(frozen=True, kw_only=True)
class Plan(ConfiguredCommand):
    """Estimate the cost of a run before it starts: bytes of every kind, hours of every stage, money.

    Hours come from what this home has built; build a scene or two first. What was never built here is listed as
    unknown.

    Attributes:
        scenes: Number of scenes.
        frames: Frames of each scene.
        cameras: Cameras of the rig.
        held_out: Scenes on which the student is judged.
        workers: Processes that make scenes side by side on each machine, as measured; one for each accelerator.
        machines: Machines like this one that share the scenes. The student is fitted on one of them.
        price_per_hour: Price of one machine for an hour, in any currency.
        json: Print JSON.
    """

    default_preset: ClassVar[PresetName | None] = "tiny"
    scenes: int = 1
    frames: int = 40
    cameras: int = 6
    held_out: int = 1
    workers: int | None = None
    machines: int = 1
    price_per_hour: float | None = None
    json: bool = False

    def run(self, console: Console) -> int:
        """Print the price list."""
        from pipeline.pricing import Workload, price_run, wall_hours
        from pipeline.workflow import accelerator_slots

        home = self.named_home(must_exist=True)
        workers = self.workers or accelerator_slots()
        if min(workers, self.machines) < 1:
            raise ValueError(f"workers and machines are {workers} and {self.machines}, want at least 1")
        planned = Workload(scenes=self.scenes, frames=self.frames, cameras=self.cameras, held_out=self.held_out)
        prices = price_run(self.selection(home).resolve(), planned, measured_in=home)
        wall = wall_hours(prices, workers * self.machines)
        cost = None if wall is None or self.price_per_hour is None else wall * self.machines * self.price_per_hour
        if self.json:
            told = {"prices": [p.as_json() for p in prices], "workers": workers, "wall_hours": wall, "cost": cost}
            console.print_json(json.dumps(told | {"assumptions": _ASSUMPTIONS, "machines": self.machines}))
            return 0
        table = Table("asset", "bytes", "hours here", "basis")
        for price in prices:
            hours = "?" if price.hours is None else f"{price.hours:.3f}"
            size = "?" if price.stored_bytes is None else f"{price.stored_bytes / 1e6:,.1f} MB"
            table.add_row(price.kind, size, hours, price.basis)
        known = [price.hours for price in prices if price.hours is not None]
        total = sum(price.stored_bytes for price in prices if price.stored_bytes is not None)
        table.add_row("all known", f"{total / 1e6:,.1f} MB", f"{sum(known):.3f}" if known else "?", "", style="bold")
        console.print(f"{self.scenes} scenes x {self.frames} frames x {self.cameras} cameras")
        console.print(table)
        if wall is not None:
            where = f"{workers} workers" + (f" on each of {self.machines} machines" if self.machines > 1 else "")
            console.print(f"[bold]{wall:.2f} h[/bold] from start to end with {where}")
        if cost is not None:
            console.print(f"[bold]{cost:,.2f}[/bold] at {self.price_per_hour:g} a machine and hour")
        unknown = [price.kind for price in prices if price.hours is None]
        if unknown:
            console.print(f"[yellow]not included[/yellow], never built in this home: {', '.join(unknown)}")
        for assumption in _ASSUMPTIONS:
            console.print(f"- {assumption}", style="dim", soft_wrap=True)
        return 0


_ASSUMPTIONS = (
    "machines like the one that was measured, as busy as it was",
    "work grows with steps and rays of a fit, with pixels of renders and images, with steps and pixels of a student; "
    "sizes of networks are those that were measured",
    "a fit that was interrupted counts with its last part only",
    "scenes are shared evenly; student and evaluation follow alone, on one machine",
    "bytes are before compression",
)
"""What the hours of a plan stand on."""


@dataclass(frozen=True, kw_only=True)
class Daemon(HomeCommand):
    """Serve a home without a UI, until interrupted: schedules, sensors, backfills, queued runs, retries.

    Attributes:
        home: Folder of everything that runs write.
    """

    def run(self, console: Console) -> int:
        """Start Dagster's daemon and code server, and keep them alive."""
        home = self.open_home()
        console.print(f"Dagster {version('dagster')} for {escape(str(home.root))}, without a UI")
        return _serve(home, console, web=None)


@dataclass(frozen=True, kw_only=True)
class Ui(HomeCommand):
    """Open the Dagster UI of a home: serve it to this machine only, until interrupted.

    Attributes:
        home: Folder of everything that runs write.
        port: Port of the web server.
        host: Address that it listens on. Whoever reaches it may do everything: name another one only behind a proxy
            that asks who it is.
        allowed_hosts: Names under which browsers reach it, besides those of this machine: that of a proxy.
    """

    port: int = 3000
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()

    def run(self, console: Console) -> int:
        """Start Dagster's web server, daemon and code server, and keep them alive."""
        home = self.open_home()
        address = f"http://{self.host}:{self.port}"
        console.print(f"Dagster {version('dagster')} on {address} for {escape(str(home.root))}")
        return _serve(home, console, web=(self.host, self.port), names=self.allowed_hosts)


def _serve(home: Home, console: Console, *, web: tuple[str, int] | None, names: Sequence[str] = ()) -> int:
    from pipeline.service.serve import serve

    # A shell may have started this with SIGINT ignored, which Dagster's processes would inherit and never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(home, web=web, names=names, tell=lambda line: console.print(escape(line), soft_wrap=True))
    return 0
