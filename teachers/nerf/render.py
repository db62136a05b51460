"""Render a fitted field into target stores: depth at every camera, and views the car never had.

Both are what a student distils from it (DistillNeRF Sec. 3.2).
"""

import dataclasses
import logging
import math
import time
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Bool, Float
from torch import Tensor

from storage.geometry.resize import resize_nearest
from storage.geometry.transforms import apply_se3
from storage.kinds import Kind
from storage.previews.pictures import to_uint8
from storage.scenes.store import SceneReader
from storage.stores.arrays import create_target, write_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.nerf.config import (
    ExecutionConfig,
    TeacherDepthConfig,
    VirtualViewsConfig,
)
from teachers.nerf.contradictions import contradicts, untrusted_pixels
from teachers.nerf.progress import Progress
from teachers.nerf.provenance import RenderConfig, render_provenance
from teachers.nerf.quality import FieldRendering, depth_errors
from teachers.nerf.scene_rays import RayBatch, camera_directions, project_lidar, read_sky_mask
from teachers.nerf.teacher import NerfTeacher
from teachers.quality import at_least, at_most, gate

logger = logging.getLogger(__name__)

_PACKAGES = ("nerfstudio", "torch", "numpy", "zarr", "icechunk")


class RenderSource:
    """A fitted field with the very inputs that it was fitted to.

    Attributes:
        teacher: The field.
        scene: The version of the scene that it was fitted to.
        is_sky: The version of the sky mask that it was fitted with, or None.
        fit_passed: Outcome of the fit's quality gate.
    """

    def __init__(self, home: Home, scene_key: str, execution: ExecutionConfig) -> None:
        self.home = home
        self.teacher = NerfTeacher.load(home, scene_key, execution)
        assert self.teacher.version is not None
        fitted = home.provenance(self.teacher.version)
        digests = {i.kind: i.digest for i in fitted.inputs}
        self.scene = SceneReader.open(home, scene_key, digests[Kind.SCENE])
        self.is_sky = read_sky_mask(home, scene_key, digests[Kind.SKY_MASK]) if Kind.SKY_MASK in digests else None
        self.fit_passed = bool(home.metrics(self.teacher.version)["quality"]["passed"])
        self._directions: dict[tuple[int, tuple[int, int]], Tensor] = {}

    def provenance(self, config: RenderConfig) -> Provenance:
        """Return the provenance of something made from this field."""
        assert self.teacher.version is not None
        return dataclasses.replace(
            render_provenance(self.home, self.teacher.version, config),
            packages=package_versions(*_PACKAGES),
            device=self.teacher.device,
        )

    def rays(
        self, frame: int, camera: int, camera_to_world: Float[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> RayBatch:
        """Return the rays of every pixel, row-major, of a camera's image of that size from any pose.

        Where a fisheye sees nothing, the ray goes along the optical axis: ``is_seen`` tells it apart.
        """
        forward = torch.tensor([0.0, 0.0, 1.0])
        in_camera = torch.where(self.is_seen(camera, size)[:, None], self._directions[camera, size], forward)
        rotation = torch.tensor(camera_to_world[:3, :3], dtype=torch.float32)
        origin = torch.tensor(self.teacher.bounds.to_scene_units(camera_to_world[:3, 3]), dtype=torch.float32)
        count = len(in_camera)
        return RayBatch(
            origins=origin.expand(count, 3),
            directions=in_camera @ rotation.T,
            camera_index=torch.full((count,), camera),
            frame_index=torch.full((count,), frame),
            rgb=torch.zeros(0, 3),
            is_sky=None,
            lidar_depth=torch.full((count,), torch.nan),
            return_moves=torch.zeros(count, dtype=torch.bool),
        )

    def is_seen(self, camera: int, size: tuple[int, int]) -> Bool[Tensor, " pixels"]:
        """Return which pixels of a camera's image of that size lie inside its image circle; all of a pinhole's do."""
        if (camera, size) not in self._directions:
            self._directions[camera, size] = camera_directions(self.scene, camera, size)
        return torch.isfinite(self._directions[camera, size]).all(dim=-1)

    def shows_world(self, camera: int, size: tuple[int, int]) -> Bool[Tensor, " pixels"]:
        """Return which of them do not show the vehicle itself either, if the image is the camera's own."""
        return self.is_seen(camera, size) & torch.from_numpy(self.scene.is_valid(camera, size=size).reshape(-1).copy())

    def render(
        self, frame: int, camera: int, camera_to_world: Float[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> FieldRendering:
        """Render every pixel, row-major; black, transparent and without depth where a fisheye sees nothing."""
        rendered = self.teacher.render(self.rays(frame, camera, camera_to_world, size))
        is_seen = self.is_seen(camera, size)
        return FieldRendering(
            rgb=torch.where(is_seen[:, None], rendered.rgb, 0.0),
            termination_depth=torch.where(is_seen, rendered.termination_depth, torch.nan),
            opacity=torch.where(is_seen, rendered.opacity, 0.0),
        )

    def intrinsics(self, size: tuple[int, int]) -> Float[np.ndarray, "cameras 3 3"]:
        """Return the intrinsics of every camera's image of that size."""
        return np.stack([self.scene.intrinsics(c, size=size) for c in range(self.scene.num_cameras)])


def render_teacher_depth(
    home: Home, scene_key: str, config: TeacherDepthConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return the depth of every camera of every frame, rendering it first if it does not exist.

    Depth is the termination depth along unit rays, metres; NaN where the opacity is under ``min_opacity``, beyond
    ``max_depth_m``, where the image shows the vehicle itself, where the sky mask that the field was fitted with says
    sky, and around LiDAR returns of the same frame that contradict it. The figures against the LiDAR are of the depth
    before that last step.

    Args:
        home: Where the field is read from and the depth is published.
        scene_key: The scene.
        config: Grid and limits.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    scene, size = source.scene, (config.height, config.width)
    is_sky = None if source.is_sky is None else resize_nearest(source.is_sky, *size, axis=2)

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, *size)
        depths = create_target(group, Kind.TEACHER_DEPTH, "termination_depth", shape)
        opacities = create_target(group, Kind.TEACHER_DEPTH, "opacity", shape)
        write_target(group, Kind.TEACHER_DEPTH, "intrinsics", source.intrinsics(size))
        tally = _DepthTally(source, size, config)
        shows_world = np.stack([source.shows_world(c, size).numpy().reshape(size) for c in range(scene.num_cameras)])
        for frame in range(scene.num_frames):
            rendered = [
                source.render(frame, camera, scene.camera_to_world(frame, camera), size)
                for camera in range(scene.num_cameras)
            ]
            depth = np.stack([_defined_depth(r, config).reshape(size) for r in rendered])
            depth[~shows_world] = np.nan
            opacity = np.stack([r.opacity.numpy().reshape(size) for r in rendered])
            is_untrusted = tally.add(frame, depth, None if is_sky is None else is_sky[frame])
            depth[is_untrusted] = np.nan
            if is_sky is not None:
                depth[is_sky[frame]] = np.nan
            depths[frame] = depth.astype(np.float16)
            opacities[frame] = opacity.astype(np.float16)
            _report(on_progress, "render_depth", frame, scene.num_frames, tally.started, shape[1:])
        return tally.metrics()

    return materialize_arrays(home, source.provenance(config), write)


def render_virtual_views(
    home: Home, scene_key: str, config: VirtualViewsConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return images and depth at shifted cameras, rendering them first if they do not exist.

    These are the virtual cameras of (DistillNeRF Sec. A.7). A view keeps its camera's orientation, intrinsics, time and
    appearance code; only its centre moves, in the camera's own axes. Depth is as in ``render_teacher_depth``, but no
    sky mask exists there: opacity alone decides.

    Args:
        home: Where the field is read from and the views are published.
        scene_key: The scene.
        config: Shifts, grid and limits.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    scene, size = source.scene, (config.height, config.width)
    virtual_to_camera = np.tile(np.eye(4), (len(config.camera_shifts_m), 1, 1))
    virtual_to_camera[:, :3, 3] = np.asarray(config.camera_shifts_m)

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, len(virtual_to_camera), *size)
        images = create_target(group, Kind.VIRTUAL_VIEWS, "image", (*shape, 3))
        depths = create_target(group, Kind.VIRTUAL_VIEWS, "termination_depth", shape)
        opacities = create_target(group, Kind.VIRTUAL_VIEWS, "opacity", shape)
        write_target(group, Kind.VIRTUAL_VIEWS, "virtual_to_camera", virtual_to_camera)
        write_target(group, Kind.VIRTUAL_VIEWS, "intrinsics", source.intrinsics(size))
        group.attrs["view_names"] = list(config.view_names)
        defined, started = 0.0, time.perf_counter()
        for frame in range(scene.num_frames):
            rendered = [
                source.render(frame, c, scene.camera_to_world(frame, c) @ shift, size)
                for c in range(scene.num_cameras)
                for shift in virtual_to_camera
            ]
            depth = np.stack([_defined_depth(r, config) for r in rendered])
            defined += float(np.isfinite(depth).mean()) / scene.num_frames
            images[frame] = np.stack([to_uint8(r.rgb.numpy()) for r in rendered]).reshape(*shape[1:], 3)
            depths[frame] = depth.astype(np.float16).reshape(shape[1:])
            opacities[frame] = np.stack([r.opacity.numpy() for r in rendered]).astype(np.float16).reshape(shape[1:])
            _report(on_progress, "render_virtual_views", frame, scene.num_frames, started, shape[1:])
        checks = {
            "fit_passed": at_least(int(source.fit_passed), 1),
            "coverage": at_least(defined, config.min_coverage),
        }
        rays_per_s = np.prod(shape) / max(1e-6, time.perf_counter() - started)
        return {"coverage": defined, "rays_per_s": float(rays_per_s), "quality": gate(checks)}

    return materialize_arrays(home, source.provenance(config), write)


class _DepthTally:
    """Compare rendered depth with the LiDAR of all frames, frame by frame."""

    def __init__(self, source: RenderSource, size: tuple[int, int], config: TeacherDepthConfig) -> None:
        self.source, self.size, self.config = source, size, config
        self.started = time.perf_counter()
        self._predicted: list[np.ndarray] = []
        self._measured: list[np.ndarray] = []
        self._defined = self._pixels = self._untrusted = self._sky_hits = self._sky = 0

    def add(
        self,
        frame: int,
        depth: Float[np.ndarray, "cameras height width"],
        is_sky: Bool[np.ndarray, "cameras height width"] | None,
    ) -> Bool[np.ndarray, "cameras height width"]:
        """Take in a frame, and return the pixels whose depth the LiDAR contradicts."""
        scene = self.source.scene
        points = apply_se3(scene.ego_to_world(frame), scene.lidar_points(frame)[:, :3].astype(np.float64))
        is_untrusted = np.zeros(depth.shape, bool)
        for camera in range(scene.num_cameras):
            pixel, measured, _ = project_lidar(
                points,
                scene.camera_to_world(frame, camera),
                scene.intrinsics(camera, size=self.size),
                scene.fisheye(camera),
                image_size=self.size,
            )
            near = measured <= self.source.teacher.nerf.losses.max_depth_m
            near &= self.source.shows_world(camera, self.size).numpy()[pixel]
            pixel, measured = pixel[near], measured[near]
            self._predicted.append(depth[camera].reshape(-1)[pixel])
            self._measured.append(measured)
            is_untrusted[camera] = untrusted_pixels(
                depth[camera],
                pixel,
                measured,
                ratio=self.config.contradiction_ratio,
                reach=self.config.contradiction_reach_px,
            )
        is_defined = np.isfinite(depth)
        self._pixels += depth.size
        self._untrusted += int((is_defined & is_untrusted).sum())
        self._defined += int((is_defined & ~is_untrusted).sum())
        if is_sky is not None:
            self._sky += int(is_sky.sum())
            self._sky_hits += int(is_defined[is_sky].sum())
        return is_untrusted

    def metrics(self) -> dict[str, Any]:
        """Return the figures and the gate over everything taken in."""
        config = self.config
        predicted, measured = np.concatenate(self._predicted), np.concatenate(self._measured)
        defined = np.isfinite(predicted)
        predicted, measured = predicted[defined], measured[defined]
        coverage = float(defined.mean()) if len(defined) else 0.0
        is_contradicted = contradicts(predicted.astype(np.float64), measured, ratio=config.contradiction_ratio)
        contradicted = float(is_contradicted.mean()) if len(predicted) else math.nan
        rendered, returned = (torch.tensor(d, dtype=torch.float32) for d in (predicted, measured))
        agrees = torch.from_numpy(~is_contradicted)
        errors, kept = depth_errors(rendered, returned), depth_errors(rendered[agrees], returned[agrees])
        checks = {
            "fit_passed": at_least(int(self.source.fit_passed), 1),
            "lidar_abs_rel_where_kept": at_most(kept["abs_rel"], config.max_abs_rel),
            "lidar_contradicted_share": at_most(contradicted, config.max_contradicted_share),
            "lidar_coverage": at_least(coverage, config.min_coverage),
        }
        metrics: dict[str, Any] = {f"lidar_{name}": value for name, value in errors.items()}
        metrics |= {
            "lidar_coverage": coverage,
            "lidar_contradicted_share": contradicted,
            "contradicted_pixels": self._untrusted,
            "defined_share": self._defined / self._pixels,
            "rays_per_s": self._pixels / max(1e-6, time.perf_counter() - self.started),
        }
        if self._sky:
            metrics["surface_in_sky_share"] = self._sky_hits / self._sky
        return {**metrics, "quality": gate(checks)}


def _defined_depth(
    rendered: FieldRendering, config: TeacherDepthConfig | VirtualViewsConfig
) -> Float[np.ndarray, " rays"]:
    depth = rendered.termination_depth.numpy().copy()
    depth[(rendered.opacity.numpy() < config.min_opacity) | (depth > config.max_depth_m)] = np.nan
    return depth


def _report(
    on_progress: Progress | None, stage: str, frame: int, frames: int, started: float, frame_shape: tuple[int, ...]
) -> None:
    rays_per_s = (frame + 1) * float(np.prod(frame_shape)) / max(1e-6, time.perf_counter() - started)
    logger.debug("%s: frame %d of %d, %.0f rays/s", stage, frame + 1, frames, rays_per_s)
    if on_progress is not None:
        on_progress(stage, (frame + 1) / frames, {"frame": float(frame + 1), "rays_per_s": rays_per_s})
