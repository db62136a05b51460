"""The two daemons whose gaps are filled."""

from collections.abc import Iterator
from typing import Any, cast

import dagster as dg
import pytest
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.daemon import MonitoringDaemon

from pipeline.instance import open_instance
from pipeline.liveness import DRIVER_TAG
from pipeline.service import daemon
from pipeline.service.daemon import HealingMonitor, PatientRetries, can_reach_code, daemons_of


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


def test_retries_wait_for_the_code_server(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventLogConsumerDaemon, "run_iteration", lambda *_: iter(["Dagster's own"]))
    context = cast("Any", Context(instance))
    assert not can_reach_code(context)
    assert list(PatientRetries().run_iteration(context)) == [None]
    monkeypatch.setattr(daemon, "can_reach_code", lambda _: True)
    assert list(PatientRetries().run_iteration(context)) == ["Dagster's own"]
