"""Evaluation and use of a student: scores, a report page, labels to train others with."""

from collections.abc import Iterator
from typing import cast

import dagster as dg

from assets.declarations import TEAM, all_of, declare
from assets.failures import ends_when_told
from assets.image_targets import CLIP_BASIS
from assets.partition_runs import LOOK_UPS, materialize_each, partitioned_asset
from assets.scenes import LIGHT_BACKFILL
from assets.training_set import ONE_VARIANT_A_RUN, TARGETS
from pipeline.partitions import PARTITIONS
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection, TransferSelector, WeakLabelSelector
from storage.keys import SceneKey
from storage.kinds import FEATURE_SOURCES, FeatureSource, Kind, features_kind
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized
from student.config import Variant


@partitioned_asset(
    **declare(
        group="results",
        kinds={"pytorch", "json"},
        makes=Kind.STUDENT_EVALUATION,
        producer="student.evaluation.evaluate",
        backfill_policy=ONE_VARIANT_A_RUN,
        task="evaluation",
        work="student",
        accelerator=True,
    ),
    deps=[
        "student_checkpoint",
        CLIP_BASIS,
        *TARGETS,
        all_of("scene_truth", reads="scenes"),
        all_of("occupancy_labels", reads="scenes"),
        all_of("teacher_occupancy", reads="judged_scenes_with_field"),
        all_of("lidar_occupancy", reads="recorded_scenes"),  # the others have their exact truth
    ],
    description=(
        "Scores on held-out scenes, each kind apart: reconstruction, novel view, depth, occupancy, semantics, "
        "calibration and a text query, with intervals and what a trivial predictor reaches."
    ),
)
def student_evaluation(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Score a student on held-out scenes."""
    from student.evaluation.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(home, key, selection.resolve(cast("Variant", key)).evaluation, tell)


@partitioned_asset(
    **declare(
        group="results",
        kinds={"pytorch", "json"},
        makes=Kind.TRANSFER_EVALUATION,
        producer="student.evaluation.transfer",
        backfill_policy=ONE_VARIANT_A_RUN,
        work="student",
        accelerator=True,
    ),
    deps=[
        "student_evaluation",  # chose threshold, calibration and temperature
        all_of("input_images", reads="evaluated_scenes"),
        all_of("depth_anything_features", reads="evaluated_scenes"),
        all_of("occupancy_labels", reads="evaluated_scenes"),
        all_of("lidar_occupancy", reads="evaluated_recordings"),
    ],
    description=(
        "Scores of a student on scenes outside its training set: new drives of this home, another rig, another data "
        "set. Thresholds, calibration and trivial predictors are those of its own training."
    ),
    selector=TransferSelector,
)
def transfer_evaluation(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Score a student on scenes that it never saw."""
    from student.evaluation.subject import open_subject
    from student.evaluation.transfer import evaluate_elsewhere, unseen_scenes
    from teachers.image.weights import clip_folder

    config = selection.resolve(cast("Variant", key)).evaluation
    subject = open_subject(
        home,
        selection.checkpoint,
        key,
        encoder_folder=clip_folder,
        text_encoder=config.text_encoder,
        device=config.device,
    )
    return evaluate_elsewhere(home, subject, selection.evaluated_scenes or unseen_scenes(home, subject), config, tell)


@dg.asset(
    **declare(
        group="results",
        kinds={"html"},
        makes=Kind.REPORT,
        producer="student.reporting.report",
        backfill_policy=ONE_VARIANT_A_RUN,
        task="evaluation",
        work="student",
    ),
    deps=["student_evaluation"],
    description="One self-contained page: truth, teacher and student side by side, scores, curves, gates and lineage.",
)
def report(
    context: dg.AssetExecutionContext,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Write the report page of an evaluation."""
    with ends_when_told("report"):
        yield from materialize_each(context, home, progress, _build_report)


def _build_report(home: Home, key: str, tell: ProgressCallback) -> Materialized:
    from student.reporting.report import ReportConfig, build_report

    return build_report(home, key, ReportConfig(title=f"Student {key}"), tell)


LOOK_UPS["report"] = lambda home, key, _: _build_report(home, key, lambda *_: None).version.digest


@partitioned_asset(
    **declare(
        group="results",
        kinds={"pytorch", "zarr"},
        makes=Kind.WEAK_LABELS,
        producer="student.applications.weak_labels",
        backfill_policy=LIGHT_BACKFILL,
        accelerator=True,
    ),
    deps=[
        "scene",
        "input_images",
        "depth_anything_features",
        all_of("student_checkpoint", reads="variants"),
        all_of("student_evaluation", reads="variants"),  # chose the threshold and the calibration
        CLIP_BASIS,
    ],
    description=(
        "Voxel and pixel labels that a student gives a scene, with the prompt, checkpoint, threshold and calibration "
        "that made them. Never a training target of a student here."
    ),
    selector=WeakLabelSelector,
)
def weak_labels(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Label a scene with a student."""
    from student.applications.weak_labels import export_weak_labels

    return export_weak_labels(home, SceneKey.parse(key), selection.variant, selection.resolve().weak_labels, tell)


@partitioned_asset(
    **declare(
        group="results",
        kinds={"numpy", "zarr"},
        makes=Kind.REGION_INDEX,
        producer="student.applications.region_index",
    ),
    deps=["feature_basis", *(all_of(features_kind(source), reads="scenes") for source in FEATURE_SOURCES)],
    description=(
        "Every image of every scene of the home as regions of like features, by which `distillnerf find` finds things. "
        "Scenes that did not change are taken from the previous version."
    ),
)
def region_index(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Index all scenes of the home that have features of a source."""
    from student.applications.region_index import build_region_index

    return build_region_index(home, cast("FeatureSource", key), on_progress=tell)


finetuned_head = dg.AssetSpec(
    "finetuned_head",
    group_name="results",
    kinds={"pytorch"},
    owners=[TEAM],
    partitions_def=PARTITIONS["variant"],
    deps=["student_checkpoint", all_of("occupancy_labels", reads="scenes")],
    description=(
        "Heads that were trained on labelled voxels, calibrated and scored on held-out scenes. Written by "
        "`distillnerf finetune`."
    ),
)

label_sheet = dg.AssetSpec(
    "label_sheet",
    group_name="results",
    kinds={"html"},
    owners=[TEAM],
    partitions_def=PARTITIONS["variant"],
    deps=[all_of("weak_labels", reads="scenes")],
    description="Random samples of weak labels and pages to judge them on. Written by `distillnerf labels sheet`.",
)

label_verdicts = dg.AssetSpec(
    "label_verdicts",
    group_name="results",
    kinds={"csv"},
    owners=[TEAM],
    partitions_def=PARTITIONS["variant"],
    deps=["label_sheet"],
    description=(
        "What people said of sampled weak labels, with precision and interval of each class. Written by "
        "`distillnerf labels accept`."
    ),
)
