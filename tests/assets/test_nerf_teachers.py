"""The scene teacher's assets drive a worker in another environment; here a stand-in plays the worker."""

import stat
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.checks import read_gate
from pipeline.definitions import build_definitions
from pipeline.partitions import add_scene_partitions
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource, NerfstudioEnvironment
from storage.stores import catalog
from storage.stores.versioned import Home

pytestmark = [
    pytest.mark.filterwarnings("ignore:Asset job everything "),
    # What Dagster's own Pipes client does inside
    pytest.mark.filterwarnings("ignore:AssetExecutionContext.run_id"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

SCENE = "tiny.scene-0001"

WORKER = """
import os, signal, sys, numpy as np
from pathlib import Path
from dagster_pipes import open_dagster_pipes
from storage.errors import ErrorKind, TeacherDivergedError
from storage.stores.provenance import Provenance
from storage.stores.arrays import write_target
from storage.stores.versioned import Home, materialize_arrays, materialize_files
from teachers.nerf.task import KIND_OF, NerfTask, write_result

with open_dagster_pipes() as context:
    task = NerfTask.from_json(context.extras)
    context.report_custom_message(
        {"event": "progress", "action": "fit", "stage": "fit", "fraction": 0.5, "psnr": 21.5}
    )
    behaviour = os.environ["BEHAVIOUR"]
    if behaviour == "diverge":
        error = TeacherDivergedError(ErrorKind.DIVERGED, task.scene_key, "loss is nan with seeds 0, 1, 2")
        write_result(Path(task.result_file), {}, error)
        sys.exit(3)
    if behaviour == "crash":
        raise SystemExit(1)
    if behaviour == "killed":
        Path(os.environ["CALLS"]).open("a").write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    home = Home(task.home_root)
    results = {}

    def write_depth(group):
        for name in ("termination_depth", "opacity"):
            write_target(group, "teacher_depth", name, np.full((1, 2, 4, 6), 0.5, np.float16))
        write_target(group, "teacher_depth", "intrinsics", np.stack([np.eye(3)] * 2))
        return {}

    for step in task.steps:
        depth = {"value": None, "threshold": 0.1, "passed": False, "undecided": "no LiDAR"}
        checks = {"psnr": {"value": 21.5, "threshold": 18.0, "passed": True}, "depth": depth}
        quality = {"passed": True, "checks": checks}
        made = Provenance(kind=KIND_OF[step.action], partition=task.scene_key)
        if step.action == "fit":
            results["fit"] = materialize_files(home, made, lambda folder: {"quality": quality, "psnr": 21.5})
        else:
            results[step.action] = materialize_arrays(home, made, write_depth)
    write_result(Path(task.result_file), results)
"""


@pytest.fixture
def environment(tmp_path: Path, repository_root: Path) -> NerfstudioEnvironment:
    """An interpreter that runs the stand-in whatever it is told to run."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={repository_root} exec {sys.executable} {script}\n")
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    return NerfstudioEnvironment(python=str(python))


def materialise(
    home: Home, nerfstudio: NerfstudioEnvironment, names: list[str], progress: ProgressLog | None = None
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(progress, home=HomeResource(root=str(home.root)), nerfstudio=nerfstudio)
    with dg.DagsterInstance.ephemeral() as instance:
        add_scene_partitions(instance, [SCENE])
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(name) for name in names],
            partition_key=SCENE,
            raise_on_error=False,
        )


def told(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return {name: value.value for name, value in data.metadata.items()}


def test_one_worker_makes_what_is_selected(make_home, environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHAVIOUR", "work")
    events: list[dict[str, object]] = []
    home = make_home()
    result = materialise(
        home, environment, ["nerf_teacher", "teacher_depth"], ProgressLog(lambda e: events.append(dict(e)))
    )
    assert result.success
    materialised = {event.asset_key.to_user_string(): event for event in result.get_asset_materialization_events()}
    assert set(materialised) == {"nerf_teacher", "teacher_depth"}
    metadata = materialised["nerf_teacher"].materialization.metadata
    assert "| psnr | 21.5 | 18 |  | ✓ |  |" in str(metadata["quality_gate"].value)
    assert "| depth | - | 0.1 |  | ? no LiDAR |" in str(metadata["quality_gate"].value)
    version = home.require("nerf_teacher", SCENE)
    assert {v.name: v.outcome for v in read_gate(home, version) or ()} == {"psnr": "passed", "depth": "undecided"}
    assert metadata["figure/psnr"].value == 21.5
    live = [event for event in events if event["fraction"] == 0.5]
    assert live == [
        {"asset": "nerf_teacher", "partition": SCENE, "stage": "fit", "fraction": 0.5, "figures": {"psnr": 21.5}}
    ]


def test_a_diverged_teacher_is_quarantined_and_not_retried(make_home, environment, monkeypatch) -> None:
    monkeypatch.setenv("BEHAVIOUR", "diverge")
    home = make_home()
    result = materialise(home, environment, ["nerf_teacher"])
    assert told(result)["error"] == "TeacherDivergedError"
    assert [row["partition"] for row in catalog.quarantined(home.objects).to_pylist()] == [SCENE]


def test_a_crash_of_the_worker_is_a_failure_without_retry(make_home, environment, monkeypatch) -> None:
    monkeypatch.setenv("BEHAVIOUR", "crash")
    result = materialise(make_home(), environment, ["nerf_teacher"])
    assert told(result)["error"] == "RuntimeError"
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_killed_worker_is_started_again(make_home, environment, monkeypatch, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("BEHAVIOUR", "killed")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.0)
    result = materialise(make_home(), environment, ["nerf_teacher"])
    assert not result.success
    assert len(calls.read_text()) == 3


def test_a_missing_environment_says_how_to_build_it(make_home, tmp_path: Path) -> None:
    missing = NerfstudioEnvironment(python=str(tmp_path / "nowhere" / "python"))
    failure = told(materialise(make_home(), missing, ["nerf_teacher"]))
    assert failure["error"] == "EnvironmentMissingError"
    assert "make environments" in str(failure["message"])
