"""The script for an accelerator, at the size of a toy."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import teacher_accelerator
from pipeline.teacher_accelerator import install_missing
from storage.errors import EnvironmentMissingError
from storage.stores.versioned import Home


def test_it_measures_a_scene(nerfstudio_python: Path, repository_root: Path, wall_home: Home, tmp_path: Path) -> None:
    shutil.copytree(wall_home.root, tmp_path / "home")
    command = [str(nerfstudio_python), "-W", "ignore", "-m", "pipeline.teacher_accelerator"]
    command += ["--home", str(tmp_path / "home"), "--scene-key", "test.wall", "--preset", "demo", "--device", "cpu"]
    command += ["--height", "18", "--width", "32", "--max-steps", "8"]
    environment = {**os.environ, "PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert (told["scene"], told["device"], told["implementation"], told["steps"]) == ("test.wall", "cpu", "torch", 8)
    assert told["psnr_db"] > 3.0
    assert 0 < told["lidar_abs_rel"] < math.inf
    assert 0 < told["minutes"] < 9
    assert told["peak_memory_bytes"] > 1e8
    assert told["peak_device_memory_bytes"] is None


def test_its_environment_can_ingest_and_generate(nerfstudio_python: Path, repository_root: Path) -> None:
    needs = "import storage.ingest.nuscenes.recording, storage.ingest.scene_writer, storage.procedural.run"
    environment = {**os.environ, "PYTHONPATH": str(repository_root)}
    subprocess.run([str(nerfstudio_python), "-W", "ignore", "-c", needs], env=environment, check=True, timeout=100)


def test_what_is_missing_is_named_and_looked_for_in_the_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, asked = importlib.util.find_spec, []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nerfstudio" else real(name))
    with pytest.raises(EnvironmentMissingError, match="no nerfstudio: start this in nerfstudio's environment"):
        install_missing(None)
    monkeypatch.setattr(teacher_accelerator.subprocess, "run", lambda command, **_: asked.append(command))
    with pytest.raises(EnvironmentMissingError, match="no nerfstudio"):
        install_missing(tmp_path)
    (command,) = asked
    assert command[-4:] == ["--no-index", "--find-links", str(tmp_path), "nerfstudio"]
