"""Occupied, free or unknown: what all beams around a frame say about the voxels of its grid.

A voxel in which something returned a beam is occupied. A voxel that beams cross nearly everywhere is free. About all
others nothing is known: between two rings of a sweep lies ground that no beam met, and calling it free because a beam
passed above it would be wrong. That is why beams are followed through cells of half a voxel's side, and a voxel is free
only if most of its parts were crossed.

What moves is where it is at one instant only. Returns of an object with boxes travel with its box; other moving returns
count in their own frame alone. Where something moves, only the frame's own beams testify that space is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8, UInt16
from scipy.ndimage import binary_dilation

from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import VoxelGrid
from storage.geometry.voxel_rays import crossed_voxels
from storage.references.beams import BeamPasses, Beams
from storage.references.config import VoteRules
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED

PARTS_PER_AXIS = 2
"""Parts of a voxel along each axis through which beams are followed."""

NO_OBJECT = -1
"""Number of the object of a return that belongs to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Returns of one frame.

    Attributes:
        ego_to_world: Ego pose at the frame's reference instant.
        origin: Position of the LiDAR in the ego frame, metres.
        points: Returns in the ego frame, metres, without those of the vehicle itself.
        labels: Occ3D class of each return; 254 for none of those that were named, 255 for an unknown one.
        moves: Whether each belongs to something that moves.
        instance: Number of the moving object whose box holds the return; -1 for none.
        object_to_world: Pose of each moving object that has a box at this frame, by number.
        object_half_size: Half length, width and height of the same boxes, widened, metres.
    """

    ego_to_world: Float[np.ndarray, "4 4"]
    origin: Float[np.ndarray, "3"]
    points: Float[np.ndarray, "points 3"]
    labels: UInt8[np.ndarray, " points"]
    moves: Bool[np.ndarray, " points"]
    instance: Int64[np.ndarray, " points"]
    object_to_world: dict[int, np.ndarray]
    object_half_size: dict[int, np.ndarray]

    @property
    def beams(self) -> Beams:
        """Return the sweep's beams in the world frame."""
        return Beams(
            origin=apply_se3(self.ego_to_world, self.origin[None])[0], ends=apply_se3(self.ego_to_world, self.points)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameVotes:
    """State of the voxels of one frame's grid.

    Attributes:
        voxel_label: Class of what is occupied, 254 if nobody named it; 17 for free, 255 for unknown.
        num_beams: Beams behind the state: returns inside, or the mean number of beams through its parts.
        is_scanned: Whether the frame's own sweep crosses or ends in each voxel.
    """

    voxel_label: UInt8[np.ndarray, "x y z"]
    num_beams: UInt16[np.ndarray, "x y z"]
    is_scanned: Bool[np.ndarray, "x y z"]


def vote(sweeps: Sequence[Sweep], frame: int, passes: BeamPasses, grid: VoxelGrid, rules: VoteRules) -> FrameVotes:
    """Return the state of every voxel at one frame.

    Args:
        sweeps: Returns of every frame whose beams are among ``passes``, and of the frame itself.
        frame: Place of the frame among them.
        passes: Beams of all sweeps, counted in the world.
        grid: Grid in the frame's ego frame.
        rules: When votes decide.
    """
    own = sweeps[frame]
    flat, labels = _returns(sweeps, frame, grid)
    size = grid.num_voxels
    num_returns = np.bincount(flat, minlength=size)
    is_occupied = num_returns >= rules.min_returns
    crossed, ended = _own_beams(own, grid)
    counts = _blocks(passes.at_centres(grid.finer(PARTS_PER_AXIS), own.ego_to_world))
    is_free = (counts >= rules.min_passes).mean(axis=1) >= rules.free_parts
    is_free &= crossed | ~_near_moving(own, grid, rules.uncertain_m)
    voxel_label = np.full(size, OCC3D_UNKNOWN, np.uint8)
    voxel_label[is_free] = OCC3D_FREE
    voxel_label[is_occupied] = _majority(flat, labels, size)[is_occupied]
    beams = np.where(is_occupied, num_returns, np.where(is_free, counts.mean(axis=1), 0))
    return FrameVotes(
        voxel_label=voxel_label.reshape(grid.shape),
        num_beams=np.minimum(np.ceil(beams), np.iinfo(np.uint16).max).astype(np.uint16).reshape(grid.shape),
        is_scanned=(crossed | ended).reshape(grid.shape),
    )


def _returns(
    sweeps: Sequence[Sweep], frame: int, grid: VoxelGrid
) -> tuple[Int64[np.ndarray, " inside"], UInt8[np.ndarray, " inside"]]:
    """Return the voxel and the class of every return, brought to where it would be at the frame."""
    own = sweeps[frame]
    world_to_ego = invert_se3(own.ego_to_world)
    flats, labels = [], []
    for index, sweep in enumerate(sweeps):
        to_ego = world_to_ego @ sweep.ego_to_world
        moved = [(apply_se3(to_ego, sweep.points[~sweep.moves]), sweep.labels[~sweep.moves])]
        if index == frame:
            moved.append((sweep.points[sweep.moves], sweep.labels[sweep.moves]))
        else:
            for number in np.unique(sweep.instance[sweep.instance != NO_OBJECT]).tolist():
                if number in own.object_to_world:
                    carried = own.object_to_world[number] @ invert_se3(sweep.object_to_world[number])
                    inside = sweep.instance == number
                    to_then = world_to_ego @ carried @ sweep.ego_to_world
                    moved.append((apply_se3(to_then, sweep.points[inside]), sweep.labels[inside]))
        for points, of in moved:
            voxel, is_inside = grid.index_of(points)
            flats.append(grid.flat_inside(voxel[is_inside]))
            labels.append(of[is_inside])
    return np.concatenate(flats), np.concatenate(labels)


def _own_beams(sweep: Sweep, grid: VoxelGrid) -> tuple[Bool[np.ndarray, " voxels"], Bool[np.ndarray, " voxels"]]:
    """Return the voxels that a sweep's own beams cross and those that they end in; no voxel is both."""
    crossed, ended = np.zeros(grid.num_voxels, bool), np.zeros(grid.num_voxels, bool)
    crossed[grid.flat_inside(crossed_voxels(grid.in_voxels(sweep.origin), grid.in_voxels(sweep.points)))] = True
    ended[grid.flat_of(sweep.points)] = True
    return crossed & ~ended, ended


def _near_moving(sweep: Sweep, grid: VoxelGrid, margin: float) -> Bool[np.ndarray, " voxels"]:
    """Return the voxels in the box of what moves at the frame, or near moving returns without a box."""
    near = np.zeros(grid.shape, bool)
    for number, pose in sweep.object_to_world.items():
        half = sweep.object_half_size[number] + 0.5 * grid.voxel_size
        to_ego = invert_se3(sweep.ego_to_world) @ pose
        block = _block_around(grid, to_ego[:3, 3], float(np.linalg.norm(half)))
        index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in block), indexing="ij"), axis=-1)
        in_box = apply_se3(invert_se3(to_ego), grid.centres(index).reshape(-1, 3))
        near[block] |= np.all(np.abs(in_box) <= half, axis=1).reshape(index.shape[:3])
    loose, is_inside = grid.index_of(sweep.points[sweep.moves & (sweep.instance == NO_OBJECT)])
    marked = np.zeros(grid.shape, bool)
    marked[tuple(loose[is_inside].T)] = True
    reach = int(np.ceil(margin / grid.voxel_size))
    around = binary_dilation(marked, iterations=reach) if reach else marked  # scipy takes 0 for "without end"
    return (near | around).reshape(-1)


