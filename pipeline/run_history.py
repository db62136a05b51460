"""Dagster's run history, and its removal: Dagster itself keeps every run for ever.

A run that a page or ``distillnerf status`` still tells something by is needed: the last that made or judged a partition
of an asset, the last that failed to, and those of a backfill that goes on.
"""

from datetime import datetime
from pathlib import Path

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.tags import BACKFILL_ID_TAG

_AT_ONCE = 500
"""Records that one query asks for; SQLite takes no more than some thousands of values."""


def old_runs(instance: dg.DagsterInstance, graph: AssetGraph, before: datetime) -> list[str]:
    """Return the ids of the runs that ended before a time and that nothing needs any more, oldest first.

    Args:
        instance: Dagster's instance of a home.
        graph: Graph of all assets.
        before: Time; runs that changed since stay.
    """
    asked = dg.RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=before)
    found = [record.dagster_run for record in instance.get_run_records(asked, ascending=True)]
    if not found:
        return []
    needed = _runs_of_partitions(instance, graph) | _runs_of_checks(instance, graph)
    ended: dict[str, bool] = {}
    old: list[str] = []
    for run in found:
        backfill = run.tags.get(BACKFILL_ID_TAG)
        if backfill is not None and backfill not in ended:
            state = instance.get_backfill(backfill)
            ended[backfill] = state is None or state.status in BULK_ACTION_TERMINAL_STATUSES
        if run.run_id not in needed and (backfill is None or ended[backfill]):
            old.append(run.run_id)
    return old


def forget_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove a run with its events and what its steps printed; versions that it made stay."""
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):  # it leaves an empty database for each run
        shard = Path(storage.path_for_shard(run_id))
        for path in shard.parent.glob(f"{shard.name}*"):
            path.unlink()


def _runs_of_partitions(instance: dg.DagsterInstance, graph: AssetGraph) -> set[str]:
    """Return the runs that made the last version of some partition, or that failed to make a newer one."""
    storage, runs = instance.event_log_storage, set[str]()
    for key in graph.get_all_asset_keys():
        latest = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        ids = list(latest.values())
        for begin in range(0, len(ids), _AT_ONCE):
            asked = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids[begin : begin + _AT_ONCE])
            runs |= {record.run_id for record in instance.fetch_materializations(asked, limit=_AT_ONCE).records}
        event = instance.get_latest_materialization_event(key)
        runs |= {event.run_id} if event is not None else set()
        failed = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
        runs |= {run_id for run_id, _ in failed.values()}
    return runs


def _runs_of_checks(instance: dg.DagsterInstance, graph: AssetGraph) -> set[str]:
    keys = list(graph.asset_check_keys)
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {record.run_id for record in latest.values()}
