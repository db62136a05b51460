"""Targets of frozen foundation models for each image: sky, monocular depth, DINOv2 and CLIP features."""

from typing import cast

import dagster as dg

from assets.declarations import all_of, declare
from assets.partition_runs import partitioned_asset
from assets.scenes import LIGHT_BACKFILL
from pipeline.run_config import FeatureBasisSelector, HomeSelection
from storage.keys import SceneKey
from storage.kinds import FEATURE_SOURCES, KINDS, FeatureSource, Kind, features_kind
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized

_GROUP = "image_teachers"
_KINDS = {"pytorch", "huggingface", "zarr"}
_PATCHES = "teachers.image.extract_patches"

CLIP_BASIS = dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping(["clip"]))
"""Dependency of everything that compares features with words."""


def _module_of(source: FeatureSource) -> str:
    """Return the module that the model of a feature source is in."""
    return f"teachers.image.{source}"


@partitioned_asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        makes=Kind.SKY_MASK,
        producer=("teachers.image.extract_sky", "teachers.image.sky", "teachers.image.pointrend"),
        backfill_policy=LIGHT_BACKFILL,
        task="scene",
        accelerator=True,
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
        accelerator=True,
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
        producer=(_PATCHES, *map(_module_of, FEATURE_SOURCES)),
        accelerator=True,
    ),
    deps=[all_of("scene", reads="scenes_of_basis")],
    description="PCA of each foundation model's features, fitted on a declared sample of training frames.",
    selector=FeatureBasisSelector,
)
def feature_basis(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
    """Fit the basis of a feature source on the training scenes."""
    from teachers.image.run import fit_feature_basis

    source = cast("FeatureSource", key)
    config = selection.resolve().image_teachers.basis_of(source)
    selection.scenes_to_learn_from()  # there must be some
    return fit_feature_basis(home, source, selection.scenes_of_basis, config, tell)


def _features(source: FeatureSource) -> dg.AssetsDefinition:
    """Return the asset of the features that one foundation model gives."""
    kind = features_kind(source)

    def make(home: Home, key: str, selection: HomeSelection, tell: ProgressCallback) -> Materialized:
        from teachers.image.run import extract_patch_features

        extractor = selection.resolve().image_teachers.basis_of(source).extractor
        return extract_patch_features(home, SceneKey.parse(key), source, extractor, tell)

    make.__name__ = str(kind)
    return partitioned_asset(
        **declare(
            group=_GROUP,
            kinds=_KINDS,
            makes=kind,
            producer=(_PATCHES, _module_of(source)),
            backfill_policy=LIGHT_BACKFILL,
            task="features",
            accelerator=True,
        ),
        deps=["scene", dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping([source]))],
        description=KINDS[kind].holds,
    )(make)


features = [_features(source) for source in FEATURE_SOURCES]
