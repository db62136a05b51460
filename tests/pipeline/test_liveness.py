"""Runs whose process is gone are ended whoever started them, and no others."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData

from pipeline.liveness import DRIVER_TAG, end_abandoned_runs, has_lost_its_process, process_of, this_process

STATUS = dg.DagsterRunStatus
GONE = f"{os.getpid()}@1@{socket.gethostname()}"  # the id of a living process, which began at another time


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as opened:
        yield opened


def a_run(instance: dg.DagsterInstance, process: str | None, status: STATUS = STATUS.STARTED) -> dg.DagsterRun:
    tags = {} if process is None else {DRIVER_TAG: process}
    return instance.create_run_for_job(dg.job(name="j")(lambda: None), tags=tags, status=status)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> STATUS:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


@pytest.fixture(scope="module")
def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STATUS.STARTING, STATUS.FAILURE),
        (STATUS.STARTED, STATUS.FAILURE),
        (STATUS.CANCELING, STATUS.CANCELED),
        (STATUS.NOT_STARTED, STATUS.NOT_STARTED),
        (STATUS.SUCCESS, STATUS.SUCCESS),
    ],
    ids=["starting", "started", "canceling", "not started", "done"],
)
def test_a_run_without_its_process_is_ended_unless_it_has_none_yet_or_is_done(
    instance: dg.DagsterInstance, before: STATUS, after: STATUS
) -> None:
    run = a_run(instance, GONE, before)
    assert end_abandoned_runs(instance) == ([run.run_id] if before is not after else [])
    assert status_of(instance, run) is after


def test_its_pool_slots_are_free_at_once(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    lost, waits = a_run(instance, GONE), a_run(instance, this_process())
    assert storage.claim_concurrency_slot("gpu", lost.run_id, "step").is_claimed
    assert not storage.claim_concurrency_slot("gpu", waits.run_id, "step").is_claimed
    end_abandoned_runs(instance)
    assert storage.claim_concurrency_slot("gpu", waits.run_id, "step").is_claimed


def test_a_run_of_another_machine_or_of_nobody_known_is_left_alone(instance: dg.DagsterInstance) -> None:
    for process in (f"{os.getpid()}@1@elsewhere", this_process(), None):
        run = a_run(instance, process)
        assert not has_lost_its_process(instance, run)
        assert end_abandoned_runs(instance) == []
        assert status_of(instance, run) is STATUS.STARTED


def test_dagsters_own_note_of_a_process_is_enough(instance: dg.DagsterInstance, ended_pid: int) -> None:
    """A run that another program executes has no tag of ours."""
    runs = {}
    for pid in (os.getpid(), ended_pid):
        runs[pid] = a_run(instance, None)
        instance.report_engine_event("Executing steps in process", runs[pid], EngineEventData.in_process(pid))
    assert end_abandoned_runs(instance) == [runs[ended_pid].run_id]


def test_a_process_that_began_after_the_note_is_another_one(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, None)
    instance.report_engine_event("Executing steps in process", run, EngineEventData.in_process(os.getpid()))
    assert not has_lost_its_process(instance, run)
    younger = psutil.Process().create_time() + 3600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil.Process, "create_time", lambda _: younger)
        assert has_lost_its_process(instance, run)


def test_a_living_run_worker_counts_even_if_its_launcher_was_killed_before_it_noted_it(
    instance: dg.DagsterInstance,
) -> None:
    run = a_run(instance, GONE, STATUS.STARTING)  # still the launcher's own process
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(os.getpid()))
    assert not has_lost_its_process(instance, run)


def test_a_zombie_is_no_process(instance: dg.DagsterInstance) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # it has ended, and nobody has asked for its exit code
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    created = psutil.Process(process.pid).create_time()
    run = a_run(instance, f"{process.pid}@{created:.0f}@{socket.gethostname()}")
    assert process_of(run) is None
    assert end_abandoned_runs(instance) == [run.run_id]
    process.wait()
    process.stdout.close()
