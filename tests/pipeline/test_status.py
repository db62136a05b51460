"""What is done, stale, failed, running or missing, and the commands that act on it."""

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from pipeline import cli
from pipeline.definitions import asset_graph, build_definitions
from pipeline.instance import open_instance
from pipeline.partitions import SCENES
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection
from pipeline.status import PartitionState, read_states
from pipeline.workflow import states_of
from storage.scenes.retired import retire, retired_scenes
from storage.stores import catalog
from storage.stores.versioned import Home

# Said once for each resolution of the jobs; the definitions module silences it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
ASSETS = ("scene", "input_images")


@cache
def graph() -> AssetGraph:
    return asset_graph()


def job_of(home: Home) -> dg.JobDefinition:
    definitions = build_definitions(home=HomeResource(root=str(home.root)))
    return definitions.resolve_implicit_global_asset_job_def()


def execute(home: Home, key: str, assets: Iterable[str] = ASSETS) -> bool:
    with open_instance(home.root) as instance:
        selection = [dg.AssetKey(name) for name in assets]
        return (
            job_of(home)
            .execute_in_process(instance=instance, partition_key=key, asset_selection=selection, raise_on_error=False)
            .success
        )


def states(home: Home) -> dict[tuple[str, str], PartitionState]:
    with open_instance(home.root) as instance:
        return {(s.asset, s.partition): s for s in read_states(home, instance, graph(), assets=ASSETS)}


