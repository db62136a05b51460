"""The feed-forward student."""

from collections.abc import Iterator
from typing import cast

import dagster as dg

from assets.declarations import GPU_POOL, declare
from assets.partition_runs import materialize_each
from assets.training_set import ONE_VARIANT_A_RUN
from pipeline.partitions import variants
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import RunSelector
from student.config import Variant


@dg.asset(
    **declare(
        group="student",
        kinds={"pytorch", "safetensors"},
        producer="student.training.fit",
        pool=GPU_POOL,
        partitions_def=variants,
        backfill_policy=ONE_VARIANT_A_RUN,
    ),
    deps=["training_set"],
    description=(
        "A student as safetensors, with its configuration, model card and bill of materials: the exact version of "
        "every store that each training sample came from."
    ),
)
def student_checkpoint(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Fit a student, going on from its last saved state."""
    from student.training.fit import fit_student

    selection = config.selection(home.open().root)
    yield from materialize_each(
        context,
        home,
        progress,
        lambda at, key, tell: fit_student(at, key, selection.resolve(cast("Variant", key)).student, tell),
    )
