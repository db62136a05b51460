"""Views asked of another environment: whole files one by one, its typed error, and its last words if it dies."""

import time
from pathlib import Path

import numpy as np
import pytest

import pipeline.feature_views
import pipeline.process_tree
from pipeline.feature_views import iterate_views
from storage.errors import EnvironmentMissingError, ErrorKind, MissingTargetError
from storage.stores.versioned import Home
from teachers.nerf.config import ExecutionConfig
from teachers.nerf.feature_request import ERROR_FILE, FeatureReading, FeatureView, answer_file
from teachers.nerf.task import write_result


def reading(value: int) -> FeatureReading:
    return FeatureReading(
        frame_index=np.array([value]),
        camera_index=np.array([0]),
        camera_to_world=np.eye(4)[None],
        intrinsics=np.eye(3)[None],
        rgb=np.full((1, 2, 3, 3), value, np.uint8),
        termination_depth=np.full((1, 2, 3), np.nan, np.float32),
        points_world=np.zeros((1, 2, 3, 3), np.float32),
        features={"clip": np.full((1, 2, 3, 4), value, np.float16)},
    )


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ask an interpreter that is a shell script: it copies prepared files into the folder, and ends as told."""

    def asked(prepared: Path, ending: str):
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\ncp {prepared}/* "$4"/\n{ending}\n')
        script.chmod(0o755)
        monkeypatch.setenv("DISTILLNERF_NERFSTUDIO_PYTHON", str(script))
        views = [FeatureView.at(0, 0), FeatureView.at(1, 0)]
        return iterate_views(Home(tmp_path / "home"), "a.b", views, (2, 3), ExecutionConfig(), None)

    return asked


def test_views_are_read_in_order(ask, tmp_path):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for index in range(2):
        reading(index).save(answer_file(prepared, index))
    found = list(ask(prepared, "exit 0"))
    assert [int(r.frame_index[0]) for r in found] == [0, 1]
    joined = FeatureReading.joined(found)
    assert joined.rgb.shape == (2, 2, 3, 3)
    assert joined.features["clip"][:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_an_error_of_the_other_environment_is_raised_here(ask, tmp_path):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    reading(0).save(answer_file(prepared, 0))
    lost = MissingTargetError(ErrorKind.TARGET_MISSING, "nerf_teacher/a.b", "was never materialised")
    write_result(prepared / ERROR_FILE, {}, lost)
    views = ask(prepared, "exit 3")
    assert int(next(views).frame_index[0]) == 0
    with pytest.raises(MissingTargetError, match=r"nerf_teacher/a\.b"):
        next(views)


def test_the_last_words_of_a_process_that_died_are_told(ask, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "nothing").write_text("")
    with pytest.raises(EnvironmentMissingError, match="out of luck"):
        list(ask(tmp_path / "prepared", 'echo "first" >&2; echo "out of luck" >&2; exit 9'))


@pytest.mark.parametrize("deaf", ["exec sleep 60", "trap '' TERM; sleep 60"])
def test_who_stops_looking_ends_the_process(ask, tmp_path, monkeypatch, deaf):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    reading(0).save(answer_file(prepared, 0))
    started = []
    original = pipeline.feature_views.subprocess.Popen
    monkeypatch.setattr(
        pipeline.feature_views.subprocess, "Popen", lambda *a, **k: started.append(original(*a, **k)) or started[-1]
    )
    monkeypatch.setattr(pipeline.process_tree, "GRACE_S", 0.5)
    views = ask(prepared, deaf)
    next(views)
    time.sleep(0.2)
    views.close()
    assert started[0].returncode is not None
