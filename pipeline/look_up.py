"""Find the tasks of a run that have nothing to do, without a Dagster run for each.

A Dagster run costs about half a second of bookkeeping, also where all that it makes is there already: minutes for a
repeated run of many scenes. Here, the assets' own functions are called on a home that builds nothing. A task is left
out of a run if

- every version that it would make is there, whole and in use, by the home as by Dagster's records;
- no code of its assets changed, and the run that made them judged them with all their checks;
- all tasks before it are left out as well.

Everything else takes the usual way, which says what is wrong. The look-ups have a process of their own: models' code is
imported for them, and the memory is free again when the process ends.
"""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

from assets.partition_runs import LOOK_UPS
from pipeline.instance import open_instance
from pipeline.log_files import open_log
from pipeline.outcomes import read_events
from pipeline.resources import dagster_environment
from pipeline.tasks import Task
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home

_PROGRAM = (sys.executable, "-m", "pipeline.look_up")
_TOLD = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION)

logger = logging.getLogger(__name__)


def look_up_tasks(
    tasks: Sequence[Task], home: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names of tasks that have nothing to do, each with the outcome that its last run had.

    Args:
        tasks: Tasks, each after its predecessors.
        home: Home of the instance and the stores.
        environment: Environment variables of the look-ups in addition to those of this process.
    """
    with open_instance(home) as instance:
        candidates = _made_before(instance, tasks)
    if not candidates:
        return
    with (
        open_log(home / "logs" / "look-up.log") as log,
        subprocess.Popen(
            [*_PROGRAM, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**dagster_environment(home), **(environment or {})},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended: every task takes the usual way
                process.stdin.write(json.dumps([dataclasses.asdict(task) for task in candidates]))
                process.stdin.close()
            for line in process.stdout:
                try:
                    found = json.loads(line)
                except ValueError:  # cut off: what is left takes the usual way
                    return
                yield found["task"], found
        finally:
            process.kill()


def _made_before(instance: dg.DagsterInstance, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks whose assets Dagster has seen made, and whose predecessors are among them."""
    made: dict[str, Mapping[str | None, Any]] = {}
    for asset in {asset for task in tasks for asset in task.assets}:
        key = dg.AssetKey(asset)
        partitions = instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
        )
        made[asset] = {**partitions, None: instance.get_latest_materialization_event(key)}
    found: dict[str, Task] = {}
    for task in tasks:
        if all(name in found for name in task.after) and all(made[a].get(task.partition) for a in task.assets):
            found[task.name] = task
    return list(found.values())


def main() -> int:
    """Read tasks from standard input, and write a line for each that has nothing to do."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log

    from pipeline.definitions import build_definitions
    from storage.parent_process import end_with_parent

    end_with_parent()
    home = Path(sys.argv[1])
    tasks = [Task(**raw) for raw in json.load(sys.stdin)]
    with open_instance(home) as instance:
        for outcome in look_up(home, instance, build_definitions().resolve_asset_graph(), tasks):
            replies.write(json.dumps(outcome, default=str) + "\n")
            replies.flush()
    return 0


def look_up(
    home: Path, instance: dg.DagsterInstance, graph: AssetGraph, tasks: Sequence[Task]
) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each task that has nothing to do, in this process; see ``look_up_tasks``.

    Args:
        home: Home of the stores.
        instance: Dagster's instance of the home.
        graph: Graph of all assets, with their checks.
        tasks: Tasks, each after its predecessors.
    """
    opened = Home(home, store_url=store_url_from_environment(), lock_timeout_s=0.0, builds=False)
    found: set[str] = set()
    for task in tasks:
        if not found.issuperset(task.after):
            continue
        try:
            outcome = _look_up(opened, instance, graph, task)
        except Exception as error:  # whatever it is, the usual way meets it again and says so
            logger.info("%s: %s", task.name, error)
            continue
        if outcome is not None:
            found.add(task.name)
            yield outcome


def _look_up(home: Home, instance: dg.DagsterInstance, graph: AssetGraph, task: Task) -> dict[str, Any] | None:
    """Return the outcome of the last runs of a task's assets if nothing is to be done, or None.

    Raises:
        NothingBuiltError: If a version is not there, not whole or not in use.
    """
    told: dict[str, list[Any]] = {"materializations": [], "checks": [], "failures": []}
    run_id = ""
    for asset in task.assets:
        key, op = dg.AssetKey(asset), graph.get(dg.AssetKey(asset)).assets_def.node_def.name
        choices = task.config.get("ops", {}).get(op, {}).get("config", {})
        digest = LOOK_UPS[asset](home, task.partition or "", choices)
        wanted = None if task.partition is None else [task.partition]
        made = instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=wanted), limit=1).records
        tags = made[0].asset_materialization.tags if made and made[0].asset_materialization else None
        if tags is None or tags.get(DATA_VERSION_TAG) != digest:
            return None
        if tags.get(CODE_VERSION_TAG) != graph.get(key).code_version:
            return None
        run_id = made[0].run_id
        found = read_events(_events_of(instance, run_id, asset, task.partition))
        if not any(entry["asset"] == asset for entry in found["materializations"]):
            return None  # reported without a run
        checks = {check.name for check in graph.get_check_keys_for_assets({key})}
        if not checks <= {check["check"] for check in found["checks"] if check["asset"] == asset}:
            return None
        for name, entries in found.items():
            told[name] += entries
    for entry in told["materializations"]:
        entry |= {"reused": True, "step_s": 0.0}
    return {"task": task.name, "succeeded": True, "run_id": run_id, "wall_time_s": 0.0, **told}


def _events_of(
    instance: dg.DagsterInstance, run_id: str, asset: str, partition: str | None
) -> Iterator[dg.DagsterEvent]:
    """Yield what a run told of a partition of an asset; of an asset without partitions, all that it told."""
    for entry in instance.all_logs(run_id, of_type=set(_TOLD)):
        event = entry.get_dagster_event()
        data: Any = event.event_specific_data
        is_check = event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        key, of = (data.asset_key, data.partition) if is_check else (event.asset_key, event.partition)
        if partition is None or (of == partition and key is not None and key.to_user_string() == asset):
            yield event


if __name__ == "__main__":
    sys.exit(main())
