"""Curves and pictures reach the trackers that were asked for, and a tracker that is not installed is named."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from storage.errors import EnvironmentMissingError
from student.config import FitRuntime
from student.training.trackers import Tracker, open_trackers

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Recorder:
    """Stands for another package's module or object: every call is kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            if name in {"init", "MlflowClient"}:
                return self
            if name == "create_run":
                return SimpleNamespace(info=SimpleNamespace(run_id="r1"))
            return {"get_experiment_by_name": None, "search_runs": []}.get(name, name)

        return call


def use(tracker: Tracker) -> None:
    tracker.scalars(3, {"loss/rgb": 0.5})
    tracker.picture(3, "validation/yard.a/000001", PICTURE)
    tracker.close()


def test_tensorboard_gets_curves_and_pictures(tmp_path: Path) -> None:
    (tracker,) = open_trackers(("tensorboard",), tmp_path, "depth/abc", 1)
    use(tracker)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/rgb")] == [(3, 0.5)]
    image = events.Images("validation/yard.a/000001")[0]
    assert (image.step, image.width, image.height) == (3, 6, 4)


def test_wandb_gets_curves_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    (tracker,) = open_trackers(("wandb",), tmp_path, "depth/abc", 1)
    use(tracker)
    names = [name for name, _, _ in wandb.calls]
    assert names == ["init", "log", "Image", "log", "finish"]
    # The same run again after an interruption.
    assert wandb.calls[0][2] == {
        "project": "distillnerf", "id": "depth-abc", "name": "depth/abc", "dir": str(tmp_path), "resume": "allow",
    }  # fmt: skip
    assert wandb.calls[1][1:] == (({"loss/rgb": 0.5},), {"step": 3})


def test_mlflow_gets_curves_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)  # type: ignore[arg-type]
    (tracker,) = open_trackers(("mlflow",), tmp_path, "depth/abc", 1)
    use(tracker)
    calls = {name: (arguments, named) for name, arguments, named in mlflow.calls}
    assert calls["create_run"] == (("create_experiment",), {"run_name": "depth/abc"})
    assert calls["log_metric"] == (("r1", "loss/rgb", 0.5), {"step": 3})
    assert calls["log_image"][1] == {"artifact_file": "validation/yard.a/000001/000000003.png"}
    assert calls["set_terminated"][0] == ("r1",)


@pytest.mark.filterwarnings("default")  # the package's own
def test_wandb_itself_takes_them_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first_step in (1, 4):
        (tracker,) = open_trackers(("wandb",), tmp_path, "depth/abc", first_step)
        use(tracker)
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-depth-abc.wandb"))) == 2  # the service joins them by name
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/validation/yard.a/*.png"))


@pytest.mark.filterwarnings("default")  # the package's own
def test_mlflow_itself_takes_them_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for first_step in (1, 4):
        (tracker,) = open_trackers(("mlflow",), tmp_path, "depth/abc", first_step)
        use(tracker)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("distillnerf").experiment_id])
    assert (run.info.run_name, run.info.status) == ("depth/abc", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "loss/rgb")
    assert [(one.step, one.value) for one in history] == [(3, 0.5), (3, 0.5)]
    (picture,) = client.list_artifacts(run.info.run_id, "validation/yard.a/000001")
    assert picture.path.endswith("000000003.png")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentMissingError) as caught:
        open_trackers(("tensorboard", name), tmp_path, "depth/abc", 1)
    assert caught.value.key == name
    assert f"pip install {name}" in caught.value.message


def test_a_tracker_is_asked_for_once() -> None:
    with pytest.raises(ValueError, match="trackers must differ"):
        FitRuntime(trackers=("wandb", "wandb"))
