"""The plan of a run: what waits for what, and what goes on when something fails."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from assets.declarations import TASK_TAG, WORK_TAG, all_of
from pipeline.definitions import asset_graph, build_definitions
from pipeline.partitions import scenes, variants
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection
from pipeline.tasks import Task, blocked, plan_tasks, ready
from pipeline.workflow import plan, plan_everything
from storage.kinds import trainable_kinds
from teachers.nerf.task import KIND_OF

SELECTION = HomeSelection(preset="demo", train_scenes=("d.a", "d.b"), validation_scenes=("d.c",))


def everything() -> list[Task]:
    return plan_everything(SELECTION)


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
        *trainable_kinds(),
        "scene_audit",
        "nerf_teacher",
        "feature_field",
        "occupancy_labels",
        "lidar_occupancy",
    }


def test_references_are_made_of_the_scenes_that_are_judged_by_them() -> None:
    """Only held-out scenes need their teacher's voxels, and only recordings the beams of their LiDAR."""

    def scenes_of(asset: str, selection: HomeSelection) -> set[str | None]:
        return {task.partition for task in plan_everything(selection) if asset in task.assets}

    assert scenes_of("teacher_occupancy", SELECTION) == {"d.c"}
    alone = dataclasses.replace(SELECTION, train_scenes=("d.a",), validation_scenes=())
    assert scenes_of("teacher_occupancy", alone) == {"d.a"}
    mixed = dataclasses.replace(SELECTION, train_scenes=("d.a", "procedural.scene-0001"))
    assert scenes_of("lidar_occupancy", mixed) == {"d.a", "d.c"}
    elsewhere = dataclasses.replace(mixed, overrides=("procedural.dataset=d",))
    assert scenes_of("lidar_occupancy", elsewhere) == {"procedural.scene-0001"}


def test_no_field_is_fitted_for_a_student_that_learns_from_none() -> None:
    def made(variant: Any) -> set[str]:
        return {a for task in plan_everything(dataclasses.replace(SELECTION, variant=variant)) for a in task.assets}

    of_fields = {*KIND_OF.values()}
    assert of_fields <= made("clip")
    assert made("clip") - made("clip_without_field") == of_fields


def test_all_tasks_run_each_after_its_predecessors() -> None:
    tasks = everything()
    ran, never = run(tasks, set())
    assert never == []
    position = {name: i for i, name in enumerate(ran)}
    assert set(position) == {task.name for task in tasks}
    for task in tasks:
        assert all(position[before] < position[task.name] for before in task.after), task.name


def test_a_task_waits_for_what_the_asset_graph_says_and_for_nothing_else() -> None:
    graph, tasks = asset_graph(), everything()
    maker = {(asset, task.partition): task.name for task in tasks for asset in task.assets}
    for task in tasks:
        parents = {key.path[-1] for a in task.assets for key in graph.get(dg.AssetKey(a)).parent_keys}
        waited = {asset for (asset, _), name in maker.items() if name in task.after}
        made_here = set(task.assets)
        assert parents - {"scene_truth", "teacher_features", "procedural_recordings"} <= waited | made_here, task.name
        for name in task.after:
            others = next(other.assets for other in tasks if other.name == name)
            assert parents & set(others), (task.name, name)
        of_own_scene = {n for (_, partition), n in maker.items() if partition == task.partition}
        if (task.partition or "").startswith("d."):
            assert {n for n in task.after if " d." in n} <= of_own_scene, task.name


def test_assets_of_a_task_are_in_the_order_of_the_graph() -> None:
    order = [key.path[-1] for key in asset_graph().toposorted_asset_keys]
    for task in everything():
        assert list(task.assets) == sorted(task.assets, key=order.index), task.name


def graph_of(*specs: dg.AssetSpec) -> AssetGraph:
    def make(spec: dg.AssetSpec) -> dg.AssetsDefinition:
        @dg.multi_asset(specs=[spec], name=f"make_{spec.key.path[-1]}")
        def step() -> None: ...

        return step

    return dg.Definitions(assets=[make(spec) for spec in specs]).resolve_asset_graph()


def spec(name: str, *deps: Any, partitions: Any = scenes, **tags: str) -> dg.AssetSpec:
    named = {TASK_TAG: tags.get("task"), WORK_TAG: tags.get("work")}
    declared = {tag: value for tag, value in named.items() if value}
    return dg.AssetSpec(name, deps=deps, partitions_def=partitions, tags=declared)


def edges(tasks: list[Task]) -> dict[str, tuple[str, ...]]:
    return {task.name: task.after for task in tasks}


def test_an_edge_that_is_taken_from_the_assets_is_taken_from_the_tasks() -> None:
    last = {"c": ["d.a"]}
    with_edge = graph_of(spec("a"), spec("b", "a"), spec("c", "b"))
    assert edges(plan_tasks(with_edge, last, SELECTION)) == {
        "a d.a": (),
        "b d.a": ("a d.a",),
        "c d.a": ("b d.a",),
    }
    without = graph_of(spec("a"), spec("b"), spec("c", "b"))
    assert edges(plan_tasks(without, last, SELECTION)) == {"b d.a": (), "c d.a": ("b d.a",)}


