"""The per-scene field and the targets rendered from it, made by nerfstudio in its own environment.

One worker process does all selected steps of a scene, because starting nerfstudio takes as long as a render.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError  # not exported, but what PipesSubprocessClient raises

from assets.declarations import GPU_POOL, declare, kubernetes_tags
from assets.failures import INFRASTRUCTURE_RETRIES, ends_when_told, stops_retries
from assets.metadata import describe
from assets.partition_runs import LOOK_UPS, LookUp
from pipeline.presets import PipelineConfig
from pipeline.process_tree import ends_children
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource, NerfstudioEnvironment
from pipeline.run_config import TrainingSetSelector
from storage.errors import ErrorKind
from storage.kinds import FEATURE_SOURCES, features_kind
from storage.stores import catalog
from storage.stores.versioned import Home, Materialized, NothingBuiltError
from teachers.nerf.provenance import MODULE_OF, find_existing
from teachers.nerf.task import KIND_OF, Action, NerfStep, NerfTask, read_result

ONE_SCENE_A_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
"""Backfill policy of one scene per run: a fit takes minutes to hours, and a failure must not cost other scenes."""

_EXIT_CODE = re.compile(r"code (-?\d+)")


def _declare(action: Action, kinds: set[str], *, task: str = "scene_teacher") -> dict[str, Any]:
    declared = declare(
        group="scene_teacher",
        kinds=kinds,
        makes=KIND_OF[action],
        producer=MODULE_OF[action],
        task=task,
        work="scene_teacher",
    )
    of_the_step = ("retry_policy", "op_tags")
    return {name: value for name, value in declared.items() if name not in of_the_step}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "nerf_teacher",
            deps=["scene", "sky_mask"],
            description=(
                "A neural field of one scene, fitted by nerfstudio to images, LiDAR and sky masks. Its gate holds "
                "PSNR of held-out frames, depth against held-out LiDAR and opacity of the sky."
            ),
            **_declare("fit", {"pytorch", "nerfstudio"}),
        ),
        dg.AssetSpec(
            "teacher_depth",
            deps=["nerf_teacher"],
            description="Termination depth and opacity at every training camera, rendered from the field.",
            **_declare("render_depth", {"nerfstudio", "zarr"}),
        ),
        dg.AssetSpec(
            "virtual_views",
            deps=["nerf_teacher"],
            description="Images and depth at poses the car never had: 1 m to the left, to the right and above.",
            **_declare("render_virtual_views", {"nerfstudio", "zarr"}),
        ),
        dg.AssetSpec(
            "teacher_occupancy",
            deps=["nerf_teacher"],
            description=(
                "The field's opacity of voxels around held-out frames: what the student's own teacher reaches where "
                "its occupancy is judged. Evaluation reads it; the training loader refuses it."
            ),
            **_declare("read_occupancy", {"nerfstudio", "zarr"}),
        ),
    ],
    name="scene_teacher",
    can_subset=True,
    pool=GPU_POOL,
    backfill_policy=ONE_SCENE_A_RUN,
    retry_policy=INFRASTRUCTURE_RETRIES,
    op_tags=kubernetes_tags("scene_teacher", accelerator=True),
)
def scene_teacher(
    context: dg.AssetExecutionContext,
    config: TrainingSetSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
    nerfstudio: NerfstudioEnvironment,
    pipes: dg.PipesSubprocessClient,
) -> Iterator[dg.MaterializeResult]:
    """Fit the field of a scene and render depth and virtual views from it, those that are selected."""
    actions: list[Action] = ["fit", "render_depth", "render_virtual_views", "read_occupancy"]
    yield from _do_selected(actions, context, config, home, progress, nerfstudio, pipes)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "feature_field",
            deps=["nerf_teacher", *(str(features_kind(source)) for source in FEATURE_SOURCES)],
            description="Foundation features distilled into the scene's field, judged on frames not distilled.",
            **_declare("distil_features", {"pytorch", "nerfstudio"}, task="teacher_features"),
        ),
        dg.AssetSpec(
            "teacher_features",
            deps=["feature_field"],
            description="The feature field rendered at every camera: features that agree between views.",
            **_declare("render_features", {"nerfstudio", "zarr"}, task="teacher_features"),
        ),
    ],
    name="distilled_features",
    can_subset=True,
    pool=GPU_POOL,
    backfill_policy=ONE_SCENE_A_RUN,
    retry_policy=INFRASTRUCTURE_RETRIES,
    op_tags=kubernetes_tags("scene_teacher", accelerator=True),
)
def distilled_features(
    context: dg.AssetExecutionContext,
    config: TrainingSetSelector,
    home: HomeResource,
    progress: dg.ResourceParam[ProgressLog],
    nerfstudio: NerfstudioEnvironment,
    pipes: dg.PipesSubprocessClient,
) -> Iterator[dg.MaterializeResult]:
    """Distil image features into the field of a scene and render them, those that are selected."""
    actions: list[Action] = ["distil_features", "render_features"]
    yield from _do_selected(actions, context, config, home, progress, nerfstudio, pipes)


def _do_selected(
    actions: Sequence[Action],
    context: dg.AssetExecutionContext,
    config: TrainingSetSelector,
    home: HomeResource,
    progress: ProgressLog,
    nerfstudio: NerfstudioEnvironment,
    pipes: dg.PipesSubprocessClient,
) -> Iterator[dg.MaterializeResult]:
    with ends_when_told(context.partition_key):
        with stops_retries(home.open(), context.partition_key):
            settings = config.resolve(home.open().root, by_command=home.by_command)
        selected = {key.path[-1] for key in context.selected_asset_keys}
        steps = tuple(_step(action, settings) for action in actions if KIND_OF[action] in selected)
        results = run_worker(context, home.open(), steps, nerfstudio, pipes, progress)
        if "fit" in results:
            catalog.release(home.open().objects, context.partition_key, catalog.FAULTS_OF_FITS)
        for action, materialized in results.items():
            yield _result(home.open(), KIND_OF[action], materialized)


def _look_up(action: Action) -> LookUp:
    def look_up(home: Home, key: str, choices: Mapping[str, Any]) -> str:
        settings = TrainingSetSelector(**choices).resolve(home.root, by_command=True)
        found = find_existing(home, key, [_step(action, settings)])
        if found is None:
            raise NothingBuiltError(ErrorKind.TARGET_MISSING, f"{KIND_OF[action]}/{key}", "lacks what it is made from")
        if action == "fit":
            catalog.release(home.objects, key, catalog.FAULTS_OF_FITS)
        return found[action].version.digest

    return look_up


LOOK_UPS.update({str(KIND_OF[action]): _look_up(action) for action in get_args(Action)})


def run_worker(
    context: dg.AssetExecutionContext,
    home: Home,
    steps: tuple[NerfStep, ...],
    nerfstudio: NerfstudioEnvironment,
    pipes: dg.PipesSubprocessClient,
    progress: ProgressLog,
) -> dict[str, Materialized]:
    """Run steps on the scene of this run in nerfstudio's environment, and return their products, by action.

    Raises:
        dagster.Failure: If the worker raised a typed error, or the environment is missing; a retry would not help.
        DagsterPipesExecutionError: If the worker died without an error message.
    """
    scene_key = context.partition_key
    with stops_retries(home, scene_key):
        existing = find_existing(home, scene_key, steps)
    if existing is not None:
        return existing
    with stops_retries(home, scene_key), tempfile.TemporaryDirectory() as folder:
        result_file = Path(folder) / "result.json"
        task = NerfTask(
            home_root=str(home.root),
            store_url=home.store_url,
            scene_key=scene_key,
            steps=steps,
            result_file=str(result_file),
        )
        progress.reporter(context.log, KIND_OF[steps[0].action], scene_key)("start", 0.0, {})
        try:
            with ends_children():
                pipes.run(
                    context=context, command=nerfstudio.command(), env=nerfstudio.variables(), extras=task.to_json()
                )
        except DagsterPipesExecutionError as error:
            if result_file.is_file():
                read_result(result_file)  # raises the worker's own error, where it left one
            if not _was_killed(error):
                raise RuntimeError(f"{error}; its traceback is in the step's stderr") from error
            raise
        return read_result(result_file)


def _was_killed(error: DagsterPipesExecutionError) -> bool:
    """Return whether a worker was ended by a signal, a fault of the machine."""
    code = _EXIT_CODE.search(str(error))
    return code is not None and (int(code.group(1)) < 0 or int(code.group(1)) > 128)


def _step(action: Action, settings: PipelineConfig) -> NerfStep:
    configs = {
        "fit": settings.nerf,
        "render_depth": settings.teacher_depth,
        "render_virtual_views": settings.virtual_views,
        "read_occupancy": settings.teacher_occupancy,
        "distil_features": settings.feature_field,
        "render_features": settings.teacher_features,
    }
    return NerfStep(action=action, config=configs[action])


def _result(home: Home, asset: str, materialized: Materialized) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        asset_key=str(asset),
        metadata=describe(home, materialized),
        data_version=dg.DataVersion(materialized.version.digest),
    )
