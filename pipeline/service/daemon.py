"""Dagster's daemon, with two gaps filled: ``python -m pipeline.service.daemon SOCKET``.

Dagster's run monitoring asks after runs that have begun, and gives a run that never began three minutes. Here both are
seen within seconds. Dagster's retries are given up if the code server cannot be reached at that moment. Here they wait.
"""

import sys

import dagster as dg
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget, WorkspaceLoadTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.controller import create_daemon_of_type, daemon_controller_from_instance
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, MonitoringDaemon
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

from pipeline.liveness import end_abandoned_runs
from pipeline.process_tree import end_with_parent

LOCATION = "distillnerf"
"""Name of the code location, by which Dagster keeps schedules, sensors and runs apart."""


class HealingMonitor(MonitoringDaemon):
    """Dagster's run monitoring; runs that lost their process are ended first, begun or not."""

    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext) -> DaemonIterator:
        """End abandoned runs, then do what Dagster's own daemon does."""
        end_abandoned_runs(workspace_process_context.instance)
        yield None
        yield from super().run_iteration(workspace_process_context)


class PatientRetries(EventLogConsumerDaemon):
    """Dagster's retries of failed runs; they wait for the code server, of which they need the job."""

    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext) -> DaemonIterator:
        """Retry failed runs, or nothing yet: what is not looked at now is looked at by the next iteration."""
        if can_reach_code(workspace_process_context):
            yield from super().run_iteration(workspace_process_context)
        else:
            yield None


def can_reach_code(workspace_process_context: IWorkspaceProcessContext) -> bool:
    """Return whether the code server answers and has loaded the definitions."""
    try:
        location = workspace_process_context.create_request_context().get_code_location(LOCATION)
        location.client.ping("")  # type: ignore[attr-defined]  # of a code server, which is all that a home has
    except Exception:  # whatever it is, there is no code now
        return False
    return True


def daemons_of(instance: dg.DagsterInstance) -> list[DagsterDaemon]:
    """Return the daemons that an instance asks for, two of them with their gaps filled."""
    healing: dict[str, DagsterDaemon] = {
        HealingMonitor.daemon_type(): HealingMonitor(instance.run_monitoring_poll_interval_seconds),
        PatientRetries.daemon_type(): PatientRetries(),
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
