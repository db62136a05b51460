"""What runs by the clock or by events, when somebody switches it on."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import numpy as np
import zarr

from pipeline.definitions import build_definitions
from pipeline.partitions import SCENES, add_scene_partitions
from pipeline.resources import HomeResource
from pipeline.schedules import nightly_evaluation, nightly_new_scenes
from pipeline.sensors import registered_scenes
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays, materialize_files

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


def test_the_schedule_of_new_scenes_asks_for_those_that_a_training_set_does_not_know(make_home) -> None:
    home = make_home()

    def tick() -> list[dg.RunRequest]:
        context = dg.build_schedule_context(
            repository_def=build_definitions().get_repository_def(),
            resources={"home": HomeResource(root=str(home.root))},
            scheduled_execution_time=datetime(2026, 11, 21, 3, 30, tzinfo=UTC),
        )
        return list(nightly_new_scenes.evaluate_tick(context).run_requests or [])

    def add_images(key: str) -> None:
        def write(group: zarr.Group) -> dict[str, Any]:
            write_target(group, "input_images", "image", np.zeros((1, 1, 2, 2, 3), np.uint8))
            write_target(group, "input_images", "intrinsics", np.eye(3)[None])
            return {}

        materialize_arrays(home, Provenance(kind="input_images", partition=key), write)

    scene = {
        "key": FIRST,
        "num_frames": 1,
        "num_cameras": 1,
        "train_frames": [0],
        "validation_frames": [],
        "stores": {},
    }
    manifest = {"format": "distillnerf.training_set/2", "scenes": [scene], "left_out": {}}
    frozen = materialize_arrays(
        home,
        Provenance(kind="training_set", partition="depth"),
        lambda group: group.attrs.update({"manifest": manifest}) or {},
    )
    provenance = Provenance(kind="student_checkpoint", partition="depth", inputs=(frozen.version.as_input,))
    materialize_files(home, provenance, lambda folder: {"bytes": (folder / "x").write_text("x")})
    add_images(FIRST)
    assert tick() == []
    add_images(SECOND)
    (request,) = tick()
    assert (request.partition_key, request.run_key) == ("depth", "depth:new scenes:2026-11-21")
    assert request.run_config == {"ops": {"transfer_evaluation": {"config": {"evaluated_scenes": [SECOND]}}}}
