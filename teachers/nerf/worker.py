"""Entry point of nerfstudio's environment: run one task, report it to Dagster Pipes or to the terminal.

``python -m teachers.nerf.worker`` reads its task from the extras of a Dagster Pipes call; with ``--task-file`` it runs
by hand, without Dagster. The task's shape is ``teachers.nerf.task.NerfTask``. Exit codes: 0 done, 2 bad task, 3 a typed
error of the pipeline (also left in the task's result file).
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes

from storage.errors import IntegrityError, PipelineError
from storage.freed_memory import reuse_freed_memory
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults
from storage.stores.versioned import Home, Materialized
from teachers.nerf.progress import Progress
from teachers.nerf.task import KIND_OF, NerfStep, NerfTask, write_result

logger = logging.getLogger("teachers.nerf.worker")

_MIN_REPORT_INTERVAL_S = 2.0


def run_task(task: NerfTask, report: Callable[[Mapping[str, Any]], None]) -> dict[str, Materialized]:
    """Run a task's steps in order.

    Args:
        task: What to do.
        report: Told ``{"event": "progress", ...}`` every few seconds and ``{"event": "materialized", ...}`` per step.

    Raises:
        PipelineError: What ended the task; it is in the result file too, with all that was finished before.
    """
    home = Home(task.home_root, store_url=task.store_url)
    results: dict[str, Materialized] = {}
    error: PipelineError | None = None
    try:
        with machine_faults(task.scene_key):
            home.require(Kind.SCENE, task.scene_key)  # said at once, not after nerfstudio's seconds of imports
            for step in task.steps:
                results[step.action] = _run_step(home, task.scene_key, step, report)
                report(_describe(step.action, results[step.action]))
    except PipelineError as raised:
        error = raised
        raise
    finally:
        if task.result_file:
            write_result(Path(task.result_file), results, error)
    return results


def _run_step(home: Home, scene_key: str, step: NerfStep, report: Callable[[Mapping[str, Any]], None]) -> Materialized:
    # nerfstudio takes seconds to import, and only a fit needs its trainer: each action imports what it needs.
    from teachers.nerf.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    action: Callable[..., Materialized]
    if step.action == "fit":
        from teachers.nerf.fit import fit_scene as action
    elif step.action == "render_depth":
        from teachers.nerf.render import render_teacher_depth as action
    elif step.action == "render_virtual_views":
        from teachers.nerf.render import render_virtual_views as action
    elif step.action == "read_occupancy":
        from teachers.nerf.occupancy import read_teacher_occupancy as action
    elif step.action == "distil_features":
        from teachers.nerf.distil_features import distil_features as action
    else:
        from teachers.nerf.features import render_teacher_features as action
    return action(home, scene_key, step.config, _throttled(step.action, report))


def _throttled(action: str, report: Callable[[Mapping[str, Any]], None]) -> Progress:
    last = -_MIN_REPORT_INTERVAL_S

    def on_progress(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
        nonlocal last
        now = time.perf_counter()
        if fraction < 1.0 and now - last < _MIN_REPORT_INTERVAL_S:
            return
        last = now
        text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        logger.info("%s: %s %3.0f %%, %s", action, stage, 100 * fraction, text)
        report({"event": "progress", "action": action, "stage": stage, "fraction": fraction, **numbers})

    return on_progress


def _describe(action: str, materialized: Materialized) -> dict[str, Any]:
    version = materialized.version
    return {
        "event": "materialized",
        "action": action,
        "kind": KIND_OF[action],
        "partition": version.partition,
        "digest": version.digest,
        "snapshot_id": version.snapshot_id,
        "reused": materialized.reused,
        "metrics": materialized.metrics,
    }


def _pipes_reporter(context: PipesContext) -> Callable[[Mapping[str, Any]], None]:
    def report(message: Mapping[str, Any]) -> None:
        if message["event"] == "progress":
            numbers = {k: v for k, v in message.items() if k not in ("event", "action", "stage", "fraction")}
            text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            context.log.info(f"{message['action']} {100 * message['fraction']:.0f} %: {text}")
        context.report_custom_message(dict(message))

    return report


def main(arguments: list[str] | None = None) -> int:
    """Run the worker and return its exit code."""
    parser = argparse.ArgumentParser(prog="teachers.nerf.worker", description="Fit and render one scene's field.")
    parser.add_argument("--task-file", type=Path, help="JSON task to run without Dagster")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    if parsed.task_file is None and not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        logger.error("no task: want --task-file TASK.json, or to be started through Dagster Pipes")
        return 2
    if parsed.task_file is None:
        with open_dagster_pipes() as context:
            return _run_guarded(context.extras, _pipes_reporter(context))
    try:
        raw = parse_json(parsed.task_file.read_text())
    except (OSError, ValueError) as error:
        logger.error("%s: no JSON task can be read: %s", parsed.task_file, error)  # noqa: TRY400 - one line for people
        return 2
    return _run_guarded(raw, _log_result)


def _log_result(message: Mapping[str, Any]) -> None:
    if message["event"] == "materialized":
        logger.info("%s", json.dumps(message))


def _run_guarded(raw: Mapping[str, Any], report: Callable[[Mapping[str, Any]], None]) -> int:
    try:
        task = NerfTask.from_json(raw)
    except (IntegrityError, ValueError) as error:
        logger.error("bad task: %s", error)  # noqa: TRY400 - one line for people
        return 2
    try:
        run_task(task, report)
    except PipelineError as error:
        logger.error("%s", error)  # noqa: TRY400 - one line for people
        report({"event": "failed", "type": type(error).__name__, "kind": error.kind.value, "message": str(error)})
        return 3
    return 0


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())
