"""Rays through occupancy grids, as a LiDAR would cast them.

Voxel IoU rewards surfaces that are too thick. A ray asks where the first occupied voxel stands, and what it is: the
RayIoU of SparseOcc (arXiv 2312.17118). As there, rays leave up to eight places of the drive, so that what stands behind
something is asked for too. The LiDAR's own place is the first of them and is scored apart as well: from it a reference
made by beams knows most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8

from storage.geometry.voxel_grid import VoxelGrid
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN
from student.evaluation.results import Baseline, Figure, figure_of, finite_or_none
from student.metrics import bootstrap_statistic

RAY_THRESHOLDS_M = (1.0, 2.0, 4.0)
"""Errors of distance up to which a ray is right, metres."""

SEVERAL_PLACES = "up to eight places of the LiDAR along the drive"
ONE_PLACE = "the LiDAR's own place alone"
_ELEVATION_DEG = np.linspace(-30.0, 10.0, 24)
_AZIMUTHS = 180
MAX_PLACES = 8
"""Places that the rays of one frame leave; in both this and the reach of the grid, SparseOcc does the same."""

_RIM_M = 1.0
"""A place this near to the rim of the grid is left out: most of its rays leave the grid at once."""
_STEP = 0.5  # voxels
_NEAR_M = 3.0
"""Unknown voxels this near to the rays' place hide nothing: the vehicle is there, and no recording says anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayHits:
    """What each ray meets first.

    Attributes:
        distance: Distance to the first occupied voxel, metres; infinite if the ray leaves the grid before.
        label: Label of that voxel; 17 if there is none.
        is_known: Whether no unknown voxel lies before it, but for those next to where the rays start.
    """

    distance: Float[np.ndarray, " rays"]
    label: UInt8[np.ndarray, " rays"]
    is_known: Bool[np.ndarray, " rays"]

    def __getitem__(self, rays: slice) -> "RayHits":
        """Return some of the rays."""
        return RayHits(distance=self.distance[rays], label=self.label[rays], is_known=self.is_known[rays])


OWN_PLACE = slice(0, len(_ELEVATION_DEG) * _AZIMUTHS)
"""The rays that leave the first place."""


def places_along(places: Float[np.ndarray, "places 3"], own: int, grid: VoxelGrid) -> Float[np.ndarray, "chosen 3"]:
    """Return the places that the rays of a frame leave: its own, then others inside the grid, evenly chosen.

    Args:
        places: Places along the drive in the grid's frame, metres, in their order.
        own: Which of them is the frame's.
        grid: The grid.
    """
    low, high = np.array(grid.minimum) + _RIM_M, np.array(grid.maximum) - _RIM_M
    is_inside = np.all((places > low) & (places < high), axis=1)
    others = np.flatnonzero(is_inside & (np.arange(len(places)) != own))
    if len(others) > MAX_PLACES - 1:
        others = others[np.linspace(0, len(others) - 1, MAX_PLACES - 1).round().astype(np.int64)]
    return places[[own, *others]]


