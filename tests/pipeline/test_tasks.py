"""The plan of a run: what waits for what, and what goes on when something fails."""

from typing import Any

from pipeline.run_config import HomeSelection
from pipeline.tasks import Task, blocked, plan_scene_tasks, plan_student_tasks, ready
from pipeline.workflow import plan_everything

KEYS = ["d.a", "d.b", "d.c"]


def everything() -> list[Task]:
    targets = plan_scene_tasks(KEYS, KEYS[:2], ["dinov2", "clip"])
    return [*targets, *plan_student_tasks("clip", targets, KEYS[2:])]


def run(tasks: list[Task], failing: set[str]) -> tuple[list[str], list[str]]:
    """Execute one task at a time; return those that ran and those that never could."""
    finished: dict[str, bool] = {}
    while waiting := ready(tasks, finished, finished):
        finished[waiting[0].name] = waiting[0].name not in failing
    return list(finished), [task.name for task in blocked(tasks, finished)]


def test_only_a_student_that_knows_words_labels_scenes() -> None:
    def labelled(variant: Any) -> list[str | None]:
        selection = HomeSelection(preset="demo", variant=variant, train_scenes=("d.a",), validation_scenes=("d.b",))
        return [task.partition for task in plan_everything(selection) if "weak_labels" in task.assets]

    assert labelled("clip") == labelled("clip_dinov2") == ["d.b"]
    assert labelled("depth") == labelled("dinov2") == []


def test_every_asset_of_every_scene_is_planned_once() -> None:
    planned = [(asset, task.partition) for task in everything() for asset in task.assets]
    assert len(planned) == len(set(planned))
    of_scene = {asset for asset, partition in planned if partition == "d.a"}
    assert of_scene == {
        "scene",
        "input_images",
        "sky_mask",
        "depth_anything_features",
        "nerf_teacher",
        "teacher_depth",
        "virtual_views",
        "dinov2_features",
        "clip_features",
        "teacher_features",
    }


def test_all_tasks_run_each_after_its_predecessors() -> None:
    tasks = everything()
    ran, never = run(tasks, set())
    assert never == []
    position = {name: i for i, name in enumerate(ran)}
    assert set(position) == {task.name for task in tasks}
    for task in tasks:
        assert all(position[before] < position[task.name] for before in task.after), task.name


def test_a_basis_waits_for_training_scenes_alone() -> None:
    basis = next(task for task in everything() if task.name == "feature basis clip")
    assert basis.after == ("scene d.a", "scene d.b")


def test_a_broken_held_out_scene_stops_the_student_but_no_other_scene() -> None:
    ran, never = run(everything(), {"scene d.c"})
    assert "scene teacher d.a" in ran
    assert "teacher features d.b" in ran
    assert set(never) == {
        "scene teacher d.c",
        "features d.c",
        "teacher features d.c",
        "student clip",
        "evaluation clip",
        "weak labels d.c",
    }
