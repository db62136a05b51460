"""The exact world of a procedural scene as its teacher: depth and virtual views with no field between.

A student that is pretrained on hundreds of procedural scenes would wait for days for as many fields. These targets
have the kinds, arrays and sizes of a field's (``teachers.nerf.render``), and a provenance that says what they are. They
exist for procedural scenes alone: nothing else has an exact world.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.procedural.sensing.render import RenderedView, render_camera
from storage.procedural.world.world import World
from storage.procedural.writers.truth import read_recipe
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.stores.arrays import create_target, write_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from storage.taxonomy import VOID_ID
from teachers.quality import at_least, at_most, gate

METHOD = "exact_world"
_MAX_DEPTH_BIAS = 0.05
"""Median relative error against the LiDAR: a beam and the centre of a coarse pixel see different points."""
_SIZE_LIMIT_M = 60_000.0
"""Depth beyond what float16 holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTeacherConfig:
    """Sizes and poses of exact targets.

    Attributes:
        depth_size: Rows and columns of the depth maps.
        view_size: Rows and columns of each virtual view.
        view_names: Name of each view, in order.
        camera_shifts_m: Where it stands in its camera's own axes (x right, y down, z forward), in order.
        method: Always "exact_world"; it keeps the digest apart from that of every field.
    """

    depth_size: tuple[int, int]
    view_size: tuple[int, int]
    view_names: tuple[str, ...] = ("left", "right", "up")
    camera_shifts_m: tuple[tuple[float, float, float], ...] = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    method: str = METHOD

    def __post_init__(self) -> None:
        """Reject views without a name, and another method."""
        if len(self.view_names) != len(self.camera_shifts_m) or not self.view_names:
            raise ValueError("want one shift per view name")
        if self.method != METHOD:
            raise ValueError(f"method {self.method!r}, want {METHOD!r}")


def exact_depth(home: Home, scene_key: str, config: ExactTeacherConfig) -> Materialized:
    """Return the exact depth of every camera of every frame: kind ``teacher_depth``.

    Depth is the termination depth along unit rays, metres; NaN is sky, or beside a fisheye's image.

    Raises:
        MissingTargetError: If the scene was not ingested, or is not procedural.
    """
    exact = _ExactScene(home, scene_key)
    scene, size = exact.scene, config.depth_size

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, *size)
        depths = create_target(group, Kind.TEACHER_DEPTH, "termination_depth", shape)
        opacities = create_target(group, Kind.TEACHER_DEPTH, "opacity", shape)
        validities = create_target(group, Kind.TEACHER_DEPTH, "is_valid", shape)
        write_target(group, Kind.TEACHER_DEPTH, "intrinsics", exact.intrinsics(size))
        errors, share = [], []
        for frame, camera in exact.frames_and_cameras():
            view = exact.render(frame, camera, np.eye(4), size)
            depth, opacity, is_valid = _maps(view)
            depths[frame, camera], opacities[frame, camera], validities[frame, camera] = depth, opacity, is_valid
            errors.append(exact.relative_errors(frame, camera, view, size))
            share.append(float(is_valid.mean()))
        bias = float(np.median(np.concatenate(errors)))
        quality = gate({"lidar_median_rel": at_most(bias, _MAX_DEPTH_BIAS)})
        return {"lidar_median_rel": bias, "valid_share": float(np.mean(share)), "quality": quality}

    return materialize_arrays(home, exact.provenance(Kind.TEACHER_DEPTH, config), write)


