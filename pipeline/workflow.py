"""The work of ``distillnerf demo`` and ``distillnerf run``, from a source of scenes to a summary."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline.environments import installed_version
from pipeline.instance import open_instance, set_pool_limit
from pipeline.liveness import end_abandoned_runs
from pipeline.memory import PeakMemory
from pipeline.partitions import add_scene_partitions
from pipeline.resources import devices_from_environment, nerfstudio_from_environment
from pipeline.run import RunOutcome, run_tasks, usual_workers
from pipeline.run_config import HomeSelection, choose_split
from pipeline.summary import build_summary, report_page, write_summary
from pipeline.tasks import Task, plan_tasks
from storage.errors import EnvironmentMissingError, ErrorKind, SourceDataError
from storage.ingest.source import expand_splits, list_scenes, register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.scenes.retired import retired_scenes, take_back
from storage.stores.versioned import Home, StoreVersion

if TYPE_CHECKING:
    from pipeline.status import PartitionState

_GPU_POOL = "gpu"


def generate_recordings(home: Home, selection: HomeSelection, console: Console) -> tuple[list[str], RunOutcome]:
    """Generate the procedural drives of a selection through Dagster; return their scene keys and the outcome.

    Raises:
        PipelineError: If they cannot be generated.
    """
    selection.save(home.root)
    outcome = run_tasks(plan({"procedural_recordings": [None]}, selection), home.root, console, num_workers=1)
    if not outcome.succeeded:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, "procedural_recordings", outcome.failures[0]["message"])
    procedural = selection.resolve().procedural
    keys = [str(SceneKey(procedural.dataset, procedural.scene_name(i))) for i in range(procedural.num_scenes)]
    return keys, outcome


def register_scenes(home: Home, source: SourceConfig, wanted: Sequence[str]) -> list[str]:
    """Register a source and return the keys of the scenes (or official splits) wanted, by default all but retired ones.

    A retired scene that is named is taken back.

    Raises:
        SourceDataError: If the source is unreadable or lacks a scene; nothing is registered then.
    """
    keys = {key.scene_name: str(key) for key in list_scenes(source)}
    wanted = expand_splits(source, wanted)
    unknown = [name for name in wanted if name not in keys]
    if unknown:
        raise SourceDataError(
            ErrorKind.SCENE_UNKNOWN,
            f"{source.dataset}.{unknown[0]}",
            f"not in {source.version}; it has {', '.join(keys)}",
        )
    register_source(home, source)
    if not wanted:
        retired = retired_scenes(home)
        return [key for key in keys.values() if key not in retired]
    named = [keys[name] for name in wanted]
    take_back(home, named)
    return named


def prepare_home(home: Home) -> None:
    """Make a home's Dagster instance, and clear the leftovers of a killed command."""
    with open_instance(home.root) as instance:
        end_abandoned_runs(instance)
        set_pool_limit(instance, _GPU_POOL, accelerator_slots())


def add_partitions(home: Home, scene_keys: Sequence[str]) -> None:
    """Add Dagster partitions for scenes."""
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, scene_keys)


def accelerator_slots() -> int:
    """Return the number of heavy steps that may run at once: one per accelerator, or per worker on a CPU."""
    return len(devices_from_environment()) or usual_workers()


def with_split(
    selection: HomeSelection, scene_keys: Sequence[str], held_out: Sequence[str], *, follow_basis: bool = False
) -> HomeSelection:
    """Return the selection with its scenes divided into those to learn from and those held out."""
    train, validation = choose_split(list(scene_keys), selection.resolve(), tuple(held_out))
    return selection.with_split(train, validation, follow_basis=follow_basis)


def plan(
    goals: Mapping[str, Sequence[str | None]],
    selection: HomeSelection,
    *,
    with_upstream: bool = False,
    is_there: Callable[[str, str | None], bool] = lambda *_: False,
) -> list[Task]:
    """Return the tasks that make some partitions of some assets; see ``pipeline.tasks.plan_tasks``."""
    from pipeline.definitions import asset_graph  # costs what most commands have no need of

    return plan_tasks(asset_graph(), goals, selection, with_upstream=with_upstream, is_there=is_there)


def states_of(home: Home, assets: Iterable[str] | None = None) -> "list[PartitionState]":
    """Return the state of every partition of some assets of a home; see ``pipeline.status.read_states``."""
    from pipeline.definitions import asset_graph
    from pipeline.status import read_states

    with open_instance(home.root) as instance:
        return read_states(home, instance, asset_graph(), assets=assets)


def plan_everything(selection: HomeSelection) -> list[Task]:
    """Return the tasks from raw frames to report, for the scenes and the student of a selection."""
    labelled: Sequence[str] = selection.validation_scenes or selection.train_scenes
    if "clip" not in selection.resolve().student.data.feature_sources:
        labelled = ()  # words need a student that renders CLIP
    goals = {"teacher_features": selection.scenes_with_field, "report": selection.variants, "weak_labels": labelled}
    return plan(goals, selection, with_upstream=True)


def run_everything(
    home: Home,
    selection: HomeSelection,
    console: Console,
    memory: PeakMemory,
    before: RunOutcome | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> tuple[RunOutcome, dict[str, Any]]:
    """Run everything for a selection, write ``summary.json``, and return the outcome and the summary.

    Args:
        home: Home to work in.
        selection: Selection to run.
        console: Console that shows progress.
        memory: Memory measurement since the command began.
        before: Outcome of the command's earlier work, to be included.
        environment: Environment variables of the workers in addition to those of this process.
    """
    selection.save(home.root)
    tasks = plan_everything(selection)
    outcome = run_tasks(tasks, home.root, console, environment=environment)
    if before is not None:
        outcome.outcomes = {**before.outcomes, **outcome.outcomes}
    publish_report(home, selection.variant)
    summary = build_summary(
        home,
        selection,
        outcome,
        command=shlex.join(["distillnerf", *sys.argv[1:]]),
        wall_time_s=memory.elapsed_s,
        peak_memory_bytes=memory.peak_bytes,
        nerfstudio_version=_nerfstudio_version(),
    )
    write_summary(home.root / "summary.json", summary)
    return outcome, summary


def _nerfstudio_version() -> str | None:
    """Return the version in nerfstudio's environment; None without one, which a run that fits no field needs not."""
    try:
        return installed_version(nerfstudio_from_environment().interpreter(), "nerfstudio")
    except EnvironmentMissingError:
        return None


def write_transfer_report(home: Home, evaluation: StoreVersion) -> Path:
    """Write the page of an evaluation on other scenes to ``<home>/report/``, and return its path."""
    from student.reporting.report import ReportConfig, render_report

    page = home.root / "report" / f"transfer-{evaluation.digest[:12]}.html"
    page.parent.mkdir(exist_ok=True)
    title = f"Student {evaluation.partition} on scenes outside its training"
    page.write_text(render_report(home, evaluation, ReportConfig(title=title)), encoding="utf-8")
    return page


def publish_report(home: Home, variant: str) -> Path | None:
    """Copy the current report to ``<home>/report/index.html``, and return that path."""
    page = report_page(home, variant)
    if page is None:
        return None
    folder = home.root / "report"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(page, folder / "index.html")  # self-contained: nothing beside it is needed
    return folder / "index.html"
