"""The feed-forward student."""

from typing import cast

from assets.declarations import GPU_POOL, declare
from assets.partition_runs import partitioned_asset
from assets.training_set import ONE_VARIANT_A_RUN
from pipeline.run_config import HomeSelection
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized
from student.config import Variant


@partitioned_asset(
    **declare(
        group="student",
        kinds={"pytorch", "safetensors"},
        makes=Kind.STUDENT_CHECKPOINT,
        producer="student.training.fit",
        pool=GPU_POOL,
        backfill_policy=ONE_VARIANT_A_RUN,
        task="student",
        work="student",
    ),
    deps=["training_set"],
    description=(
        "A student as safetensors, with its configuration, model card and bill of materials: the exact version of "
        "every store that each training sample came from."
    ),
)
def student_checkpoint(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Fit a student, going on from its last saved state."""
    from student.training.fit import fit_student

    return fit_student(home, key, selection.resolve(cast("Variant", key)).student, tell)
