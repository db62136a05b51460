"""What all assets of a group share in their declaration, and which source files make up an asset's code version."""

from collections.abc import Iterable
from typing import Any, Literal

import dagster as dg

from assets.failures import INFRASTRUCTURE_RETRIES
from storage.stores.provenance import code_digest

GPU_POOL = "gpu"
"""Concurrency pool of everything that fills an accelerator; its limit is the number of accelerators."""

TEAM = "team:perception-data"

TASK_TAG = "distillnerf/task"
"""Tag of assets that the command line makes in one run where they have the same partition: the run's name."""

WORK_TAG = "distillnerf/work"
"""Tag that says what an asset keeps busy while it is made."""

Work = Literal["models", "scene_teacher", "student"]
"""Image models in the process of the run, nerfstudio in a process of its own, or everything."""

READS = "distillnerf/reads"
"""Metadata of a dependency on all partitions: which field of a run's configuration names those that are read."""


def all_of(asset: str, reads: Literal["scenes", "train_scenes", "variants"]) -> dg.AssetDep:
    """Return the dependency on every partition of an asset that a run's configuration names.

    Args:
        asset: What is read.
        reads: Field of ``pipeline.run_config.HomeSelection`` that names the partitions.
    """
    return dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping(), metadata={READS: reads})


def declare(
    *,
    group: str,
    kinds: set[str],
    modules: Iterable[str],
    pool: str | None = None,
    partitions_def: Any = None,  # noqa: ANN401 - Dagster's own types
    backfill_policy: Any = None,  # noqa: ANN401
    tags: dict[str, str] | None = None,
    task: str | None = None,
    work: Work = "models",
) -> dict[str, Any]:
    """Return the keyword arguments of one ``@asset``.

    Args:
        group: Stage that it belongs to.
        kinds: What it is made with, shown as icons; three at most.
        modules: Source modules and packages that determine its content; their digest is the code version.
        pool: Concurrency pool, where one is needed.
        partitions_def: What it is partitioned by.
        backfill_policy: How many partitions one run of a backfill takes.
        tags: For search in the UI.
        task: Run of the command line that makes it, together with others of the same name; its own where none is given.
        work: What it keeps busy while it is made.
    """
    declared: dict[str, Any] = {
        "group_name": group,
        "kinds": kinds,
        "owners": [TEAM],
        "code_version": code_digest(*modules)[:16],
        "retry_policy": INFRASTRUCTURE_RETRIES,
        "tags": {WORK_TAG: work, **({TASK_TAG: task} if task else {}), **(tags or {})},
    }
    optional = {"pool": pool, "partitions_def": partitions_def, "backfill_policy": backfill_policy}
    return declared | {name: value for name, value in optional.items() if value is not None}
