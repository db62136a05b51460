"""``distillnerf``: the pipeline on the command line.

Exit codes: 0 success; 1 the pipeline failed, and one line names the fault and its place; 2 a mistake in the command;
128 and the signal's number if it was interrupted.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Union

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.audit import Audit
from pipeline.commands.backfill import Backfill
from pipeline.commands.catalog import CatalogCommand
from pipeline.commands.classes import ClassesCommand
from pipeline.commands.diff import Diff
from pipeline.commands.evaluation import Evaluate, Finetune, Pack, Train, View
from pipeline.commands.export import ExportCommand
from pipeline.commands.features import JudgeFeatures
from pipeline.commands.find import Find
from pipeline.commands.gc import Gc
from pipeline.commands.home import HomeSourcesCommand
from pipeline.commands.labels import LabelsCommand
from pipeline.commands.lineage import Lineage
from pipeline.commands.machine import Bench, Daemon, Doctor, Plan, Ui
from pipeline.commands.nightly import Nightly
from pipeline.commands.options import Command, ConfiguredCommand, flags_to_overrides
from pipeline.commands.query import Query
from pipeline.commands.render import Render
from pipeline.commands.runs import Demo, Ingest, Run
from pipeline.commands.scenes import ScenesCommand
from pipeline.commands.status import Status
from pipeline.commands.validate import Validate
from pipeline.commands.weights import Weights
from pipeline.run import WorkerDiedError
from storage.errors import PipelineError
from storage.stores.integrity import machine_fault

_PROGRAM = "distillnerf"
_DESCRIPTION = (
    "Turn driving logs into versioned teacher targets, and train, evaluate and serve a feed-forward student on them. "
    "To begin: 'distillnerf doctor' examines this machine, 'distillnerf demo' runs everything on generated drives. "
    "'distillnerf COMMAND --help' says more about a command."
)


_COMMANDS: Mapping[str, type] = {
    "demo": Demo,
    "run": Run,
    "ingest": Ingest,
    "scenes": ScenesCommand,
    "backfill": Backfill,
    "status": Status,
    "validate": Validate,
    "audit": Audit,
    "train": Train,
    "evaluate": Evaluate,
    "nightly": Nightly,
    "finetune": Finetune,
    "query": Query,
    "find": Find,
    "render": Render,
    "classes": ClassesCommand,
    "export": ExportCommand,
    "labels": LabelsCommand,
    "pack": Pack,
    "judge-features": JudgeFeatures,
    "lineage": Lineage,
    "diff": Diff,
    "catalog": CatalogCommand,
    "home": HomeSourcesCommand,
    "gc": Gc,
    "weights": Weights,
    "bench": Bench,
    "plan": Plan,
    "ui": Ui,
    "daemon": Daemon,
    "view": View,
    "doctor": Doctor,
}


def _choices(*, brief: bool) -> Any:  # noqa: ANN401 - an annotation
    """Return all commands for the parser; in brief, its first sentence stands for each."""
    return Union[  # noqa: UP007 - of members that are computed
        tuple(
            Annotated[command, tyro.conf.subcommand(name=name, description=_first(command) if brief else None)]
            for name, command in _COMMANDS.items()
        )
    ]


def _first(command: type) -> str:
    return (command.__doc__ or "").partition("\n\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False)
    errors = Console(stderr=True, highlight=False)
    debug = "--debug" in given
    _let_threads_sleep()
    with _terminations_as_interrupts() as received:
        return _run(given, console, errors, received, debug=debug)


def _let_threads_sleep() -> None:
    """Let threads that wait for each other sleep soon, here and in every process of a command, unless the user says.

    GNU OpenMP's threads spin 300 times as long. Beside another program one of them has no core, and those that spin for
    it hold the core that it needs. The variable is read when PyTorch is imported, which no command does before this.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _run(given: Sequence[str], console: Console, errors: Console, received: Sequence[int], *, debug: bool) -> int:
    try:
        command = parse(given)
        return command.run(console)
    except SystemExit as stop:  # tyro has said what is wrong
        return stop.code if isinstance(stop.code, int) else 2
    except (PipelineError, WorkerDiedError) as error:
        if debug:
            raise
        errors.print(f"[red]error:[/red] {escape(_one_line(error))}", soft_wrap=True)
        return 1
    except BrokenPipeError:  # whoever reads the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (OSError, MemoryError) as error:
        fault = machine_fault(_PROGRAM, error)
        if debug or fault is None:
            raise
        errors.print(f"[red]error:[/red] {escape(_one_line(fault))}", soft_wrap=True)
        return 1
    except ValueError as error:
        if debug:
            raise
        errors.print(f"[red]error:[/red] {escape(_one_line(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here", soft_wrap=True)
        return 128 + (received[0] if received else signal.SIGINT)


@contextmanager
def _terminations_as_interrupts() -> Iterator[list[int]]:
    """Let SIGTERM do what Ctrl-C does, so that a command ends what it has started; yield the signals received."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(signum: int, _: object) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(arguments: Sequence[str]) -> Command:
    """Return the command that the arguments describe, with configuration flags turned into overrides.

    Raises:
        SystemExit: If the arguments describe no command; the code is 2, and a message is printed.
        ValueError: If a configuration flag does not apply.
    """
    parsed: Any
    parsed, unknown = tyro.cli(
        _choices(brief=not _COMMANDS.keys() & set(arguments)),
        args=list(arguments),
        prog=_PROGRAM,
        description=_DESCRIPTION,
        return_unknown_args=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    if unknown and not isinstance(parsed, ConfiguredCommand):
        Console(stderr=True).print(f"[red]error:[/red] unrecognized arguments: {escape(' '.join(unknown))}")
        raise SystemExit(2)
    if not unknown:
        return parsed
    base = parsed.base_config()
    overrides = flags_to_overrides(base, unknown, f"{_PROGRAM} {arguments[0]}")
    return replace(parsed, set=(*parsed.set, *overrides))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
