"""Everything that Dagster loads. Loading it imports no model library, torch included."""

import warnings

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not exported, but what Definitions resolve

from assets import evaluation, image_targets, nerf_teachers, scenes, student, training_set
from assets.checks import ALL_CHECKS
from pipeline.jobs import ALL_JOBS
from pipeline.progress import ProgressLog
from pipeline.resources import default_resources, executor_from_environment
from pipeline.schedules import nightly_evaluation, nightly_new_scenes
from pipeline.sensors import registered_scenes, student_alerts

# Dagster notes that "everything" holds light and heavy assets and takes the smaller batch of both: what is wanted.
warnings.filterwarnings("ignore", message=r"Asset job everything ")


_ASSETS = dg.load_assets_from_modules(
    [scenes, image_targets, nerf_teachers, training_set, student, evaluation], include_specs=True
)


STEPS = frozenset(
    made.node_def.name
    for made in (*_ASSETS, *ALL_CHECKS)
    if isinstance(made, dg.AssetsDefinition) and made.is_executable  # a check is one too
)
"""Names of the steps of runs: each makes one asset, or several, or is a check."""


def asset_graph() -> AssetGraph:
    """Return the graph of all assets: their inputs, their partitions, and the assets that share a run."""
    return dg.Definitions(assets=_ASSETS, resources=default_resources()).resolve_asset_graph()


def build_definitions(
    progress: ProgressLog | None = None, *, by_command: bool = False, **resources: object
) -> dg.Definitions:
    """Return the definitions.

    Args:
        progress: Receiver of progress; None if nobody watches the process that runs them.
        by_command: Whether a command of this machine executes the runs.
        resources: Resources that replace those of the environment, by key.
    """
    return dg.Definitions(
        assets=_ASSETS,
        asset_checks=ALL_CHECKS,
        jobs=ALL_JOBS,
        schedules=[nightly_evaluation, nightly_new_scenes],
        sensors=[registered_scenes, student_alerts],
        resources=default_resources(progress, by_command=by_command) | resources,
        executor=executor_from_environment(STEPS),
    )


definitions = build_definitions()
