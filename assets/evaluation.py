"""What a student is worth, and what it can be used for: scores, a page to read, labels to train others with."""

from collections.abc import Iterator
from typing import Literal, cast

import dagster as dg
from pydantic import Field

from assets.declarations import declare
from assets.partition_runs import materialize_each
from assets.scenes import LIGHT_BACKFILL
from assets.training_set import ONE_VARIANT_A_RUN, TARGETS
from pipeline.partitions import scenes, variants
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import RunSelector
from storage.keys import SceneKey
from student.config import Variant


@dg.asset(
    **declare(
        group="results",
        kinds={"pytorch", "json"},
        producer="student.evaluation.evaluate",
        partitions_def=variants,
        backfill_policy=ONE_VARIANT_A_RUN,
    ),
    deps=[
        "student_checkpoint",
        *(dg.AssetDep(target, partition_mapping=dg.AllPartitionMapping()) for target in (*TARGETS, "scene_truth")),
    ],
    description=(
        "Scores on held-out scenes, each kind apart: reconstruction, novel view, depth, occupancy, semantics, "
        "calibration and a text query, with intervals and what a trivial predictor reaches."
    ),
)
def student_evaluation(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Score a student on held-out scenes."""
    from student.evaluation.evaluate import evaluate_checkpoint

    selection = config.selection(home.open().root)
    yield from materialize_each(
        context,
        home,
        progress,
        lambda at, key, tell: evaluate_checkpoint(at, key, selection.resolve(cast("Variant", key)).evaluation, tell),
    )


@dg.asset(
    **declare(
        group="results",
        kinds={"html"},
        producer="student.reporting.report",
        partitions_def=variants,
        backfill_policy=ONE_VARIANT_A_RUN,
    ),
    deps=["student_evaluation"],
    description="One self-contained page: truth, teacher and student side by side, scores, curves, gates and lineage.",
)
def report(
    context: dg.AssetExecutionContext,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Write the page of an evaluation."""
    from student.reporting.report import ReportConfig, build_report

    yield from materialize_each(
        context, home, progress, lambda at, key, tell: build_report(at, key, ReportConfig(title=f"Student {key}"), tell)
    )


class WeakLabelSelector(RunSelector):
    """Which student labels a scene, beside the configuration."""

    variant: Literal["of_home", "clip", "clip_dinov2"] = Field(
        default="of_home", description="The student; it must render CLIP features to know classes by their names."
    )


@dg.asset(
    **declare(
        group="results",
        kinds={"pytorch", "zarr"},
        producer="student.applications.weak_labels",
        partitions_def=scenes,
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene", "input_images", dg.AssetDep("student_checkpoint", partition_mapping=dg.AllPartitionMapping())],
    description=(
        "Voxel and pixel labels that a student gives a scene, with the prompt, checkpoint, threshold and calibration "
        "that made them. Never a training target of a student here."
    ),
)
def weak_labels(
    context: dg.AssetExecutionContext,
    config: WeakLabelSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Label scenes with a student."""
    from student.applications.weak_labels import export_weak_labels

    selection = config.selection(home.open().root)
    variant = selection.variant if config.variant == "of_home" else cast("Variant", config.variant)
    settings = selection.resolve(variant).weak_labels
    yield from materialize_each(
        context,
        home,
        progress,
        lambda at, key, tell: export_weak_labels(at, SceneKey.parse(key), variant, settings, tell),
    )
