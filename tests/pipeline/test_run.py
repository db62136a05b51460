"""Runs through real worker processes on a persistent instance."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psutil
import pytest
from rich.console import Console

from pipeline.commands.backfill import Backfill
from pipeline.display import Display
from pipeline.instance import (
    TASK_NAME_TAG,
    open_instance,
    pool_waits,
    prepare_instance,
    set_pool_limit,
)
from pipeline.liveness import DRIVER_TAG, end_abandoned_runs, this_process
from pipeline.memory import PeakMemory
from pipeline.resources import dagster_environment
from pipeline.run import RunOutcome, WorkerDiedError, run_tasks
from pipeline.run_config import HomeSelection
from pipeline.tasks import Task
from pipeline.workflow import plan
from storage.stores.versioned import Home

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"


def scene_task(key: str, *, after: tuple[str, ...] = ()) -> Task:
    return Task(name=f"scene {key}", assets=("scene", "input_images"), partition=key, after=after)


def run(home: Home, *tasks: Task, num_workers: int = 1) -> tuple[RunOutcome, str]:
    said = io.StringIO()
    outcome = run_tasks(tasks, home.root, Console(file=said, width=200), num_workers=num_workers)
    return outcome, said.getvalue()


ECHO = """
import json, os, sys
for line in sys.stdin:
    told = {name: os.environ.get(name) for name in ("DISTILLNERF_HOME", "DISTILLNERF_VERIFY_RAW")}
    empty = {"failures": [], "materializations": [], "checks": []}
    print(json.dumps({"event": "outcome", "succeeded": True, "told": told, **empty}), flush=True)
