"""The daemons whose gaps are filled."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any, cast

import dagster as dg
import pytest
from dagster._daemon.daemon import MonitoringDaemon, SpanMarker

from pipeline.instance import open_instance
from pipeline.liveness import DRIVER_TAG
from pipeline.service import daemon
from pipeline.service.daemon import (
    HealingMonitor,
    PatientBackfills,
    PatientRetries,
    can_reach_code,
    daemons_of,
    unretried_failures,
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path_factory.mktemp("home")) as opened:
        yield opened


class Context:
    """A workspace without code."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def create_request_context(self) -> Any:
        raise ConnectionError("no code server")


def test_a_home_has_every_daemon_that_its_instance_asks_for(instance: dg.DagsterInstance) -> None:
    made = {type(one).daemon_type(): type(one) for one in daemons_of(instance)}
    assert set(made) == set(instance.get_required_daemon_types())
    assert made["MONITORING"] is HealingMonitor
    assert made["BACKFILL"] is PatientBackfills
    assert made["EVENT_LOG_CONSUMER"] is PatientRetries


def test_a_run_that_never_began_is_ended_with_its_process(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = instance.create_run_for_job(
        dg.job(name="j")(lambda: None), tags={DRIVER_TAG: "1@1"}, status=dg.DagsterRunStatus.STARTING
    )
    monkeypatch.setattr(MonitoringDaemon, "run_iteration", lambda *_: iter(["Dagster's own"]))
    assert list(HealingMonitor(10).run_iteration(cast("Any", Context(instance)))) == [None, "Dagster's own"]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert ended.tags["dagster/will_retry"] == "true"


def failed_run(instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    run = instance.create_run_for_job(
        dg.job(name="j")(lambda: None), tags=tags or {}, status=dg.DagsterRunStatus.STARTED
    )
    instance.report_run_failed(run)
    return run


@pytest.fixture
def fresh_instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as opened:
        yield opened


def will_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.tags["dagster/will_retry"]


def test_failures_are_found_until_their_retry_is_submitted(fresh_instance: dg.DagsterInstance) -> None:
    instance = fresh_instance
    created = instance.create_run_for_job(dg.job(name="j")(lambda: None))  # and its daemon ended before it was queued
    new = failed_run(instance)
    failed_run(instance, {"dagster/max_retries": "0"})
    failed_run(instance, {"dagster/auto_retry_run_id": "submitted"})
    half = failed_run(instance, {"dagster/auto_retry_run_id": created.run_id})
    assert {run.run_id for run in unretried_failures(instance)} == {new.run_id, half.run_id}


def test_a_retry_outlives_a_code_server_that_ends_in_the_middle(
    fresh_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster marks such a run as one that will never be retried."""
    instance, asked = fresh_instance, []
    run = failed_run(instance)

    def retry(failed: dg.DagsterRun, context: Any) -> None:
        asked.append(failed.run_id)
        if len(asked) < 30:  # more often than a fault of any other kind is forgiven
            raise ConnectionError("no code server")
        context.instance.add_run_tags(failed.run_id, {"dagster/auto_retry_run_id": "new"})

    monkeypatch.setattr(daemon, "retry_run", retry)
    for _ in range(40):
        list(PatientRetries().run_iteration(cast("Any", Context(instance))))
    assert asked == [run.run_id] * 30
    assert will_retry(instance, run) == "true"


def test_a_run_that_cannot_be_retried_is_given_up_after_a_while(
    fresh_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, asked = fresh_instance, []
    run = failed_run(instance)

    def retry(failed: dg.DagsterRun, _: object) -> None:
        asked.append(failed.run_id)
        raise ValueError("its job is broken")

    monkeypatch.setattr(daemon, "retry_run", retry)
    monkeypatch.setattr(daemon, "can_reach_code", lambda _: True)
    patient = PatientRetries()
    for _ in range(20):
        list(patient.run_iteration(cast("Any", Context(instance))))
    assert asked == [run.run_id] * 10
    assert will_retry(instance, run) == "false"


def test_a_run_that_dagster_refuses_to_retry_is_asked_once(
    fresh_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose job is gone: Dagster says so on the run, at each attempt."""
    instance, asked = fresh_instance, []
    run = failed_run(instance)
    monkeypatch.setattr(daemon, "retry_run", lambda failed, _: asked.append(failed.run_id))
    for _ in range(3):
        list(PatientRetries().run_iteration(cast("Any", Context(instance))))
    assert asked == [run.run_id]
    assert will_retry(instance, run) == "false"


@pytest.mark.parametrize("patient", [PatientRetries, PatientBackfills])
def test_retries_and_backfills_wait_for_the_code_server(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, patient: Any
) -> None:
    done: list[str] = []

    def iterations(*_: object) -> Iterator[object]:
        for turn in ("first", "second"):
            yield SpanMarker.START_SPAN
            done.append(turn)

    owner = next(base for base in patient.__mro__[2:] if "core_loop" in vars(base))
    monkeypatch.setattr(owner, "core_loop", iterations)
    monkeypatch.setattr(daemon, "_LOOK_S", 0.0)
    context = cast("Any", Context(instance))
    assert not can_reach_code(context)
    loop = iter(patient.core_loop(object.__new__(patient), context, Event()))
    assert [next(loop), next(loop), next(loop)] == [SpanMarker.START_SPAN, None, None]
    assert done == []
    monkeypatch.setattr(daemon, "can_reach_code", lambda _: True)
    assert list(loop) == [SpanMarker.START_SPAN]
    assert done == ["first", "second"]
