"""What runs by the clock or by events, when somebody switches it on."""

from datetime import UTC, datetime

import dagster as dg

from pipeline.definitions import build_definitions
from pipeline.partitions import SCENES, add_scene_partitions
from pipeline.resources import HomeResource
from pipeline.schedules import nightly_evaluation
from pipeline.sensors import registered_scenes
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_files

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"


def sense(home: Home, instance: dg.DagsterInstance) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, resources={"home": HomeResource(root=str(home.root))})
    result = registered_scenes(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_the_sensor_adds_partitions_of_registered_sources(make_home) -> None:
    home = make_home()
    with dg.DagsterInstance.ephemeral() as instance:
        add_scene_partitions(instance, [FIRST])
        (request,) = sense(home, instance).dynamic_partitions_requests or []
        assert (request.partitions_def_name, list(request.partition_keys)) == (SCENES, [SECOND])
        add_scene_partitions(instance, [SECOND])
        result = sense(home, instance)
        assert not result.dynamic_partitions_requests
        assert "none of them new" in str(result.skip_reason)


def test_a_broken_source_hides_no_other(make_home) -> None:
    home = make_home()
    (home.root / "sources" / "broken.json").write_text("{}")
    with dg.DagsterInstance.ephemeral() as instance:
        (request,) = sense(home, instance).dynamic_partitions_requests or []
        assert list(request.partition_keys) == [FIRST, SECOND]


def test_the_schedule_scores_students_that_have_a_checkpoint(make_home) -> None:
    home = make_home()

    def tick() -> list[dg.RunRequest]:
        context = dg.build_schedule_context(
            repository_def=build_definitions().get_repository_def(),
            resources={"home": HomeResource(root=str(home.root))},
            scheduled_execution_time=datetime(2026, 11, 21, 3, tzinfo=UTC),
        )
        return list(nightly_evaluation.evaluate_tick(context).run_requests or [])

    assert tick() == []
    for variant in ("depth", "ablation-no-lidar", "clip"):  # the second is no partition: nothing can be requested of it
        provenance = Provenance(kind="student_checkpoint", partition=variant)
        materialize_files(home, provenance, lambda folder: {"bytes": (folder / "x").write_text("x")})
    requests = tick()
    assert [(r.partition_key, r.run_key) for r in requests] == [
        ("clip", "clip:2026-11-21"),
        ("depth", "depth:2026-11-21"),
    ]
