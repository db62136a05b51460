"""Dagster for one home: which processes serve it, and what happens to its runs when they stop."""

import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg

from pipeline.environments import project_root
from pipeline.instance import TASK_NAME_TAG, open_instance
from pipeline.liveness import end_abandoned_runs, process_of
from pipeline.process_tree import end_trees
from pipeline.resources import dagster_environment
from pipeline.service.supervisor import Service, supervise
from pipeline.workflow import prepare_home
from storage.stores.locks import held
from storage.stores.versioned import Home


def serve(
    home: Home,
    *,
    web: tuple[str, int] | None,
    names: Sequence[str] = (),
    stop: threading.Event | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a home until asked to stop or interrupted, then end the runs that Dagster launched.

    Such a run is marked as failed; where its policy has tries left, the next service of the home starts it again.

    Args:
        home: Home to serve.
        web: Address and port of the web server; None for none.
        names: Names under which the web server may be reached, besides those of this machine's loopback.
        stop: Set by whoever wants it to end.
        tell: Receives what people should know.

    Raises:
        StoreLockedError: If another process serves the home; the message says which.
    """
    prepare_home(home)
    lock = home.root / "dagster" / "service.lock"
    with held(lock, f"Dagster of {home.root}", timeout_s=0.0), tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "code"  # below the home its path could be longer than sockets allow
        try:
            supervise(
                services_of(socket, web, names),
                environment=dagster_environment(home.root),
                cwd=project_root(),
                stop=stop or threading.Event(),
                tell=tell,
            )
        finally:
            end_launched_runs(home)


def services_of(socket: Path, web: tuple[str, int] | None, names: Sequence[str] = ()) -> list[Service]:
    """Return the processes of a service: code server, daemon and, where an address is given, web server."""
    module = [sys.executable, "-W", "ignore", "-m"]
    code = [*module, "pipeline.service.code_server", str(socket)]
    services = [
        Service(name="code server", command=code, ready=socket),
        Service(name="daemon", command=[*module, "pipeline.service.daemon", str(socket)]),
    ]
    if web is not None:
        command = [*module, "pipeline.service.web_server", str(socket), web[0], str(web[1]), *names]
        services.append(Service(name="web server", command=command))
    return services


def end_launched_runs(home: Home) -> list[str]:
    """End the runs of a home that Dagster launched on this machine, and return their ids; a command's own go on."""
    with open_instance(home.root) as instance:
        unfinished = instance.get_runs(
            filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
        )
        launched = [run for run in unfinished if TASK_NAME_TAG not in run.tags]
        end_trees([process for run in launched if (process := process_of(run)) is not None])
        end_abandoned_runs(instance)
        return [run.run_id for run in launched]