"""
"""A worker that does nothing, and says what its environment says."""


def test_workers_get_what_the_command_adds_to_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run._WORKER", (sys.executable, "-c", ECHO))
    environment = Backfill(assets=("scene",), verify_raw=True).environment
    outcome = run_tasks([scene_task(FIRST)], tmp_path, Console(file=io.StringIO()), environment=environment)
    told = outcome.outcomes[f"scene {FIRST}"]["told"]
    assert told == {"DISTILLNERF_HOME": str(tmp_path), "DISTILLNERF_VERIFY_RAW": "1"}
    outcome = run_tasks([scene_task(FIRST)], tmp_path, Console(file=io.StringIO()))
    assert outcome.outcomes[f"scene {FIRST}"]["told"]["DISTILLNERF_VERIFY_RAW"] is None


def test_a_run_materialises_reports_and_is_found_again(prepared_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepared_home
    monkeypatch.setenv("DISTILLNERF_DEVICES", "0,1")
    outcome, said = run(home, scene_task(FIRST), scene_task(SECOND), num_workers=2)
    assert outcome.succeeded, outcome.failures
    assert {path.name for path in home.root.glob("locks/devices/*.lock")} == {"0.0.lock", "1.0.lock"}  # one each
    assert {v.partition for v in home.versions("input_images")} == {FIRST, SECOND}
    assert "[2/2]" in said
    made = outcome.outcomes[f"scene {FIRST}"]["materializations"]
    assert [(m["asset"], m["reused"], m["digest"]) for m in made] == [
        (name, False, home.require(name, FIRST).digest) for name in ("scene", "input_images")
    ]
    assert all(m["step_s"] > 0 for m in made)
    # The UI of this home shows the same runs. A second run builds nothing, and starts none of Dagster's.
    with open_instance(home.root) as instance:
        runs = instance.get_runs()
        assert [r.status for r in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
        assert {r.tags["dagster/partition"] for r in runs} == {FIRST, SECOND}
    before = home.versions()
    again, said = run(home, scene_task(FIRST))
    assert again.succeeded
    assert home.versions() == before
    assert "already there" in said
    with open_instance(home.root) as instance:
        assert instance.get_runs_count() == 2


def test_two_commands_on_one_home_keep_their_own_settings(prepared_home: Home) -> None:
    """As two terminals do: both have planned, and each has left its choice in the home, before the first run starts."""
    home = prepared_home
    planned = []
    for key, width in ((FIRST, 16), (SECOND, 24)):
        sizes = ("input_images.height=8", f"input_images.width={width}")
        selection = HomeSelection(preset="demo", overrides=sizes, train_scenes=(key,))
        selection.save(home.root)
        planned += plan({"scene": [key], "input_images": [key]}, selection)
    outcome, _ = run(home, *planned)
    assert outcome.succeeded, outcome.failures
    seen = {key: home.open_arrays(home.require("input_images", key))["image"].shape[2:4] for key in (FIRST, SECOND)}
    assert seen == {FIRST: (8, 16), SECOND: (8, 24)}
    with open_instance(home.root) as instance:
        recorded = {
            r.tags["dagster/partition"]: r.run_config["ops"]["input_images"]["config"] for r in instance.get_runs()
        }
    assert {key: config["overrides"][1] for key, config in recorded.items()} == {
        FIRST: "input_images.width=16",
        SECOND: "input_images.width=24",
    }


def test_a_failing_scene_stops_only_what_needs_it(prepared_home: Home, recording) -> None:
    (recording.root / recording.file("scene-0001", "LIDAR_TOP", 0)).unlink()
    outcome, said = run(
        prepared_home,
        scene_task(FIRST),
        scene_task(SECOND),
        Task(name="needs first", assets=("input_images",), partition=FIRST, after=(f"scene {FIRST}",)),
    )
    assert not outcome.succeeded
    assert outcome.blocked == ["needs first"]
    assert prepared_home.latest("input_images", SECOND) is not None
    assert prepared_home.latest("scene", FIRST) is None
    (failure,) = outcome.failures
    assert (failure["error"], failure["error_kind"]) == ("SourceDataError", "file_missing")
    assert "LIDAR_TOP" in failure["key"]
    assert "quarantined" in failure["advice"]
    assert "LIDAR_TOP" in said


def test_an_unknown_partition_is_a_failure_not_a_crash(prepared_home: Home) -> None:
    outcome, _ = run(prepared_home, Task(name="x", assets=("scene",), partition="tiny.nowhere"))
    assert not outcome.succeeded
    assert "tiny.nowhere" in outcome.failures[0]["message"]


def start_and_kill(home: Home, kill: Callable[[subprocess.Popen[str]], None]) -> subprocess.Popen[str]:
    """Start a run in a process of its own that never ends by itself, and kill it inside a step."""
    program = (
        "import sys, time; from pathlib import Path; from rich.console import Console;"
        "from pipeline.run import run_tasks; from pipeline.tasks import Task; from pipeline import cli;"
        f"task = Task(name='t', assets=('scene',), partition={FIRST!r});"
        f"cli.parse = lambda _: type('C', (), {{'run': lambda _, console: run_tasks([task], Path({str(home.root)!r}),"
        " console, num_workers=1) and 0})();"
        "sys.exit(cli.main([]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    with open_instance(home.root) as instance:
        while not any(
            instance.all_logs(started.run_id, of_type=dg.DagsterEventType.STEP_START) for started in instance.get_runs()
        ):
            assert time.monotonic() < deadline, "the run never started"
            assert process.poll() is None, "the run ended too early"
            time.sleep(0.2)
    kill(process)
    process.wait(timeout=60)
    return process


def test_a_command_that_is_told_to_end_ends_with_its_workers_and_nothing_is_tried_again(prepared_home: Home) -> None:
    home, workers = prepared_home, []

    def kill(process: subprocess.Popen[str]) -> None:
        workers.extend(psutil.Process(process.pid).children(recursive=True))
        process.terminate()

    with home.lock("scene", FIRST):
        process = start_and_kill(home, kill)
        _, alive = psutil.wait_procs(workers, timeout=0.5)
    assert process.returncode == 128 + signal.SIGTERM
    assert workers
    assert not alive
    with open_instance(home.root) as instance:
        end_abandoned_runs(instance)  # a machine under load may have no time to say so
        (ended,) = instance.get_runs()
        assert ended.status is dg.DagsterRunStatus.FAILURE
        events = {event.dagster_event_type for event in instance.all_logs(ended.run_id) if event.is_dagster_event}
        assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in events
    outcome, _ = run(home, scene_task(FIRST))
    assert outcome.succeeded


def test_workers_end_with_a_killed_command_and_say_so(prepared_home: Home) -> None:
    workers: list[psutil.Process] = []

    def kill(process: subprocess.Popen[str]) -> None:
        workers.extend(psutil.Process(process.pid).children(recursive=True))
        process.kill()

    with prepared_home.lock("scene", FIRST):  # the step waits for it: it is surely running when the command is killed
        start_and_kill(prepared_home, kill)
        _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers
    assert not alive, "workers must not outlive the command"
    with open_instance(prepared_home.root) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]


def test_a_killed_worker_is_replaced_and_its_task_done_again(prepared_home: Home) -> None:
    lock = prepared_home.lock("scene", FIRST)

    def kill(process: subprocess.Popen[str]) -> None:
        for worker in psutil.Process(process.pid).children(recursive=True):
            worker.kill()
        lock.__exit__(None, None, None)

    lock.__enter__()  # the step waits for it: it is surely running when the worker is killed
    process = start_and_kill(prepared_home, kill)
    assert process.returncode == 0
    with open_instance(prepared_home.root) as instance:
        again, first = instance.get_runs()
        assert (first.status, again.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
        assert end_abandoned_runs(instance) == []
    assert len(prepared_home.versions("scene")) == 1


def test_a_task_that_ends_its_worker_each_time_is_given_up(
    prepared_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run._WORKER", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(WorkerDiedError, match=r"ended with code 3 at scene tiny\.scene-0001"):
        run(prepared_home, scene_task(FIRST))


def test_runs_of_living_processes_are_left_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        dg.Definitions(assets=[dg.AssetSpec("x")])
        run = instance.create_run_for_job(
            dg.job(name="j")(lambda: None), tags={DRIVER_TAG: this_process()}, status=dg.DagsterRunStatus.STARTED
        )
        assert end_abandoned_runs(instance) == []
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status is dg.DagsterRunStatus.STARTED


@pytest.mark.slow
@pytest.mark.nightly  # a process for each of many steps; the default suite tests that the variable chooses the executor
def test_steps_of_a_run_can_have_processes_of_their_own(prepared_home: Home) -> None:
    """As Dagster's daemon starts runs: from the module's name, in an environment that names the executor."""
    command = ["-W", "ignore", "-m", "dagster", "job", "execute", "-m", "pipeline.definitions", "-j", "ingest"]
    environment = {**dagster_environment(prepared_home.root), "DISTILLNERF_EXECUTOR": "multiprocess"}
    tags = json.dumps({"dagster/partition": FIRST})
    done = subprocess.run(
        [sys.executable, *command, "--tags", tags], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert prepared_home.latest("input_images", FIRST) is not None
    with open_instance(prepared_home.root) as instance:
        (executed,) = instance.get_runs()
        started = [e for e in instance.all_logs(executed.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED)]
    assert {event.step_key for event in started} >= {"scene", "input_images"}


def test_a_task_that_waits_for_a_pool_knows_for_whom(tmp_path: Path) -> None:
    with open_instance(tmp_path) as instance:
        set_pool_limit(instance, "gpu", 1)
        runs = [
            instance.create_run_for_job(
                dg.job(name="j")(lambda: None), tags={DRIVER_TAG: f"{pid}@1", TASK_NAME_TAG: name}
            ).run_id
            for pid, name in ((17, "student clip"), (18, "student dinov2"))
        ]
        assert pool_waits(tmp_path) == {}
        for run_id in runs:
            instance.event_log_storage.claim_concurrency_slot("gpu", run_id, "student_checkpoint")
    held = f"pool 'gpu', held by student clip (run {runs[0][:8]}, process 17)"
    assert pool_waits(tmp_path) == {"student dinov2": held}
    said = io.StringIO()
    with Display(Console(file=said, width=200), 1) as display:
        display.begin("student dinov2")
        for _ in range(3):
            display.waiting("student dinov2", held)
        display.waiting("a task of another command", held)
    assert said.getvalue().splitlines() == [f"  … student dinov2 waits for {held}"]


def test_an_instance_is_private_and_watches_its_runs(tmp_path: Path) -> None:
    folder = prepare_instance(tmp_path)
    (folder / "dagster.yaml").write_text((folder / "dagster.yaml").read_text() + "# edited by hand\n")
    prepare_instance(tmp_path)
    assert "edited by hand" in (folder / "dagster.yaml").read_text()
    with open_instance(tmp_path) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert not instance.nux_enabled
        set_pool_limit(instance, "gpu", 3)
        assert {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()} == {"gpu": 3}


def test_peak_memory_counts_children() -> None:
    with PeakMemory() as memory:
        hold = "import time; block = b'x' * (80 << 20); time.sleep(2.5)"
        subprocess.run([sys.executable, "-c", hold], check=True)
    assert memory.peak_bytes > 100 << 20


def test_a_worker_that_dies_is_named_with_its_log(prepared_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.run import WorkerDiedError

    monkeypatch.setattr("pipeline.run._WORKER", ("/bin/false",))
    with pytest.raises(WorkerDiedError, match=r"worker-0\.log"):
        run(prepared_home, scene_task(FIRST))
