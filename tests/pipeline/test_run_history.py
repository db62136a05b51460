"""Which runs of Dagster are old, and what stays when they are removed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pipeline.instance import open_instance
from pipeline.run_history import forget_run, old_runs

NOW = timedelta(seconds=-1)
PARTS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=PARTS)
def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    if context.run.tags.get("fails"):
        raise ValueError("broken")
    return dg.MaterializeResult()


@dg.asset
def report() -> dg.MaterializeResult:
    return dg.MaterializeResult()


DEFINITIONS = dg.Definitions(assets=[made, report])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def instance(folder: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(folder) as opened:
        yield opened


def run(instance: dg.DagsterInstance, asset: str, partition: str | None = None, **tags: str) -> str:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    key = dg.AssetKey(asset)
    done = job.execute_in_process(
        instance=instance, asset_selection=[key], partition_key=partition, tags=tags, raise_on_error=False
    )
    return done.run_id


def old(instance: dg.DagsterInstance, age: timedelta = NOW) -> list[str]:
    return old_runs(instance, DEFINITIONS.resolve_asset_graph(), datetime.now(UTC) - age)


def test_runs_that_something_newer_replaced_are_old_and_leave_nothing_behind(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    first = run(instance, "made", "a")
    assert old(instance) == []  # it made the version that the page of the asset shows
    second, failed, other = (
        run(instance, "made", "a"),
        run(instance, "made", "b", fails="yes"),
        run(instance, "made", "b"),
    )
    reports = [run(instance, "report") for _ in range(2)]
    latest_failure = run(instance, "made", "a", fails="yes")
    assert old(instance) == [first, failed, reports[0]]
    assert old(instance, timedelta(days=1)) == []  # they ended a moment ago

    database = folder / "dagster" / "history" / "runs" / f"{first}.db"
    printed = folder / "dagster" / "storage" / first
    assert database.is_file()
    assert printed.is_dir()
    for run_id in old(instance):
        forget_run(instance, run_id)
    assert not database.exists()
    assert not printed.exists()
    assert {record.dagster_run.run_id for record in instance.get_run_records()} == {
        second,
        other,
        reports[1],
        latest_failure,
    }
    assert instance.get_materialized_partitions(dg.AssetKey("made")) == {"a", "b"}
    assert old(instance) == []
