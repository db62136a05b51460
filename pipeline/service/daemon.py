"""Dagster's daemon, with its gaps filled: ``python -m pipeline.service.daemon SOCKET``.

Dagster's run monitoring asks after runs that have begun, and gives a run that never began three minutes. Here both are
seen within seconds. Dagster gives up a retry, and a whole backfill, if the code server cannot be reached at the moment
when their turn comes, or ends in the middle. Here they wait for it.
"""

import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from threading import Event

import dagster as dg
from dagster import _check as check
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget, WorkspaceLoadTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run, should_retry
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.controller import create_daemon_of_type, daemon_controller_from_instance
from dagster._daemon.daemon import BackfillDaemon, DaemonIterator, DagsterDaemon, MonitoringDaemon, SpanMarker
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

from pipeline.liveness import end_abandoned_runs
from storage.parent_process import end_with_parent

LOCATION = "distillnerf"
"""Name of the code location, by which Dagster keeps schedules, sensors and runs apart."""

_LOOK_S = 1.0
_TRIES = 10
"""How often a run is tried to be retried while the code server answers."""
_REMEMBERED = timedelta(days=7)
"""How long a failed run waits for a service that retries it."""


class HealingMonitor(MonitoringDaemon):
    """Dagster's run monitoring; runs that lost their process are ended first, begun or not."""

    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext) -> DaemonIterator:
        """End abandoned runs, then do what Dagster's own daemon does."""
        end_abandoned_runs(workspace_process_context.instance)
        yield None
        yield from super().run_iteration(workspace_process_context)


class _WaitsForCode(DagsterDaemon):
    """A daemon that begins each of its iterations only while the code server can be reached."""

    def core_loop(self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event) -> DaemonIterator:
        """Do what the daemon does, and wait at the beginning of each iteration, which it marks, for the code."""
        for told in super().core_loop(workspace_process_context, shutdown_event):
            yield told
            while told is SpanMarker.START_SPAN and not can_reach_code(workspace_process_context):
                if shutdown_event.wait(_LOOK_S):
                    return
                yield None


class PatientRetries(_WaitsForCode, EventLogConsumerDaemon):
    """Dagster's retries of failed runs, of which they need the job.

    Dagster looks at each failure once, when it reads its event. It overlooks one whose event it reads before the run
    says that it is to be retried, and gives up one for which the code server ends in that moment. Here runs are looked
    for by what they say, until they are retried.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tries: Counter[str] = Counter()

    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext) -> DaemonIterator:
        """Retry every run that says that it will be retried, and has not been."""
        instance = workspace_process_context.instance
        for run in unretried_failures(instance):
            yield None
            try:
                if should_retry(run, instance):
                    retry_run(run, workspace_process_context)
            except Exception:  # whatever it is, a moment later it may be gone
                if not can_reach_code(workspace_process_context):
                    return  # the next iteration waits for it
                self._tries[run.run_id] += 1
                self._logger.warning("try %d to retry run %s", self._tries[run.run_id], run.run_id, exc_info=True)
                if self._tries[run.run_id] < _TRIES:
                    continue
            if AUTO_RETRY_RUN_ID_TAG not in check.not_none(instance.get_run_by_id(run.run_id)).tags:
                instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})  # for good: it was told why, on the run


def unretried_failures(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the failed runs of the last days that say that they will be retried, and whose retry was not submitted."""
    asked = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={WILL_RETRY_TAG: "true"},
        updated_after=datetime.now(UTC) - _REMEMBERED,
    )
    failed = instance.get_runs(asked)
    if not failed:
        return []
    created = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED]))  # its daemon ended then
    waiting = {None, *(run.run_id for run in created)}
    return [run for run in failed if run.tags.get(AUTO_RETRY_RUN_ID_TAG) in waiting]


class PatientBackfills(_WaitsForCode, BackfillDaemon):
    """Dagster's backfills, of which they need the assets."""


def can_reach_code(workspace_process_context: IWorkspaceProcessContext) -> bool:
    """Return whether the code server answers and has loaded the definitions."""
    try:
        location = workspace_process_context.create_request_context().get_code_location(LOCATION)
        location.client.ping("")  # type: ignore[attr-defined]  # of a code server, which is all that a home has
    except Exception:  # whatever it is, there is no code now
        return False
    return True


def daemons_of(instance: dg.DagsterInstance) -> list[DagsterDaemon]:
    """Return the daemons that an instance asks for, those with gaps in their filled form."""
    healing: dict[str, DagsterDaemon] = {
        HealingMonitor.daemon_type(): HealingMonitor(instance.run_monitoring_poll_interval_seconds),
        PatientRetries.daemon_type(): PatientRetries(),
        PatientBackfills.daemon_type(): PatientBackfills(instance.get_backfill_settings()),
    }
    return [healing.get(name) or create_daemon_of_type(name, instance) for name in instance.get_required_daemon_types()]


def code_server_at(socket: str) -> WorkspaceLoadTarget:
    """Return the workspace of one code server, which listens on a socket of the file system."""
    return GrpcServerTarget(host="localhost", port=None, socket=socket, location_name=LOCATION)


def main() -> None:
    """Serve until interrupted."""
    end_with_parent()
    setup_interrupt_handlers()
    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        try:
            with daemon_controller_from_instance(
                instance, code_server_at(sys.argv[1]), gen_daemons=daemons_of, log_level="warning"
            ) as controller:
                controller.check_daemon_loop()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
