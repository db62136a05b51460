"""Which voxels the cameras of a frame see, by what a student renders."""

import numpy as np
from jaxtyping import Bool, Float, Int64

from storage.geometry.in_image import points_in_image
from storage.geometry.voxel_grid import VoxelGrid
from student.model.types import TargetCameras

_NEAR_M = 0.1  # of a voxel's centre to a camera


def voxel_centres(grid: VoxelGrid, flat_index: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Return the centres of voxels, ego frame, metres, by flat, row-major index."""
    return grid.centres(np.stack(np.unravel_index(flat_index, grid.shape), axis=1))


def observed_voxels(
    grid: VoxelGrid,
    cameras: TargetCameras,
    termination_depth: Float[np.ndarray, "views height width"],
    is_seen: Bool[np.ndarray, "views height width"],
) -> Bool[np.ndarray, " voxels"]:
    """Return True for voxels that lie in some camera's view, in front of the surface that it sees.

    A voxel counts up to one diagonal behind the surface, so that surfaces themselves are observed.

    Args:
        grid: Voxels in the ego frame.
        cameras: The views, one scene, all present.
        termination_depth: Distance along unit rays, metres; NaN where a ray ends nowhere, so that it hides no voxel.
        is_seen: True for pixels that have a ray; only they observe voxels.
    """
    centres = voxel_centres(grid, np.arange(int(np.prod(grid.shape))))
    margin = grid.voxel_size * np.sqrt(3.0)
    is_observed = np.zeros(len(centres), dtype=bool)
    poses = cameras.camera_to_reference_ego[0].double().numpy()
    matrices = cameras.intrinsics[0].double().numpy()
    lenses = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
    for pose, intrinsics, lens, depth, seen in zip(poses, matrices, lenses, termination_depth, is_seen, strict=True):
        found = points_in_image(centres, pose, intrinsics, lens, size=depth.shape, near=_NEAR_M, is_valid=seen)
        end = depth[found.row, found.column]
        is_observed[found.index] |= ~(found.termination_depth > end + margin)  # a NaN end compares false
    return is_observed
