"""The run launcher of a home: each run is a process of its own that outlives whoever launched it.

Dagster's default launcher starts runs inside the code server, cannot tell whether their process lives, and loses all of
them with that server. Here a run depends on no server, and a tag says which process it is.
"""

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value
from psutil import Process

from pipeline.liveness import DRIVER_TAG, has_lost_its_process, identity_of, process_of, this_process
from pipeline.log_files import open_log
from pipeline.process_tree import end_trees


class ProcessLauncher(RunLauncher, ConfigurableClass):
    """Launch each run as a process of this machine; ``dagster.yaml`` of a home names this class.

    Args:
        inst_data: What Dagster knows of the entry in ``dagster.yaml``.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data
        self._launched: list[subprocess.Popen[bytes]] = []

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return what Dagster knows of the entry in ``dagster.yaml``."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the fields of the entry in ``dagster.yaml``: none."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return the launcher of an entry in ``dagster.yaml``."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the process of a run, and note on the run which one it is."""
        run, instance = context.dagster_run, self._instance
        assert context.job_code_origin is not None
        told = ExecuteRunArgs(context.job_code_origin, run.run_id, instance.get_ref(), set_exit_code_on_failure=True)
        # Until the run has a process it belongs to this one: if that is killed in between, the run is seen to be lost.
        instance.add_run_tags(run.run_id, {DRIVER_TAG: this_process()})
        self._launched = [process for process in self._launched if process.poll() is None]  # asks for exit codes
        folder = Path(instance.root_directory)
        with open_log(folder.parent / "logs" / "runs.log") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.service.run_process", str(folder), serialize_value(told)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._launched.append(process)
        instance.add_run_tags(run.run_id, {DRIVER_TAG: identity_of(Process(process.pid))})

    def terminate(self, run_id: str) -> bool:
        """Ask the process of a run to end, with all that it started; kill it after a while."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = process_of(run)
        if process is None:
            return False
        threading.Thread(target=end_trees, args=([process],), name=f"end {run_id}").start()
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that Dagster's run monitoring may ask this launcher after the process of a run."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a run lives, whoever started it."""
        if has_lost_its_process(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process ended without reporting")
        return CheckRunHealthResult(WorkerStatus.RUNNING)
