"""What all assets of a group share in their declaration, the version of their code included."""

from typing import Any, Literal

import dagster as dg

from assets.failures import INFRASTRUCTURE_RETRIES
from pipeline.partitions import PARTITIONS
from storage.code import code_digest
from storage.kinds import KINDS, Kind

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
    makes: Kind,
    producer: str | tuple[str, ...],
    is_partitioned: bool = True,
    pool: str | None = None,
    backfill_policy: Any = None,  # noqa: ANN401
    tags: dict[str, str] | None = None,
    task: str | None = None,
    work: Work = "models",
) -> dict[str, Any]:
    """Return the keyword arguments of one ``@asset``.

    Args:
        group: Stage that it belongs to.
        kinds: What it is made with, shown as icons; three at most.
        makes: Kind of the versions that it builds.
        producer: The module that builds it, or several where a choice between them is left to a configuration. The
            code version is their code digest, as in the provenance of what they build.
        is_partitioned: Whether one partition of the asset is one of the kind; False where a step builds them all.
        pool: Concurrency pool, where one is needed.
        backfill_policy: How many partitions one run of a backfill takes.
        tags: For search in the UI.
        task: Run of the command line that makes it, together with others of the same name; its own where none is given.
        work: What it keeps busy while it is made.
    """
    modules = (producer,) if isinstance(producer, str) else producer
    declared: dict[str, Any] = {
        "group_name": group,
        "kinds": kinds,
        "owners": [TEAM],
        "code_version": code_digest(*modules, kind=makes)[:16],
        "retry_policy": INFRASTRUCTURE_RETRIES,
        "tags": {WORK_TAG: work, **({TASK_TAG: task} if task else {}), **(tags or {})},
        "metadata": {"producer": ", ".join(modules)},
    }
    partitions = PARTITIONS[KINDS[makes].partitioned_by] if is_partitioned else None
    optional = {"pool": pool, "partitions_def": partitions, "backfill_policy": backfill_policy}
    return declared | {name: value for name, value in optional.items() if value is not None}