class OccupancyRays:
    """Rays from some places through a grid.

    Args:
        grid: The grid.
        origins: Where they start, in the grid's frame, metres; the frame's own place first.
    """

    def __init__(self, grid: VoxelGrid, origins: Float[np.ndarray, "places 3"]) -> None:
        turn, tilt = np.meshgrid(
            np.arange(_AZIMUTHS) * (2 * np.pi / _AZIMUTHS), np.radians(_ELEVATION_DEG), indexing="ij"
        )
        directions = np.stack([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)], axis=-1)
        reach = np.linalg.norm(np.array(grid.maximum) - grid.minimum)
        self._step = _STEP * grid.voxel_size
        along = (np.arange(int(reach / self._step)) + 0.5) * self._step
        ways = directions.reshape(-1, 3).T[..., None] * along
        num_rays, outside = ways.shape[1], grid.num_voxels
        self._voxels: Int32[np.ndarray, "rays steps"] = np.full(
            (len(origins) * num_rays, len(along)), outside, np.int32
        )
        for place, origin in enumerate(origins):
            flat, is_inside = np.zeros(ways.shape[1:]), np.ones(ways.shape[1:], bool)
            # Axis by axis: with three numbers side by side, it took more than twice the time.
            for way, start, low, count in zip(ways, origin, grid.minimum, grid.shape, strict=True):
                voxel = np.floor((way + (start - low)) / grid.voxel_size)
                is_inside &= (voxel >= 0) & (voxel < count)
                flat = flat * count + voxel
            self._voxels[place * num_rays : (place + 1) * num_rays] = np.where(is_inside, flat, outside)
        # Past the last ray's way out nothing is left to look at.
        self._voxels = self._voxels[:, : 1 + int(np.flatnonzero((self._voxels != outside).any(axis=0)).max(initial=0))]
        self._outside = outside

    @property
    def voxels(self) -> Int64[np.ndarray, " n"]:
        """Return the flat index of every voxel on the way of a ray, ascending."""
        is_met = np.zeros(self._outside + 1, bool)
        is_met[self._voxels.reshape(-1)] = True
        return np.flatnonzero(is_met[: self._outside])

    def cast(self, labels: UInt8[np.ndarray, " voxels"]) -> RayHits:
        """Return what the rays meet in a grid of labels: 17 is free, 255 unknown, anything else occupied."""
        met = np.append(labels, np.uint8(OCC3D_FREE)).take(self._voxels)
        is_unknown = met == OCC3D_UNKNOWN
        is_unknown[:, : int(_NEAR_M / self._step)] = False
        is_occupied = (met != OCC3D_FREE) & (met != OCC3D_UNKNOWN)
        hits = is_occupied.any(axis=1)
        first = np.where(hits, is_occupied.argmax(axis=1), met.shape[1])
        first_unknown = np.where(is_unknown.any(axis=1), is_unknown.argmax(axis=1), met.shape[1])
        label = met[np.arange(len(met)), np.minimum(first, met.shape[1] - 1)]
        return RayHits(
            distance=np.where(hits, (first + 0.5) * self._step, np.inf),
            label=np.where(hits, label, np.uint8(OCC3D_FREE)),
            is_known=first_unknown >= first,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCounts:
    """Rays by class: right, said, and true, which add up over frames.

    Attributes:
        right: Rays of each class at each threshold whose class and distance are right.
        said: Rays that the prediction gives each class.
        true: Rays that the reference gives each class.
    """

    right: Int64[np.ndarray, "thresholds classes"]
    said: Int64[np.ndarray, " classes"]
    true: Int64[np.ndarray, " classes"]

    @classmethod
    def of(cls, predicted: RayHits, reference: RayHits, *, num_classes: int) -> "RayCounts":
        """Count the rays that meet something in the reference past nothing unknown.

        Args:
            predicted: What the rays meet in the prediction.
            reference: What they meet in the reference.
            num_classes: Labels below it are classes; with 1, whatever is occupied is of the one class.
        """
        scored = reference.is_known & np.isfinite(reference.distance)
        said, true = (
            np.where(np.isfinite(hits.distance), 0 if num_classes == 1 else hits.label, num_classes)[scored].astype(int)
            for hits in (predicted, reference)
        )
        near = np.abs(predicted.distance[scored] - reference.distance[scored])
        right = [
            np.bincount(true[(said == true) & (near < limit)], minlength=256)[:num_classes]
            for limit in RAY_THRESHOLDS_M
        ]
        return cls(
            right=np.stack(right),
            said=np.bincount(said, minlength=256)[:num_classes],
            true=np.bincount(true, minlength=256)[:num_classes],
        )

    @property
    def flat(self) -> Float[np.ndarray, " terms"]:
        """Return all counts in one row."""
        return np.concatenate([self.right.ravel(), self.said, self.true]).astype(np.float64)


def ray_iou(flat: Float[np.ndarray, " terms"], threshold: int | None = None) -> float:
    """Return the RayIoU of summed ``RayCounts.flat``: the mean over the classes that occur, and over the thresholds.

    Args:
        flat: Sum of the rows of all frames.
        threshold: Place of the one threshold to look at; None for the mean over all.
    """
    columns = len(RAY_THRESHOLDS_M) + 2
    *right, said, true = flat.reshape(columns, -1)
    occurs = true > 0
    if not occurs.any():
        return float("nan")
    union = (said + true)[occurs]
    values = [np.mean(hit[occurs] / (union - hit[occurs])) for hit in right]
    return float(np.mean(values) if threshold is None else values[threshold])


def ray_figure(
    name: str,
    label: str,
    definition: str,
    counts: Mapping[str, Sequence[RayCounts]],
    scenes: Sequence[str],
    *,
    threshold: int | None = None,
    group: str = "",
    seed: int,
    places: str = SEVERAL_PLACES,
) -> Figure:
    """Return a RayIoU with interval and rivals.

    Args:
        name: Name of the figure.
        label: Label for people.
        definition: What it says.
        counts: Counts of each frame by predictor; "" is the student.
        scenes: Scene of each frame, for the bootstrap.
        threshold: Place of the one threshold to look at; None for the mean over all.
        group: Table in which it stands.
        seed: Seed of the bootstrap.
        places: Where the rays start, in words.
    """
    rows = {of: np.array([one.flat for one in frames]) for of, frames in counts.items()}
    found = figure_of(
        name,
        label,
        bootstrap_statistic(rows[""], list(scenes), lambda flat: ray_iou(flat, threshold), seed=seed),
        definition=f"{definition} Rays leave {places} and meet something past nothing unknown.",
        better="higher",
        counted="rays",
        count=sum(int(one.true.sum()) for one in counts[""]),
        baselines=[
            Baseline(label=of, value=finite_or_none(ray_iou(flat.sum(axis=0), threshold)))
            for of, flat in rows.items()
            if of
        ],
    )
    return replace(found, group=group)
