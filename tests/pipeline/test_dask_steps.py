"""Steps of a run on a Dask cluster of two workers, which are processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import dagster as dg
import psutil
import pytest
from distributed import LocalCluster

from pipeline import dask_steps
from pipeline.dask_steps import DaskSteps
from pipeline.instance import open_instance
from pipeline.resources import dagster_environment
from storage.stores.versioned import Home

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaskSteps]:
    """A cluster within this process, whose steps are programs in the place of Dagster's command."""
    monkeypatch.setattr(dask_steps, "_DAGSTER", (sys.executable, "-c"))
    monkeypatch.setattr(dask_steps, "_LOOK_S", 0.05)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        steps = DaskSteps(cluster.scheduler_address, {"TOLD": "by the run", "PATH": "of another machine"})
        with steps._client:
            yield steps


def wait_for(look: Callable[[], object]) -> object:
    for _ in range(600):
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError


def test_a_step_that_ends_with_an_error_is_in_trouble_and_others_are_not(steps: DaskSteps) -> None:
    steps.start("bad", ["import sys; sys.exit(3)"])
    steps.start("good", ["import os, sys; sys.exit(os.environ['TOLD'] != 'by the run' or 'of' in os.environ['PATH'])"])
    assert wait_for(lambda: steps.trouble("bad")) == "error: its process ended with code 3"
    wait_for(steps._tasks["good"].done)
    assert steps.trouble("good") is None


def test_a_step_that_is_stopped_ends_with_its_process(steps: DaskSteps) -> None:
    def sleepers() -> list[psutil.Process]:
        return [p for p in psutil.Process().children() if "time.sleep(600)" in " ".join(p.cmdline())]

    steps.start("long", ["import time; time.sleep(600)"])
    (process,) = wait_for(sleepers)  # type: ignore[misc]
    assert steps.trouble("long") is None
    steps.stop("long")
    assert wait_for(lambda: steps.trouble("long")) == "error: it was asked to end"
    assert not process.is_running()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_range_of_partitions_is_made_by_two_workers(prepared_home: Home) -> None:
    """As Dagster's daemon starts runs; Dagster's own executor for Dask fails on the range."""
    command = ["-W", "ignore", "-m", "dagster", "job", "execute", "-m", "pipeline.definitions", "-j", "ingest"]
    tags = json.dumps({"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": SECOND})
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        environment = dagster_environment(prepared_home.root)
        environment |= {"DISTILLNERF_EXECUTOR": "dask", "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}
        done = subprocess.run(
            [sys.executable, *command, "--tags", tags], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {v.partition for v in prepared_home.versions("input_images")} == {FIRST, SECOND}
    with open_instance(prepared_home.root) as instance:
        (executed,) = instance.get_runs()
        given = [e for e in instance.all_logs(executed.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTING)]
    assert {event.step_key for event in given} >= {"scene", "input_images"}
