"""Which rendered pixels a student may trust: what several fitted cameras agree on, or a LiDAR beam met.

A field fills what no training ray constrained with fog and guesses, most of all at poses that no camera had. A pixel is
trusted only if its ray ends at a surface, or clearly leaves the scene, and if that surface was *seen*: fitted cameras
that have it in their image render it at the same distance, or a LiDAR return lies beside it. Everything here is a pure
function of arrays; sky is a surface at :data:`SKY_DISTANCE_M`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from scipy.ndimage import uniform_filter
from scipy.spatial import KDTree

from storage.geometry.in_image import points_in_image

SKY_DISTANCE_M = 10_000.0
"""Distance that stands for the sky: from there, all cameras of a scene see the same."""

_NEAR_M = 0.1


class PixelVerdict(IntEnum):
    """What was found out about a pixel; the first fault counts.

    Attributes:
        VALID: A student may learn from it.
        NO_RAY: The camera sees nothing there, or its own vehicle.
        FOG: The ray neither ends nor leaves the scene.
        TOO_FAR: The ray ends beyond the largest depth.
        SKY_DISPUTED: The ray ends where the sky mask says sky, or leaves the scene where it says surface.
        MOVED: Something that moves is there, in a frame that the field was not fitted to.
        CONTRADICTED: A LiDAR return of the same frame ended elsewhere.
        UNSEEN: Too few fitted cameras agree on the surface, and no return lies beside it.
        COLOUR: Its colour is not that of the real image which has it.
    """

    VALID = 0
    NO_RAY = 1
    FOG = 2
    TOO_FAR = 3
    SKY_DISPUTED = 4
    MOVED = 5
    CONTRADICTED = 6
    UNSEEN = 7
    COLOUR = 8


def judge_rays(
    termination_depth: Float32[np.ndarray, "*shape"],
    opacity: Float32[np.ndarray, "*shape"],
    has_ray: Bool[np.ndarray, "*shape"],
    is_sky: Bool[np.ndarray, "*shape"] | None,
    *,
    min_opacity: float,
    max_sky_opacity: float,
    max_depth_m: float,
) -> tuple[UInt8[np.ndarray, "*shape"], Float32[np.ndarray, "*shape"]]:
    """Return what rays alone say of pixels, and the distance of their surfaces.

    Args:
        termination_depth: Metres, whatever the opacity.
        opacity: Sum of weights.
        has_ray: Pixels that show the world.
        is_sky: Sky mask of the image; None at poses that have none.
        min_opacity: Opacity from which a ray ends at a surface.
        max_sky_opacity: Opacity under which it leaves the scene.
        max_depth_m: Largest distance of a surface, metres.

    Returns:
        ``VALID``, ``NO_RAY``, ``FOG``, ``TOO_FAR`` or ``SKY_DISPUTED``; and metres, :data:`SKY_DISTANCE_M` for sky and
        NaN where there is a fault.
    """
    is_solid, leaves = opacity >= min_opacity, opacity < max_sky_opacity
    nowhere = np.zeros(opacity.shape, bool)
    verdict = verdict_of(
        [
            (PixelVerdict.NO_RAY, ~has_ray),
            (PixelVerdict.FOG, ~(is_solid | leaves)),
            (PixelVerdict.TOO_FAR, is_solid & ~(termination_depth <= max_depth_m)),
            (PixelVerdict.SKY_DISPUTED, nowhere if is_sky is None else is_sky != leaves),
        ]
    )
    distance = np.where(is_solid, termination_depth, np.float32(SKY_DISTANCE_M))
    return verdict, np.where(verdict == PixelVerdict.VALID, distance, np.float32(np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A recorded camera at one instant: what the field shows there, and what was recorded.

    Attributes:
        frame: Frame of the image.
        is_fitted: Whether the field was fitted to it; other images have colours but confirm no surface.
        camera_to_world: Its pose.
        intrinsics: In pixels of the depth map.
        fisheye: Coefficients of the lens, NaN for a pinhole.
        termination_depth: Rendered from there, metres; :data:`SKY_DISTANCE_M` for sky, NaN where it says nothing.
        image: Recorded colour, blurred, [0, 1]; any size.
    """

    frame: int
    is_fitted: bool
    camera_to_world: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]
    fisheye: Float[np.ndarray, "4"]
    termination_depth: Float32[np.ndarray, "height width"]
    image: Float32[np.ndarray, "image_height image_width 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Testimony:
    """What witnesses say about points.

    Attributes:
        num_confirming: From how many places fitted images have the point where the field renders it from there.
        rgb: Its recorded colour in the first image that shows it, NaN where none does.
    """

    num_confirming: Int64[np.ndarray, " points"]
    rgb: Float32[np.ndarray, "points 3"]


def ask_witnesses(
    points: Float[np.ndarray, "points 3"],
    moves: Bool[np.ndarray, " points"],
    witnesses: Sequence[Witness],
    *,
    frame: int,
    origins: Float[np.ndarray, "points 3"],
    tolerance: float,
    min_parallax: float,
    enough: int,
) -> Testimony:
    """Ask witnesses about points in world, one after the other, until enough have confirmed each.

    Args:
        points: World, metres.
        moves: Points on rays that meet something that moves: only images of the same frame count.
        witnesses: In the order in which they are asked; colour is taken from the first that shows a point.
        frame: Frame of the points.
        origins: From where each point was rendered, world, metres.
        tolerance: Relative difference of distances that still is agreement.
        min_parallax: A confirmation counts only from so far aside, radians, of the origin and of who confirmed before:
            who looks along the same ray cannot tell how far it goes. Sky is confirmed from anywhere.
        enough: Confirmations after which a point is no longer asked about.
    """
    num_confirming = np.zeros(len(points), np.int64)
    rgb = np.full((len(points), 3), np.nan, np.float32)
    confirmed_from = np.full((enough, len(points), 3), np.nan)
    for witness in witnesses:
        is_open = num_confirming < enough
        if witness.frame != frame:
            is_open &= ~moves
        asked = np.flatnonzero(is_open)
        if not len(asked):
            continue
        height, width = witness.termination_depth.shape
        size = (height, width)
        seen = points_in_image(
            points[asked], witness.camera_to_world, witness.intrinsics, witness.fisheye, size=size, near=_NEAR_M
        )
        agrees = agrees_with_map(seen.pixels, seen.termination_depth, witness.termination_depth, tolerance=tolerance)
        confirmed = asked[seen.index[agrees]]
        if witness.is_fitted:
            at, place = points[confirmed], witness.camera_to_world[:3, 3]
            known = (origins[confirmed], *confirmed_from[:, confirmed])
            looks_along = np.any([parallax(at, other, place) < min_parallax for other in known], axis=0)
            is_sky = np.linalg.norm(at - origins[confirmed], axis=-1) > 0.5 * SKY_DISTANCE_M
            counting = confirmed[~looks_along | is_sky]
            confirmed_from[num_confirming[counting], counting] = place
            num_confirming[counting] += 1
        is_first = np.isnan(rgb[confirmed, 0])
        rgb[confirmed[is_first]] = sample_image(witness.image, seen.pixels[agrees][is_first], size)
    return Testimony(num_confirming=num_confirming, rgb=rgb)


def parallax(
    points: Float[np.ndarray, "points 3"], origins: Float[np.ndarray, "points 3"], other: Float[np.ndarray, "3"]
) -> Float[np.ndarray, " points"]:
    """Return the angle at which each point sees its origin and another place, radians."""
    one, two = origins - points, other - points
    return np.arctan2(np.linalg.norm(np.cross(one, two), axis=-1), (one * two).sum(axis=-1))


def agrees_with_map(
    pixels: Float[np.ndarray, "points 2"],
    distance: Float[np.ndarray, " points"],
    depth: Float32[np.ndarray, "height width"],
    *,
    tolerance: float,
) -> Bool[np.ndarray, " points"]:
    """Return whether points lie where a depth map has its surface, neither before nor behind it.

    Args:
        pixels: Right and down, inside the map.
        distance: From the map's camera, metres.
        depth: Termination depth, metres; NaN agrees with nothing.
        tolerance: Relative difference that still is agreement.
    """
    return np.abs(log_depth_ratio(pixels, distance, depth)) <= np.log1p(tolerance)


def log_depth_ratio(
    pixels: Float[np.ndarray, "points 2"],
    distance: Float[np.ndarray, " points"],
    depth: Float32[np.ndarray, "height width"],
) -> Float[np.ndarray, " points"]:
    """Return the logarithm of a map's depth over a distance, at each point; NaN where the map has none.

    The map's depth is the nearest value, or the one between the four around the point, whichever is closer. Inverse
    depth is interpolated: along a plane it is linear, and a road seen at a grazing angle changes by a tenth from one
    pixel to the next. Arguments are those of :func:`agrees_with_map`.
    """
    height, width = depth.shape
    nearest = depth[pixels[:, 1].astype(np.int64), pixels[:, 0].astype(np.int64)]
    left, top = np.clip(pixels[:, 0] - 0.5, 0, width - 1), np.clip(pixels[:, 1] - 0.5, 0, height - 1)
    column, row = left.astype(np.int64), top.astype(np.int64)
    right, below = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
    x, y = left - column, top - row
    inverse = (
        (1 - y) * ((1 - x) / depth[row, column] + x / depth[row, right])
        + y * ((1 - x) / depth[below, column] + x / depth[below, right])
    )  # fmt: skip
    of_nearest, between = np.log(nearest / distance), -np.log(distance * inverse)
    return np.where(np.abs(between) < np.abs(of_nearest), between, of_nearest)


def sample_image(
    image: Float32[np.ndarray, "image_height image_width 3"],
    pixels: Float[np.ndarray, "points 2"],
    size: tuple[int, int],
) -> Float32[np.ndarray, "points 3"]:
    """Return the colours at pixels that are given in a grid of another ``size`` over the same image."""
    rows = pixels[:, 1] * (image.shape[0] / size[0])
    columns = pixels[:, 0] * (image.shape[1] / size[1])
    last = np.array(image.shape[:2]) - 1
    return image[np.minimum(rows.astype(np.int64), last[0]), np.minimum(columns.astype(np.int64), last[1])]


def blur(
    image: Float[np.ndarray, "*batch height width 3"], window: int
) -> Float32[np.ndarray, "*batch height width 3"]:
    """Return the mean of a square window around each pixel: edges that lie half a pixel off shall not count."""
    return uniform_filter(image.astype(np.float32), size=window, axes=(-3, -2), mode="nearest")


def beside_return(
    points: Float[np.ndarray, "points 3"],
    moves: Bool[np.ndarray, " points"],
    own: KDTree,
    others: Sequence[KDTree],
    *,
    reach_m: Float[np.ndarray, " points"],
) -> Bool[np.ndarray, " points"]:
    """Return which points in world have a LiDAR return within reach.

    Args:
        points: World, metres.
        moves: Points on rays that meet something that moves: only returns of the same frame count.
        own: Returns of the same frame.
        others: Returns of its neighbours.
        reach_m: Distance within which a return proves each surface, metres.
    """
    farthest = float(reach_m.max(initial=0.0))
    is_beside = own.query(points, distance_upper_bound=farthest)[0] <= reach_m
    for returns in others:
        asked = np.flatnonzero(~is_beside & ~moves)
        is_beside[asked] = returns.query(points[asked], distance_upper_bound=farthest)[0] <= reach_m[asked]
    return is_beside


def verdict_of(faults: Sequence[tuple[PixelVerdict, Bool[np.ndarray, "*shape"]]]) -> UInt8[np.ndarray, "*shape"]:
    """Return for each pixel the first fault that applies to it; ``VALID`` where none does."""
    verdict = np.zeros(faults[0][1].shape, np.uint8)
    for fault, applies in faults:
        verdict[applies & (verdict == PixelVerdict.VALID)] = fault
    return verdict
