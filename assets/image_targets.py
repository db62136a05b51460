"""Targets of frozen foundation models for each image: sky, monocular depth, DINOv2 and CLIP features."""

from typing import cast

import dagster as dg

from assets.declarations import all_of, declare
from assets.partition_runs import partitioned_asset
from assets.scenes import LIGHT_BACKFILL
from pipeline.progress import ProgressCallback
from pipeline.run_config import HomeSelection, TrainingSceneSelector
from storage.keys import SceneKey
from storage.kinds import FeatureSource, Kind
from storage.stores.versioned import Home, Materialized

_GROUP = "image_teachers"
_KINDS = {"pytorch", "huggingface", "zarr"}
_PATCHES = "teachers.image.extract_patches"


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.SKY_MASK,
        producer=("teachers.image.extract_sky", "teachers.image.sky", "teachers.image.pointrend"),
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=["scene"],
    description="Where each image shows sky, as probability and mask. Its gate counts LiDAR returns that fall on sky.",
)
def sky_mask(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Segment the sky."""
    from teachers.image.run import extract_sky_mask

    return extract_sky_mask(home, SceneKey.parse(key), selection.resolve().image_teachers.sky, tell)


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.DEPTH_ANYTHING_FEATURES,
        producer="teachers.image.extract_depth",
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
    ),
    deps=["scene"],
    description="Features of a monocular depth model. Its gate compares the depth behind them with LiDAR, by rank.",
)
def depth_anything_features(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Extract monocular depth features."""
    from teachers.image.run import extract_depth_anything

    return extract_depth_anything(home, SceneKey.parse(key), selection.resolve().image_teachers.depth_anything, tell)


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.FEATURE_BASIS,
        producer=(_PATCHES, "teachers.image.dinov2", "teachers.image.clip"),
    ),
    deps=[all_of("scene", reads="train_scenes")],
    description="PCA of each foundation model's features, fitted on a declared sample of training frames.",
    selector=TrainingSceneSelector,
)
def feature_basis(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Fit the basis of a feature source on the training scenes."""
    from teachers.image.run import fit_feature_basis

    teachers = selection.resolve().image_teachers
    bases = {"dinov2": teachers.dinov2_basis, "clip": teachers.clip_basis}
    return fit_feature_basis(home, cast("FeatureSource", key), selection.scenes_to_learn_from(), bases[key], tell)


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.DINOV2_FEATURES,
        producer=(_PATCHES, "teachers.image.dinov2"),
        backfill_policy=LIGHT_BACKFILL,
        task="features",
    ),
    deps=["scene", dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping(["dinov2"]))],
    description="DINOv2 patch features of every image, reduced by the basis to at most 64 channels in [0, 1].",
)
def dinov2_features(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Extract DINOv2 features."""
    from teachers.image.run import extract_dinov2

    return extract_dinov2(home, SceneKey.parse(key), selection.resolve().image_teachers.dinov2, tell)


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.CLIP_FEATURES,
        producer=(_PATCHES, "teachers.image.clip"),
        backfill_policy=LIGHT_BACKFILL,
        task="features",
    ),
    deps=["scene", dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping(["clip"]))],
    description="Dense CLIP features of every image, reduced by the basis; words compare with them in CLIP's space.",
)
def clip_features(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Extract CLIP features."""
    from teachers.image.run import extract_clip

    return extract_clip(home, SceneKey.parse(key), selection.resolve().image_teachers.clip, tell)
