"""What all assets of a group share in their declaration, the version of their code included."""

from typing import Any

from assets.failures import INFRASTRUCTURE_RETRIES
from storage.code import code_digest

GPU_POOL = "gpu"
"""Concurrency pool of everything that fills an accelerator; its limit is the number of accelerators."""

TEAM = "team:perception-data"


def declare(
    *,
    group: str,
    kinds: set[str],
    producer: str | tuple[str, ...],
    pool: str | None = None,
    partitions_def: Any = None,  # noqa: ANN401 - Dagster's own types
    backfill_policy: Any = None,  # noqa: ANN401
    tags: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of one ``@asset``.

    Args:
        group: Stage that it belongs to.
        kinds: What it is made with, shown as icons; three at most.
        producer: The module that builds it, or several where a choice between them is left to a configuration. The
            code version is their code digest, as in the provenance of what they build.
        pool: Concurrency pool, where one is needed.
        partitions_def: What it is partitioned by.
        backfill_policy: How many partitions one run of a backfill takes.
        tags: For search in the UI.
    """
    modules = (producer,) if isinstance(producer, str) else producer
    declared: dict[str, Any] = {
        "group_name": group,
        "kinds": kinds,
        "owners": [TEAM],
        "code_version": code_digest(*modules)[:16],
        "retry_policy": INFRASTRUCTURE_RETRIES,
        "tags": tags or {},
        "metadata": {"producer": ", ".join(modules)},
    }
    optional = {"pool": pool, "partitions_def": partitions_def, "backfill_policy": backfill_policy}
    return declared | {name: value for name, value in optional.items() if value is not None}
