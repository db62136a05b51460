"""What the worker is told to do and what it reports back, as JSON between two environments.

Imports neither torch nor nerfstudio: the orchestrator writes tasks and reads results with this module, the worker in
nerfstudio's environment reads and writes the same.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.config_json import config_from_json
from storage.digests import canonical_json, config_json
from storage.errors import ErrorKind, PipelineError, error_of_another_process
from storage.kinds import Kind
from storage.plain_json import parse_json
from storage.stores.versioned import Materialized
from teachers.nerf.config import (
    FeatureFieldConfig,
    NerfConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
)

Action = Literal["fit", "render_depth", "render_virtual_views", "read_occupancy", "distil_features", "render_features"]
StepConfig = (
    NerfConfig
    | TeacherDepthConfig
    | VirtualViewsConfig
    | TeacherOccupancyConfig
    | FeatureFieldConfig
    | TeacherFeaturesConfig
)

_CONFIG_OF: dict[str, type] = {
    "fit": NerfConfig,
    "render_depth": TeacherDepthConfig,
    "render_virtual_views": VirtualViewsConfig,
    "read_occupancy": TeacherOccupancyConfig,
    "distil_features": FeatureFieldConfig,
    "render_features": TeacherFeaturesConfig,
}
KIND_OF: dict[str, Kind] = {
    "fit": Kind.NERF_TEACHER,
    "render_depth": Kind.TEACHER_DEPTH,
    "render_virtual_views": Kind.VIRTUAL_VIEWS,
    "read_occupancy": Kind.TEACHER_OCCUPANCY,
    "distil_features": Kind.FEATURE_FIELD,
    "render_features": Kind.TEACHER_FEATURES,
}
"""The kind of store that each action materialises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NerfStep:
    """One thing to do.

    Attributes:
        action: What.
        config: How; its type belongs to the action.
    """

    action: Action
    config: StepConfig

    def __post_init__(self) -> None:
        wanted = _CONFIG_OF[self.action]
        if type(self.config) is not wanted:
            raise ValueError(f"action {self.action!r} with a {type(self.config).__name__}, want {wanted.__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NerfTask:
    """Steps on one scene, run in order in one process: starting nerfstudio takes as long as a render.

    Attributes:
        home_root: Root of the home that everything is read from and written to.
        store_url: Where its array stores live, if not under the root.
        scene_key: The scene.
        steps: What to do.
        result_file: Where the worker leaves its results, or its error, as JSON; empty for nowhere.
    """

    home_root: str
    store_url: str | None = None
    scene_key: str
    steps: tuple[NerfStep, ...]
    result_file: str = ""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a task needs at least one step")

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON values: the extras of a Dagster Pipes call, or a task file."""
        return config_json(self)

    @classmethod
    def from_json(cls, raw: object) -> "NerfTask":
        """Read back what ``to_json`` returned.

        Raises:
            IntegrityError: If a field is missing, unknown, of the wrong type or out of range.
            ValueError: If there are no steps.
        """
        written = config_from_json(_WrittenTask, raw, "task")
        steps = tuple(
            NerfStep(
                action=step.action,
                config=config_from_json(_CONFIG_OF[step.action], step.config, f"task.steps[{index}].config"),
            )
            for index, step in enumerate(written.steps)
        )
        return cls(
            home_root=written.home_root,
            store_url=written.store_url,
            scene_key=written.scene_key,
            steps=steps,
            result_file=written.result_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WrittenStep:
    """A step as JSON: the type of its config is known once its action is."""

    action: Action
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _WrittenTask:
    home_root: str
    store_url: str | None
    scene_key: str
    steps: tuple[_WrittenStep, ...]
    result_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _WrittenError:
    type: str
    kind: ErrorKind
    key: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _WrittenResult:
    materialized: Mapping[str, Materialized]
    error: _WrittenError | None


def write_result(path: Path, results: Mapping[str, Materialized], error: PipelineError | None = None) -> None:
    """Leave what was materialised, and the error that ended the task if one did, atomically."""
    told = error and _WrittenError(type=type(error).__name__, kind=error.kind, key=error.key, message=error.message)
    content = canonical_json(_WrittenResult(materialized=results, error=told))
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    aside.write_text(content)
    os.replace(aside, path)


def read_result(path: Path) -> dict[str, Materialized]:
    """Return what a task materialised, by action.

    Raises:
        PipelineError: The typed error that ended the task, as the worker raised it.
        IntegrityError: If the file is not what ``write_result`` wrote.
        FileNotFoundError: If the worker ended without leaving a result.
    """
    result = config_from_json(_WrittenResult, parse_json(path.read_text()), str(path))
    if result.error is not None:
        told = result.error
        raise error_of_another_process(told.type, told.kind, told.key, told.message)
    return dict(result.materialized)
