"""How the pipeline's errors become Dagster failures: what is worth retrying is retried, everything else says why not.

Dagster retries a step for any exception unless told otherwise. Broken data, a failed gate or a bug fail the same way
every time, so only trouble of the machine (disk, network, a killed worker) is left to the retry policy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from storage.errors import (
    EnvironmentMissingError,
    IntegrityError,
    MissingTargetError,
    OutOfCapacityError,
    PipelineError,
    SourceDataError,
    TeacherDivergedError,
)
from storage.stores import catalog
from storage.stores.versioned import Home

INFRASTRUCTURE_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""For every asset. ``stops_retries`` keeps all but infrastructure errors away from it."""

_ADVICE: dict[type[PipelineError], str] = {
    SourceDataError: "The scene is quarantined. Repair or remove the file named here, then materialise again.",
    MissingTargetError: "Materialise the upstream asset named here first.",
    IntegrityError: "Delete the store named here and materialise it again.",
    TeacherDivergedError: "Every seed diverged and the scene is quarantined. Change the teacher's configuration.",
    OutOfCapacityError: "Run this step on a machine with more memory, disk or time.",
    EnvironmentMissingError: "Install what is named here: 'make environments' builds both environments.",
}


@contextmanager
def stops_retries(home: Home, partition: str) -> Iterator[None]:
    """Turn what a retry cannot mend into a ``dagster.Failure`` that allows none.

    A teacher that diverged with every seed is also entered into the catalogue's quarantine; a broken source was entered
    by whoever read it.

    Raises:
        dagster.Failure: For the pipeline's typed errors and for programming errors.
    """
    try:
        yield
    except TeacherDivergedError as error:
        catalog.quarantine(home.root, partition, error)
        raise failure_of(error) from error
    except PipelineError as error:
        raise failure_of(error) from error
    except (OSError, dg.DagsterError, DagsterPipesExecutionError):  # the machine or Dagster: the retry policy decides
        raise
    except Exception as error:
        description = f"{partition}: {type(error).__name__}: {error}"
        raise dg.Failure(description, metadata={"error": type(error).__name__}, allow_retries=False) from error


def failure_of(error: PipelineError) -> dg.Failure:
    """Return the failure that shows a typed error in the UI: its kind, what it is about and what to do."""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    return dg.Failure(
        str(error),
        metadata={
            "error": type(error).__name__,
            "error_kind": str(error.kind),
            "key": error.key,
            "message": error.message,
            "advice": advice,
        },
        allow_retries=False,
    )
