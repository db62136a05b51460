"""The shared part of the declaration of assets, code version included."""

from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve

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

MEMORY: Mapping[Work, str] = {"models": "12Gi", "scene_teacher": "24Gi", "student": "48Gi"}
"""Memory of the pod of a step where steps are Kubernetes Jobs, by kind of work."""

PRODUCER = "producer"
"""Metadata of an asset: the module that builds it, and those that a configuration chooses from."""

READS = "distillnerf/reads"
"""Metadata of a dependency on all partitions: the field of a run's configuration that names those that are read."""


Reads = Literal[
    "scenes",
    "recorded_scenes",
    "judged_scenes_with_field",
    "scenes_of_basis",
    "variants",
    "scenes_with_field",
    "scenes_with_field_features",
    "evaluated_scenes",
    "evaluated_recordings",
]
"""Fields of ``pipeline.run_config.HomeSelection`` that name partitions."""


def all_of(asset: str, reads: Reads) -> dg.AssetDep:
    """Return the dependency on every partition of an asset that a run's configuration names.

    Args:
        asset: Name of the asset that is read.
        reads: Field of ``pipeline.run_config.HomeSelection`` that names the partitions.
    """
    return dg.AssetDep(str(asset), partition_mapping=dg.AllPartitionMapping(), metadata={READS: reads})


def shown_only(asset: str) -> dg.AssetDep:
    """Return a dependency that the graph shows and no command makes: only some partitions come from it."""
    return dg.AssetDep(asset, metadata={READS: "nothing"})


def kubernetes_tags(work: Work, *, accelerator: bool) -> dict[str, Any]:
    """Return the tags of a step for the executor ``kubernetes``: the memory and the accelerator of its pod.

    The memory requested is the limit, so that no neighbour on the node can take that of a fit. An accelerator is only
    limited: Kubernetes requests what is limited, and refuses any other number.

    Args:
        work: Kind of work.
        accelerator: Whether it uses one if there is one.
    """
    limits: dict[str, str] = {"memory": MEMORY[work]}
    if accelerator:
        limits["nvidia.com/gpu"] = "1"
    wanted = {"limits": limits, "requests": {"cpu": "2", "memory": MEMORY[work]}}
    return {"dagster-k8s/config": {"container_config": {"resources": wanted}}}


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
    accelerator: bool = False,
) -> dict[str, Any]:
    """Return the keyword arguments of one ``@asset``.

    Args:
        group: Stage of the asset.
        kinds: Tools that make it, shown as icons; three at most.
        makes: Kind of the versions.
        producer: Module that builds it, followed by those that a configuration chooses one of. The code version is
            their code digest, as in the provenance of the versions.
        is_partitioned: Whether one partition of the asset is one of the kind; False if one step builds them all.
        pool: Concurrency pool, if one is needed.
        backfill_policy: Number of partitions that one run of a backfill takes.
        tags: Tags for search in the UI.
        task: Run of the command line that makes it, together with others of the same name; by default its own.
        work: Kind of work.
        accelerator: Whether it uses an accelerator for a while; what is in the pool ``GPU_POOL`` always does.
    """
    modules = (producer,) if isinstance(producer, str) else producer
    declared: dict[str, Any] = {
        "group_name": group,
        "kinds": kinds,
        "owners": [TEAM],
        "code_version": code_digest(*modules, kind=makes)[:16],
        "retry_policy": INFRASTRUCTURE_RETRIES,
        "op_tags": kubernetes_tags(work, accelerator=accelerator or pool == GPU_POOL),
        "tags": {WORK_TAG: work, **({TASK_TAG: task} if task else {}), **(tags or {})},
        "metadata": {PRODUCER: ", ".join(modules)},
    }
    partitions = PARTITIONS[KINDS[makes].partitioned_by] if is_partitioned else None
    optional = {"pool": pool, "partitions_def": partitions, "backfill_policy": backfill_policy}
    return declared | {name: value for name, value in optional.items() if value is not None}


def code_digests(graph: AssetGraph, asset: str) -> frozenset[str]:
    """Return the code digests that versions of an asset may have now: one for each module that may be chosen.

    Args:
        graph: Graph of all assets.
        asset: Name of an asset that was declared with ``declare``.
    """
    builder, *chosen = str(graph.get(dg.AssetKey(asset)).metadata[PRODUCER]).split(", ")
    return frozenset(code_digest(builder, *choice, kind=asset) for choice in ([[c] for c in chosen] or [[]]))
