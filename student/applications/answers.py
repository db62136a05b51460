"""What an answer to a query is made of: connected objects, heat maps, a point cloud.

A student answers in voxels of one frame, a scene's own field in points of all frames. Both are written alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import encode_image, heat_overlay

POINTS_FILE, RECORD_FILE = "points.ply", "query.json"
HEAT_MAP_WIDTH = 480
NUM_OBJECTS = 20
"""Number of objects in ``query.json``."""

_SHOWN_SHARE, _PEAK_QUANTILE = 0.5, 0.999
_PLY_TYPES = {"<f4": "float", "u1": "uchar", "<i4": "int"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionConfig:
    """What belongs to an object.

    Attributes:
        min_share: Smallest probability within an object, as a share of the largest one, where a text has no threshold
            of its own.
        reach_m: Points of one object are connected over gaps up to this.
    """

    min_share: float = 0.5
    reach_m: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.min_share <= 1 and self.reach_m > 0):
            raise ValueError(f"min_share {self.min_share}, reach_m {self.reach_m}: want in (0, 1] and > 0")

    def floor(self, probability: Float[np.ndarray, "*shape"], threshold: float | None) -> float:
        """Return the probability from which something belongs to an object: the text's threshold, or a share."""
        return self.min_share * _peak(probability) if threshold is None else threshold


DEFAULT_REGION = RegionConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObject:
    """Connected voxels or points that show a text.

    Attributes:
        centre: Middle of its extent, metres.
        extent: Length of its axis-aligned box, metres.
        volume: Volume of its cells, cubic metres.
        mean_score: Mean probability of its cells.
        peak_score: Largest probability of a cell.
        num_cells: Number of its voxels or points.
    """

    centre: tuple[float, float, float]
    extent: tuple[float, float, float]
    volume: float
    mean_score: float
    peak_score: float
    num_cells: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``query.json``."""
        return {
            "centre_m": [round(value, 2) for value in self.centre],
            "extent_m": [round(value, 2) for value in self.extent],
            "volume_m3": round(self.volume, 3),
            "mean_score": self.mean_score,
            "peak_score": self.peak_score,
            "num_cells": self.num_cells,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAnswer:
    """The answer to a query.

    Attributes:
        folder: Folder of its files.
        heat_maps: One picture per view.
        positions: Voxels or points where the probability is defined, best first, metres.
        probability: Probability of each, best first.
        objects: Connected groups of them, best first.
        record: Content of ``query.json``.
    """

    folder: Path
    heat_maps: tuple[Path, ...]
    positions: Float[np.ndarray, "points 3"]
    probability: Float[np.ndarray, " points"]
    objects: tuple[FoundObject, ...]
    record: dict[str, Any]


def connected_objects(
    positions: Float[np.ndarray, "points 3"],
    probability: Float[np.ndarray, " points"],
    *,
    floor: float,
    reach_m: float,
    cell_m: float,
    score: Float[np.ndarray, " points"] | None = None,
) -> tuple[Int64[np.ndarray, " points"], tuple[FoundObject, ...]]:
    """Return the objects of a text, and the rank of the object that each point belongs to.

    The best object holds the most score in total: one good voxel alone is no object that beats a whole car.

    Args:
        positions: Centres of cells, metres.
        probability: Probability that a cell shows the text; NaN where it has none.
        floor: Smallest probability of a cell of an object.
        reach_m: Cells of one object are connected over distances up to this.
        cell_m: Side of a cell, metres.
        score: What objects are ranked and described by; by default the probability.

    Returns:
        Rank of each point's object, 1 for the best and 0 for none, and the objects, best first.
    """
    score = probability if score is None else score
    rank = np.zeros(len(positions), np.int64)
    members = np.flatnonzero(np.nan_to_num(probability, nan=-1.0) >= floor)
    if not len(members):
        return rank, ()
    tree = KDTree(positions[members])
    near = tree.sparse_distance_matrix(tree, reach_m)
    number, group = connected_components(near, directed=False)
    total = np.bincount(group, weights=score[members], minlength=number)
    order = np.argsort(-total, kind="stable")
    place = np.empty(number, np.int64)
    place[order] = np.arange(1, number + 1)
    rank[members] = place[group]
    return rank, tuple(_describe(positions[rank == r], score[rank == r], cell_m) for r in range(1, number + 1))


def _describe(
    positions: Float[np.ndarray, "cells 3"], score: Float[np.ndarray, " cells"], cell_m: float
) -> FoundObject:
    low, high = positions.min(axis=0) - cell_m / 2, positions.max(axis=0) + cell_m / 2
    x, y, z = ((low + high) / 2).tolist()
    length, width, height = (high - low).tolist()
    return FoundObject(
        centre=(x, y, z),
        extent=(length, width, height),
        volume=len(positions) * cell_m**3,
        mean_score=float(score.mean()),
        peak_score=float(score.max()),
        num_cells=len(positions),
    )


def shown_from(heat: Float[np.ndarray, "*shape"], threshold: float | None) -> float:
    """Return the probability from which a picture shows something: the text's threshold, or half the peak."""
    return _SHOWN_SHARE * _peak(heat) if threshold is None else threshold


def _peak(probability: Float[np.ndarray, "*shape"]) -> float:
    """Return what all but the best thousandth stay under: a few odd voxels must not decide what is shown."""
    finite = probability[np.isfinite(probability)]
    return float(np.quantile(finite, _PEAK_QUANTILE)) if len(finite) else 1.0


def write_heat_maps(
    folder: Path,
    names: Sequence[str],
    images: UInt8[np.ndarray, "views height width 3"],
    heat: Float[np.ndarray, "views grid_height grid_width"],
    floor: float,
) -> tuple[Path, ...]:
    """Write one picture per view, on a common scale: the brightest pixel of all views is full heat.

    What lies under the floor stays grey. Else the eye takes everything that is merely likelier than nothing for found.
    """
    peak = max(_peak(heat), floor, 1e-6)
    shown = np.where(heat >= floor, heat / peak, np.where(np.isfinite(heat), 0.0, np.nan))
    scale = max(1, round(HEAT_MAP_WIDTH / images.shape[2]))
    size = (scale * images.shape[1], scale * images.shape[2])
    paths = []
    for name, image, probability in zip(names, images, shown, strict=True):
        path = folder / f"{name}.png"
        overlay = heat_overlay(resize_nearest(image, *size), resize_nearest(probability, *size))
        path.write_bytes(encode_image(overlay, quality=None))
        paths.append(path)
    return tuple(paths)


def write_ply(
    path: Path,
    positions: Float[np.ndarray, "points 3"],
    colours: UInt8[np.ndarray, "points 3"],
    **properties: Float[np.ndarray, " points"] | Int64[np.ndarray, " points"],
) -> None:
    """Write points as binary PLY: position (metres), colour, and further named properties.

    Numbers with a fraction are stored as float, NaN where undefined, and whole ones as int.
    """
    columns = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    columns += [(name, "<f4" if values.dtype.kind == "f" else "<i4") for name, values in properties.items()]
    vertices = np.empty(len(positions), columns)
    for axis, name in enumerate("xyz"):
        vertices[name] = positions[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, channel]
    for name, values in properties.items():
        vertices[name] = values
    declared = [f"property {_PLY_TYPES[kind]} {name}" for name, kind in columns]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *declared, "end_header"]
    path.write_bytes("\n".join([*header, ""]).encode() + vertices.tobytes())
