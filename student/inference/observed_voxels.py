"""Which voxels the cameras of a frame see, by what a student says of it."""

import numpy as np
from jaxtyping import Bool, Float

from storage.geometry.in_image import points_in_image
from storage.geometry.voxel_grid import VoxelGrid
from storage.references.camera_visibility import is_in_sight
from student.model.types import TargetCameras

_NEAR_M = 0.1  # of a voxel's centre to a camera


class VoxelSight:
    """Lines of sight from the cameras of one frame to the voxels of a grid.

    Args:
        grid: Voxels in the ego frame.
        cameras: The views, one scene, all present.
        is_seen: True for pixels that have a ray; only they observe voxels.
    """

    def __init__(
        self, grid: VoxelGrid, cameras: TargetCameras, is_seen: Bool[np.ndarray, "views height width"]
    ) -> None:
        self._grid = grid
        self._poses = cameras.camera_to_reference_ego[0].double().numpy()
        matrices = cameras.intrinsics[0].double().numpy()
        lenses = [None] * len(matrices) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
        centres = grid.centres_of(np.arange(grid.num_voxels))
        self._shown = [
            points_in_image(centres, pose, intrinsics, lens, size=seen.shape, near=_NEAR_M, is_valid=seen)
            for pose, intrinsics, lens, seen in zip(self._poses, matrices, lenses, is_seen, strict=True)
        ]

    @property
    def in_view(self) -> Bool[np.ndarray, " voxels"]:
        """Return True for voxels whose centre some camera has in its image, whatever may hide them."""
        in_view = np.zeros(self._grid.num_voxels, bool)
        for shown in self._shown:
            in_view[shown.index] = True
        return in_view

    def before(self, termination_depth: Float[np.ndarray, "views height width"]) -> Bool[np.ndarray, " voxels"]:
        """Return True for voxels that lie in some camera's view, in front of the surface that it sees.

        A voxel counts up to one diagonal behind the surface, so that surfaces themselves are observed.

        Args:
            termination_depth: Distance along unit rays, metres; NaN where a ray ends nowhere, so that it hides no
                voxel.
        """
        margin = self._grid.voxel_size * np.sqrt(3.0)
        is_observed = np.zeros(self._grid.num_voxels, bool)
        for shown, depth in zip(self._shown, termination_depth, strict=True):
            end = depth[shown.row, shown.column]
            is_observed[shown.index] |= ~(shown.termination_depth > end + margin)  # a NaN end compares false
        return is_observed

    def observed(
        self, before: Bool[np.ndarray, " voxels"], is_occupied: Bool[np.ndarray, " voxels"]
    ) -> Bool[np.ndarray, " voxels"]:
        """Return the voxels before the surfaces, and all others that some camera sees past what is occupied.

        Args:
            before: Those before the surfaces that the cameras see; see :meth:`before`.
            is_occupied: What hides the rest.
        """
        seen, solid = before.copy(), is_occupied.reshape(self._grid.shape)
        for pose, shown in zip(self._poses, self._shown, strict=True):
            asked = shown.index[~seen[shown.index]]
            seen[asked] = is_in_sight(self._grid, solid, pose[:3, 3], asked)
        return seen
