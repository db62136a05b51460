"""A worker: a process that executes Dagster runs one after another for a command, and reports on them.

Dagster's in-process executor sets up logging for the whole process, so two runs side by side cannot share one (seen: a
deadlock). Torch costs seconds to import, so a process per run would be wasteful. A command therefore keeps a few
workers. They use JSON lines: a task on standard input; events and outcomes on standard output. All other output goes to
a log.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pipeline.log_files import open_log
from storage.freed_memory import reuse_freed_memory
from storage.parent_process import end_with_parent


def main() -> int:
    """Serve tasks until standard input ends."""
    home, log = Path(sys.argv[1]), Path(sys.argv[2])
    end_with_parent()
    reuse_freed_memory()
    tasks, replies = _take_standard_streams(log)

    import dagster as dg

    from pipeline.definitions import build_definitions
    from pipeline.devices import own_device
    from pipeline.instance import open_instance
    from pipeline.open_history import open_history
    from pipeline.progress import ProgressLog
    from pipeline.resources import devices_from_environment

    progress = ProgressLog(lambda event: _send(replies, {"event": "progress", **event}))
    with (
        own_device(home, devices_from_environment()),
        open_history(home / "dagster"),
        open_instance(home) as instance,
    ):
        definitions = build_definitions(progress, by_command=True)
        job = definitions.resolve_implicit_global_asset_job_def()
        _send(replies, {"event": "ready"})
        for line in tasks:
            _write_output_to(log)  # anew for each task: a worker of many scenes must not fill the disk
            _send(replies, {"event": "outcome", **_execute(dg, job, instance, json.loads(line))})
    return 0


def _execute(dg: Any, job: Any, instance: Any, task: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - Dagster is imported late
    from pipeline.instance import TASK_NAME_TAG
    from pipeline.liveness import DRIVER_TAG, this_process
    from pipeline.outcomes import read_outcome

    _limit_threads(int(task["threads"]))
    started = time.perf_counter()
    try:
        result = job.execute_in_process(
            instance=instance,
            partition_key=task["partition"],
            run_config=task["config"],
            asset_selection=[dg.AssetKey(name) for name in task["assets"]],
            raise_on_error=False,
            # A run that a command's end interrupted is gone on with by the next command, never by Dagster's daemon.
            tags={DRIVER_TAG: this_process(), TASK_NAME_TAG: task["name"], "dagster/max_retries": "0"},
        )
    except dg.DagsterError as error:  # before any step: an unknown partition, a configuration that does not fit
        failure = {"asset": task["assets"][0], "error": type(error).__name__, "message": str(error)}
        return {"task": task["name"], "succeeded": False, "failures": [failure], "materializations": [], "checks": []}
    return {"task": task["name"], "wall_time_s": time.perf_counter() - started, **read_outcome(result)}


def _limit_threads(threads: int) -> None:
    """Limit the threads of numeric libraries, here and in child processes."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _take_standard_streams(log: Path) -> tuple[IO[str], IO[str]]:
    """Return the original standard input and output; child processes get an empty input and the log instead."""
    tasks, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _write_output_to(log)
    return tasks, replies


def _write_output_to(log: Path) -> None:
    """Send standard output and error to a log, of this process and of those that it starts from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open_log(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _send(replies: IO[str], message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message, default=str) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