@pytest.fixture(autouse=True)
def _one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve the graph of assets once for all tests."""
    monkeypatch.setattr("pipeline.definitions.asset_graph", graph)


def call(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> tuple[int, str, str]:
    code = cli.main([*arguments, "--home", str(home.root)])
    said = capsys.readouterr()
    return code, said.out, said.err


def break_sweep(recording: Any) -> Callable[[], None]:
    path = recording.root / recording.file("scene-0001", "LIDAR_TOP", 0)
    content = path.read_bytes()
    path.write_bytes(content[:30])
    return lambda: path.write_bytes(content) and None


def test_states_follow_what_happens_to_a_scene(prepared_home: Home, recording: Any) -> None:
    home = prepared_home
    assert {s.state for s in states(home).values()} == {"missing"}

    mend = break_sweep(recording)
    assert not execute(home, FIRST)
    failed = states(home)
    assert failed["scene", FIRST].state == "failed"
    assert "want a multiple of 20" in failed["scene", FIRST].reason
    assert failed["input_images", FIRST].reason == "not started, because scene failed"
    assert [row["partition"] for row in catalog.quarantined(home.objects).to_pylist()] == [FIRST]

    mend()
    assert execute(home, FIRST)
    assert catalog.quarantined(home.objects).num_rows == 0, "a repaired scene leaves the quarantine"
    done = states(home)
    assert [done[asset, FIRST].state for asset in ASSETS] == ["done", "done"]
    assert done["scene", FIRST].digest == home.require("scene", FIRST).digest
    assert done["scene", SECOND].state == "missing"

    image = recording.root / recording.file("scene-0001", "CAM_FRONT", 0)
    image.write_bytes(image.read_bytes() + b"\0")
    assert execute(home, FIRST, ["scene"])
    now = states(home)
    assert (now["scene", FIRST].state, now["input_images", FIRST].state) == ("done", "stale")
    assert now["input_images", FIRST].reason.startswith(f"scene/{FIRST} changed: ")


def test_a_version_of_other_code_is_stale_and_so_is_what_it_went_into(prepared_home: Home, monkeypatch) -> None:
    home = prepared_home
    assert execute(home, FIRST)
    from pipeline import status

    real = status.code_digests
    monkeypatch.setattr(
        status, "code_digests", lambda graph, name: frozenset({"new"}) if name == "scene" else real(graph, name)
    )
    now = states(home)
    assert now["scene", FIRST].reason == "its code changed"
    assert now["input_images", FIRST].reason == f"scene/{FIRST} is stale"


def test_a_run_under_way_is_running_and_one_called_off_counts_for_nothing(prepared_home: Home) -> None:
    home = prepared_home
    job = job_of(home)
    with open_instance(home.root) as instance:
        run = instance.create_run_for_job(
            job.get_subset(asset_selection={dg.AssetKey("scene")}), tags={"dagster/partition": SECOND}
        )
        assert states(home)["scene", SECOND].state == "running"
        instance.report_run_canceled(run)
    assert states(home)["scene", SECOND].state == "missing"


def test_status_fits_eighty_columns_and_is_json_too(prepared_home: Home, recording: Any, capsys, monkeypatch) -> None:
    home = prepared_home
    break_sweep(recording)
    execute(home, FIRST)
    execute(home, SECOND)
    monkeypatch.setenv("COLUMNS", "80")
    code, said, _ = call(capsys, home, "status")
    assert code == 1
    table = said[: said.index("✗ failed scene/")]
    assert max(map(len, table.splitlines())) <= 80
    assert f"failed scene/{FIRST}: {recording.file('scene-0001', 'LIDAR_TOP', 0)}" in said
    line = next(line for line in said.splitlines() if line.startswith(FIRST))
    assert line.split()[1] == "✗"
    assert "1 of 2 scenes are complete" in said
    _, said, _ = call(capsys, home, "status", "--json", "--scenes", SECOND)
    found = {(row["asset"], row["partition"]): row for row in json.loads(said)}
    assert found["scene", SECOND]["state"] == "done"
    assert {partition for _, partition in found} == {SECOND}


COMPLAINTS = (
    ("backfill sky_mask", 2, "which scenes?"),
    ("backfill report --missing", 2, "made scene by scene"),
    ("backfill sky_mask --scenes tiny.nowhere", 2, "tiny.nowhere"),
    ("backfill sky_mask --missing --set nerf.steps=1", 2, "no field 'steps'"),
    ("scenes add tiny", 1, "want '<dataset>.<scene_name>'"),
    ("scenes add tiny.a,b", 1, "want letters"),
    (f"scenes retire {FIRST}", 2, "split of this home"),
    ("scenes retire tiny.nowhere", 2, "tiny.nowhere"),
    ("scenes retry tiny.nowhere", 2, "tiny.nowhere"),
    ("status --scenes tiny.nowhere", 2, "tiny.nowhere"),
)


def test_bad_input_is_one_line(prepared_home: Home, capsys) -> None:
    for arguments, code, complaint in COMPLAINTS:  # one home for all: making one takes longer than asking it
        seen, _, said = call(capsys, prepared_home, *arguments.split())
        assert (seen, len(said.strip().splitlines())) == (code, 1), (arguments, said)
        assert complaint in said, arguments


def test_a_backfill_takes_the_scenes_it_is_told_and_what_they_need(prepared_home: Home, capsys) -> None:
    home = prepared_home
    assert execute(home, FIRST)

    def planned(*arguments: str) -> set[str]:
        code, said, _ = call(capsys, home, "backfill", *arguments, "--dry-run")
        assert code == 0
        return set(said.splitlines())

    assert planned("input_images", "--missing") == {f"{SECOND}  scene, input_images", "1 runs"}
    assert planned("input_images", "--scenes", FIRST) == {f"{FIRST}  input_images", "1 runs"}
    assert planned("input_images", "--scenes", FIRST, "--missing") == {"nothing to make"}
    assert planned("sky_mask", "--missing") == {f"{FIRST}  sky_mask", f"{SECOND}  scene, sky_mask", "2 runs"}
    assert home.latest("scene", SECOND) is None


@pytest.mark.slow
@pytest.mark.nightly
def test_a_backfill_with_a_setting_of_its_own_and_a_retry(prepared_home: Home, recording: Any, capsys) -> None:
    """Through the worker processes of the command, as a user does it."""
    home, kept = prepared_home, HomeSelection.load(prepared_home.root)
    mend = break_sweep(recording)
    code, said, _ = call(capsys, home, "backfill", "input_images", "--missing", "--set", "input_images.width=24")
    assert code == 1
    assert f"scene {FIRST}" in said
    assert home.open_arrays(home.require("input_images", SECOND))["image"].shape[2:4] == (8, 24)
    assert HomeSelection.load(home.root) == kept
    _, said, _ = call(capsys, home, "scenes", "list")
    assert "quarantined" in said
    mend()
    code, said, _ = call(capsys, home, "scenes", "retry")
    assert code == 0
    assert home.open_arrays(home.require("input_images", FIRST))["image"].shape[2:4] == (8, 16)
    _, said, _ = call(capsys, home, "scenes", "list")
    assert "quarantined" not in said


def test_a_retired_scene_is_passed_by_until_it_is_added_again(make_home: Callable[..., Home], capsys) -> None:
    home = make_home()
    HomeSelection(preset="demo", train_scenes=(FIRST,)).save(home.root)
    code, said, _ = call(capsys, home, "scenes", "add")
    assert (code, said) == (0, "2 scenes added, 0 there already\n")
    assert call(capsys, home, "scenes", "retire", SECOND, "--reason", "a lens was dirty")[0] == 0
    with open_instance(home.root) as instance:
        assert list(instance.get_dynamic_partitions(SCENES)) == [FIRST]
    _, said, _ = call(capsys, home, "scenes", "list", "--json")
    rows = {row["scene"]: row for row in json.loads(said)}
    assert (rows[SECOND]["state"], rows[SECOND]["reason"]) == ("retired", "a lens was dirty")
    assert (rows[FIRST]["state"], rows[FIRST]["split"]) == ("in use", "train")
    assert call(capsys, home, "scenes", "add")[1] == "0 scenes added, 1 there already\n"
    assert call(capsys, home, "scenes", "add", SECOND)[1] == "1 scene added, 0 there already\n"
    assert retired_scenes(home) == {}
    assert {one.partition for one in states_of(home, ["scene"])} == {FIRST, SECOND}


def test_an_ingest_of_everything_passes_retired_scenes_by(make_home: Callable[..., Home], recording: Any) -> None:
    from pipeline.workflow import register_scenes
    from storage.ingest.source import load_source

    home = make_home()
    source = load_source(home, "tiny")
    retire(home, [SECOND], "dirty")
    assert register_scenes(home, source, ()) == [FIRST]
    assert register_scenes(home, source, ["scene-0002"]) == [SECOND]
    assert register_scenes(home, source, ()) == [FIRST, SECOND]
