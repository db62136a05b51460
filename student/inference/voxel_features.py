"""Foundation features of what fills a voxel, for words: looked up in the views that are rendered from the field.

Features are taught in rendered views. A cell far away carries what all pixels around it lifted there, so that road
before a wall sounds like the wall. A voxel that a camera sees therefore takes the feature that is rendered there.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.spatial import KDTree

from storage.geometry.in_image import points_in_image
from storage.geometry.voxel_grid import OCC3D_GRID
from student.inference.predictor import RenderedViews
from student.model.types import TargetCameras

_NEAR_M = 0.1  # of a voxel's centre to a camera
_SEEN_SHARE = 0.1
"""A camera sees a voxel if what it renders there is as far away, within this share."""


def voxel_features(
    cameras: TargetCameras,
    views: RenderedViews,
    source: str,
    *,
    voxels: Int64[np.ndarray, " n"],
    points: Float32[np.ndarray, "n 3"],
    is_occupied: Bool[np.ndarray, " n"],
    ask_field: Callable[[np.ndarray], np.ndarray],
) -> Float32[np.ndarray, "n channels"]:
    """Return a foundation model's reduced features of what fills some voxels of the Occ3D grid.

    A voxel that no camera sees takes the feature of the nearest occupied one that some camera sees. Where none is seen
    at all, features are those of the field.

    Args:
        cameras: Cameras of the views.
        views: Views of the frame's own cameras, rendered from the field.
        source: Foundation model.
        voxels: Flat indices of the voxels.
        points: Place in the field to ask for each; see :class:`~student.inference.predictor.VoxelAnswer`.
        is_occupied: Which of the voxels the student holds for occupied: these alone lend their features to others.
        ask_field: Function that reads the source's features from the field at points of the ego frame.
    """
    centres = OCC3D_GRID.centres(np.stack(np.unravel_index(voxels, OCC3D_GRID.shape), axis=1))
    found, is_seen = _rendered_features(centres, cameras, views, source)
    lends = np.flatnonzero(is_seen & is_occupied)
    asks = np.flatnonzero(~is_seen)
    if len(asks) == 0:
        return found
    if len(lends):
        found[asks] = found[lends[KDTree(centres[lends]).query(centres[asks])[1]]]
    else:
        found[asks] = ask_field(points[asks])
    return found


def _rendered_features(
    centres: Float[np.ndarray, "n 3"], cameras: TargetCameras, views: RenderedViews, source: str
) -> tuple[Float32[np.ndarray, "n channels"], Bool[np.ndarray, " n"]]:
    """Return the feature rendered at each place by the camera whose depth fits it best, and whether one fits."""
    is_present = cameras.target_is_present[0].numpy()
    poses = cameras.camera_to_reference_ego[0].double().numpy()[is_present]
    matrices = cameras.intrinsics[0].double().numpy()[is_present]
    lenses = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()[is_present]
    maps, depths = views.features[source], views.termination_depth
    error = np.full(len(centres), np.inf)
    features = np.zeros((len(centres), maps.shape[-1]), np.float32)
    for pose, intrinsics, lens, depth, seen, rendered in zip(
        poses, matrices, lenses, depths, views.is_seen, maps, strict=True
    ):
        there = points_in_image(centres, pose, intrinsics, lens, size=depth.shape, near=_NEAR_M, is_valid=seen)
        share = np.abs(depth[there.row, there.column] / there.termination_depth - 1.0)
        fits = share < np.minimum(error[there.index], _SEEN_SHARE)  # a NaN compares false
        index = there.index[fits]
        error[index], features[index] = share[fits], rendered[there.row[fits], there.column[fits]]
    return features, np.isfinite(error)
