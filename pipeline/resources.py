"""Dagster resources, and the reader of the pipeline's environment variables.

``storage.stores.places`` reads the URL of array stores, because commands of the plain packages need it too.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.resource_annotation import TreatAsResourceParam  # not exported, but documented there

from pipeline.alerts import AlertChannels
from pipeline.devices import CUDA_VARIABLE
from pipeline.environments import nerf_worker_command, nerf_worker_environment, nerfstudio_python
from pipeline.progress import ProgressLog
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home

HOME_VARIABLE = "DISTILLNERF_HOME"
NERFSTUDIO_PYTHON_VARIABLE = "DISTILLNERF_NERFSTUDIO_PYTHON"
EXECUTOR_VARIABLE = "DISTILLNERF_EXECUTOR"
DASK_SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"  # Dask's own
KUBERNETES_STEPS_VARIABLE = "DISTILLNERF_KUBERNETES_STEPS"
DATABASE_VARIABLE = "DISTILLNERF_DAGSTER_DATABASE"
DEVICES_VARIABLE = "DISTILLNERF_DEVICES"
ALERT_WEBHOOK_VARIABLE = "DISTILLNERF_ALERT_WEBHOOK"
ALERT_MAIL_VARIABLE = "DISTILLNERF_ALERT_MAIL"
SMTP_VARIABLE = "DISTILLNERF_SMTP"


def _dask_executor(_steps: Collection[str]) -> dg.ExecutorDefinition:
    """Return the executor that gives each step to the Dask cluster whose scheduler Dask's own variable names.

    Raises:
        EnvironmentMissingError: If Dask is not installed.
        ValueError: If the variable is not set.
    """
    from pipeline.dask_steps import dask_executor

    address = os.environ.get(DASK_SCHEDULER_VARIABLE)
    if not address:
        raise ValueError(
            f"{EXECUTOR_VARIABLE}=dask needs a cluster: set {DASK_SCHEDULER_VARIABLE}, such as tcp://scheduler:8786"
        )
    return dask_executor(address, settings_of_environment())


def _kubernetes_executor(steps: Collection[str]) -> dg.ExecutorDefinition:
    """Return the executor that makes each step a Kubernetes Job.

    Args:
        steps: Names of all steps.

    Raises:
        EnvironmentMissingError: If ``dagster-k8s`` is not installed.
        ValueError: If the variable with the changes of some steps is no JSON object, or names a step that is none:
            Dagster would pass it by, and the step would get what its asset asks for.
    """
    from pipeline.kubernetes_steps import kubernetes_executor

    text = os.environ.get(KUBERNETES_STEPS_VARIABLE) or "{}"
    changes: object = None
    with contextlib.suppress(json.JSONDecodeError):
        changes = json.loads(text)
    is_object = isinstance(changes, dict)
    if not is_object:
        raise ValueError(f'{KUBERNETES_STEPS_VARIABLE} is {text!r}, want JSON: {{"STEP": {{"container_config": ...}}}}')
    named = cast("Mapping[str, Any]", changes)
    unknown = sorted(named.keys() - set(steps))
    if unknown:
        known = ", ".join(sorted(steps))
        raise ValueError(f"{KUBERNETES_STEPS_VARIABLE} names {', '.join(unknown)}, and the steps are {known}")
    return kubernetes_executor(named)


def settings_of_environment() -> dict[str, str]:
    """Return the environment variables of this process that say how the pipeline is to run."""
    known = (DASK_SCHEDULER_VARIABLE, "DAGSTER_HOME")
    return {k: v for k, v in os.environ.items() if k.startswith("DISTILLNERF_") or k in known}


EXECUTORS: Mapping[str, Callable[[Collection[str]], dg.ExecutorDefinition]] = {
    "in_process": lambda _: dg.in_process_executor,
    "multiprocess": lambda _: dg.multiprocess_executor,
    "dask": _dask_executor,
    "kubernetes": _kubernetes_executor,
}
"""Executors for the steps of a run that Dagster started, by the name that the environment variable gives; each is made
for the names of all steps.

