"""A student's asset whose fit takes several processes, one of which dies."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from pipeline import run_config
from pipeline.definitions import build_definitions
from pipeline.resources import HOME_VARIABLE
from pipeline.run_config import HomeSelection
from storage.stores.versioned import Home
from student.config import FitRuntime, StudentConfig
from tests.student.evaluation.conftest import World, student_config

NUM_STEPS = 12


def two_samples_a_step() -> StudentConfig:
    config = student_config()
    runtime = FitRuntime(device="cpu", save_every=1, log_every=1, trackers=())
    return replace(
        config, data=replace(config.data, batch_size=2), fit=replace(config.fit, max_steps=NUM_STEPS, runtime=runtime)
    )


@contextmanager
def kills_one_process_in_mid_fit(home: Home) -> Iterator[list[int]]:
    """Kill one of the processes that train, once, after some steps were saved; yield the list of those killed."""
    killed: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1) and not killed:
            steps = [int(p.name.split("-")[1]) for p in home.work_folder("student_checkpoint", "clip").glob("*/step-*")]
            fitting = [p for p in psutil.Process().children(recursive=True) if is_trainer(p)]
            if max(steps, default=0) >= 3 and len(fitting) == 2:
                fitting[1].kill()
                killed.append(fitting[1].pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()


def is_trainer(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "student.training.train" in command and "--nproc-per-node" not in command


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_a_fit_in_two_processes_goes_on_when_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an override, as a user asks for it, and with nothing done by hand after the kill."""
    world = World(tmp_path / "world")
    home, config = world.home, two_samples_a_step()
    world.publish_student("clip", config)  # which freezes the training set
    preset: Any = run_config.build_preset

    def small(*choice: Any, **choices: Any) -> Any:
        return replace(preset(*choice, **choices), student=config)

    monkeypatch.setattr(run_config, "build_preset", small)
    HomeSelection(preset="demo", variant="clip", train_scenes=("yard.a",), validation_scenes=("yard.b",)).save(
        home.root
    )
    monkeypatch.setenv(HOME_VARIABLE, str(home.root))
    asked = {"ops": {"student_checkpoint": {"config": {"overrides": ["student.fit.runtime.processes=2"]}}}}
    job = build_definitions().resolve_implicit_global_asset_job_def()
    student = [dg.AssetKey("student_checkpoint")]
    with dg.DagsterInstance.ephemeral() as instance:
        with kills_one_process_in_mid_fit(home) as killed:
            result = job.execute_in_process(
                instance=instance,
                partition_key="clip",
                run_config=asked,
                asset_selection=student,
                raise_on_error=False,
            )
        again = job.execute_in_process(instance=instance, partition_key="clip", asset_selection=student)
    assert len(killed) == 1
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    assert [e.step_key for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert "going on from step" in capfd.readouterr().err
    made = home.require("student_checkpoint", "clip")
    assert home.metrics(made)["steps"] == NUM_STEPS
    history = json.loads((home.open_files(made) / "history.json").read_text())["history"]
    assert [entry["step"] for entry in history] == list(range(1, NUM_STEPS + 1))
    (reused,) = again.asset_materializations_for_node("student_checkpoint")
    assert reused.tags is not None
    assert reused.tags["dagster/data_version"] == made.digest  # one process would have made the same
