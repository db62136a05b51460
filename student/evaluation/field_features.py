"""Are features of a scene's field better than those of its images: do views agree, and do words find what is there?

The same surface point is looked at from two views, and its features are compared in the teacher's own space. Agreement
alone is cheap: features that are the same everywhere agree. So a point is also compared with another point of the
second view, and the share of points that are nearer to themselves is reported beside the cosine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from scipy.ndimage import map_coordinates

from storage.geometry.in_image import points_in_image
from student.inference.open_vocabulary import StoredFeatureBasis
from student.metrics import average_precision

_NEAR_M = 0.5
_MAX_DEPTH_RATIO = 1.05
"""A point is seen from a second view if its depth there is the view's own, but for this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamePoints:
    """Surface points that two views show.

    Attributes:
        first: View, row and column of the pixel whose ray ends in the point.
        second: View, row and column, in fractions of pixels from the first one's centre, where the second has it.
    """

    first: Int64[np.ndarray, "points 3"]
    second: Float[np.ndarray, "points 3"]


def find_same_points(
    points_world: Float32[np.ndarray, "views height width 3"],
    termination_depth: Float32[np.ndarray, "views height width"],
    camera_to_world: Float[np.ndarray, "views 4 4"],
    intrinsics: Float[np.ndarray, "views 3 3"],
    fisheye: Float[np.ndarray, "views 4"],
    is_usable: Bool[np.ndarray, "views height width"],
    pairs: list[tuple[int, int]],
) -> SamePoints:
    """Return the points of first views that second views show too.

    Args:
        points_world: Where the rays of pixels end, metres; NaN where they end nowhere.
        termination_depth: Their length, metres.
        camera_to_world: Pose of each view.
        intrinsics: Intrinsics of each view, in its pixels.
        fisheye: Lens of each view, NaN for a pinhole.
        is_usable: Pixels that are compared: those that show the world, and nothing that moves.
        pairs: First and second view of each comparison.
    """
    _, height, width = termination_depth.shape
    first, second = [np.zeros((0, 3), np.int64)], [np.zeros((0, 3))]
    for a, b in pairs:
        at = np.argwhere(is_usable[a] & np.isfinite(termination_depth[a]))
        points = points_world[a][at[:, 0], at[:, 1]].astype(np.float64)
        seen = points_in_image(
            points, camera_to_world[b], intrinsics[b], fisheye[b], size=(height, width), near=_NEAR_M
        )
        depth = termination_depth[b][seen.row, seen.column]
        ratio = np.maximum(depth / seen.termination_depth, seen.termination_depth / depth)
        shows = (ratio < _MAX_DEPTH_RATIO) & is_usable[b][seen.row, seen.column]
        first.append(np.insert(at[seen.index[shows]], 0, a, axis=1))
        second.append(np.insert(seen.pixels[shows][:, ::-1] - 0.5, 0, b, axis=1))
    return SamePoints(first=np.concatenate(first), second=np.concatenate(second))


def agreement(
    features: Float[np.ndarray, "views height width channels"],
    points: SamePoints,
    basis: StoredFeatureBasis,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Return how well two views agree about the same points; NaN without points.

    Args:
        features: Reduced features of all views.
        points: What is compared.
        basis: Basis that reduced them; cosines are taken in the teacher's own space.
        seed: Seed of the choice of the other points.

    Returns:
        ``cosine`` of a point from two views, ``centred_cosine`` after the mean of the basis is taken off,
        ``other_cosine`` of a point and another one of the same second view, and ``own_is_nearer``: the share of points
        that have a larger cosine with themselves than with that other one (0.5 is chance).
    """
    if not len(points.first):
        return dict.fromkeys(("cosine", "centred_cosine", "other_cosine", "own_is_nearer"), float("nan"))
    view, row, column = points.first.T
    one = basis.reconstruct(features[view, row, column].astype(np.float32))
    two = basis.reconstruct(_interpolate(features, points.second))
    other = two[_others(points.second[:, 0].astype(np.int64), seed)]
    same, different = _cosine(one, two), _cosine(one, other)
    return {
        "cosine": float(same.mean()),
        "centred_cosine": float(_cosine(one - basis.mean, two - basis.mean).mean()),
        "other_cosine": float(different.mean()),
        "own_is_nearer": float((same > different).mean() + 0.5 * (same == different).mean()),
    }


def word_precision(
    probability: Float[np.ndarray, "*shape classes"],
    truth: UInt8[np.ndarray, "*shape"],
    is_usable: Bool[np.ndarray, "*shape"],
    names: tuple[str, ...],
) -> Mapping[str, float]:
    """Return the average precision of each class that occurs, asked for by its words, over usable pixels."""
    scores, labels = probability[is_usable], truth[is_usable]
    return {
        name: average_precision(scores[:, index], labels == index)
        for index, name in enumerate(names)
        if (labels == index).any()
    }


def nearby_views(
    frame_index: Int64[np.ndarray, " views"], camera_index: Int64[np.ndarray, " views"], *, max_frames: int = 3
) -> Iterator[tuple[int, int]]:
    """Yield pairs of different views at most so many frames apart, later or of another camera than the first."""
    for a, (frame, camera) in enumerate(zip(frame_index, camera_index, strict=True)):
        for b, (later, other) in enumerate(zip(frame_index, camera_index, strict=True)):
            if 0 <= later - frame <= max_frames and (later > frame or other > camera):
                yield a, b


def _interpolate(
    features: Float[np.ndarray, "views height width channels"], at: Float[np.ndarray, "points 3"]
) -> Float32[np.ndarray, "points channels"]:
    channels = [
        map_coordinates(features[..., c].astype(np.float32), at.T, order=1, mode="nearest")
        for c in range(features.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _others(groups: Int64[np.ndarray, " points"], seed: int) -> Int64[np.ndarray, " points"]:
    """Return for each point another one of its group, drawn at random; itself only if it is alone."""
    order = np.lexsort((np.random.default_rng(seed).random(len(groups)), groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    chosen = np.empty(len(groups), np.int64)
    chosen[order] = order[np.repeat(starts, lengths) + (place + 1) % np.repeat(lengths, lengths)]
    return chosen


def _cosine(
    a: Float[np.ndarray, "points dimension"], b: Float[np.ndarray, "points dimension"]
) -> Float[np.ndarray, " points"]:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / np.maximum(norms, 1e-12)
