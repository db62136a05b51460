"""What runs by the clock or by events, when somebody switches it on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import zarr

from pipeline.definitions import build_definitions
from pipeline.partitions import SCENES, add_scene_partitions
from pipeline.resources import HomeResource
from pipeline.schedules import nightly_evaluation, nightly_new_scenes
from pipeline.sensors import registered_scenes
from storage.scenes.retired import retire
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays, materialize_files

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"


class Ticks:
    """The sensor of new scenes, tick after tick, on an instance in memory."""

    def __init__(self, home: Home, instance: dg.DagsterInstance) -> None:
        self._home, self._instance, self._cursor = home, instance, None

    def tick(self) -> tuple[list[str], str]:
        """Return the scenes that it adds, and what it says if there are none."""
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursor,
            resources={"home": HomeResource(root=str(self._home.root))},
        )
        result = registered_scenes(context)
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        requests = result.dynamic_partitions_requests or []
        added = [key for request in requests for key in request.partition_keys]
        assert {request.partitions_def_name for request in requests} <= {SCENES}
        add_scene_partitions(self._instance, added)
        return added, "" if result.skip_reason is None else str(result.skip_reason.skip_message)


@pytest.fixture
def ticks(make_home) -> Iterator[Ticks]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(make_home(), instance)


def test_the_sensor_adds_scenes_that_did_not_change_since_the_tick_before(ticks: Ticks) -> None:
    add_scene_partitions(ticks._instance, [FIRST])
    added, said = ticks.tick()
    assert (added, said) == ([], f"{SECOND} waits: its files are watched until the next tick")
    assert ticks.tick()[0] == [SECOND]
    added, said = ticks.tick()
    assert (added, said) == ([], "2 scenes registered, none of them new")


def test_a_broken_source_hides_no_other(ticks: Ticks) -> None:
    (ticks._home.root / "sources" / "broken.json").write_text("{}")
    ticks.tick()
    assert ticks.tick()[0] == [FIRST, SECOND]


def test_a_retired_scene_is_not_added_again(ticks: Ticks) -> None:
    retire(ticks._home, [SECOND], "dirty")
    ticks.tick()
    assert ticks.tick()[0] == [FIRST]


@pytest.mark.parametrize(
    ("channel", "keep", "complaint"),
    [
        ("CAM_BACK", None, "is not a file below"),
        ("CAM_BACK", 0, "is empty so far"),
        ("CAM_BACK", 300, "has no end-of-image marker so far"),
        ("LIDAR_TOP", 30, "ends within a point so far, at byte 30"),
        ("LIDAR_TOP", 20 * 40, "of the circle so far"),
    ],
    ids=["missing", "empty", "half an image", "half a point", "half a sweep"],
)
def test_a_scene_that_is_still_copied_waits_with_a_reason(
    ticks: Ticks, recording, channel: str, keep: int | None, complaint: str
) -> None:
    """However long the copy pauses: the sizes of the ticks are equal, and the scene is no scene."""
    for frame in range(3):  # whole sweeps see the whole circle
        write_circle(recording.root / recording.file("scene-0002", "LIDAR_TOP", frame), 80)
    path = recording.root / recording.file("scene-0002", channel, 1)
    content = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(content[:keep])
    assert ticks.tick()[0] == []
    added, said = ticks.tick()
    assert added == [FIRST]
    added, said = ticks.tick()
    assert added == []
    assert said.startswith(f"{SECOND} waits: {recording.file('scene-0002', channel, 1)}")
    assert complaint in said
    path.write_bytes(content)
    assert ticks.tick()[0] == []
    assert ticks.tick()[0] == [SECOND]


def write_circle(path: Path, points: int) -> None:
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    rows = np.stack([10 * np.cos(turn), 10 * np.sin(turn), -turn, turn, turn * 0], axis=1)
    path.write_bytes(rows.astype("<f4").tobytes())


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
