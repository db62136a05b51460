"""The frozen list of what a training run will read."""

from collections.abc import Iterator
from typing import cast

import dagster as dg
from pydantic import Field

from assets.declarations import declare
from assets.partition_runs import materialize_each
from pipeline.partitions import variants
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import RunSelector
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


class TrainingSetSelector(RunSelector):
    """Which scenes a training set holds, beside the configuration."""

    train_scenes: list[str] = Field(
        default_factory=list, description="Scenes to learn from; empty takes those that the home's own runs use."
    )
    validation_scenes: list[str] = Field(default_factory=list, description="Scenes held out, likewise.")


@dg.asset(
    **declare(
        group="student",
        kinds={"zarr", "icechunk"},
        producer="student.data.training_set",
        partitions_def=variants,
        backfill_policy=ONE_VARIANT_A_RUN,
    ),
    deps=[dg.AssetDep(target, partition_mapping=dg.AllPartitionMapping()) for target in TARGETS],
    description=(
        "The exact version of every store that a student will read, split included. Refuses what is missing, what did "
        "not pass its gate, and what was made from different versions of one scene."
    ),
)
def training_set(
    context: dg.AssetExecutionContext,
    config: TrainingSetSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Freeze the training set of a variant."""
    from student.data.training_set import freeze_training_set

    selection = config.selection(home.open().root).with_scenes(config.train_scenes, config.validation_scenes)
    yield from materialize_each(
        context,
        home,
        progress,
        lambda at, key, _: freeze_training_set(at, key, selection.training_set(cast("Variant", key))),
    )