def exact_virtual_views(home: Home, scene_key: str, config: ExactTeacherConfig) -> Materialized:
    """Return exact images and depth at shifted cameras: kind ``virtual_views`` (DistillNeRF Sec. A.7).

    Raises:
        MissingTargetError: If the scene was not ingested, or is not procedural.
    """
    exact = _ExactScene(home, scene_key)
    scene, size = exact.scene, config.view_size
    virtual_to_camera = np.tile(np.eye(4), (len(config.camera_shifts_m), 1, 1))
    virtual_to_camera[:, :3, 3] = np.asarray(config.camera_shifts_m)

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, len(virtual_to_camera), *size)
        images = create_target(group, Kind.VIRTUAL_VIEWS, "image", (*shape, 3))
        depths = create_target(group, Kind.VIRTUAL_VIEWS, "termination_depth", shape)
        opacities = create_target(group, Kind.VIRTUAL_VIEWS, "opacity", shape)
        validities = create_target(group, Kind.VIRTUAL_VIEWS, "is_valid", shape)
        write_target(group, Kind.VIRTUAL_VIEWS, "virtual_to_camera", virtual_to_camera)
        write_target(group, Kind.VIRTUAL_VIEWS, "intrinsics", exact.intrinsics(size))
        group.attrs["view_names"] = list(config.view_names)
        share = []
        for frame, camera in exact.frames_and_cameras():
            for index, shift in enumerate(virtual_to_camera):
                view = exact.render(frame, camera, shift, size)
                at = (frame, camera, index)
                images[at] = view.image
                depths[at], opacities[at], validities[at] = maps = _maps(view)
                share.append(float(maps[2].mean()))
        valid = float(np.mean(share))
        # Less would mean that cameras stand inside of things: a metre aside of a wall, say.
        return {"valid_share": valid, "quality": gate({"valid_share": at_least(valid, 0.5)})}

    return materialize_arrays(home, exact.provenance(Kind.VIRTUAL_VIEWS, config), write)


class _ExactScene:
    """An ingested procedural scene beside the world that it was recorded in."""

    def __init__(self, home: Home, scene_key: str) -> None:
        self.home, self.key = home, scene_key
        self.scene = SceneReader.open(home, scene_key)
        self._truth = home.require(Kind.SCENE_TRUTH, scene_key)
        self._world: World | None = None

    def frames_and_cameras(self) -> Iterator[tuple[int, int]]:
        """Yield the index of every frame and camera."""
        return ((f, c) for f in range(self.scene.num_frames) for c in range(self.scene.num_cameras))

    def intrinsics(self, size: tuple[int, int]) -> Float[np.ndarray, "cameras 3 3"]:
        """Return the intrinsics of every camera at a size, pixels."""
        return np.stack([self.scene.intrinsics(c, size=size) for c in range(self.scene.num_cameras)])

    def render(
        self, frame: int, camera: int, view_to_camera: Float[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> RenderedView:
        """Render a pose relative to a recorded camera, at its instant and with its lens."""
        scene = self.scene
        if self._world is None:  # not before something has to be rendered: meshes take a second
            self._world = read_recipe(self.home, SceneKey.parse(self.key)).build()
        time_us = scene.camera_timestamp_us(frame, camera) - scene.timestamp_us(0)
        return render_camera(
            self._world,
            time_us,
            scene.camera_to_world(frame, camera) @ view_to_camera,
            self.intrinsics(size)[camera],
            *size,
            fisheye=scene.fisheye(camera),
        )

    def relative_errors(self, frame: int, camera: int, view: RenderedView, size: tuple[int, int]) -> np.ndarray:
        """Return the errors of a depth map relative to the LiDAR returns in it."""
        seen = returns_in_image(self.scene, frame, camera, self.scene.lidar_points(frame), size=size)
        found, measured = view.termination_depth[seen.row, seen.column], seen.termination_depth
        return (np.abs(found - measured) / measured)[np.isfinite(found)]

    def provenance(self, kind: Kind, config: ExactTeacherConfig) -> Provenance:
        """Return what an exact target is made from: the scene, and the recipe in its truth."""
        version = self.home.require(Kind.SCENE, self.key)
        of_scene = self.home.provenance(version)
        inputs = (version.as_input, self._truth.as_input)
        return Provenance(
            kind=kind,
            partition=version.partition,
            inputs=inputs,
            config_digest=config_digest(config),
            code_digest=code_digest(__name__, kind=kind),
            calibration_digest=of_scene.calibration_digest,
            pose_source=of_scene.pose_source,
            licence=self.home.licence_of(inputs),
            config=config_json(config),
            packages=package_versions("numpy", "embreex", "trimesh"),
        )


def _maps(view: RenderedView) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return termination depth, opacity and validity: whatever lies within the lens is known."""
    depth = view.termination_depth
    is_solid = np.isfinite(depth) & (depth < _SIZE_LIMIT_M)
    stored = np.where(is_solid, depth, np.nan).astype(np.float16)
    return stored, is_solid.astype(np.float16), view.semantics != VOID_ID
