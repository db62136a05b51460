"""Everything that Dagster loads. Loading it imports neither torch nor any model library."""

import warnings

import dagster as dg

from assets import evaluation, image_targets, nerf_teachers, scenes, student, training_set
from assets.checks import ALL_CHECKS
from pipeline.jobs import ALL_JOBS
from pipeline.progress import ProgressLog
from pipeline.resources import default_resources
from pipeline.schedules import nightly_evaluation
from pipeline.sensors import registered_scenes

# Dagster notes that "everything" holds light and heavy assets and takes the smaller batch of both: what is wanted.
warnings.filterwarnings("ignore", message=r"Asset job everything ")


def build_definitions(progress: ProgressLog | None = None, **resources: object) -> dg.Definitions:
    """Return the definitions.

    Args:
        progress: Where progress goes, where somebody watches the process that runs them.
        resources: Resources that replace those of the environment, by key.
    """
    return dg.Definitions(
        assets=dg.load_assets_from_modules(
            [scenes, image_targets, nerf_teachers, training_set, student, evaluation], include_specs=True
        ),
        asset_checks=ALL_CHECKS,
        jobs=ALL_JOBS,
        schedules=[nightly_evaluation],
        sensors=[registered_scenes],
        resources=default_resources(progress) | resources,
        # Importing torch and transformers costs seconds for each process: the steps of a run share one. What must not
        # share it, the scene teacher, has a process of its own anyway.
        executor=dg.in_process_executor,
    )


definitions = build_definitions()
