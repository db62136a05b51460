"""What image teachers say of voxels: features of the pixels in which the beams of a drive are seen to end.

A voxel's features are the mean over all returns inside it that a camera sees, from the frame itself and from training
frames near it in time. Only voxels count that beams call occupied at the frame itself
(:mod:`storage.references.occupancy_votes`), so that what has moved away leaves no features where nothing is.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import zarr
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.scenes.lidar import seen_returns
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_features

_NUM_WITNESSES = 5
"""Frames whose images tell the features of one frame's voxels."""

_MAX_VOXELS = 12_000
"""Voxels of a frame that are learned from; twice as many have features near a car, and say much the same."""

_KEPT_SWEEPS = 8


class KnownFeatures(NamedTuple):
    """Features of some voxels of one frame.

    Attributes:
        flat: Flat indices in the Occ3D grid, ascending.
        features: Reduced features, in [0, 1].
    """

    flat: Int64[np.ndarray, " known"]
    features: Float16[np.ndarray, "known channels"]


class FeatureWitnesses:
    """Features of the voxels of one scene's frames, for one image teacher.

    Args:
        scene: The scene.
        maps: Store of the teacher's feature maps.
        kind: Kind of that store.
        array: Name of the array in it.
        frames: Frames whose sweeps and images may testify: those that a student learns from.
    """

    def __init__(self, scene: SceneReader, maps: zarr.Group, kind: Kind, array: str, frames: Iterable[int]) -> None:
        self._scene, self._maps, self._kind, self._array = scene, maps, kind, array
        self._frames = sorted(frames)
        self._seconds = {frame: scene.timestamp_us(frame) * 1e-6 for frame in self._frames}
        self._shown = lru_cache(maxsize=_KEPT_SWEEPS)(self._look)

    def at(self, frame: int, occupied: Int64[np.ndarray, " occupied"]) -> KnownFeatures:
        """Return the features of those of some voxels in which a return is seen.

        Args:
            frame: Frame in whose ego frame the grid lies.
            occupied: Flat indices of the voxels that are occupied at this frame.

        Raises:
            IntegrityError: If the stored features have lost data.
        """
        world_to_ego = invert_se3(self._scene.ego_to_world(frame))
        near = sorted(self._frames, key=lambda other: abs(self._seconds[other] - self._seconds[frame]))
        is_occupied = np.zeros(OCC3D_GRID.num_voxels, bool)
        is_occupied[occupied] = True
        flats, features = [], []
        for witness in near[:_NUM_WITNESSES]:
            points, shown = self._shown(witness)
            index, is_inside = OCC3D_GRID.index_of(apply_se3(world_to_ego, points))
            flat = np.asarray(np.ravel_multi_index(tuple(index[is_inside].T), OCC3D_GRID.shape))
            flats.append(flat[is_occupied[flat]])
            features.append(shown[is_inside][is_occupied[flat]])
        known, voxel, count = np.unique(np.concatenate(flats), return_inverse=True, return_counts=True)
        values = np.concatenate(features)
        total = np.zeros((len(known), values.shape[1]), np.float32)
        np.add.at(total, voxel, values)
        kept = np.sort(np.random.default_rng(frame).permutation(len(known))[:_MAX_VOXELS])
        return KnownFeatures(known[kept], (total / count[:, None])[kept].astype(np.float16))

    def _look(self, frame: int) -> tuple[Float[np.ndarray, "points 3"], Float32[np.ndarray, "points channels"]]:
        """Return the returns of a frame that some camera sees, in the world, and what its image shows there."""
        points = self._scene.lidar_points(frame)[:, :3].astype(np.float64)
        maps = read_features(self._maps, self._kind, (frame,), name=self._array)
        features = np.full((len(points), maps.shape[-1]), np.nan, np.float32)
        for camera in range(self._scene.num_cameras):
            shown, size = seen_returns(self._scene, frame, camera, points)
            rows, columns = (
                (pixel + 0.5) * have // of
                for pixel, have, of in zip((shown.row, shown.column), maps.shape[1:3], size, strict=True)
            )
            features[shown.index] = maps[camera][rows.astype(np.int64), columns.astype(np.int64)]
        is_shown = np.isfinite(features).all(axis=1)
        return apply_se3(self._scene.ego_to_world(frame), points[is_shown]), features[is_shown]


def feature_error(told: Float[Tensor, "known channels"], known: KnownFeatures) -> Float[Tensor, ""]:
    """Return the mean squared error of features; 0 without any."""
    if not len(known.flat):
        return told.sum() * 0.0
    return (told - torch.from_numpy(known.features.astype(np.float32)).to(told.device)).square().mean()


def mirrored_features(known: Mapping[str, KnownFeatures]) -> dict[str, KnownFeatures]:
    """Return what would be known of the scene's mirror image: left and right exchanged."""
    found = {}
    for source, (flat, features) in known.items():
        there, order = mirrored_voxels(flat)
        found[source] = KnownFeatures(there, features[order])
    return found


def mirrored_voxels(flat: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return where voxels of the Occ3D grid are when left and right are exchanged, ascending, and which each was."""
    x, y, z = np.unravel_index(flat, OCC3D_GRID.shape)
    there = np.ravel_multi_index((x, OCC3D_GRID.shape[1] - 1 - y, z), OCC3D_GRID.shape)
    order = there.argsort()
    return there[order], order
