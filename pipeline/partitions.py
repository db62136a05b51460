"""What the assets are partitioned by.

A scene is one partition: per-frame partitions would pass the number that Dagster's UI can show, and a teacher is fitted
to a whole scene anyway. Keys are ``<dataset>.<scene_name>``; no comma can occur in one, which Dagster's backfills need.
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
"""One partition per student: what it is taught."""


PARTITIONS: dict[Partitioning, dg.PartitionsDefinition] = {
    "scene": scenes,
    "feature_source": feature_sources,
    "variant": variants,
}
"""Dagster's partitions of the kinds, by what one partition is."""


def add_scene_partitions(instance: dg.DagsterInstance, scene_keys: Iterable[str]) -> list[str]:
    """Add partitions for scenes that have none yet, and return those that were added."""
    known = set(instance.get_dynamic_partitions(SCENES))
    added = [str(key) for key in scene_keys if str(key) not in known]
    if added:
        instance.add_dynamic_partitions(SCENES, added)
    return added
