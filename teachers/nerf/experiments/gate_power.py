"""How often do gates stop a clean rendering, and how often do they let a poisoned one pass?

``python -m teachers.nerf.experiments.gate_power FOLDER`` generates small procedural scenes in a folder, and
stands exact renderings with a field's faults in for fields: depth that is off by a few percent in patches, images that
are blurred and grained. Each scene is judged clean and under every poison, and ``FOLDER/power.json`` says which checks
failed how often, after each scene anew. Started again, it goes on with the scenes that are left.
Fitted fields are judged by their own stored gates.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from scipy.ndimage import gaussian_filter, uniform_filter

from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.procedural.sensing.render import render_camera
from storage.procedural.world.world import World
from storage.procedural.writers.truth import read_recipe
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.config import ConfidenceConfig, TeacherDepthConfig, VirtualViewsConfig
from teachers.nerf.evidence import SHIFT_M, RenderEvidence
from teachers.nerf.experiments.poisons import POISONS, Rendered
from teachers.nerf.gates import depth_metrics, view_metrics
from teachers.nerf.rendered_views import FieldViews, RecordedViews, judge_frame

_SIZE = (56, 100)
_MAX_LIDAR_M = 80.0

Failed = dict[str, dict[str, str]]
"""Checks that failed, with their figures, of a scene as it is and under each poison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """Renders the exact world of a scene with a field's faults, as ``RenderSource.views`` renders a field.

    Attributes:
        world: The world.
        scene: The scene that was recorded in it.
        depth_noise: Standard deviation of the logarithm of depth; it varies over patches.
        colour_noise: Standard deviation of grain, [0, 1].
        aside_m: Every pose is off by this, in the camera's axes, metres.
    """

    world: World
    scene: SceneReader
    depth_noise: float = 0.03
    colour_noise: float = 0.04
    aside_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __call__(self, frame: int, camera: int, poses: np.ndarray, size: tuple[int, int]) -> FieldViews:
        """Return the views of a camera from some poses."""
        intrinsics, lens = self.scene.intrinsics(camera, size=size), self.scene.fisheye(camera)
        time_us = self.scene.camera_timestamp_us(frame, camera) - self.scene.timestamp_us(0)
        rng = np.random.default_rng([frame, camera, len(poses)])
        rgb, depth = [], []
        for pose in poses:
            moved = pose.copy()
            moved[:3, 3] += pose[:3, :3] @ np.array(self.aside_m)
            view = render_camera(self.world, time_us, moved, intrinsics, *size, fisheye=lens, antialias=False)
            patches = gaussian_filter(rng.normal(size=size), 6)
            depth.append(view.termination_depth * np.exp(self.depth_noise * patches / patches.std()))
            grain = rng.normal(0, self.colour_noise, (*size, 3))
            rgb.append(uniform_filter(view.image / 255.0, 3, axes=(0, 1)) + grain)
        distance = np.stack(depth).astype(np.float32)
        return FieldViews(
            frame=frame,
            camera=camera,
            poses=poses,
            has_ray=np.ones(size, bool),
            rgb=np.stack(rgb).clip(0, 1).astype(np.float32),
            termination_depth=np.nan_to_num(distance, nan=400.0),
            opacity=np.isfinite(distance).astype(np.float32),
        )


