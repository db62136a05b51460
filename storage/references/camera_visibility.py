"""Which voxels cameras see, by casting rays through an occupancy grid."""

import numpy as np
from jaxtyping import Bool, Float, Int64

from storage.geometry.in_image import points_in_image
from storage.geometry.voxel_grid import VoxelGrid
from storage.scenes.store import SceneReader

_NEAR_M = 0.5
_STEP = 0.5  # voxels
_OUTSIDE_FACE = 0.51  # voxels from the centre: just outside


def seen_by_cameras(
    scene: SceneReader,
    frame: int,
    grid: VoxelGrid,
    is_occupied: Bool[np.ndarray, "x y z"],
    candidates: Bool[np.ndarray, "x y z"],
) -> Bool[np.ndarray, "x y z"]:
    """Return which voxels some camera of a frame sees past those that are occupied.

    Args:
        scene: The scene.
        frame: Frame whose ego frame is the grid's.
        grid: Grid in that ego frame.
        is_occupied: What hides the rest.
        candidates: Voxels to ask about; the others are called unseen.
    """
    seen = np.zeros(grid.shape, bool)
    asked = np.flatnonzero(candidates)
    centres = grid.centres_of(asked)
    for camera in range(scene.num_cameras):
        pose = scene.camera_to_reference_ego(frame, camera)
        shown = points_in_image(
            centres,
            pose,
            scene.intrinsics(camera),
            scene.fisheye(camera),
            size=scene.image_size(camera),
            near=_NEAR_M,
            is_valid=scene.is_valid(camera),
        ).index
        voxels = asked[shown]
        fresh = ~seen.reshape(-1)[voxels]
        seen.reshape(-1)[voxels[fresh]] = is_in_sight(grid, is_occupied, pose[:3, 3], voxels[fresh])
    return seen


def is_in_sight(
    grid: VoxelGrid,
    is_occupied: Bool[np.ndarray, "x y z"],
    eye: Float[np.ndarray, "3"],
    voxels: Int64[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Return whether an eye sees each voxel: no occupied voxel lies before its centre.

    An occupied voxel is seen by its faces, so that flat ground, which is a layer of occupied voxels, does not hide
    itself at grazing angles.

    Args:
        grid: The grid.
        is_occupied: What hides the rest.
        eye: Position of the eye in the grid's frame, metres.
        voxels: Flat indices.
    """
    index = np.stack(np.unravel_index(voxels, grid.shape), axis=1).astype(np.float32) + np.float32(0.5)
    start = ((eye - grid.minimum) / grid.voxel_size).astype(np.float32)
    solid = is_occupied.reshape(-1)[voxels]
    in_sight = np.zeros(len(voxels), bool)
    in_sight[~solid] = _reaches(is_occupied, start, index[~solid])
    for axis in range(3):
        towards = np.sign(start[axis] - index[solid, axis])
        faces = index[solid].copy()
        faces[:, axis] += np.float32(_OUTSIDE_FACE) * towards
        in_sight[solid] |= _reaches(is_occupied, start, faces)
    return in_sight


def _reaches(
    is_occupied: Bool[np.ndarray, "x y z"], start: Float[np.ndarray, "3"], targets: Float[np.ndarray, "n 3"]
) -> Bool[np.ndarray, " n"]:
    """Return whether the straight way from a start to each target, in voxels, meets nothing occupied."""
    offset = targets - start
    distance = np.linalg.norm(offset, axis=1)
    step = offset * (np.float32(_STEP) / np.maximum(distance, np.float32(1e-6)))[:, None]
    reached = np.ones(len(targets), bool)
    active = np.arange(len(targets))
    # A rim of free voxels stands for everything outside the grid.
    rimmed = np.pad(is_occupied, 1)
    last = np.array(rimmed.shape) - 1
    at, left = targets + np.float32(1.0), distance
    # From the target backwards: most of what hides a voxel is near it.
    while len(active):
        x, y, z = (np.clip(at[:, axis].astype(np.int32), 0, last[axis]) for axis in range(3))
        blocked = rimmed[x, y, z]
        reached[active[blocked]] = False
        left = left - np.float32(_STEP)
        kept = ~blocked & (left > 0)
        active, at, left, step = active[kept], at[kept] - step[kept], left[kept], step[kept]
    return reached
