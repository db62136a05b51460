"""Partitions of the assets.

A scene is one partition: Dagster's UI could not show a partition per frame, and a teacher is fitted to a whole scene
anyway. Keys are ``<dataset>.<scene_name>``, without commas, as Dagster's backfills need.
"""

from collections.abc import Iterable
from typing import get_args

import dagster as dg

from storage.kinds import FEATURE_SOURCES, Partitioning
from student.config import Variant

SCENES = "scenes"

scenes = dg.DynamicPartitionsDefinition(name=SCENES)
"""One partition per scene; keys are added when a source is registered."""

feature_sources = dg.StaticPartitionsDefinition(list(FEATURE_SOURCES))
"""One partition per foundation model whose features are reduced by a basis."""

variants = dg.StaticPartitionsDefinition(list(get_args(Variant)))
"""One partition per student variant."""


PARTITIONS: dict[Partitioning, dg.PartitionsDefinition] = {
    "scene": scenes,
    "feature_source": feature_sources,
    "variant": variants,
}
"""Dagster's partitions by the meaning of one partition."""


def add_scene_partitions(instance: dg.DagsterInstance, scene_keys: Iterable[str]) -> list[str]:
    """Add partitions for scenes without one, and return the added keys."""
    known = set(instance.get_dynamic_partitions(SCENES))
    added = [str(key) for key in scene_keys if str(key) not in known]
    if added:
        instance.add_dynamic_partitions(SCENES, added)
    return added
