"""Render a fitted field into target stores: depth at every camera, and views the car never had.

Both are what a student distils from it (DistillNeRF Sec. 3.2). Both say which of their pixels are valid.
"""

import logging
import time
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float16

from storage.kinds import Kind
from storage.previews.pictures import to_uint8
from storage.stores.arrays import create_target, write_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.nerf.confidence import SKY_DISTANCE_M, PixelVerdict
from teachers.nerf.config import TeacherDepthConfig, VirtualViewsConfig
from teachers.nerf.evidence import FrameViews, RenderEvidence
from teachers.nerf.gates import depth_metrics, view_metrics
from teachers.nerf.progress import Progress
from teachers.nerf.render_source import RenderSource
from teachers.nerf.rendered_views import judge_frame

logger = logging.getLogger(__name__)


def render_teacher_depth(
    home: Home, scene_key: str, config: TeacherDepthConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return the depth of every camera of every frame, rendering it first if it does not exist.

    Depth is the termination depth along unit rays, metres, and NaN where it is not valid (see
    ``teachers.nerf.confidence``). Sky is valid without a depth. Figures against the LiDAR are of all surfaces, those
    included that the LiDAR contradicts.

    Args:
        home: Where the field is read from and the depth is published.
        scene_key: The scene.
        config: Grid and limits.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    scene, size = source.scene, config.size

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, *size)
        depths = create_target(group, Kind.TEACHER_DEPTH, "termination_depth", shape)
        opacities = create_target(group, Kind.TEACHER_DEPTH, "opacity", shape)
        validities = create_target(group, Kind.TEACHER_DEPTH, "is_valid", shape)
        write_target(group, Kind.TEACHER_DEPTH, "intrinsics", source.intrinsics(size))
        recorded = source.recorded_views(config.confidence, map_size=size, image_size=size)
        evidence = RenderEvidence.of_scene(scene, ("recorded",), ratio=config.gate.contradiction_ratio)
        started = time.perf_counter()
        for frame in range(scene.num_frames):
            rendered = recorded.views(frame)
            judged = judge_frame(recorded, rendered, is_recorded=True)
            evidence.add(judged)
            depths[frame] = _stored_depth(judged)[:, 0]
            opacities[frame] = np.stack([v.opacity[0] for v in rendered]).astype(np.float16)
            validities[frame] = judged.verdict[:, 0] == PixelVerdict.VALID
            _report(on_progress, "render_depth", frame, scene.num_frames, started, shape[1:])
        return depth_metrics(evidence, source.fit_passed, config) | _speed(shape, started)

    return materialize_arrays(home, source.provenance(config), write)


def render_virtual_views(
    home: Home, scene_key: str, config: VirtualViewsConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return images and depth at shifted cameras, rendering them first if they do not exist.

    These are the virtual cameras of (DistillNeRF Sec. A.7). A view keeps its camera's orientation, intrinsics, time and
    appearance code; only its centre moves, in the camera's own axes. Depth is as in ``render_teacher_depth``; a pixel
    is valid if its colour can be trusted too. Recorded cameras are asked at half the views' size.

    Args:
        home: Where the field is read from and the views are published.
        scene_key: The scene.
        config: Shifts, grid and limits.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    scene, size = source.scene, config.size
    virtual_to_camera = np.tile(np.eye(4), (len(config.camera_shifts_m), 1, 1))
    virtual_to_camera[:, :3, 3] = np.asarray(config.camera_shifts_m)

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, scene.num_cameras, len(virtual_to_camera), *size)
        images = create_target(group, Kind.VIRTUAL_VIEWS, "image", (*shape, 3))
        depths = create_target(group, Kind.VIRTUAL_VIEWS, "termination_depth", shape)
        opacities = create_target(group, Kind.VIRTUAL_VIEWS, "opacity", shape)
        validities = create_target(group, Kind.VIRTUAL_VIEWS, "is_valid", shape)
        write_target(group, Kind.VIRTUAL_VIEWS, "virtual_to_camera", virtual_to_camera)
        write_target(group, Kind.VIRTUAL_VIEWS, "intrinsics", source.intrinsics(size))
        group.attrs["view_names"] = list(config.view_names)
        map_size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        recorded = source.recorded_views(config.confidence, map_size=map_size, image_size=size)
        evidence = RenderEvidence.of_scene(scene, config.view_names, ratio=config.gate.contradiction_ratio)
        started = time.perf_counter()
        for frame in range(scene.num_frames):
            poses = [scene.camera_to_world(frame, c) @ virtual_to_camera for c in range(scene.num_cameras)]
            rendered = [source.views(frame, c, pose, size) for c, pose in enumerate(poses)]
            judged = judge_frame(recorded, rendered, is_recorded=False)
            evidence.add(judged)
            images[frame] = to_uint8(judged.rgb)
            depths[frame] = _stored_depth(judged)
            opacities[frame] = np.stack([v.opacity for v in rendered]).astype(np.float16)
            validities[frame] = judged.verdict == PixelVerdict.VALID
            _report(on_progress, "render_virtual_views", frame, scene.num_frames, started, shape[1:])
        return view_metrics(evidence, source.fit_passed, config) | _speed(shape, started)

    return materialize_arrays(home, source.provenance(config), write)


def _stored_depth(judged: FrameViews) -> Float16[np.ndarray, "cameras views height width"]:
    is_surface = (judged.verdict == PixelVerdict.VALID) & (judged.distance < SKY_DISTANCE_M)
    return np.where(is_surface, judged.distance, np.float32(np.nan)).astype(np.float16)


def _speed(shape: tuple[int, ...], started: float) -> dict[str, float]:
    return {"rays_per_s": float(np.prod(shape)) / max(1e-6, time.perf_counter() - started)}


def _report(
    on_progress: Progress | None, stage: str, frame: int, frames: int, started: float, frame_shape: tuple[int, ...]
) -> None:
    rays_per_s = (frame + 1) * float(np.prod(frame_shape)) / max(1e-6, time.perf_counter() - started)
    logger.debug("%s: frame %d of %d, %.0f rays/s", stage, frame + 1, frames, rays_per_s)
    if on_progress is not None:
        on_progress(stage, (frame + 1) / frames, {"frame": float(frame + 1), "rays_per_s": rays_per_s})
