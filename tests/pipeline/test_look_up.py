"""Tasks that have nothing to do are found without a Dagster run; everything else takes the usual way."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

from assets.partition_runs import LOOK_UPS
from pipeline.definitions import build_definitions
from pipeline.instance import open_instance
from pipeline.look_up import look_up, look_up_tasks
from pipeline.outcomes import read_outcome
from pipeline.partitions import add_scene_partitions
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection
from pipeline.status import executable_assets
from pipeline.tasks import Task, run_config
from storage.stores import catalog
from storage.stores.versioned import Home, NothingBuiltError
from tests.pipeline.conftest import home_that_knows
from tests.storage.conftest import write_tiny_nuscenes

# Said once for each resolution of the jobs; the definitions module silences it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
SCENE = ("scene", "input_images")


@cache
def graph() -> AssetGraph:
    return build_definitions().resolve_asset_graph()


def task_of(home: Home, assets: Sequence[str] = SCENE, *, after: tuple[str, ...] = (), width: int = 16) -> Task:
    kept = HomeSelection.load(home.root)
    assert kept is not None
    selection = HomeSelection.on_top_of(kept, overrides=(f"input_images.width={width}",))
    name = f"{assets[-1]} {FIRST}"
    config = run_config(graph(), assets, selection)
    return Task(name=name, assets=tuple(assets), partition=FIRST, after=after, config=config)


def execute(home: Home, task: Task, *, with_checks: bool = True) -> dict[str, Any]:
    """Make a task in this process, as a worker does."""
    job = build_definitions(home=HomeResource(root=str(home.root))).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in task.assets]
    chosen: Any = {"asset_selection": keys}
    if not with_checks:
        job = job.get_subset(asset_selection=set(keys), asset_check_selection=set())
        chosen = {}
    with open_instance(home.root) as instance:
        result = job.execute_in_process(
            instance=instance, partition_key=task.partition, run_config=task.config, raise_on_error=False, **chosen
        )
        return read_outcome(result)


def found(home: Home, *tasks: Task) -> dict[str, dict[str, Any]]:
    with open_instance(home.root) as instance:
        return {outcome["task"]: outcome for outcome in look_up(home.root, instance, graph(), tasks)}


class Made(NamedTuple):
    """A home with a task that was executed, and what its run told."""

    home: Home
    recording: Any
    task: Task
    outcome: Mapping[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    recording = write_tiny_nuscenes(folder / "recording")
    home = home_that_knows(recording.root, folder / "home")
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, (FIRST, SECOND))
    task = task_of(home)
    assert found(home, task) == {}
    return Made(home, recording, task, execute(home, task))


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy of that home, to be changed; the recording is the same one."""
    shutil.copytree(original.home.root, tmp_path / "home")
    return original._replace(home=Home(tmp_path / "home"))


@pytest.fixture
def broken_sweep(original: Made) -> Iterator[Path]:
    """A raw file of the recording, which is mended afterwards."""
    path = original.recording.root / original.recording.file("scene-0001", "LIDAR_TOP", 0)
    content = path.read_bytes()
    path.write_bytes(content[:12] + bytes([content[12] ^ 1]) + content[13:])
    yield path
    path.write_bytes(content)


def without_times(outcome: Mapping[str, Any]) -> dict[str, Any]:
    made = [{**entry, "step_s": 0.0, "reused": True} for entry in outcome["materializations"]]
    return {"run_id": outcome["run_id"], "succeeded": True, "made": made, "checks": outcome["checks"]}


def test_what_is_there_is_found_with_all_that_its_run_told(made: Made) -> None:
    home, _, task, outcome = made
    assert outcome["succeeded"], outcome["failures"]
    assert [check["check"] for check in outcome["checks"]] == ["images_are_recorded"]
    looked_up = found(home, task)[task.name]
    assert without_times(looked_up) == without_times(outcome)
    assert [entry["digest"] for entry in looked_up["materializations"]] == [
        home.require(name, FIRST).digest for name in SCENE
    ]


def ask_for_another_size(home: Home) -> None:
    assert execute(home, task_of(home, width=24))["succeeded"]


def ask_for_another_size_without_dagster(home: Home) -> None:
    older = home.require("input_images", FIRST)
    ask_for_another_size(home)
    home.point_current(older)


def lose_objects(home: Home) -> None:
    chunks = [path for path in (home.root / "stores" / "input_images").rglob("chunks/*") if path.is_file()]
    assert chunks
    for path in chunks:
        path.unlink()


