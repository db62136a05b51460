"""A run as a list of tasks: which assets of which partition, after which others.

One task is one Dagster run. Assets that follow each other on the same scene share one, because a run costs about half a
second of bookkeeping; what can go on side by side does not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Work = Literal["models", "scene_teacher", "student"]
"""What a task keeps busy: image models in the worker itself, nerfstudio in a process of its own, or everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One Dagster run.

    Attributes:
        name: Unique, for people.
        assets: Assets to materialise.
        partition: Of all of them; None where they have none.
        after: Names of tasks that must have succeeded.
        work: What it keeps busy.
    """

    name: str
    assets: tuple[str, ...]
    partition: str | None
    after: tuple[str, ...] = ()
    work: Work = "models"


def plan_scene_tasks(
    scene_keys: Iterable[str],
    train_scenes: Iterable[str],
    feature_sources: Iterable[str],
    *,
    with_features: bool = True,
) -> list[Task]:
    """Return the tasks that make every target of some scenes.

    Args:
        scene_keys: All scenes.
        train_scenes: Those that feature bases are fitted on.
        feature_sources: Foundation models whose features are wanted.
        with_features: Also distil features into each scene's field and render them.
    """
    keys, train, sources = list(scene_keys), list(train_scenes), list(feature_sources)
    tasks = [
        Task(
            name=f"scene {key}",
            assets=("scene", "input_images", "sky_mask", "depth_anything_features"),
            partition=key,
        )
        for key in keys
    ]
    tasks += [
        Task(
            name=f"feature basis {source}",
            assets=("feature_basis",),
            partition=source,
            after=tuple(f"scene {key}" for key in train),
        )
        for source in sources
    ]
    for key in keys:
        tasks.append(
            Task(
                name=f"scene teacher {key}",
                assets=("nerf_teacher", "teacher_depth", "virtual_views"),
                partition=key,
                after=(f"scene {key}",),
                work="scene_teacher",
            )
        )
        tasks.append(
            Task(
                name=f"features {key}",
                assets=tuple(f"{source}_features" for source in sources),
                partition=key,
                after=(f"scene {key}", *(f"feature basis {source}" for source in sources)),
            )
        )
        if with_features:
            tasks.append(
                Task(
                    name=f"teacher features {key}",
                    assets=("teacher_features",),
                    partition=key,
                    after=(f"scene teacher {key}", f"features {key}"),
                    work="scene_teacher",
                )
            )
    return tasks


def plan_student_tasks(variant: str, targets: Iterable[Task], label_scenes: Iterable[str]) -> list[Task]:
    """Return the tasks that fit, score and use one student.

    Args:
        variant: The student.
        targets: Tasks that make what it learns from.
        label_scenes: Scenes to be labelled with it.
    """
    fit = Task(
        name=f"student {variant}",
        assets=("training_set", "student_checkpoint"),
        partition=variant,
        after=tuple(task.name for task in targets),
        work="student",
    )
    score = Task(
        name=f"evaluation {variant}",
        assets=("student_evaluation", "report"),
        partition=variant,
        after=(fit.name,),
        work="student",
    )
    labels = [
        Task(name=f"weak labels {key}", assets=("weak_labels",), partition=key, after=(score.name,), work="models")
        for key in label_scenes
    ]
    return [fit, score, *labels]


def ready(tasks: Iterable[Task], finished: Mapping[str, bool], started: Iterable[str]) -> list[Task]:
    """Return tasks whose predecessors all succeeded and that were not started, in their order."""
    begun = set(started)
    return [task for task in tasks if task.name not in begun and all(finished.get(name, False) for name in task.after)]


def blocked(tasks: Iterable[Task], finished: Mapping[str, bool]) -> list[Task]:
    """Return tasks that can never start because something before them failed."""
    failed = {name for name, succeeded in finished.items() if not succeeded}
    stuck: list[Task] = []
    for task in tasks:  # in order: a task comes after its predecessors
        if task.name not in finished and failed & set(task.after):
            stuck.append(task)
            failed.add(task.name)
    return stuck
