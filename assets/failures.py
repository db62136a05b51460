"""Turn the pipeline's errors into Dagster failures that say whether a retry can help.

Dagster retries a step after any exception by default. Broken data, a failed gate or a bug fail the same way every time,
so only faults of the machine (disk, network, a killed worker) are left to the retry policy. It also applies a policy to
interrupts: whoever ends a run would see its step begin again. They are therefore raised as ``InterruptedStepError``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterPipesExecutionError

from storage.errors import (
    EnvironmentMissingError,
    ErrorKind,
    HomeUnavailableError,
    IntegrityError,
    MissingTargetError,
    OutOfCapacityError,
    PipelineError,
    SourceDataError,
    SourceMovedError,
    StoreLockedError,
    StoreUnreachableError,
    TeacherDivergedError,
)
from storage.stores import catalog
from storage.stores.versioned import Home

INFRASTRUCTURE_RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""Retry policy of every asset. ``stops_retries`` keeps all but infrastructure errors away from it."""

_ADVICE: dict[type[PipelineError], str] = {
    SourceDataError: "The scene is quarantined. Repair or remove the file named here, then materialise again.",
    SourceMovedError: "Name the data's new place with 'distillnerf home reroot OLD NEW', or mount it.",
    MissingTargetError: "Materialise the upstream asset named here first.",
    IntegrityError: "Set it aside with 'distillnerf catalog verify --set-aside' and materialise it again.",
    TeacherDivergedError: "Every seed diverged and the scene is quarantined. Change the teacher's configuration.",
    OutOfCapacityError: "Free some of what ran out, or run this step on a machine with more.",
    StoreUnreachableError: "Nothing is known to be damaged: materialise again once the object store answers.",
    HomeUnavailableError: "Mend the disk, the mount or the permission named here, then materialise again.",
    StoreLockedError: "Wait for the process named here, or end it, then materialise again.",
    EnvironmentMissingError: "Install what is named here: 'make environments' builds both environments.",
}

_ADVICE_ON_A_GATE = (
    "Look at its picture and mend the cause, or hold out other scenes (--held-out), or take it although it failed "
    "(--split.allow-ungated, with the kind named here)."
)
_ADVICE_BY_KIND = {
    ErrorKind.TARGET_GATE_FAILED: _ADVICE_ON_A_GATE,
    ErrorKind.TARGET_UNSOUND: _ADVICE_ON_A_GATE,
}
"""Advice where that of the error's type does not help: what failed its gate is there already."""


_MAY_BE_BACK = (ErrorKind.IO_FAILED, ErrorKind.STORE_UNREACHABLE)
"""Faults of a disk or a network, which may be gone in a moment."""


class InterruptedStepError(dg.DagsterError, DagsterExecutionInterruptedError):  # type: ignore[misc]  # of two bases
    """The run was cancelled, or its process told to end.

    Dagster passes a ``DagsterError`` of a step on without asking for the retry policy, and then treats the run as
    interrupted, which it is: cancelled if somebody asked for that.
    """


@contextmanager
def ends_when_told(step: str) -> Iterator[None]:
    """Let an interrupt end a step for good; Dagster would ask the retry policy.

    It goes around the whole of a step, since an interrupt may come before its work has begun.

    Raises:
        InterruptedStepError: If the run was cancelled or its process told to end.
    """
    try:
        yield
    except InterruptedStepError:
        raise
    except (KeyboardInterrupt, DagsterExecutionInterruptedError) as error:
        raise InterruptedStepError(f"{step}: interrupted; what was finished is stored") from error


@contextmanager
def stops_retries(home: Home, partition: str) -> Iterator[None]:
    """Turn errors that a retry cannot mend into a ``dagster.Failure`` without retries.

    A teacher that diverged with every seed is also entered into the catalogue's quarantine; the reader of a broken
    source has entered that one already.

    Raises:
        dagster.Failure: For the pipeline's typed errors and for programming errors.
        InterruptedStepError: If the run was cancelled or its process told to end.
    """
    try:
        with ends_when_told(partition):
            yield
    except TeacherDivergedError as error:
        catalog.quarantine(home.objects, partition, error)
        raise failure_of(error) from error
    except PipelineError as error:
        raise failure_of(error) from error
    except (OSError, dg.DagsterError, DagsterPipesExecutionError):  # the machine or Dagster: the retry policy decides
        raise
    except Exception as error:
        description = f"{partition}: {type(error).__name__}: {error}"
        raise dg.Failure(description, metadata={"error": type(error).__name__}, allow_retries=False) from error


def failure_of(error: PipelineError) -> dg.Failure:
    """Return the failure that shows a typed error in the UI: its kind, its key and the remedy.

    Only a failing disk and a store that does not answer are left to the retry policy.
    """
    of_type = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    return dg.Failure(
        str(error),
        metadata={
            "error": type(error).__name__,
            "error_kind": str(error.kind),
            "key": error.key,
            "message": error.message,
            "advice": _ADVICE_BY_KIND.get(error.kind, of_type),
        },
        allow_retries=error.kind in _MAY_BE_BACK,
    )