def judged(scene: SceneReader, world: World, *, is_recorded: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the gate of a scene's recorded cameras or virtual views, clean and under each poison."""
    clean = StandIn(world=world, scene=scene)
    recorded = RecordedViews(
        scene,
        clean,
        is_sky=None,
        fitted_frames=range(scene.num_frames),
        max_lidar_m=_MAX_LIDAR_M,
        map_size=_SIZE,
        image_size=_SIZE,
        config=ConfidenceConfig(),
    )
    moved = np.eye(4)[None] if is_recorded else np.tile(np.eye(4), (3, 1, 1))
    if not is_recorded:
        moved[:, :3, 3] = VirtualViewsConfig().camera_shifts_m
    rendered = _render(clean, moved)
    yield "clean", _gate(recorded, rendered, is_recorded)
    for name, poison in POISONS.items():
        if not (is_recorded and name == "views exchanged"):
            yield name, _gate(recorded, poison(rendered), is_recorded)
    for axis, name in enumerate(("right", "down", "forward")):
        aside = np.eye(3)[axis] * SHIFT_M
        off = StandIn(world=world, scene=scene, aside_m=(aside[0], aside[1], aside[2]))
        yield f"pose {SHIFT_M} m {name}", _gate(recorded, _render(off, moved), is_recorded)


def _render(stand_in: StandIn, moved: np.ndarray) -> Rendered:
    scene = stand_in.scene
    return [
        [stand_in(f, c, scene.camera_to_world(f, c) @ moved, _SIZE) for c in range(scene.num_cameras)]
        for f in range(scene.num_frames)
    ]


def _gate(recorded: RecordedViews, rendered: Rendered, is_recorded: bool) -> dict[str, Any]:
    depth, views = TeacherDepthConfig(), VirtualViewsConfig()
    names, gate = (("recorded",), depth.gate) if is_recorded else (views.view_names, views.gate)
    evidence = RenderEvidence.of_scene(recorded.scene, names, ratio=gate.contradiction_ratio)
    for frame in rendered:
        evidence.add(judge_frame(recorded, frame, is_recorded=is_recorded))
    return depth_metrics(evidence, True, depth) if is_recorded else view_metrics(evidence, True, views)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PowerArguments:
    """Measure power and false alarms of the gates of rendered targets.

    Attributes:
        folder: Folder for the scenes and what was found of each; what is there is not made again.
        num_scenes: Number of scenes.
        frames: Frames of each, at least four.
        virtual: Whether virtual views are judged, too; they take three times as long.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    num_scenes: int = 20
    frames: int = 4
    virtual: bool = False


def main() -> None:
    """Measure."""
    arguments = tyro.cli(_PowerArguments, description=_PowerArguments.__doc__)
    home = Home(arguments.folder / "home")
    config = ProceduralConfig(
        num_scenes=arguments.num_scenes,
        airside_share=0.5,
        frames_per_scene=arguments.frames,
        image_height=_SIZE[0] * 2,
        image_width=_SIZE[1] * 2,
        antialias=False,
    )
    kinds = ("teacher_depth", "virtual_views")[: 1 + arguments.virtual]
    verdicts: dict[str, Failed] = {}
    for key in generate_dataset(home, arguments.folder / "raw", config):
        for kind in kinds:
            found = arguments.folder / f"{key}.{kind}.json"
            if not found.is_file():
                ingest_scene(home, key)
                aside = found.with_suffix(".partial")
                aside.write_text(json.dumps(_failed(home, key, is_recorded=kind == "teacher_depth")))
                aside.rename(found)
            verdicts[f"{key} {kind}"] = json.loads(found.read_text())
            (arguments.folder / "power.json").write_text(json.dumps(power(verdicts), indent=1))


def _failed(home: Home, key: SceneKey, *, is_recorded: bool) -> Failed:
    scene, world = SceneReader.open(home, str(key)), read_recipe(home, key).build()
    return {
        name: {
            check: f"{c['value']:.3g} {c.get('where', '')}"
            for check, c in metrics["quality"]["checks"].items()
            if not c["passed"] and "undecided" not in c
        }
        for name, metrics in judged(scene, world, is_recorded=is_recorded)
    }


def power(verdicts: Mapping[str, Failed]) -> dict[str, dict[str, Any]]:
    """Return by kind and poison how many scenes it was caught in, by which checks; of clean ones also where.

    Args:
        verdicts: Those of each scene and kind, by ``<scene> <kind>``.
    """
    found: dict[str, dict[str, Any]] = {}
    for subject, failed in verdicts.items():
        key, _, kind = subject.partition(" ")
        for name, checks in failed.items():
            row = found.setdefault(f"{kind}: {name}", {"scenes": 0, "caught": 0, "checks": Counter(), "where": []})
            row["scenes"] += 1
            row["caught"] += bool(checks)
            row["checks"].update(checks.keys())
            if name == "clean":
                row["where"] += [f"{key}: {check} {said}" for check, said in checks.items()]
    return found


if __name__ == "__main__":
    main()
