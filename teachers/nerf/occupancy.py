"""Ask a fitted field for its density in the grid in which a student's occupancy is judged.

Nothing learns from it. It is what the student's own teacher knows of space, a rival in the evaluation.
"""

import time
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float, Float32
from nerfstudio.cameras.rays import Frustums, RaySamples

from storage.geometry.transforms import apply_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.stores.arrays import create_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.nerf.config import TeacherOccupancyConfig
from teachers.nerf.progress import Progress
from teachers.nerf.render_source import RenderSource
from teachers.nerf.teacher import NerfTeacher


def read_teacher_occupancy(
    home: Home, scene_key: str, config: TeacherOccupancyConfig, on_progress: Progress | None = None
) -> Materialized:
    """Return a field's opacity of every voxel of the Occ3D grid around some frames, reading it if it is not stored.

    The opacity is that of a way as long as a voxel's side, at the densest of the points that were asked inside it. It
    is NaN in frames that were not asked.

    Args:
        home: Where the field is read from and the opacity is published.
        scene_key: The scene.
        config: Frames and points.
        on_progress: Told after every frame.

    Raises:
        MissingTargetError: If the scene was not fitted.
        ValueError: If the method has no density in space, such as splats.
    """
    source = RenderSource(home, str(scene_key), config.execution)
    frames = config.frames_of(source.scene.num_frames)
    voxels = np.stack(np.unravel_index(np.arange(OCC3D_GRID.num_voxels), OCC3D_GRID.shape), axis=1)
    points_ego = OCC3D_GRID.sample_points(voxels, config.samples_per_axis)

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (source.scene.num_frames, *OCC3D_GRID.shape)
        opacities = create_target(group, Kind.TEACHER_OCCUPANCY, "opacity", shape)
        group.attrs["frames"] = list(frames)
        for frame in sorted(set(range(source.scene.num_frames)) - set(frames)):
            opacities[frame] = np.full(OCC3D_GRID.shape, np.nan, np.float16)
        started, shares = time.perf_counter(), []
        for number, frame in enumerate(frames, start=1):
            ego_to_world = source.scene.ego_to_world(frame)
            density = np.zeros(len(voxels), np.float32)
            for samples in points_ego.transpose(1, 0, 2):
                found = density_at(source.teacher, apply_se3(ego_to_world, samples), frame)
                np.maximum(density, found, out=density)
            opacity = 1.0 - np.exp(-density * OCC3D_GRID.voxel_size)
            opacities[frame] = opacity.reshape(OCC3D_GRID.shape).astype(np.float16)
            shares.append(float(np.mean(opacity >= 0.5)))
            if on_progress is not None:
                on_progress("read_occupancy", number / len(frames), {"frame": float(frame), "opaque": shares[-1]})
        seconds = (time.perf_counter() - started) / max(1, len(frames))
        return {"frames_read": len(frames), "opaque_share": float(np.mean(shares)), "seconds_per_frame": seconds}

    return materialize_arrays(home, source.provenance(config), write)


@torch.no_grad()
def density_at(
    teacher: NerfTeacher, points_world: Float[np.ndarray, "points 3"], frame: int
) -> Float32[np.ndarray, " points"]:
    """Return a field's density at points of the world at a frame's instant, per metre.

    Raises:
        ValueError: If the method has no density in space.
    """
    field = getattr(teacher.model, "field", None)
    if field is None:
        raise ValueError(f"nerf.method {teacher.nerf.method!r} has no density in space: want a field")
    in_units = torch.tensor(teacher.bounds.to_scene_units(points_world), dtype=torch.float32)
    parts = []
    for positions in in_units.split(_POINTS_PER_CHUNK):
        chunk = positions.to(teacher.device)
        nothing = torch.zeros_like(chunk[:, :1])
        place = Frustums(
            origins=chunk, directions=torch.zeros_like(chunk), starts=nothing, ends=nothing, pixel_area=nothing
        )
        samples = RaySamples(frustums=place, times=torch.full_like(nothing, float(frame)))
        parts.append(field.get_density(samples)[0][:, 0].cpu())
    return (torch.cat(parts) / teacher.bounds.metres_per_unit).numpy()


_POINTS_PER_CHUNK = 1 << 17
