"""The frozen list of the versions that a training run reads."""

from typing import cast

import dagster as dg

from assets.declarations import Reads, all_of, declare
from assets.partition_runs import partitioned_asset
from pipeline.run_config import HomeSelection, TrainingSetSelector
from storage.kinds import Kind, trainable_kinds
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized
from student.config import Variant

ONE_VARIANT_A_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)

READ_OF: dict[Kind, Reads] = {
    Kind.TEACHER_DEPTH: "scenes_with_field",
    Kind.VIRTUAL_VIEWS: "scenes_with_field",
    Kind.TEACHER_FEATURES: "scenes_with_field_features",
}
"""Targets that a student waits for only if it is to learn from them, or from what is rendered beside them."""

TARGETS = tuple(all_of(kind, reads=READ_OF.get(kind, "scenes")) for kind in trainable_kinds())
"""What a student learns from."""


@partitioned_asset(
    **declare(
        group="student",
        kinds={"zarr", "icechunk"},
        makes=Kind.TRAINING_SET,
        producer="student.data.training_set",
        backfill_policy=ONE_VARIANT_A_RUN,
        task="student",
        work="student",
    ),
    deps=[all_of(Kind.SCENE_AUDIT, reads="scenes"), *TARGETS],
    description=(
        "The exact version of every store that a student will read, split included. Refuses what is missing, what did "
        "not pass its gate, and what was made from different versions of one scene."
    ),
    selector=TrainingSetSelector,
)
def training_set(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Freeze the training set of a variant."""
    from student.data.training_set import freeze_training_set

    return freeze_training_set(home, key, selection.training_set(cast("Variant", key)), tell)
