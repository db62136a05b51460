"""The shared part of the declaration of assets, code version included."""

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
"""Tag of assets that the command line makes in one run if they have the same partition; the value names the run."""

WORK_TAG = "distillnerf/work"
"""Tag for the kind of work of an asset."""

Work = Literal["models", "scene_teacher", "student"]
"""Kinds of work: image models in the process of the run, nerfstudio in its own process, or a student on all cores."""

READS = "distillnerf/reads"
"""Metadata of a dependency on all partitions: the field of a run's configuration that names those that are read."""


Reads = Literal[
    "scenes",
    "recorded_scenes",
    "judged_scenes",
    "train_scenes",
    "variants",
    "scenes_with_field_features",
    "evaluated_scenes",
]
"""Fields of ``pipeline.run_config.HomeSelection`` that name partitions."""


def all_of(asset: str, reads: Reads) -> dg.AssetDep:
    """Return the dependency on every partition of an asset that a run's configuration names.

    Args:
        asset: Name of the asset that is read.
        reads: Field of ``pipeline.run_config.HomeSelection`` that names the partitions.
    """
    return dg.AssetDep(str(asset), partition_mapping=dg.AllPartitionMapping(), metadata={READS: reads})


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
        group: Stage of the asset.
        kinds: Tools that make it, shown as icons; three at most.
        makes: Kind of the versions.
        producer: Module that builds it, or several if a configuration chooses between them. The code version is their
            code digest, as in the provenance of the versions.
        is_partitioned: Whether one partition of the asset is one of the kind; False if one step builds them all.
        pool: Concurrency pool, if one is needed.
        backfill_policy: Number of partitions that one run of a backfill takes.
        tags: Tags for search in the UI.
        task: Run of the command line that makes it, together with others of the same name; by default its own.
        work: Kind of work.
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
