"""Image teachers as plain functions, one per asset, which find their version or build it.

Every function reads the current version of the scene, records it as an input, and returns the version of its result.
Models are chosen here, so that the code digest of one extraction is independent of the other models.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.keys import SceneKey
from storage.kinds import FeatureSource
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, Materialized
from teachers.config import DepthAnythingConfig, FeatureBasisConfig, PatchFeatureConfig, SkyConfig

if TYPE_CHECKING:
    from teachers.image.patch_features import PatchFeatureModel


def extract_sky_mask(
    home: Home, scene_key: SceneKey | str, config: SkyConfig, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Segment the sky in every image of a scene: kind ``sky_mask``.

    Raises:
        MissingTargetError: If the scene was not ingested, or the weights are missing.
        IntegrityError: If the weights are damaged, of another architecture, or have no label "sky".
    """
    from teachers.image.extract_sky import extract
    from teachers.image.pointrend import PointRendSegmenter
    from teachers.image.sky import SkySegmenter

    segmenter = SkySegmenter if config.segmenter == "segformer" else PointRendSegmenter
    return extract(home, SceneReader.open(home, scene_key), segmenter, config, on_progress)


def extract_depth_anything(
    home: Home, scene_key: SceneKey | str, config: DepthAnythingConfig, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Extract monocular depth features from every image of a scene: kind ``depth_anything_features``.

    Raises:
        MissingTargetError: If the scene was not ingested, or the weights are missing.
        IntegrityError: If the weights are damaged or of another architecture.
    """
    from teachers.image.extract_depth import extract

    return extract(home, SceneReader.open(home, scene_key), config, on_progress)


def extract_patch_features(
    home: Home,
    scene_key: SceneKey | str,
    feature_source: FeatureSource,
    config: PatchFeatureConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Extract the features of a feature source, reduced by its current basis: kind ``<feature source>_features``.

    Raises:
        MissingTargetError: If the scene or the basis is not there, or the weights cannot be had.
        ProvenanceMismatchError: If the basis was fitted to other weights than the config names.
    """
    from teachers.image.extract_patches import extract

    return extract(home, SceneReader.open(home, scene_key), patch_feature_model(feature_source), config, on_progress)


def fit_feature_basis(
    home: Home,
    feature_source: FeatureSource,
    scene_keys: Sequence[SceneKey | str],
    config: FeatureBasisConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Fit the PCA of a feature source on a sample of frames: kind ``feature_basis``, partition the source.

    Raises:
        MissingTargetError: If a scene was not ingested, or the weights are missing.
        IntegrityError: If features are not finite.
        ValueError: If no scene is given, or the features vary in fewer directions than components are asked for.
    """
    from teachers.image.extract_patches import fit

    if not scene_keys:
        raise ValueError("scene_keys is empty: want at least one scene to fit a basis on")
    readers = [SceneReader.open(home, key) for key in sorted({str(key) for key in scene_keys})]
    return fit(home, patch_feature_model(feature_source), readers, config, on_progress)


def patch_feature_model(feature_source: FeatureSource) -> "type[PatchFeatureModel]":
    """Return the model of a feature source.

    Raises:
        KeyError: If there is none.
    """
    from teachers.image.clip import ClipFeatures
    from teachers.image.dinov2 import Dinov2Features

    models = (Dinov2Features, ClipFeatures)
    return {model.feature_source: model for model in models}[feature_source]
