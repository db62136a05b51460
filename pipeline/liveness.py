"""Which runs of an instance have lost their process, whoever started them.

A run knows its process by a tag, which the command line and the run launcher set, and by the engine event in which
Dagster itself notes a process id. An id alone is given to other processes later, so a process is known by the machine
and by the time when it began, too.
"""

import socket

import dagster as dg
import psutil
from dagster._core.storage.event_log import SqliteEventLogStorage  # not exported, but what a folder's instance has

DRIVER_TAG = "distillnerf/process"
"""Tag of a run; the value is process id, start time and machine of the executing process."""

_UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_CLOCK_S = 2.0
"""How far the clocks of the system and of an event may lie apart, seconds."""


def this_process() -> str:
    """Return an identity of this process that no later process will have."""
    return identity_of(psutil.Process())


def identity_of(process: psutil.Process) -> str:
    """Return process id, start time and machine of a process as the value of a tag."""
    return f"{process.pid}@{process.create_time():.0f}@{socket.gethostname()}"


def process_of(run: dg.DagsterRun) -> psutil.Process | None:
    """Return the living process that the tag of a run names; None if there is none on this machine."""
    parts = run.tags.get(DRIVER_TAG, "").split("@")
    if len(parts) < 2 or parts[2:] not in ([], [socket.gethostname()]):
        return None
    process = _living(parts[0])
    return process if process is not None and f"{process.create_time():.0f}" == parts[1] else None


def has_lost_its_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether the process of a run ended on this machine; False where that cannot be known from here.

    The tag of a run of another machine says nothing here. An event names no machine, so it is believed where the
    instance is a folder of this machine.
    """
    tag = run.tags.get(DRIVER_TAG)
    if process_of(run) is not None:
        return False
    if tag is not None and tag.split("@")[2:] not in ([], [socket.gethostname()]):
        return False
    noted = _noted_process(instance, run)
    return noted is False or (noted is None and tag is not None)


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark unfinished runs that lost their process as ended, free their pool slots, and return their ids.

    A killed process cannot do this itself, and others would wait for its slots for ever. Dagster's daemon then starts
    the run again, if its policy says so. A run that was being cancelled is marked as cancelled.
    """
    abandoned = []
    for seen in instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED)):
        if not has_lost_its_process(instance, seen):
            continue
        run = instance.get_run_by_id(seen.run_id)  # what the process wrote last, before it ended
        if run is None or run.status not in _UNFINISHED:
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "its process ended")
        else:
            instance.report_run_failed(run, "its process ended without reporting; what it had finished is stored")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        abandoned.append(run.run_id)
    return abandoned


def _noted_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Return whether the process lives that Dagster noted for a run; None if nothing is known of one."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return None
    for entry in storage.get_logs_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=5):
        noted = entry.get_dagster_event().engine_event_data.metadata.get("pid")
        if noted is not None:
            process = _living(str(noted.value))
            return process is not None and process.create_time() <= entry.timestamp + _CLOCK_S
    return None


def _living(pid: str) -> psutil.Process | None:
    """Return the process of an id, unless it has ended and only waits to be asked for its exit code."""
    try:
        process = psutil.Process(int(pid))
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, ValueError):
        return None
