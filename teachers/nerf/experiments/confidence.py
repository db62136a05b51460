"""How right are the pixels that are called valid? Measured against the exact world of procedural scenes.

``python -m teachers.nerf.experiments.confidence HOME`` needs a home with procedural scenes whose ``teacher_depth`` and
``virtual_views`` exist, as ``distillnerf demo`` leaves it. It renders the world at the stored poses and prints JSON: of
the pixels called valid, how many have their depth within a tenth, how far their colours are off, how many they are.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Bool, Float, Float32, UInt8

from storage.geometry.cameras import scale_intrinsics
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.sensing.render import render_camera
from storage.procedural.world.world import World
from storage.procedural.writers.truth import read_recipe
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home

_WITHIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One stored view beside the truth.

    Attributes:
        rgb: Rendered from the field; None where it is not stored.
        termination_depth: Stored, metres.
        is_valid: Stored.
        shows_world: Pixels that show neither the vehicle itself nor the outside of a lens.
        true_rgb: Colour of the world.
        true_depth: Distance of the world, metres; NaN for sky.
    """

    rgb: UInt8[np.ndarray, "height width 3"] | None
    termination_depth: Float32[np.ndarray, "height width"]
    is_valid: Bool[np.ndarray, "height width"]
    shows_world: Bool[np.ndarray, "height width"]
    true_rgb: Float[np.ndarray, "height width 3"]
    true_depth: Float32[np.ndarray, "height width"]


@dataclass(slots=True)
class _AgreementTally:
    pixels: int = 0
    valid: int = 0
    surfaces: int = 0
    right: int = 0
    relative: float = 0.0
    sky: int = 0
    right_sky: int = 0
    squared: dict[str, list[float]] = field(default_factory=lambda: {"valid": [0.0, 0.0], "all": [0.0, 0.0]})

    def add(self, view: _View) -> None:
        is_valid = view.is_valid & view.shows_world
        is_surface = is_valid & np.isfinite(view.termination_depth)
        difference = np.abs(view.termination_depth - view.true_depth)[is_surface]
        relative = np.nan_to_num(difference / view.true_depth[is_surface], nan=1.0)  # a surface where there is sky
        self.pixels += int(view.shows_world.sum())
        self.valid += int(is_valid.sum())
        self.surfaces += relative.size
        self.right += int((relative <= _WITHIN).sum())
        self.relative += float(np.minimum(relative, 1.0).sum())
        is_sky = is_valid & ~is_surface
        self.sky += int(is_sky.sum())
        self.right_sky += int(np.isnan(view.true_depth[is_sky]).sum())
        if view.rgb is not None:
            error = np.square(view.rgb / 255.0 - view.true_rgb / 255.0).mean(axis=-1)
            for name, chosen in (("valid", is_valid), ("all", view.shows_world)):
                self.squared[name][0] += float(error[chosen].sum())
                self.squared[name][1] += int(chosen.sum())

    def figures(self) -> dict[str, float]:
        """Return the figures; NaN where nothing was measured."""
        found = {
            "valid_share": _ratio(self.valid, self.pixels),
            "depth_within_tenth": _ratio(self.right, self.surfaces),
            "abs_rel": _ratio(self.relative, self.surfaces),
            "sky_is_sky": _ratio(self.right_sky, self.sky),
        }
        if self.squared["all"][1]:
            for name, (total, count) in self.squared.items():
                found[f"psnr_{name}"] = float(-10 * np.log10(max(_ratio(total, count), 1e-10)))
        return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def measure(home: Home, scene_key: str, *, every: int = 1) -> dict[str, dict[str, float]]:
    """Return, for each kind, how right what is called valid is, over every ``every``-th frame.

    Raises:
        MissingTargetError: If the scene is not procedural, or its depth or views were not rendered.
    """
    scene = SceneReader.open(home, scene_key)
    world = read_recipe(home, SceneKey.parse(scene_key)).build()
    found = {}
    for kind in (Kind.TEACHER_DEPTH, Kind.VIRTUAL_VIEWS):
        tally = _AgreementTally()
        for view in _views(home, scene, world, scene_key, kind, every):
            tally.add(view)
        found[str(kind)] = tally.figures()
    return found


def _views(home: Home, scene: SceneReader, world: World, scene_key: str, kind: Kind, every: int) -> Iterator[_View]:
    group = home.open_arrays(home.require(kind, scene_key))
    is_virtual = kind == Kind.VIRTUAL_VIEWS
    moved = read_target(group, kind, "virtual_to_camera") if is_virtual else np.eye(4)[None]
    for frame in range(0, scene.num_frames, every):
        depth, is_valid = (read_target(group, kind, name, frame) for name in ("termination_depth", "is_valid"))
        size = (depth.shape[-2], depth.shape[-1])
        images = read_target(group, kind, "image", frame) if is_virtual else None
        for camera in range(scene.num_cameras):
            for view, virtual_to_camera in enumerate(moved):
                place = (camera, view) if is_virtual else (camera,)
                pose = scene.camera_to_world(frame, camera) @ virtual_to_camera
                true_rgb, true_depth = _render_truth(world, scene, frame, camera, pose, size)
                is_own = scene.is_valid(camera, size=size)
                yield _View(
                    rgb=None if images is None else images[place],
                    termination_depth=depth[place].astype(np.float32),
                    is_valid=is_valid[place],
                    shows_world=np.ones(size, bool) if is_virtual else is_own,
                    true_rgb=true_rgb,
                    true_depth=true_depth,
                )


def _render_truth(
    world: World, scene: SceneReader, frame: int, camera: int, pose: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour, the mean of four antialiased pixels in each, and depth at pixel centres."""
    time_us = scene.camera_timestamp_us(frame, camera) - scene.timestamp_us(0)
    intrinsics, lens = scene.intrinsics(camera, size=size), scene.fisheye(camera)
    height, width = size
    depth = render_camera(world, time_us, pose, intrinsics, height, width, fisheye=lens, antialias=False)
    fine = scale_intrinsics(intrinsics, from_size=size, to_size=(2 * height, 2 * width))
    image = render_camera(world, time_us, pose, fine, 2 * height, 2 * width, fisheye=lens).image
    return image.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)), depth.termination_depth


@dataclass(frozen=True, slots=True, kw_only=True)
class _ConfidenceArguments:
    """Measure how right the pixels called valid are.

    Attributes:
        home: Home with procedural scenes and their rendered targets.
        scenes: Scenes to measure; all that have virtual views if none are named.
        every: Distance between measured frames.
    """

    home: Annotated[Path, tyro.conf.Positional]
    scenes: tuple[str, ...] = ()
    every: int = 1


def main() -> None:
    """Measure, and print JSON."""
    arguments = tyro.cli(_ConfidenceArguments, description=_ConfidenceArguments.__doc__)
    home = Home(arguments.home)
    keys = arguments.scenes or tuple(sorted({version.partition for version in home.versions(Kind.VIRTUAL_VIEWS)}))
    found: dict[str, Any] = {key: measure(home, key, every=arguments.every) for key in keys}
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
