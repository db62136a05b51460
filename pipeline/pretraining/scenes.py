"""Make everything that pretraining reads of procedural drives: scenes, exact depth and views, image teachers."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.presets import PipelineConfig
from pipeline.pretraining.drives import drive, held_out_drive
from storage.ingest.occupancy_labels import ingest_occupancy_labels
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.kinds import FEATURE_SOURCES, FeatureSource, Kind
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home
from storage.targets.images import resize_scene_images
from teachers.exact import ExactTeacherConfig, exact_depth, exact_virtual_views
from teachers.image.run import extract_depth_anything, extract_patch_features, extract_sky_mask, fit_feature_basis

logger = logging.getLogger(__name__)

_BASIS_DRIVES = 2
"""Drives whose frames the bases of features are fitted to, before anything else is made."""


def make_scenes(home: Home, config: PipelineConfig, indices: Sequence[int]) -> None:
    """Make the held-out drive and some others, as far as they are not there.

    Args:
        home: Home of everything.
        config: Sizes and image teachers.
        indices: Drives to learn from.
    """
    first = [record(home, config, drive(index)) for index in indices[:_BASIS_DRIVES]]
    for source in _sources(config):
        keys = [str(key) for keys in first for key in keys]
        fit_feature_basis(home, source, keys, config.image_teachers.basis_of(source))
    for procedural in (held_out_drive(), *map(drive, indices)):
        for key in record(home, config, procedural):
            _teach(home, config, key)
        logger.info("%s is there", procedural.dataset)


def complete_scenes(home: Home, kinds: Sequence[str]) -> Iterator[str]:
    """Yield the keys of the drives' scenes that have every kind, held-out ones among them."""
    scenes = {version.partition for version in home.versions() if version.kind == Kind.SCENE}
    for key in sorted(scenes):
        if all(home.latest(kind, key) is not None for kind in kinds):
            yield key


def is_held_out(key: str) -> bool:
    """Return whether a scene is one that the student is judged on."""
    return SceneKey.parse(key).dataset == held_out_drive().dataset


def record(home: Home, config: PipelineConfig, procedural: ProceduralConfig) -> list[SceneKey]:
    """Record a drive and ingest its scenes, as far as that is not done."""
    keys = generate_dataset(home, _recordings(home) / procedural.dataset, procedural)
    for key in keys:
        ingest_scene(home, key, config.ingest)
    return keys


def _recordings(home: Home) -> Path:
    return home.root / "recordings"


def _teach(home: Home, config: PipelineConfig, key: SceneKey) -> None:
    resize_scene_images(home, key, config.input_images)
    views = config.virtual_views
    exact = ExactTeacherConfig(
        depth_size=config.teacher_depth.size,
        view_size=views.size,
        view_names=views.view_names,
        camera_shifts_m=views.camera_shifts_m,
    )
    exact_depth(home, str(key), exact)
    exact_virtual_views(home, str(key), exact)
    ingest_occupancy_labels(home, key)  # for heads, which the student never sees
    extract_sky_mask(home, key, config.image_teachers.sky)
    extract_depth_anything(home, key, config.image_teachers.depth_anything)
    for source in _sources(config):
        extract_patch_features(home, key, source, config.image_teachers.basis_of(source).extractor)


def _sources(config: PipelineConfig) -> list[FeatureSource]:
    return [source for source in FEATURE_SOURCES if source in config.student.data.feature_sources]
