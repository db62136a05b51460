"""What Dagster loads: quickly, without models, complete and fully described."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from pipeline.definitions import build_definitions, definitions
from pipeline.schedules import nightly_evaluation
from pipeline.sensors import registered_scenes

# Said once for each resolution of the jobs; the definitions module silences it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

GOLDEN = Path(__file__).parent / "golden" / "asset_keys.json"
HEAVY = ("torch", "transformers", "spconv", "nerfstudio", "matplotlib", "nuscenes", "trimesh", "tensorboard", "scipy")
GPU_ASSETS = (
    "nerf_teacher",
    "teacher_depth",
    "virtual_views",
    "teacher_occupancy",
    "feature_field",
    "teacher_features",
    "student_checkpoint",
)


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return definitions.resolve_asset_graph()


def test_asset_keys_are_the_golden_ones(graph: AssetGraph, request: pytest.FixtureRequest) -> None:
    keys = sorted(key.to_user_string() for key in graph.get_all_asset_keys())
    checks = sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys)
    seen = {"assets": keys, "checks": checks}
    if request.config.getoption("--regenerate-golden"):
        GOLDEN.write_text(json.dumps(seen, indent=2) + "\n")
    assert seen == json.loads(GOLDEN.read_text())


def test_keys_are_plain_strings(graph: AssetGraph) -> None:
    """Dagster serialises them, and refuses an enumeration that it does not know."""
    assets = list(graph.get_all_asset_keys())
    parents = [key for asset in assets for key in graph.get(asset).parent_keys]
    of_checks = [key.asset_key for key in graph.asset_check_keys]
    assert {type(part) for key in (*assets, *parents, *of_checks) for part in key.path} == {str}


def test_loading_imports_no_library_that_only_the_work_needs() -> None:
    """What is imported decides how long loading takes; seconds would say more of the machine."""
    question = f"import sys, pipeline.definitions; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_loading_says_nothing(tmp_path: Path) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import pipeline.definitions as d; d.definitions.get_repository_def()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stderr == ""


def test_every_asset_is_described(graph: AssetGraph) -> None:
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        name = key.to_user_string()
        assert node.group_name not in (None, "default"), name
        assert node.kinds, name
        assert node.owners, name
        assert (node.description or "").endswith("."), name
        if node.is_executable:
            assert len(node.code_version or "") == 16, name


def test_no_asset_materialises_by_itself(graph: AssetGraph) -> None:
    for key in graph.get_all_asset_keys():
        assert graph.get(key).automation_condition is None, key


def test_scenes_and_variants_are_partitions(graph: AssetGraph) -> None:
    for key in graph.get_all_asset_keys():
        name = key.to_user_string()
        if name == "procedural_recordings":
            assert graph.get(key).partitions_def is None
        else:
            assert graph.get(key).partitions_def is not None, name


@pytest.mark.parametrize("name", GPU_ASSETS)
def test_heavy_assets_take_one_partition_a_run_in_the_gpu_pool(graph: AssetGraph, name: str) -> None:
    node = graph.get(dg.AssetKey(name))
    assert node.pools == {"gpu"}
    assert node.backfill_policy is not None
    assert node.backfill_policy.max_partitions_per_run == 1


@pytest.mark.parametrize("name", ["scene", "input_images", "sky_mask", "dinov2_features", "weak_labels"])
def test_light_assets_take_eight_partitions_a_run(graph: AssetGraph, name: str) -> None:
    policy = graph.get(dg.AssetKey(name)).backfill_policy
    assert policy is not None
    assert policy.max_partitions_per_run == 8


def test_schedule_and_sensor_are_off_until_switched_on() -> None:
    assert nightly_evaluation.default_status is dg.DefaultScheduleStatus.STOPPED
    assert registered_scenes.default_status is dg.DefaultSensorStatus.STOPPED


def test_jobs_select_what_they_say() -> None:
    jobs = {job.name: job for job in definitions.resolve_all_job_defs()}
    names = {"ingest", "image_teachers", "teach", "distil", "evaluate", "everything", "everything_of_a_student"}
    assert names <= set(jobs)
    selected = {key.to_user_string() for key in jobs["distil"].asset_layer.executable_asset_keys}
    assert selected == {"training_set", "student_checkpoint"}


@pytest.mark.parametrize(
    ("named", "executor"),
    [(None, "in_process"), ("in_process", "in_process"), ("multiprocess", "multiprocess"), ("dask", "dask")],
)
def test_the_environment_names_the_executor(named: str | None, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLNERF_EXECUTOR", raising=False)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://scheduler:8786")  # nobody asks it before a run
    if named is not None:
        monkeypatch.setenv("DISTILLNERF_EXECUTOR", named)
    built = build_definitions()
    dg.Definitions.validate_loadable(built)
    assert built.resolve_job_def("ingest").executor_def.name == executor


def test_an_unknown_executor_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLNERF_EXECUTOR", "cluster")
    with pytest.raises(ValueError, match="'cluster', want one of in_process, multiprocess, dask"):
        build_definitions()
    monkeypatch.setenv("DISTILLNERF_EXECUTOR", "dask")
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="needs a cluster: set DASK_SCHEDULER_ADDRESS"):
        build_definitions()


def test_definitions_validate() -> None:
    dg.Definitions.validate_loadable(definitions)
