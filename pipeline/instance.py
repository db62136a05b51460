"""The Dagster instance of a home, which keeps all runs, events and partitions.

The command line and the UI share this instance, so each shows the runs of the other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import dagster as dg
import psutil

DRIVER_TAG = "distillnerf/process"
"""Tag of runs that a command started; the value is process id and start time of the executing process."""

_UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def prepare_instance(home: Path) -> Path:
    """Make the instance's folder with its ``dagster.yaml`` unless it exists, and return it."""
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "dagster.yaml"
    if not target.is_file():
        aside = folder / f".dagster.yaml.{os.getpid()}"
        aside.write_text((files("pipeline") / "templates" / "dagster.yaml").read_text())
        aside.replace(target)
    return folder


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the persistent instance of a home."""
    with dg.DagsterInstance.from_config(str(prepare_instance(home))) as instance:
        yield instance


def this_process() -> str:
    """Return an identity of this process that no later process will have."""
    return _identity(psutil.Process())


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, free their pool slots, and return their ids.

    A killed command cannot do this itself, and the next command would wait for its slots for ever.
    """
    abandoned = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        process = run.tags.get(DRIVER_TAG)
        if process is None or _is_alive(process):
            continue
        instance.report_run_failed(run, "its process ended without reporting; the next run goes on from what is stored")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        abandoned.append(run.run_id)
    return abandoned


def set_pool_limit(instance: dg.DagsterInstance, pool: str, limit: int) -> None:
    """Set the number of steps of a pool that may run at once."""
    instance.event_log_storage.set_concurrency_slots(pool, limit)


def _identity(process: psutil.Process) -> str:
    return f"{process.pid}@{process.create_time():.0f}"


def _is_alive(identity: str) -> bool:
    try:
        return _identity(psutil.Process(int(identity.partition("@")[0]))) == identity
    except (psutil.NoSuchProcess, ValueError):
        return False
