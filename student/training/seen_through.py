"""Voxels that a camera sees through: free, whether a LiDAR beam passed there or not.

A beam is recorded only if something returned it. So what is level with the LiDAR and far away is told by beams where it
is occupied, and nearly never where it is free: a head that learned from beams alone called most of it occupied. An
image shows both. Each pixel is free up to the depth that the scene teacher renders there, and without end in the sky.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import minimum_filter

from storage.geometry.cameras import scale_intrinsics
from storage.geometry.in_image import points_in_image
from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from student.data.sample import InputTargets
from student.model.types import CameraInputs

_HALF_DIAGONAL_M = 0.5 * 3**0.5 * OCC3D_GRID.voxel_size
_DEPTH_ERROR = 0.05
"""Relative error that a rendered depth is granted: what stands just before a surface stays unknown."""
_NEAR_M = 1.0
_RADII = (1, 2, 3, 5, 8, 12)
"""Half sizes, in pixels, of the windows in which the nearest surface is sought; the least that holds the voxel is."""


def seen_through(inputs: CameraInputs, targets: InputTargets) -> Bool[np.ndarray, " voxels"]:
    """Return which voxels of the Occ3D grid lie wholly before what some camera sees.

    Where neither depth nor sky is known, nothing is seen through.

    Args:
        inputs: Cameras of one frame (a batch of one).
        targets: What the teachers say of them.
    """
    is_free = np.zeros(OCC3D_GRID.num_voxels, bool)
    centres = OCC3D_GRID.centres_of(np.arange(OCC3D_GRID.num_voxels)).astype(np.float32)
    far, is_known = _free_distance(targets)
    size = (far.shape[1], far.shape[2])
    image_size = (inputs.images.shape[-2], inputs.images.shape[-1])
    intrinsics = scale_intrinsics(inputs.intrinsics[0].numpy(), from_size=image_size, to_size=size)
    for camera in np.flatnonzero(inputs.camera_is_present[0].numpy()).tolist():
        lens = None if inputs.fisheye is None else inputs.fisheye[0, camera].numpy()
        shown = points_in_image(
            centres,
            inputs.camera_to_reference_ego[0, camera].numpy(),
            intrinsics[camera],
            lens,
            size=size,
            near=_NEAR_M,
            is_valid=None if inputs.is_valid is None else resize_nearest(inputs.is_valid[0, camera].numpy(), *size),
        )
        is_pinhole = lens is None or np.isnan(lens).all()
        focal = float(np.diagonal(intrinsics[camera])[:2].max())
        # How far a voxel may reach in the image from the pixel of its centre.
        reach = 0.5 + focal * _HALF_DIAGONAL_M / (shown.camera_depth if is_pinhole else shown.termination_depth)
        back = (shown.termination_depth + _HALF_DIAGONAL_M) / (1.0 - _DEPTH_ERROR)
        for smaller, radius in pairwise((0, *_RADII)):
            nearest = minimum_filter(far[camera], 2 * radius + 1, mode="nearest")
            fits = (smaller < reach) & (reach <= radius) & is_known[camera][shown.row, shown.column]
            is_free[shown.index[fits & (back < nearest[shown.row, shown.column])]] = True
    return is_free


def _free_distance(
    targets: InputTargets,
) -> tuple[Float32[np.ndarray, "cameras height width"], Bool[np.ndarray, "cameras height width"]]:
    """Return how far each pixel is free, metres, and where that is known; without end in the sky and where it is not.

    What a mask calls sky and the scene teacher a surface is a surface.
    """
    depth = targets.teacher_depth[0].numpy()
    has_depth = np.isfinite(depth)
    shows_sky = (targets.is_sky & targets.is_sky_known)[0].numpy()
    return np.where(has_depth, depth, np.float32(np.inf)), has_depth | shows_sky
