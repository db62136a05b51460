"""Steps of a run as Kubernetes Jobs, each in a pod with the accelerator and memory that its asset asks for."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import dagster as dg

from storage.errors import EnvironmentMissingError, ErrorKind


def kubernetes_executor(steps: Mapping[str, Any]) -> dg.ExecutorDefinition:
    """Return the executor that makes each step a Kubernetes Job of its own.

    Image, secrets, volumes and namespace are those of the run launcher; accelerator and memory are in the tags of the
    assets (``assets.declarations.kubernetes_tags``). It takes no run configuration: whoever launches a run could name
    any image otherwise.

    Args:
        steps: Changes of the Jobs of some steps, by step, in the form of Dagster's ``per_step_k8s_config``.

    Raises:
        EnvironmentMissingError: If ``dagster-k8s`` is not installed.
    """
    if importlib.util.find_spec("dagster_k8s") is None:
        message = "the executor 'kubernetes' needs it: pip install 'distillnerf-pipeline[kubernetes]'"
        raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, "dagster_k8s", message)
    from dagster_k8s import k8s_job_executor

    return k8s_job_executor.configured(lambda _: {"per_step_k8s_config": dict(steps)}, "kubernetes", config_schema={})
