"""The Dagster instance of a home, which keeps all runs, events and partitions.

The command line and the UI share this instance, so each shows the runs of the other.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import dagster as dg
import psutil

DRIVER_TAG = "distillnerf/process"
"""Tag of runs that a command started; the value is process id and start time of the executing process."""
TASK_NAME_TAG = "distillnerf/task"
"""Tag of runs that a command started; the value is the task's name."""

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


def pool_waits(home: Path) -> dict[str, str]:
    """Return the tasks of commands that wait for a place in a pool, each with those who hold its places."""
    waits: dict[str, str] = {}
    with open_instance(home) as instance:
        for pool in instance.event_log_storage.get_pool_limits():
            info = instance.event_log_storage.get_concurrency_info(pool.name)
            holders = [_told(instance, slot.run_id) for slot in info.claimed_slots]
            for run_id in info.pending_run_ids:
                run = instance.get_run_by_id(run_id)
                if run is not None and TASK_NAME_TAG in run.tags and holders:
                    waits[run.tags[TASK_NAME_TAG]] = f"pool {pool.name!r}, held by {' and '.join(holders)}"
    return waits


def _told(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return who a run is, for people."""
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return f"run {run_id[:8]}"
    tags, started = record.dagster_run.tags, record.start_time
    name = tags.get(TASK_NAME_TAG) or f"job {record.dagster_run.job_name}"
    process = f", process {tags[DRIVER_TAG].partition('@')[0]}" if DRIVER_TAG in tags else ""
    since = "" if started is None else f" since {time.strftime('%H:%M:%S', time.localtime(started))}"
    return f"{name} (run {run_id[:8]}{process}{since})"


def _identity(process: psutil.Process) -> str:
    return f"{process.pid}@{process.create_time():.0f}"


def _is_alive(identity: str) -> bool:
    try:
        return _identity(psutil.Process(int(identity.partition("@")[0]))) == identity
    except (psutil.NoSuchProcess, ValueError):
        return False
