"""Runs are processes of their own, which their tag names."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from pipeline.instance import open_instance
from pipeline.liveness import DRIVER_TAG, process_of
from pipeline.service.launcher import ProcessLauncher


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance as every home has one."""
    with open_instance(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What is launched; processes sleep in its place."""
    seen: list[list[str]] = []
    processes: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        seen.append(command)
        processes.append(real(["sleep", "60"], **options))
        return processes[-1]

    monkeypatch.setattr("pipeline.service.launcher.subprocess.Popen", popen)
    yield seen
    for process in processes:
        process.kill()
        process.wait()


def launch(instance: dg.DagsterInstance) -> dg.DagsterRun:
    origin = JobPythonOrigin("j", RepositoryPythonOrigin("python", ModuleCodePointer("pipeline.definitions", "x")))
    run = instance.create_run_for_job(
        dg.job(name="j")(lambda: None), status=dg.DagsterRunStatus.STARTING, job_code_origin=origin
    )
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return found(instance, run)


def found(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    again = instance.get_run_by_id(run.run_id)
    assert again is not None
    return again


def test_a_run_is_a_process_that_its_tag_names_and_dagster_can_ask_after(
    instance: dg.DagsterInstance, commands: list[list[str]]
) -> None:
    assert isinstance(instance.run_launcher, ProcessLauncher)
    run = launch(instance)
    assert commands[0][1:4] == ["-m", "pipeline.service.run_process", instance.root_directory]
    assert run.run_id in commands[0][4]
    process = process_of(run)
    assert process is not None
    assert process.cmdline() == ["sleep", "60"]
    assert instance.run_launcher.supports_check_run_worker_health
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    process.kill()
    process.wait()
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_terminating_a_run_ends_its_process(instance: dg.DagsterInstance, commands: list[list[str]]) -> None:
    run = launch(instance)
    process = process_of(run)
    assert process is not None
    assert instance.run_launcher.terminate(run.run_id)
    process.wait(timeout=60)
    assert found(instance, run).status is dg.DagsterRunStatus.CANCELING
    assert not instance.run_launcher.terminate(run.run_id)


def test_a_launcher_that_is_killed_in_between_leaves_a_run_that_is_seen_to_be_lost(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr("pipeline.service.launcher.subprocess.Popen", killed)
    with pytest.raises(SystemExit):
        launch(instance)
    (run,) = instance.get_runs(limit=1)
    assert DRIVER_TAG in run.tags


def test_what_earlier_versions_wrote_is_renewed_and_what_people_edited_is_not(tmp_path: Path) -> None:
    earlier = tmp_path / "dagster" / "dagster.yaml"
    earlier.parent.mkdir()
    earlier.write_text("nothing: known\n")
    with pytest.MonkeyPatch.context() as patch:
        from hashlib import sha256

        from pipeline.instance import prepare_instance

        prepare_instance(tmp_path)
        assert earlier.read_text() == "nothing: known\n"
        patch.setattr("pipeline.instance._EARLIER", {sha256(earlier.read_bytes()).hexdigest()})
        prepare_instance(tmp_path)
    assert "ProcessLauncher" in earlier.read_text()
