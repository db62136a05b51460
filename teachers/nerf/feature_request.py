"""What is asked of a scene's field from any view, and the answer, as files between two environments.

Imports neither torch nor nerfstudio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from teachers.nerf.config import ExecutionConfig

_FEATURES = "features_"
ERROR_FILE = "error.json"

Pose = tuple[tuple[float, float, float, float], ...]
"""Rows of a 4x4 rigid transform."""

_AS_RECORDED: Pose = tuple(map(tuple, np.eye(4).tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureView:
    """One view of a scene.

    Attributes:
        frame: Its time.
        camera: Its camera, whose lens it has.
        virtual_to_camera: Where it stands, in that camera's own axes (x right, y down, z forward), metres.
    """

    frame: int
    camera: int
    virtual_to_camera: Pose = _AS_RECORDED

    @classmethod
    def at(cls, frame: int, camera: int, *, virtual_to_camera: Float[np.ndarray, "4 4"] | None = None) -> "FeatureView":
        """Return the view of a camera, moved by a transform in its own axes; as recorded by default."""
        moved = _AS_RECORDED if virtual_to_camera is None else tuple(map(tuple, virtual_to_camera.tolist()))
        return cls(frame=frame, camera=camera, virtual_to_camera=moved)

    @classmethod
    def shifted(cls, frame: int, camera: int, shift_m: tuple[float, float, float]) -> "FeatureView":
        """Return the view of a camera that was moved, not turned, in its own axes, metres."""
        moved = np.eye(4)
        moved[:3, 3] = shift_m
        return cls.at(frame, camera, virtual_to_camera=moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRequest:
    """Views of one scene to render from its field.

    Attributes:
        home_root: Root of the home.
        store_url: Where its array stores live, if not under the root.
        scene_key: The scene.
        digest: The feature field; the field that it was distilled into must be the scene's current one. Empty for
            views without features.
        views: The views.
        height: Rows of each.
        width: Columns of each.
        execution: How they are rendered.
    """

    home_root: str
    store_url: str | None = None
    scene_key: str
    digest: str
    views: tuple[FeatureView, ...]
    height: int
    width: int
    execution: ExecutionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReading:
    """The same views, rendered.

    Attributes:
        frame_index: Frame of each view.
        camera_index: Camera of each view.
        camera_to_world: Pose of each view.
        intrinsics: In pixels of the views.
        rgb: Colours.
        termination_depth: Metres along unit rays; NaN where the view shows no surface.
        points_world: Where the rays of the pixels end, metres; NaN likewise.
        features: By source, in [0, 1], without any pattern of image positions; empty if none were asked for.
    """

    frame_index: Int64[np.ndarray, " views"]
    camera_index: Int64[np.ndarray, " views"]
    camera_to_world: Float64[np.ndarray, "views 4 4"]
    intrinsics: Float64[np.ndarray, "views 3 3"]
    rgb: UInt8[np.ndarray, "views height width 3"]
    termination_depth: Float32[np.ndarray, "views height width"]
    points_world: Float32[np.ndarray, "views height width 3"]
    features: Mapping[str, Float[np.ndarray, "views height width _"]]

    def save(self, path: Path) -> None:
        """Write the arrays into one file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "features"}
        np.savez(path, **arrays, **{f"{_FEATURES}{name}": values for name, values in self.features.items()})

    @classmethod
    def load(cls, path: Path) -> "FeatureReading":
        """Read back what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            named = {name: file[name] for name in file.files}
        features = {n.removeprefix(_FEATURES): named.pop(n) for n in list(named) if n.startswith(_FEATURES)}
        return cls(features=features, **named)

    @classmethod
    def joined(cls, parts: Sequence["FeatureReading"]) -> "FeatureReading":
        """Return the views of one field's readings as one reading."""
        whole = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name != "features"
        }
        sources = parts[0].features
        return cls(features={s: np.concatenate([part.features[s] for part in parts]) for s in sources}, **whole)


def answer_file(folder: Path, index: int) -> Path:
    """Return the file of one view's answer."""
    return folder / f"view-{index:06d}.npz"
