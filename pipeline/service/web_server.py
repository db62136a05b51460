"""Dagster's web server behind a guard: ``python -m pipeline.service.web_server SOCKET HOST PORT [NAME ...]``."""

import sys
import warnings

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from pipeline.service.daemon import code_server_at
from pipeline.service.origin_guard import LOOPBACK_NAMES, OriginGuard
from storage.parent_process import end_with_parent

_POLL_MS = 2000
"""How often an open page asks for news, milliseconds."""


def main() -> None:
    """Serve until interrupted."""
    end_with_parent()
    setup_interrupt_handlers()
    warnings.simplefilter("ignore")  # of Dagster's own parts, which nobody here can mend
    socket, host, port, *names = sys.argv[1:]
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, code_server_at(socket), version=__version__) as context,
    ):
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        app = create_app_from_workspace_process_context(context, live_data_poll_rate=_POLL_MS)
        guarded = OriginGuard(app, (*LOOPBACK_NAMES, host, *names))
        uvicorn.run(guarded, host=host, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
