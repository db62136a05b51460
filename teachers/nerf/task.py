"""What the worker is told to do and what it reports back, as JSON between two environments.

Imports neither torch nor nerfstudio: the orchestrator writes tasks and reads results with this module, the worker in
nerfstudio's environment reads and writes the same.
"""

import dataclasses
import json
import os
import types
import typing
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from storage import errors
from storage.digests import config_json
from storage.errors import ErrorKind, PipelineError
from storage.kinds import Kind, StoreForm
from storage.stores.versioned import Materialized, StoreVersion
from teachers.nerf.config import NerfConfig, TeacherDepthConfig, TeacherFeaturesConfig, VirtualViewsConfig

T = TypeVar("T")
Action = Literal["fit", "render_depth", "render_virtual_views", "render_features"]
StepConfig = NerfConfig | TeacherDepthConfig | VirtualViewsConfig | TeacherFeaturesConfig

_CONFIG_OF: dict[str, type] = {
    "fit": NerfConfig,
    "render_depth": TeacherDepthConfig,
    "render_virtual_views": VirtualViewsConfig,
    "render_features": TeacherFeaturesConfig,
}
KIND_OF: dict[str, str] = {
    "fit": Kind.NERF_TEACHER,
    "render_depth": Kind.TEACHER_DEPTH,
    "render_virtual_views": Kind.VIRTUAL_VIEWS,
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
        return {
            "home": self.home_root,
            "store_url": self.store_url,
            "scene_key": self.scene_key,
            "steps": [{"action": s.action, "config": config_json(s.config)} for s in self.steps],
            "result_file": self.result_file,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "NerfTask":
        """Read a task; a single step may be given as ``action`` and ``config`` at the top.

        Raises:
            ValueError: If a field is missing, unknown or of the wrong type.
        """
        steps = raw["steps"] if "steps" in raw else [{"action": raw.get("action"), "config": raw.get("config", {})}]
        unknown = set(raw) - {"home", "store_url", "scene_key", "steps", "action", "config", "result_file"}
        missing = {"home", "scene_key"} - set(raw)
        if unknown or missing:
            raise ValueError(f"task with unknown fields {sorted(unknown)}, without {sorted(missing)}")
        decoded = []
        for step in steps:
            if step.get("action") not in _CONFIG_OF:
                raise ValueError(f"action {step.get('action')!r}, want one of {sorted(_CONFIG_OF)}")
            config = decode(_CONFIG_OF[step["action"]], step.get("config", {}))
            decoded.append(NerfStep(action=step["action"], config=config))
        return cls(
            home_root=str(raw["home"]),
            store_url=raw.get("store_url"),
            scene_key=str(raw["scene_key"]),
            steps=tuple(decoded),
            result_file=str(raw.get("result_file", "")),
        )


def write_result(path: Path, results: Mapping[str, Materialized], error: PipelineError | None = None) -> None:
    """Leave what was materialised, and the error that ended the task if one did, atomically."""
    content = {
        "materialized": {
            action: {
                "version": {**dataclasses.asdict(m.version), "form": m.version.form.value},
                "reused": m.reused,
                "metrics": m.metrics,
            }
            for action, m in results.items()
        },
        "error": None
        if error is None
        else {"type": type(error).__name__, "kind": error.kind.value, "key": error.key, "message": error.message},
    }
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    aside.write_text(json.dumps(content))
    os.replace(aside, path)


def read_result(path: Path) -> dict[str, Materialized]:
    """Return what a task materialised, by action.

    Raises:
        PipelineError: The typed error that ended the task, as the worker raised it.
        FileNotFoundError: If the worker ended without leaving a result.
    """
    content = json.loads(path.read_text())
    if content["error"] is not None:
        error = content["error"]
        known = getattr(errors, error["type"], PipelineError)
        raise known(ErrorKind(error["kind"]), error["key"], error["message"])
    return {
        action: Materialized(
            StoreVersion(**{**m["version"], "form": StoreForm(m["version"]["form"])}), m["reused"], m["metrics"]
        )
        for action, m in content["materialized"].items()
    }


def decode(wanted: type[T], value: Any) -> T:  # noqa: ANN401 - JSON is untyped
    """Return a value of a type annotation from JSON: nested dataclasses, tuples, unions and literals.

    Raises:
        ValueError: If a field is unknown or a value does not fit its annotation.
    """
    return _decode(wanted, value, wanted.__name__)


def _decode(wanted: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - annotations and JSON are untyped
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}, want an object")
        hints = typing.get_type_hints(wanted)
        known = {f.name for f in dataclasses.fields(wanted)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"{where} has unknown fields {unknown}, want some of {sorted(known)}")
        return wanted(**{name: _decode(hints[name], v, f"{where}.{name}") for name, v in value.items()})  # type: ignore[operator]
    if origin is tuple and isinstance(value, list | tuple):
        items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(items) == len(value):
            return tuple(
                _decode(item, v, f"{where}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True))
            )
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _decode(option, value, where)
            except ValueError:
                continue
    elif wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif wanted in (int, str, bool, types.NoneType) and type(value) is wanted:
        return value
    raise ValueError(f"{where} is {value!r}, want {wanted}")
