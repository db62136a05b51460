"""Two processes of one sample each learn what one process of two samples learns, whoever starts them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from storage.digests import config_json
from storage.stores.versioned import Home
from student.config import FitRuntime, StudentConfig
from student.training.fit import fit_student
from student.training.processes import join_processes


def published(home: Home) -> tuple[list[float], dict[str, torch.Tensor]]:
    folder = home.open_files(home.require("student_checkpoint", "clip"))
    history = json.loads((folder / "history.json").read_text())["history"]
    return [entry["total"] for entry in history], load_file(folder / "model.safetensors")


def train_by_hand(home: Home, config: StudentConfig, folder: Path, repository_root: Path) -> None:
    (folder / "run.json").write_text(json.dumps(config_json(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "student.training.train", str(home.root), "clip", "--config", str(folder / "run.json")]
    done = subprocess.run(
        command,
        cwd=repository_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "published: student_checkpoint/clip" in done.stderr


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.nightly])])
def test_two_processes_are_one_of_twice_the_batch(
    shared_world: Any, student_config: StudentConfig, repository_root: Path, tmp_path: Path, parts: int
) -> None:
    """By the configuration alone, or by hand, where each of them accumulates its share in parts."""
    config = replace(
        student_config,
        model=replace(student_config.model, renderer=replace(student_config.model.renderer, jitter=False)),
        data=replace(student_config.data, batch_size=2 * parts),
        fit=replace(
            student_config.fit,
            max_steps=3,
            depth_steps=1,  # in which most weights have no gradient
            runtime=FitRuntime(device="cpu", log_every=1, trackers=()),
        ),
    )
    shared_world.freeze("clip", config, validation_scenes=())
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        shutil.copytree(shared_world.home.root / "stores", home.root / "stores")
    # One after the other, so that sums of gradients round alike: the first steps of Adam blow up a last bit. That parts
    # of a batch are the batch is shown in test_training_step.
    runtime = replace(config.fit.runtime, accumulation_steps=2 * parts)
    alone = fit_student(homes[0], "clip", replace(config, fit=replace(config.fit, runtime=runtime)))

    shared = replace(config, fit=replace(config.fit, runtime=replace(config.fit.runtime, accumulation_steps=parts)))
    if parts == 1:
        shared = replace(shared, fit=replace(shared.fit, runtime=replace(shared.fit.runtime, processes=2)))
        steps: list[float] = []
        done = fit_student(homes[1], "clip", shared, lambda _, __, figures: steps.append(figures["step"]))
        assert (done.reused, done.metrics["steps"], steps) == (False, 3, [1, 2, 3])
        assert fit_student(homes[1], "clip", shared).reused
    else:
        train_by_hand(homes[1], shared, tmp_path, repository_root)

    # Which machines made it is no part of what it is.
    assert homes[1].require("student_checkpoint", "clip").digest == alone.version.digest
    (losses, weights), (shared_losses, shared_weights) = (published(home) for home in homes)
    assert len(losses) == 3
    # Four gradients are added up in another order in pairs than one by one, two are not. How much of a last bit Adam
    # makes depends on the processor: 0.03 % of a loss were seen. Parts that are left out change it by ten times
    # the tolerance.
    assert shared_losses[0] == pytest.approx(losses[0], rel=1e-6)
    assert shared_losses == pytest.approx(losses, rel=1e-6 if parts == 1 else 1e-3)
    for name, value in weights.items() if parts == 1 else ():
        torch.testing.assert_close(shared_weights[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_without_torchrun_there_is_one_process() -> None:
    with join_processes(torch.device("cpu")) as processes:
        assert (processes.is_first, processes.count) == (True, 1)
        assert processes.gather("x") == ["x"]
        assert processes.total(torch.tensor(2.0)) == 2.0