def _block_around(grid: VoxelGrid, centre: Float[np.ndarray, "3"], radius: float) -> tuple[slice, slice, slice]:
    first = np.clip(np.floor((centre - radius - grid.minimum) / grid.voxel_size).astype(int), 0, grid.shape)
    last = np.clip(np.ceil((centre + radius - grid.minimum) / grid.voxel_size).astype(int), 0, grid.shape)
    x, y, z = (slice(int(low), int(high)) for low, high in zip(first, last, strict=True))
    return x, y, z


def _blocks(fine: Int32[np.ndarray, "_ _ _"]) -> Int32[np.ndarray, "voxels parts"]:
    """Return the parts of every voxel, side by side."""
    x, y, z = (n // PARTS_PER_AXIS for n in fine.shape)
    split = fine.reshape(x, PARTS_PER_AXIS, y, PARTS_PER_AXIS, z, PARTS_PER_AXIS)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(x * y * z, PARTS_PER_AXIS**3)


def _majority(
    flat: Int64[np.ndarray, " n"], labels: UInt8[np.ndarray, " n"], size: int
) -> UInt8[np.ndarray, " voxels"]:
    """Return the class that most of the named returns of each voxel have; 254 where none is named."""
    named = labels < OCC3D_FREE
    pairs, counts = np.unique(flat[named] * 256 + labels[named], return_counts=True)
    order = np.argsort(counts, kind="stable")  # the most frequent is written last
    majority = np.full(size, OCC3D_UNNAMED, np.uint8)
    majority[pairs[order] // 256] = (pairs[order] % 256).astype(np.uint8)
    return majority
