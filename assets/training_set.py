"""The frozen list of what a training run will read."""

from typing import cast

import dagster as dg

from assets.declarations import all_of, declare
from assets.partition_runs import partitioned_asset
from pipeline.partitions import variants
from pipeline.progress import ProgressCallback
from pipeline.run_config import HomeSelection, TrainingSetSelector
from storage.stores.versioned import Home, Materialized
from student.config import Variant

ONE_VARIANT_A_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)

TARGETS = (
    "scene",
    "input_images",
    "teacher_depth",
    "virtual_views",
    "sky_mask",
    "depth_anything_features",
    "dinov2_features",
    "clip_features",
)


@partitioned_asset(
    **declare(
        group="student",
        kinds={"zarr", "icechunk"},
        modules=["student.data.training_set"],
        partitions_def=variants,
        backfill_policy=ONE_VARIANT_A_RUN,
        task="student",
        work="student",
    ),
    deps=[all_of(target, reads="scenes") for target in TARGETS],
    description=(
        "The exact version of every store that a student will read, split included. Refuses what is missing, what did "
        "not pass its gate, and what was made from different versions of one scene."
    ),
    selector=TrainingSetSelector,
)
def training_set(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Freeze the training set of a variant."""
    from student.data.training_set import freeze_training_set

    return freeze_training_set(home, key, selection.training_set(cast("Variant", key)))