def lose_the_branch(home: Home) -> None:
    (path,) = (home.root / "stores" / "input_images").rglob("branch.current")
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "change", [ask_for_another_size, ask_for_another_size_without_dagster, lose_objects, lose_the_branch]
)
def test_what_changed_since_takes_the_usual_way(made: Made, change: Callable[[Home], None]) -> None:
    assert list(found(made.home, made.task)) == [made.task.name]
    change(made.home)
    before = made.home.versions(on_error=lambda _: None)
    assert found(made.home, made.task) == {}
    assert made.home.versions(on_error=lambda _: None) == before  # it looked only


def test_a_changed_or_lost_raw_file_takes_the_usual_way(made: Made, broken_sweep: Path) -> None:
    assert found(made.home, made.task) == {}
    broken_sweep.write_bytes(b"")
    assert found(made.home, made.task) == {}
    broken_sweep.unlink()
    assert found(made.home, made.task) == {}
    assert catalog.quarantined(made.home.objects).num_rows == 0  # it looked only


def test_other_settings_are_not_there(made: Made) -> None:
    assert found(made.home, task_of(made.home, width=24)) == {}


def test_what_dagster_calls_made_by_other_code_takes_the_usual_way(made: Made) -> None:
    """Also where the digest stays, as with a change of a module that the configuration did not choose."""
    with open_instance(made.home.root) as instance:
        tags = {DATA_VERSION_TAG: made.home.require("scene", FIRST).digest, CODE_VERSION_TAG: "another"}
        instance.report_runless_asset_event(dg.AssetMaterialization("scene", partition=FIRST, tags=tags))
    assert found(made.home, made.task) == {}


def test_what_was_not_judged_takes_the_usual_way(prepared_home: Home) -> None:
    task = task_of(prepared_home)
    assert execute(prepared_home, task, with_checks=False)["succeeded"]
    assert found(prepared_home, task) == {}


def test_what_is_told_is_of_the_run_that_made_each_version(made: Made) -> None:
    """One of the assets was asked for in two runs, and is of the later one."""
    apart = [task_of(made.home, [name]) for name in SCENE]
    again = execute(made.home, apart[1])
    assert again["succeeded"]
    told = found(made.home, made.task)[made.task.name]
    assert [entry["asset"] for entry in told["materializations"]] == list(SCENE)
    assert [check["check"] for check in told["checks"]] == ["images_are_recorded"]
    assert told["run_id"] == again["run_id"]
    assert execute(made.home, apart[1], with_checks=False)["succeeded"]
    assert found(made.home, made.task) == {}  # the run that made it last did not judge it


def test_a_task_after_one_that_has_work_takes_the_usual_way(made: Made) -> None:
    made_before = dataclasses.replace(made.task, after=("something",))
    assert found(made.home, made_before) == {}
    assert list(found(made.home, dataclasses.replace(made.task, name="something"), made_before)) == [
        "something",
        made.task.name,
    ]


def test_a_version_that_is_being_written_takes_the_usual_way(made: Made) -> None:
    """It says for whom it waits; a look-up waits for nobody."""
    with made.home.lock("scene", FIRST):
        assert found(made.home, made.task) == {}


def test_every_asset_can_be_looked_up() -> None:
    assert set(LOOK_UPS) >= {*executable_assets(graph()), "procedural_recordings"}


@pytest.mark.parametrize("asset", ["nerf_teacher", "teacher_depth", "procedural_recordings"])
def test_what_was_never_made_is_not_built(make_home: Callable[..., Home], asset: str) -> None:
    home = Home(make_home().root, builds=False)
    with pytest.raises(NothingBuiltError):
        LOOK_UPS[asset](home, FIRST, {})
    assert home.versions() == []
    assert not (home.root / "recordings").exists()


def test_a_process_of_look_ups_that_dies_leaves_everything_to_the_run(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name for name, _ in look_up_tasks([made.task], made.home.root)] == [made.task.name]
    monkeypatch.setattr("pipeline.look_up._PROGRAM", (sys.executable, "-c", "raise SystemExit(3)"))
    assert list(look_up_tasks([made.task], made.home.root)) == []


def test_nothing_is_started_where_nothing_was_made(prepared_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.look_up._PROGRAM", ("no such program",))
    assert list(look_up_tasks([task_of(prepared_home)], prepared_home.root)) == []
