"""Steps of a run as tasks of a Dask cluster, each in a process of its own on one of its machines.

Dagster's ``dagster-dask`` cannot take the place of this module. It hands Dask the record of a run as it is, Dask looks
into every tuple of a task, and a range of partitions refuses to be looked at; besides, it knows neither pools nor
retries. Dagster's step-delegating executor, which its Kubernetes and Docker executors are made of, knows both. Here it
sends a step to Dask as text.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg
import psutil
from dagster._core.execution.retries import RetryMode  # what Dagster's own executors are made of; it exports none of it
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)

from pipeline.process_tree import end_trees
from storage.errors import EnvironmentMissingError, ErrorKind

if TYPE_CHECKING:
    from distributed import Client, Future

_DAGSTER = (sys.executable, "-m", "dagster")
_LOOK_S = 1.0
_CHECK_HEALTH_S = 5


def dask_executor(address: str, variables: Mapping[str, str]) -> dg.ExecutorDefinition:
    """Return the executor that gives each step to a worker of a Dask cluster.

    It takes no run configuration: whoever launches a run could name any scheduler otherwise.

    Args:
        address: Where the scheduler of the cluster listens, such as ``tcp://scheduler:8786``.
        variables: Environment variables of every step; those that a worker's machine sets itself are used first.

    Raises:
        EnvironmentMissingError: If Dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        message = "the executor 'dask' needs it: pip install 'distillnerf-pipeline[dask]'"
        raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, "distributed", message)

    @dg.executor(name="dask", config_schema={}, requirements=dg.multiple_process_executor_requirements())
    def dask(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
        handler = DaskStepHandler(DaskSteps(address, variables))
        return StepDelegatingExecutor(handler, RetryMode.ENABLED, check_step_health_interval_seconds=_CHECK_HEALTH_S)

    return dask


class DaskSteps:
    """Steps that were given to a Dask cluster, each by a name of its own.

    Args:
        address: Where the scheduler of the cluster listens.
        variables: Environment variables of every step.
    """

    def __init__(self, address: str, variables: Mapping[str, str]) -> None:
        self.address = address
        self._variables = dict(variables)
        self._tasks: dict[str, Future] = {}

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Give a step to the cluster: the arguments of Dagster's command."""
        self._tasks[name] = self._client.submit(run_step, list(arguments), self._variables, name, pure=False)

    def trouble(self, name: str) -> str | None:
        """Return what went wrong with a step; None if it waits, runs or is done."""
        task = self._tasks[name]
        if task.status in ("pending", "finished"):
            return None
        return f"{task.status}: {task.exception()}" if task.status == "error" else task.status

    def stop(self, name: str) -> None:
        """Ask the worker of a step to end its process, or never to begin it."""
        from distributed import Event

        Event(name, client=self._client).set()

    @cached_property
    def _client(self) -> "Client":
        from distributed import Client

        return Client(self.address, set_as_default=False)


def run_step(arguments: Sequence[str], variables: Mapping[str, str], name: str) -> None:
    """Execute a step in a process of its own; this is what a Dask worker does.

    Args:
        arguments: Arguments of Dagster's command.
        variables: Environment variables of the step; those that this machine sets itself are used first.
        name: Name of the step, and of the event that ends it.

    Raises:
        RuntimeError: If the process ended with an error, or was asked to end.
    """
    from distributed import Event, get_client

    asked_to_stop = Event(name, client=get_client())
    process = subprocess.Popen(
        [*_DAGSTER, *arguments], env={**variables, **os.environ}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None:
        if asked_to_stop.is_set():
            end_trees([psutil.Process(process.pid)])
            process.wait()  # no exit code is left, which it takes for success
            raise RuntimeError("it was asked to end")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_LOOK_S)
    if process.returncode:
        raise RuntimeError(f"its process ended with code {process.returncode}")


class DaskStepHandler(StepHandler):
    """What Dagster asks for the steps of one run, answered by a Dask cluster.

    Args:
        steps: Steps of the run.
    """

    def __init__(self, steps: DaskSteps) -> None:
        self._steps = steps

    @property
    def name(self) -> str:
        """Return the name that events of the run show."""
        return "DaskStepHandler"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Give a step to the cluster."""
        command = step_handler_context.execute_step_args.get_command_args()
        self._steps.start(_name(step_handler_context), command[command.index("api") :])  # the worker's own interpreter
        yield dg.DagsterEvent.step_worker_starting(
            step_handler_context.get_step_context(_key(step_handler_context)),
            message=f"given to the Dask cluster at {self._steps.address}",
            metadata={"scheduler": dg.MetadataValue.text(self._steps.address)},
        )

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Return whether a step is still waiting, running or done."""
        trouble = self._steps.trouble(_name(step_handler_context))
        return CheckStepHealthResult.healthy() if trouble is None else CheckStepHealthResult.unhealthy(trouble)

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """End a step."""
        self._steps.stop(_name(step_handler_context))
        yield dg.DagsterEvent.engine_event(
            step_handler_context.get_step_context(_key(step_handler_context)), message="asked to end"
        )


def _key(context: StepHandlerContext) -> str:
    keys = context.execute_step_args.step_keys_to_execute
    assert keys is not None  # one: Dagster launches each step by itself
    return keys[0]


def _name(context: StepHandlerContext) -> str:
    return f"{context.execute_step_args.run_id} {_key(context)}"
