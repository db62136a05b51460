"""The Dagster instance of a home, which keeps all runs, events and partitions.

The command line and the UI share this instance, so each shows the runs of the other.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import dagster as dg

from pipeline.liveness import DRIVER_TAG
from pipeline.resources import DATABASE_VARIABLE, names_database

TASK_NAME_TAG = "distillnerf/task"
"""Tag of runs that a command started; the value is the task's name."""


_EARLIER = frozenset(
    {
        "e3af7de3ed070b011ba3dc8c022ab4fa5ac4ee3af7527bb2af64c5f455bc9fd3",
        "7163cbca8413cedaf5b0b7b10d4d385fc285230c6e305ef09a7b0cdc5d66249f",
    }
)
"""SHA-256 of the files that earlier versions wrote: whoever edited none of it gets the present one."""


_IN_DATABASE = f"""
# Runs, events and schedules are in the database that this environment variable names.
storage:
  postgres:
    postgres_url:
      env: {DATABASE_VARIABLE}
"""


def prepare_instance(home: Path) -> Path:
    """Make the instance's folder with its ``dagster.yaml``, and return it; a file that people edited stays.

    Raises:
        ValueError: If the environment names a database and an edited file does not.
    """
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "dagster.yaml"
    plain = (files("pipeline") / "templates" / "dagster.yaml").read_text()
    wanted = plain + _IN_DATABASE if names_database() else plain
    present = target.read_text() if target.is_file() else None
    if present == wanted:
        return folder
    ours = (None, plain, plain + _IN_DATABASE)
    if present in ours or sha256(present.encode()).hexdigest() in _EARLIER:
        aside = folder / f".dagster.yaml.{os.getpid()}"
        aside.write_text(wanted)
        aside.replace(target)
    elif wanted != plain and DATABASE_VARIABLE not in present:
        raise ValueError(
            f"{DATABASE_VARIABLE} is set, and {target}, which was edited, does not use it: add{_IN_DATABASE}"
        )
    return folder


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the persistent instance of a home."""
    with dg.DagsterInstance.from_config(str(prepare_instance(home))) as instance:
        yield instance


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