Steps in one process share imports; torch and transformers cost seconds in each process. In several processes,
independent steps run side by side, with Dask and Kubernetes on several machines.
"""


@dataclass(frozen=True, kw_only=True)
class HomeResource(TreatAsResourceParam):
    """Home of everything that a run writes.

    No field of a resource is run configuration: whoever can launch a run could name any folder or program otherwise.

    Attributes:
        root: Folder of the home, or s3://bucket/prefix.
        store_url: Where array stores live instead, as s3://bucket/prefix.
        by_command: Whether a command of this machine executes the run, which may then name folders of weights; see
            ``pipeline.run_config.RunSelector.selection``.
    """

    root: str
    store_url: str = ""
    by_command: bool = False

    def open(self) -> Home:
        """Return the home."""
        return Home(self.root, store_url=self.store_url or None)


@dataclass(frozen=True, kw_only=True)
class NerfstudioEnvironment(TreatAsResourceParam):
    """The second Python environment, in which scene fields are fitted and rendered.

    Attributes:
        python: Its interpreter; empty for .venv-nerfstudio of the project.
    """

    python: str = ""

    def command(self) -> list[str]:
        """Return the worker's command line.

        Raises:
            EnvironmentMissingError: If the environment is not installed.
        """
        return nerf_worker_command(self.interpreter())

    def interpreter(self) -> Path:
        """Return the interpreter.

        Raises:
            EnvironmentMissingError: If the environment is not installed.
        """
        return nerfstudio_python(self.python)

    def variables(self) -> dict[str, str]:
        """Return the environment variables that a worker gets in addition to those of this process."""
        return nerf_worker_environment()


def default_resources(progress: ProgressLog | None = None, *, by_command: bool = False) -> dict[str, Any]:
    """Return the resources of a process, all taken from environment variables and none from run configuration.

    The home has no default: materialising into a forgotten folder would be a silent mistake. It is resolved when an
    asset runs; the definitions load without the variable.

    Args:
        progress: Receiver of progress; None if nobody watches the process.
        by_command: Whether the process belongs to a command of this machine.
    """
    progress = progress or ProgressLog()
    return {
        "home": _fixed(lambda: _home_of_process(by_command=by_command)),
        "nerfstudio": _fixed(nerfstudio_from_environment),
        "progress": _fixed(lambda: progress),
        "pipes": _fixed(lambda: dg.PipesSubprocessClient(message_reader=progress.message_reader())),
    }


def _fixed(make: Callable[[], object]) -> dg.ResourceDefinition:
    """Return a resource that takes no configuration: a run that gives it some is refused, by the name of the field."""
    return dg.ResourceDefinition(resource_fn=lambda _: make(), config_schema={})


def _home_of_process(*, by_command: bool) -> HomeResource:
    return HomeResource(
        root=str(home_from_environment(None)), store_url=store_url_from_environment() or "", by_command=by_command
    )


def nerfstudio_from_environment() -> NerfstudioEnvironment:
    """Return the second Python environment: the one that the environment variable names, or the project's own."""
    return NerfstudioEnvironment(python=os.environ.get(NERFSTUDIO_PYTHON_VARIABLE, ""))


def alert_channels_from_environment() -> AlertChannels:
    """Return where alerts go: the web address and the mail addresses that the environment names, or nowhere.

    Raises:
        ValueError: If the mail server's address has another form than ``smtp://`` or ``smtps://``.
    """
    recipients = tuple(filter(None, re.split(r"[,\s]+", os.environ.get(ALERT_MAIL_VARIABLE, ""))))
    return AlertChannels(
        webhook=os.environ.get(ALERT_WEBHOOK_VARIABLE, ""),
        recipients=recipients,
        smtp=os.environ.get(SMTP_VARIABLE, "smtp://127.0.0.1"),
    )


def names_database() -> bool:
    """Return whether Dagster's history is in the PostgreSQL database that the environment variable names.

    Raises:
        ValueError: If its value has another form than SQLAlchemy and the driver that is installed understand. The
            message does not repeat it, because it may hold a password.
    """
    url = os.environ.get(DATABASE_VARIABLE, "")
    if url and not url.startswith("postgresql+psycopg2://"):
        raise ValueError(
            f"{DATABASE_VARIABLE} must have the form postgresql+psycopg2://user:password@host:port/database"
        )
    return bool(url)


def devices_from_environment() -> tuple[str, ...]:
    """Return the accelerators that this machine's runs may use, as CUDA names them; empty if there is none.

    The environment names them (``DISTILLNERF_DEVICES=0,1``). Otherwise they are those that CUDA's own variable leaves
    visible, or all that the system has.

    Raises:
        ValueError: If one is named twice, or has no name.
    """
    for variable in (DEVICES_VARIABLE, CUDA_VARIABLE):
        text = os.environ.get(variable)
        if text is None or (variable == DEVICES_VARIABLE and not text):
            continue
        if text in ("", "-1"):  # CUDA's ways to say none
            return ()
        named = tuple(name.strip() for name in text.split(","))
        if not all(named) or len(set(named)) < len(named):
            raise ValueError(f"{variable} is {text!r}, want each device once, such as 0,1")
        return named
    return tuple(
        str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))
    )  # torch's import costs seconds


def executor_from_environment(steps: Collection[str]) -> dg.ExecutorDefinition:
    """Return the executor that the environment variable names; by default all steps run in one process.

    Args:
        steps: Names of all steps.

    Raises:
        ValueError: If there is no such executor.
    """
    name = os.environ.get(EXECUTOR_VARIABLE) or "in_process"
    if name not in EXECUTORS:
        raise ValueError(f"{EXECUTOR_VARIABLE} is {name!r}, want one of {', '.join(EXECUTORS)}")
    return EXECUTORS[name](steps)


def home_from_environment(home: str | None) -> str:
    """Return the home that a command was given, or the one that the environment names: a folder or a URL.

    Raises:
        ValueError: If neither names a home.
    """
    if not is_home_named(home):
        raise ValueError(f"no home: give --home DIR or set {HOME_VARIABLE}")
    return home or os.environ[HOME_VARIABLE]


def is_home_named(home: str | None) -> bool:
    """Return whether a command was given a home, or the environment names one."""
    return home is not None or bool(os.environ.get(HOME_VARIABLE))


def dagster_environment(home: Path) -> dict[str, str]:
    """Return the environment of a Dagster process that works on one home, named by its folder on this machine."""
    own: Mapping[str, str] = {
        "DAGSTER_HOME": str(home / "dagster"),
        HOME_VARIABLE: str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return {**os.environ, **own}
