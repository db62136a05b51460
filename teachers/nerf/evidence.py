"""What rendered views are compared with: LiDAR returns and recorded colours, per camera and frame.

A view is wrong as a whole if its depth is biased, or if another pose than its own explains it better: that of another
camera, another frame, another view, or its own a hand's breadth aside. Which pose explains a view is asked of the
returns: they say where each surface is, how far it is from that pose, and, through the recorded image, its colour.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from storage.geometry.in_image import points_in_image
from storage.scenes.store import SceneReader
from teachers.nerf.confidence import SKY_DISTANCE_M, PixelVerdict, log_depth_ratio, sample_image

SHIFT_M = 0.3
"""A pose this far from the claimed one must explain a view worse."""

_SHIFTS = SHIFT_M * np.concatenate([np.eye(3), -np.eye(3)])
_MAX_LOG_RATIO = 0.5
"""Larger errors count as this much: which of two wrong depths is nearer says nothing."""

_MAY_PASS = math.log(1.12)
"""A return this much nearer than the surface of a view may be of a car that drove by, which a field rightly lacks."""

_MAX_SAMPLED, _MIN_COMPARED = 600, 40

_RIVAL_FRAMES = 3
"""A view may be that of another frame up to so many before or after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledReturns:
    """LiDAR returns that a view and its recorded image both have, as seen from the view and from poses beside it.

    Attributes:
        pixels: Where each falls, right and down, NaN outside; from the view itself first.
        termination_depth: Its distance from there, metres.
        rgb: Its colour in the recorded image, [0, 1].
    """

    pixels: Float[np.ndarray, "poses returns 2"]
    termination_depth: Float[np.ndarray, "poses returns"]
    rgb: Float32[np.ndarray, "returns 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameViews:
    """All views of one frame, with what they are compared with.

    Attributes:
        frame: The frame.
        verdict: ``PixelVerdict`` of each pixel.
        distance: Surfaces, metres; ``SKY_DISTANCE_M`` for sky, NaN where nothing is said.
        rgb: Colour, [0, 1].
        returns: Returns in each camera and view.
    """

    frame: int
    verdict: UInt8[np.ndarray, "cameras views height width"]
    distance: Float32[np.ndarray, "cameras views height width"]
    rgb: Float32[np.ndarray, "cameras views height width 3"]
    returns: Sequence[Sequence[SampledReturns]]


def sample_returns(
    points: Float[np.ndarray, "returns 3"],
    rgb: Float32[np.ndarray, "returns 3"],
    view_to_world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"],
    *,
    size: tuple[int, int],
) -> SampledReturns:
    """Return some of the returns of a view, evenly, as seen from it and from poses beside it.

    Args:
        points: Returns that the view shows, world, metres.
        rgb: Their colours in the recorded image.
        view_to_world: Pose of the view.
        intrinsics: In pixels of the view.
        fisheye: Coefficients of the lens, NaN for a pinhole.
        size: Height and width of the view.
    """
    chosen = np.linspace(0, max(0, len(points) - 1), min(len(points), _MAX_SAMPLED)).astype(np.int64)
    points, rgb = points[chosen], rgb[chosen]
    pixels = np.full((1 + len(_SHIFTS), len(points), 2), np.nan)
    depth = np.full(pixels.shape[:2], np.nan)
    for row, shift in enumerate([np.zeros(3), *_SHIFTS]):
        pose = view_to_world.copy()
        pose[:3, 3] += view_to_world[:3, :3] @ shift
        seen = points_in_image(points, pose, intrinsics, fisheye, size=size, near=0.5)
        pixels[row, seen.index] = seen.pixels
        depth[row, seen.index] = seen.termination_depth
    return SampledReturns(pixels=pixels, termination_depth=depth, rgb=rgb)


def places_of(positions: Float[np.ndarray, "frames 3"]) -> Int64[np.ndarray, " frames"]:
    """Return the number of each frame's place: a new one begins :data:`SHIFT_M` from where the last one began.

    Frames of one place show one view. What is wrong in one is wrong in all of them.

    Args:
        positions: Places of the vehicle, world, metres.
    """
    places = np.zeros(len(positions), np.int64)
    begin = positions[0]
    for frame, position in enumerate(positions[1:], start=1):
        has_moved = np.linalg.norm(position - begin) >= SHIFT_M
        places[frame] = places[frame - 1] + has_moved
        begin = position if has_moved else begin
    return places


class RenderEvidence:
    """Compares the views of a scene with its LiDAR and its images, frame by frame.

    Figures are arrays with an axis for each of frames, cameras and views; NaN where too little was there to compare.

    Attributes:
        places: Number of each frame's place, see :func:`places_of`.
        num_pixels: Pixels by ``PixelVerdict``.
        num_returns: Returns that are compared.
        num_covered: Those of them where the view has a surface.
        pairs: Rendered and measured depth of each of those, metres.
        bias: Median logarithm of rendered over measured depth.
        contradicted: Share of returns whose depth differs by more than a factor, or where the view shows sky.
        depth_error: Mean absolute logarithm of rendered over measured depth, from the view's own pose first.
        colour_error: Mean absolute difference of rendered and recorded colour, likewise.
        depth_own: The error of depth at the view's own pose, mirrored: what is nearer than the view's surface is judged
            by what is farther. What drove by in one frame is explained best by a frame in which it was gone.
        colour_own: The error of colour over the same returns.
        depth_rival: Least such error of depth over the poses of other cameras, frames and views.
        colour_rival: Least such error of colour over the same poses.
        colour_range: Mean absolute difference of recorded colours from their median.
    """

    def __init__(
        self,
        places: Int64[np.ndarray, " frames"],
        *,
        camera_names: Sequence[str],
        view_names: Sequence[str],
        ratio: float,
    ) -> None:
        self.camera_names, self.view_names, self._log_ratio = tuple(camera_names), tuple(view_names), math.log(ratio)
        self.places = places
        shape = (len(places), len(camera_names), len(view_names))
        self.num_pixels = np.zeros((*shape, len(PixelVerdict)), np.int64)
        self.num_returns = np.zeros(shape, np.int64)
        self.num_covered = np.zeros(shape, np.int64)
        self.pairs: list[Float[np.ndarray, "2 _"]] = []
        self.bias, self.contradicted = np.full(shape, np.nan), np.full(shape, np.nan)
        self.depth_error, self.colour_error = (np.full((*shape, 1 + len(_SHIFTS)), np.nan) for _ in range(2))
        self.depth_own, self.colour_own = np.full(shape, np.nan), np.full(shape, np.nan)
        self.depth_rival, self.colour_rival = np.full(shape, np.inf), np.full(shape, np.inf)
        self.colour_range = np.full(shape, np.nan)
        self._last: deque[FrameViews] = deque(maxlen=_RIVAL_FRAMES)

    @classmethod
    def of_scene(cls, scene: SceneReader, view_names: Sequence[str], *, ratio: float) -> "RenderEvidence":
        """Return the empty evidence about views of a scene; ``ratio`` is the factor of ``contradicted``."""
        return cls(
            places_of(np.stack([scene.ego_to_world(frame)[:3, 3] for frame in range(scene.num_frames)])),
            camera_names=scene.camera_names,
            view_names=view_names,
            ratio=ratio,
        )

    def add(self, views: FrameViews) -> None:
        """Take in a frame; frames come in order."""
        for camera, view in np.ndindex(views.distance.shape[:2]):
            place = (views.frame, camera, view)
            self.num_pixels[place] = np.bincount(views.verdict[camera, view].reshape(-1), minlength=len(PixelVerdict))
            own = views.returns[camera][view]
            for pose in range(1 + len(_SHIFTS)):
                errors = self._errors(views, camera, view, own, pose)
                self.depth_error[(*place, pose)], self.colour_error[(*place, pose)] = errors
            self.depth_own[place], self.colour_own[place] = self._errors(views, camera, view, own, 0, mirrored=True)
            self._compare(place, views.distance[camera, view], own)
            for rival in self._rivals(views, camera, view):
                self._challenge(place, views, rival)
        for last in self._elsewhere(views):
            for camera, view in np.ndindex(views.distance.shape[:2]):
                self._challenge((last.frame, camera, view), last, views.returns[camera][view])
        self._last.append(views)

    def _elsewhere(self, views: FrameViews) -> Iterator[FrameViews]:
        """Yield the frames before these views that were taken from another place: from the same, they are no rivals."""
        return (last for last in self._last if self.places[last.frame] != self.places[views.frame])

    def _rivals(self, views: FrameViews, camera: int, view: int) -> Iterator[SampledReturns]:
        for other in range(len(self.camera_names)):
            if other != camera:
                yield views.returns[other][view]
        for other in range(len(self.view_names)):
            if other != view:
                yield views.returns[camera][other]
        for last in self._elsewhere(views):
            yield last.returns[camera][view]

    def _challenge(self, place: tuple[int, int, int], views: FrameViews, rival: SampledReturns) -> None:
        """Hold a rival against a view, strictly: it must explain what is nearer, too."""
        either = [self._errors(views, place[1], place[2], rival, 0, mirrored=mirrored) for mirrored in (False, True)]
        depth, colour = np.max(either, axis=0)
        self.depth_rival[place] = np.fmin(self.depth_rival[place], depth)
        self.colour_rival[place] = np.fmin(self.colour_rival[place], colour)

    @staticmethod
    def _errors(
        views: FrameViews, camera: int, view: int, returns: SampledReturns, pose: int, *, mirrored: bool = False
    ) -> tuple[float, float]:
        """Return the errors of depth and colour at returns.

        With ``mirrored``, returns that may be of passers-by, nearer than the view's surface, are left out, and those as
        much farther count twice. Where two different places are compared, there are as many of either.
        """
        inside = np.isfinite(returns.termination_depth[pose])
        pixels = returns.pixels[pose][inside]
        log_ratio = log_depth_ratio(pixels, returns.termination_depth[pose][inside], views.distance[camera, view])
        weight = np.ones(len(log_ratio))
        if mirrored:
            weight = np.where(log_ratio > _MAY_PASS, 0.0, np.where(log_ratio < -_MAY_PASS, 2.0, 1.0))
        is_known, depth = np.isfinite(log_ratio), math.nan
        if weight[is_known].sum() >= _MIN_COMPARED:
            depth = float(np.average(np.abs(log_ratio[is_known]).clip(max=_MAX_LOG_RATIO), weights=weight[is_known]))
        if weight.sum() < _MIN_COMPARED:
            return depth, math.nan
        image = views.rgb[camera, view]
        rgb = sample_image(image, pixels, (image.shape[0], image.shape[1]))
        differs = np.abs(rgb - returns.rgb[inside]).mean(axis=-1)
        return depth, float(np.average(differs, weights=weight))

    def _compare(self, place: tuple[int, int, int], distance: np.ndarray, returns: SampledReturns) -> None:
        inside = np.isfinite(returns.termination_depth[0])
        measured = returns.termination_depth[0][inside]
        log_ratio = log_depth_ratio(returns.pixels[0][inside], measured, distance)
        rendered = measured * np.exp(log_ratio)
        self.num_returns[place] = len(rendered)
        is_surface = rendered < 0.5 * SKY_DISTANCE_M
        self.num_covered[place] = is_surface.sum()
        self.pairs.append(np.stack([rendered, measured])[:, is_surface])
        if np.isfinite(log_ratio).sum() >= _MIN_COMPARED:
            self.contradicted[place] = (np.abs(log_ratio[np.isfinite(log_ratio)]) > self._log_ratio).mean()
        if is_surface.sum() >= _MIN_COMPARED:
            self.bias[place] = np.median(log_ratio[is_surface])
        if inside.sum() >= _MIN_COMPARED:
            true = returns.rgb[inside]
            self.colour_range[place] = np.abs(true - np.median(true, axis=0)).mean()
