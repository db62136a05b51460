"""The daemons whose gaps are filled."""

from collections.abc import Iterator
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
    overlooked_failures,
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


def test_a_failure_that_dagster_overlooked_is_found_until_it_is_retried(instance: dg.DagsterInstance) -> None:
    runs = [
        instance.create_run_for_job(dg.job(name="j")(lambda: None), tags=tags, status=dg.DagsterRunStatus.STARTED)
        for tags in ({}, {"dagster/max_retries": "0"}, {"dagster/auto_retry_run_id": "x"})
    ]
    for run in runs:
        instance.report_run_failed(run)
    found = {record.dagster_run.run_id for record in overlooked_failures(instance)}
    assert found & {run.run_id for run in runs} == {runs[0].run_id}


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
