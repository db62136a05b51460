"""What frozen foundation models see in each image: sky, monocular depth, DINOv2 and CLIP features."""

from collections.abc import Iterator
from typing import cast

import dagster as dg

from assets.declarations import declare
from assets.partition_runs import materialize_each
from assets.scenes import LIGHT_BACKFILL
from pipeline.partitions import feature_sources, scenes
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import RunSelector
from storage.keys import SceneKey
from teachers.config import FeatureSource

_GROUP = "image_teachers"
_KINDS = {"pytorch", "huggingface", "zarr"}
_SHARED = (
    "teachers.image.extraction",
    "teachers.image.image_batches",
    "teachers.image.frame_writer",
    "teachers.image.weights",
    "storage.scenes.store",
)
_PATCHES = (*_SHARED, "teachers.image.extract_patches", "teachers.image.feature_basis")


@dg.asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        modules=[*_SHARED, "teachers.image.extract_sky", "teachers.image.sky", "storage.scenes.lidar"],
        partitions_def=scenes,
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene"],
    description="Where each image shows sky, as probability and mask. Its gate counts LiDAR returns that fall on sky.",
)
def sky_mask(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Segment the sky."""
    from teachers.image.run import extract_sky_mask

    settings = config.resolve(home.open().root).image_teachers.sky
    yield from materialize_each(
        context, home, progress, lambda at, key, tell: extract_sky_mask(at, SceneKey.parse(key), settings, tell)
    )


@dg.asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        modules=[
            *_SHARED,
            "teachers.image.extract_depth",
            "teachers.image.depth_anything",
            "storage.scenes.lidar",
        ],
        partitions_def=scenes,
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene"],
    description="Features of a monocular depth model. Its gate compares the depth behind them with LiDAR, by rank.",
)
def depth_anything_features(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Extract monocular depth features."""
    from teachers.image.run import extract_depth_anything

    settings = config.resolve(home.open().root).image_teachers.depth_anything
    yield from materialize_each(
        context, home, progress, lambda at, key, tell: extract_depth_anything(at, SceneKey.parse(key), settings, tell)
    )


@dg.asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        modules=[*_PATCHES, "teachers.image.dinov2", "teachers.image.clip"],
        partitions_def=feature_sources,
    ),
    deps=[dg.AssetDep("scene", partition_mapping=dg.AllPartitionMapping())],
    description="PCA of each foundation model's features, fitted on a declared sample of training frames.",
)
def feature_basis(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Fit the basis of a feature source on the training scenes."""
    from teachers.image.run import fit_feature_basis

    selection = config.selection(home.open().root)
    teachers = selection.resolve().image_teachers
    bases = {"dinov2": teachers.dinov2_basis, "clip": teachers.clip_basis}
    train = selection.scenes_to_learn_from()
    yield from materialize_each(
        context,
        home,
        progress,
        lambda at, key, tell: fit_feature_basis(at, cast("FeatureSource", key), train, bases[key], tell),
    )


@dg.asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        modules=[*_PATCHES, "teachers.image.dinov2"],
        partitions_def=scenes,
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene", dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping(["dinov2"]))],
    description="DINOv2 patch features of every image, reduced by the basis to at most 64 channels in [0, 1].",
)
def dinov2_features(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Extract DINOv2 features."""
    from teachers.image.run import extract_dinov2

    settings = config.resolve(home.open().root).image_teachers.dinov2
    yield from materialize_each(
        context, home, progress, lambda at, key, tell: extract_dinov2(at, SceneKey.parse(key), settings, tell)
    )


@dg.asset(
    **declare(
        group=_GROUP,
        kinds=_KINDS,
        modules=[*_PATCHES, "teachers.image.clip"],
        partitions_def=scenes,
        backfill_policy=LIGHT_BACKFILL,
    ),
    deps=["scene", dg.AssetDep("feature_basis", partition_mapping=dg.SpecificPartitionsPartitionMapping(["clip"]))],
    description="Dense CLIP features of every image, reduced by the basis; words compare with them in CLIP's space.",
)
def clip_features(
    context: dg.AssetExecutionContext,
    config: RunSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
) -> Iterator[dg.MaterializeResult]:
    """Extract CLIP features."""
    from teachers.image.run import extract_clip

    settings = config.resolve(home.open().root).image_teachers.clip
    yield from materialize_each(
        context, home, progress, lambda at, key, tell: extract_clip(at, SceneKey.parse(key), settings, tell)
    )
