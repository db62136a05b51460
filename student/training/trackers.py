"""Trackers of a fit's curves and pictures: TensorBoard by default, Weights & Biases and MLflow by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from storage.errors import EnvironmentMissingError, ErrorKind
from student.config import TrackerName

_PROJECT = "distillnerf"


@runtime_checkable
class Tracker(Protocol):
    """Receiver of curves and pictures."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of some curves at a step."""
        ...

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Send an RGB picture made at a step."""
        ...

    def close(self) -> None:
        """Send everything that is still buffered."""
        ...


class TensorBoardTracker:
    """Tracker that writes event files for ``tensorboard --logdir``.

    Args:
        folder: Folder of the event files.
        run: Unused, because the folder names the run.
        first_step: First step of this start; what an interrupted fit logged from there on is hidden.
    """

    def __init__(self, folder: Path, run: str, first_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step if first_step > 1 else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """See :class:`Tracker`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._writer.close()


class WandbTracker:
    """Tracker that sends to Weights & Biases; the usual ``WANDB_*`` variables set server and offline mode.

    Args:
        folder: Folder of its local files.
        run: Identity of the run; an interrupted fit continues the same one.
        first_step: Unused, because the service refuses steps that are already there.
    """

    def __init__(self, folder: Path, run: str, first_step: int) -> None:
        self._wandb = _require("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=_PROJECT, id=run.replace("/", "-"), name=run, dir=str(folder), resume="allow"
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """See :class:`Tracker`."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._run.finish()


class MlflowTracker:
    """Tracker that sends to the MLflow server in ``MLFLOW_TRACKING_URI``, or to MLflow's local default.

    Args:
        folder: Unused, because MLflow has its own.
        run: Name of the run; an interrupted fit continues the same one.
        first_step: Unused, because MLflow keeps every value of a step.
    """

    def __init__(self, folder: Path, run: str, first_step: int) -> None:
        self._client: Any = _require("mlflow", "mlflow").MlflowClient()
        experiment = self._client.get_experiment_by_name(_PROJECT)
        identity = self._client.create_experiment(_PROJECT) if experiment is None else experiment.experiment_id
        earlier = self._client.search_runs([identity], f"attributes.run_name = '{run}'", max_results=1)
        if earlier:
            self._client.update_run(earlier[0].info.run_id, status="RUNNING")
        self._run_id = (earlier[0] if earlier else self._client.create_run(identity, run_name=run)).info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """See :class:`Tracker`."""
        self._client.log_image(self._run_id, image, artifact_file=f"{name}/{step:09d}.png")

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._client.set_terminated(self._run_id)


_TRACKERS: dict[TrackerName, Callable[[Path, str, int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def open_trackers(names: tuple[TrackerName, ...], folder: Path, run: str, first_step: int) -> tuple[Tracker, ...]:
    """Open trackers by name.

    Args:
        names: Names of the trackers.
        folder: Folder of the run's logs.
        run: Identity of the run, ``<variant>/<digest>``.
        first_step: Step that is logged next.

    Raises:
        EnvironmentMissingError: If a tracker's package is not installed; its key is the package.
    """
    return tuple(_TRACKERS[name](folder, run, first_step) for name in names)


def _require(module: str, package: str) -> Any:  # noqa: ANN401 - an optional module
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING, package, f"is not installed, but asked for: pip install {package}"
        ) from error