def test_assets_of_one_partition_that_share_a_run_are_one_task() -> None:
    graph = graph_of(spec("a", task="first_run"), spec("b", "a", task="first_run"), spec("c", "b", work="student"))
    first, second = plan_tasks(graph, {"c": ["d.a"]}, SELECTION)
    assert (first.name, first.assets, first.after, first.work) == ("first run d.a", ("a", "b"), (), "models")
    assert (second.name, second.after, second.work) == ("c d.a", ("first run d.a",), "student")


def test_a_run_reads_those_partitions_that_its_configuration_names() -> None:
    def reading(reads: Any) -> tuple[str, ...]:
        graph = graph_of(spec("a"), spec("b", all_of("a", reads=reads), partitions=variants))
        return edges(plan_tasks(graph, {"b": ["clip"]}, SELECTION))["b clip"]

    assert reading("scenes_of_basis") == ("a d.a", "a d.b")
    assert reading("scenes") == ("a d.a", "a d.b", "a d.c")


def test_without_what_is_upstream_the_goals_alone_are_made() -> None:
    graph = graph_of(spec("a"), spec("b", "a"), spec("c", "b"))
    tasks = plan_tasks(graph, {"b": ["d.z"], "c": ["d.z"]}, SELECTION, with_upstream=False)
    assert edges(tasks) == {"b d.z": (), "c d.z": ("b d.z",)}


def test_runs_that_would_wait_for_each_other_are_refused() -> None:
    graph = graph_of(spec("a", task="x"), spec("b", "a", task="y"), spec("c", "b", task="x"))
    with pytest.raises(ValueError, match="wait for each other"):
        plan_tasks(graph, {"c": ["d.a"]}, SELECTION)


def test_a_run_whose_assets_keep_different_things_busy_is_refused() -> None:
    graph = graph_of(spec("a", task="x", work="models"), spec("b", "a", task="x", work="student"))
    with pytest.raises(ValueError, match="distillnerf/work"):
        plan_tasks(graph, {"b": ["d.a"]}, SELECTION)


def test_a_task_carries_the_whole_selection() -> None:
    selection = HomeSelection(
        preset="tiny", seed=3, overrides=("nerf.num_steps=7",), variant="clip_dinov2", train_scenes=("d.a",)
    )
    tasks = {task.name: task.config["ops"] for task in plan_everything(selection)}
    common = {
        "preset": "tiny",
        "seed": 3,
        "overrides": ["nerf.num_steps=7"],
        "variant": "clip_dinov2",
        "published": None,
        "is_complete": True,
    }
    fitted = {**common, "train_scenes": ["d.a"], "basis_scenes": []}
    assert tasks["feature basis clip"] == {"feature_basis": {"config": fitted}}
    learned = {**common, "train_scenes": ["d.a"], "validation_scenes": []}
    assert tasks["scene teacher d.a"] == {"scene_teacher": {"config": learned}}  # the split: what it may be fitted to
    assert tasks["student clip_dinov2"] == {
        "training_set": {"config": learned},
        "student_checkpoint": {"config": common},
    }
    assert tasks["weak labels d.a"] == {"weak_labels": {"config": common}}


@pytest.mark.filterwarnings("ignore:Asset job everything ")
def test_dagster_takes_the_configuration_of_every_task(tmp_path: Path) -> None:
    job = build_definitions(home=HomeResource(root=str(tmp_path))).resolve_implicit_global_asset_job_def()
    generated = plan({"procedural_recordings": [None]}, SELECTION)
    assert [task.name for task in generated] == ["procedural recordings"]
    for task in [*generated, *everything()]:
        selected = job.get_subset(asset_selection={dg.AssetKey(name) for name in task.assets})
        dg.validate_run_config(selected, dict(task.config))


def test_weak_labels_wait_for_what_chose_their_threshold_and_for_the_student_of_the_run_alone() -> None:
    labels = next(task for task in everything() if task.name == "weak labels d.c")
    assert set(labels.after) == {"scene d.c", "feature basis clip", "student clip", "evaluation clip"}


def test_a_student_waits_for_features_of_the_field_only_if_it_learns_from_them() -> None:
    failing = {"teacher features d.a"}
    assert run(everything(), failing)[1] == []
    learning = dataclasses.replace(SELECTION, overrides=("student.data.features_from=field",))
    never = run(plan_everything(learning), failing)[1]
    assert set(never) == {"student clip", "evaluation clip", "weak labels d.c"}
    without = dataclasses.replace(learning, variant="depth")  # there is no feature that it could learn
    assert run(plan_everything(without), failing)[1] == []


def test_a_basis_waits_for_training_scenes_alone() -> None:
    basis = next(task for task in everything() if task.name == "feature basis clip")
    assert basis.after == ("scene d.a", "scene d.b")


def test_a_broken_held_out_scene_stops_the_student_but_no_other_scene() -> None:
    ran, never = run(everything(), {"scene d.c"})
    assert "scene teacher d.a" in ran
    assert "teacher features d.b" in ran
    assert set(never) == {
        "scene audit d.c",
        "scene teacher d.c",
        "features d.c",
        "teacher features d.c",
        "student clip",
        "evaluation clip",
        "weak labels d.c",
    }
