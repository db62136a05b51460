"""Dagster sensors. All are stopped until somebody switches them on in the UI."""

import dagster as dg

from pipeline.partitions import SCENES, scenes
from pipeline.resources import HomeResource
from storage.errors import SourceDataError, SourceMovedError
from storage.ingest.source import list_scenes, load_source, registered_datasets


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Adds a partition for every scene of every registered source. Materialises nothing.",
)
def registered_scenes(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
    """Add partitions for scenes of registered sources that lack one."""
    known = set(context.instance.get_dynamic_partitions(SCENES))
    found, rejected = [], []
    opened = home.open()
    for dataset in registered_datasets(opened):
        try:
            source = load_source(opened, dataset)
            found += [str(key) for key in list_scenes(source, on_rejected=rejected.append)]
        except (SourceDataError, SourceMovedError) as error:
            rejected.append(error)
    for error in rejected:  # one broken source must not hide the scenes of the others
        context.log.warning(str(error))
    added = sorted(set(found) - known)
    if not added:
        return dg.SensorResult(skip_reason=f"{len(found)} scenes registered, none of them new")
    return dg.SensorResult(dynamic_partitions_requests=[scenes.build_add_request(added)])
