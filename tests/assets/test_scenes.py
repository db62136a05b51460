"""Scene assets against real stores: what Dagster is told is what is stored, and one broken scene harms no other."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from PIL import Image

from assets.failures import INFRASTRUCTURE_RETRIES
from pipeline.definitions import build_definitions
from pipeline.partitions import add_scene_partitions
from pipeline.resources import HomeResource
from storage.scenes.store import SceneReader
from storage.stores import catalog
from storage.stores.versioned import Home

pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as ephemeral:
        add_scene_partitions(ephemeral, [FIRST, SECOND])
        yield ephemeral


def materialise(
    home: Home, instance: dg.DagsterInstance, names: list[str], partition: str | None = None, **tags: str
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(home=HomeResource(root=str(home.root)))
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(name) for name in names],
        partition_key=partition,
        tags=tags,
        raise_on_error=False,
    )


def latest(instance: dg.DagsterInstance, name: str, partition: str) -> dg.AssetMaterialization:
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(name), asset_partitions=[partition])
    (record,) = instance.fetch_materializations(filters, limit=1).records
    found = record.asset_materialization
    assert found is not None
    return found


def failure_of(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, object]]:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return data.description or "", {name: value.value for name, value in data.metadata.items()}


def test_a_scene_and_its_images_are_stored_and_described(make_home, instance) -> None:
    home = make_home()
    result = materialise(home, instance, ["scene", "input_images"], FIRST)
    assert result.success
    for name in ("scene", "input_images"):
        version = home.require(name, FIRST)
        told = latest(instance, name, FIRST)
        assert told.tags["dagster/data_version"] == version.digest == home.provenance(version).digest
        assert told.metadata["digest"].value == version.digest
        assert told.metadata["snapshot"].value == version.snapshot_id
        assert Path(str(told.metadata["store"].value)) == Path(home.url(version))
        assert told.metadata["reused"].value is False
        assert str(told.metadata["preview"].value).startswith(f"![{name}](data:image/jpeg;base64,")
    assert latest(instance, "input_images", FIRST).metadata["figure/frames"].value == 3
    assert home.open_arrays(home.require("input_images", FIRST))["image"].shape == (3, 2, 8, 16, 3)


def test_materialising_again_finds_what_is_there(make_home, instance) -> None:
    home = make_home()
    materialise(home, instance, ["scene"], FIRST)
    before = home.versions()
    assert materialise(home, instance, ["scene"], FIRST).success
    assert home.versions() == before
    assert latest(instance, "scene", FIRST).metadata["reused"].value is True


def test_a_run_over_several_scenes_gives_each_its_own_data_version(make_home, instance) -> None:
    home = make_home()
    result = materialise(home, instance, ["scene", "scene_audit"], **dict(zip(RANGE, (FIRST, SECOND), strict=True)))
    assert result.success
    for key in (FIRST, SECOND):
        told = latest(instance, "scene", key)
        assert told.tags["dagster/data_version"] == home.require("scene", key).digest
        assert told.metadata["digest"].value == home.require("scene", key).digest
    checked = [
        event.asset_check_evaluation_data for event in result.all_events if "CHECK_EVAL" in event.event_type_value
    ]
    assert {(c.partition, c.passed) for c in checked} == {(None, False), (FIRST, False), (SECOND, False)}


def test_an_audit_that_fails_is_a_failed_gate_with_its_value_and_place(make_home, instance) -> None:
    home = make_home()
    result = materialise(home, instance, ["scene", "scene_audit"], FIRST)
    (check,) = result.get_asset_check_evaluations()
    # The tiny rig looks ahead and behind, its LiDAR all around: the audit can fail, and says where.
    assert (check.asset_key.path[-1], check.check_name, check.passed) == ("scene_audit", "quality_gate", False)
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "| lidar_seen_by_cameras | 0.05333 | 0.09061 | 3 frames | ✗ | look at camera.jpg" in str(
        check.metadata[FIRST].value
    )
    assert str(latest(instance, "scene_audit", FIRST).metadata["preview"].value).startswith("![scene_audit](data:image")
    folder = home.open_files(home.require("scene_audit", FIRST))
    with Image.open(folder / "camera.jpg") as picture:
        width, height = SceneReader.open(home, FIRST).image_size(0)[::-1]
        scale = picture.size[0] // width  # what is as small as these images is enlarged
        assert picture.size[0] == scale * width > 1000
        assert picture.size[1] > 2 * scale * height
    assert "lidar_seen_by_cameras is 0.05333, wanted 0.09061" in str(check.metadata["why"].value).split("; ")


@pytest.fixture
def broken_home(make_home, recording) -> Home:
    """A home whose second scene has one camera image cut short."""
    image = recording.root / recording.file("scene-0002", "CAM_BACK", 1)
    image.write_bytes(image.read_bytes()[:300])
    return make_home()


def test_a_broken_scene_fails_with_its_file_and_harms_no_other(broken_home: Home, instance) -> None:
    home = broken_home
    result = materialise(home, instance, ["scene"], **dict(zip(RANGE, (FIRST, SECOND), strict=True)))
    assert not result.success
    description, _ = failure_of(result)
    assert "1 of 2 partitions failed" in description
    assert home.latest("scene", SECOND) is None
    assert latest(instance, "scene", FIRST).tags["dagster/data_version"] == home.require("scene", FIRST).digest
    quarantined = catalog.quarantined(home.objects).to_pylist()
    assert [row["partition"] for row in quarantined] == [SECOND]


def test_a_typed_error_is_shown_with_advice_and_not_retried(broken_home: Home, instance) -> None:
    home = broken_home
    result = materialise(home, instance, ["scene"], SECOND)
    description, told = failure_of(result)
    assert told["error"] == "SourceDataError"
    assert told["error_kind"] == "image_invalid"
    assert str(told["key"]).endswith(".jpg")
    assert str(told["key"]) in description
    assert "quarantined" in str(told["advice"])
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_missing_upstream_asset_is_named(make_home, instance) -> None:
    _, told = failure_of(materialise(make_home(), instance, ["input_images"], FIRST))
    assert (told["error"], told["key"]) == ("MissingTargetError", f"scene/{FIRST}")


@pytest.mark.parametrize("name", ["scene", "nerf_teacher", "teacher_features"])
def test_a_configuration_that_is_missing_is_not_retried(name: str, make_home, instance) -> None:
    home = make_home()
    (home.root / "run.json").unlink()
    result = materialise(home, instance, [name], FIRST)
    description, _ = failure_of(result)
    assert "name a preset" in description
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


@pytest.mark.parametrize("name", ["scene", "nerf_teacher", "teacher_features"])
def test_an_interrupt_before_the_work_has_begun_ends_the_step(
    name: str, make_home, instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home()

    def is_told_to_end(_: HomeResource) -> Home:
        raise DagsterExecutionInterruptedError

    monkeypatch.setattr(HomeResource, "open", is_told_to_end)
    result = materialise(home, instance, [name], FIRST)
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_trouble_of_the_machine_is_retried(make_home, instance, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def flaky(*_: object, **__: object) -> None:
        calls.append(1)
        raise OSError("the disk went away")

    monkeypatch.setattr("storage.ingest.run.ingest_scene", flaky)
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.0)
    result = materialise(make_home(), instance, ["scene"], FIRST)
    assert not result.success
    assert len(calls) == INFRASTRUCTURE_RETRIES.max_retries + 1


def test_a_bug_is_not_retried(make_home, instance, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def buggy(*_: object, **__: object) -> None:
        calls.append(1)
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("storage.ingest.run.ingest_scene", buggy)
    description, _ = failure_of(materialise(make_home(), instance, ["scene"], FIRST))
    assert len(calls) == 1
    assert "ZeroDivisionError: oh" in description
