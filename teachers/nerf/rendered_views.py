"""Views of a field as arrays, the recorded cameras among them as witnesses, and the verdict on their pixels."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from scipy.spatial import KDTree

from storage.geometry.resize import resize_nearest
from storage.geometry.transforms import rotate
from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from teachers.nerf.confidence import (
    PixelVerdict,
    Witness,
    ask_witnesses,
    beside_return,
    blur,
    judge_rays,
    sample_image,
    verdict_of,
)
from teachers.nerf.config import ConfidenceConfig
from teachers.nerf.contradictions import untrusted_pixels
from teachers.nerf.evidence import FrameViews, SampledReturns, sample_returns
from teachers.nerf.scene_rays import camera_directions, lidar_points_world, project_lidar, shows_world


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViews:
    """Views with the lens and the instant of one recorded camera.

    Attributes:
        frame: Their frame.
        camera: Their camera.
        poses: View to world.
        has_ray: Pixels that show the world.
        rgb: Colour, [0, 1].
        termination_depth: Metres, whatever the opacity; NaN without a ray.
        opacity: Sum of weights.
    """

    frame: int
    camera: int
    poses: Float[np.ndarray, "views 4 4"]
    has_ray: Bool[np.ndarray, "height width"]
    rgb: Float32[np.ndarray, "views height width 3"]
    termination_depth: Float32[np.ndarray, "views height width"]
    opacity: Float32[np.ndarray, "views height width"]

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns."""
        height, width = self.has_ray.shape
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """LiDAR returns in a view.

    Attributes:
        pixel: Where each falls, row-major.
        termination_depth: Its distance from the view, metres.
        index: Which of the frame's returns it is.
    """

    pixel: Int64[np.ndarray, " returns"]
    termination_depth: Float[np.ndarray, " returns"]
    index: Int64[np.ndarray, " returns"]


RenderCamera = Callable[[int, int, np.ndarray, tuple[int, int]], FieldViews]
"""Function that renders a camera of a frame from some poses at a height and width."""


class RecordedViews:
    """What the field shows in the recorded cameras: rendered once a frame, and kept while neighbours are asked.

    Args:
        scene: The scene.
        render: Renders the field.
        is_sky: Sky masks of all frames at any size, or None.
        fitted_frames: Frames that the field was fitted to.
        max_lidar_m: Farther returns are not looked at.
        map_size: Height and width of the views.
        image_size: Height and width at which recorded colours are compared.
        config: When pixels are valid.
    """

    def __init__(
        self,
        scene: SceneReader,
        render: RenderCamera,
        *,
        is_sky: Bool[np.ndarray, "frames cameras _ _"] | None,
        fitted_frames: Collection[int],
        max_lidar_m: float,
        map_size: tuple[int, int],
        image_size: tuple[int, int],
        config: ConfidenceConfig,
    ) -> None:
        self.scene, self.fitted_frames, self.config = scene, fitted_frames, config
        self.map_size, self.image_size = map_size, image_size
        self.moving = MovingBoxes.of(scene)
        self._render_camera, self._max_lidar_m = render, max_lidar_m
        self._is_sky = None if is_sky is None else resize_nearest(is_sky, *map_size, axis=2)
        kept = lru_cache(maxsize=2 * config.neighbour_frames + 1)
        self.views = kept(self._render)
        self._witnesses = kept(self._make_witnesses)
        self.returns = kept(self._read_returns)
        self.tree = kept(self._make_tree)

    def _render(self, frame: int) -> list[FieldViews]:
        scene = self.scene
        return [
            self._render_camera(frame, camera, scene.camera_to_world(frame, camera)[None], self.map_size)
            for camera in range(scene.num_cameras)
        ]

    def judge_rays(self, views: FieldViews) -> tuple[UInt8[np.ndarray, "views _ _"], Float32[np.ndarray, "views _ _"]]:
        """Return what :func:`teachers.nerf.confidence.judge_rays` says of recorded views."""
        is_sky = None if self._is_sky is None else self._is_sky[views.frame, views.camera][None]
        shown = shows_world(self.scene, views.camera, self.map_size).numpy().reshape(1, *self.map_size)
        return self.judge_rays_of(views, shown, is_sky)

    def judge_rays_of(
        self, views: FieldViews, has_ray: np.ndarray, is_sky: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what :func:`teachers.nerf.confidence.judge_rays` says of any views, with this object's limits."""
        return judge_rays(
            views.termination_depth,
            views.opacity,
            np.broadcast_to(has_ray, views.opacity.shape),
            is_sky,
            min_opacity=self.config.min_opacity,
            max_sky_opacity=self.config.max_sky_opacity,
            max_depth_m=self.config.max_depth_m,
        )

    def image(self, frame: int, camera: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a recorded image at the size at which colours are compared."""
        height, width = self.image_size
        return self.scene.resized_image(frame, camera, height=height, width=width)

    def _make_witnesses(self, frame: int) -> list[Witness]:
        scene = self.scene
        return [
            Witness(
                frame=frame,
                is_fitted=frame in self.fitted_frames,
                camera_to_world=views.poses[0],
                intrinsics=scene.intrinsics(views.camera, size=self.map_size),
                fisheye=scene.fisheye(views.camera),
                termination_depth=self.judge_rays(views)[1][0],
                image=blur(self.image(frame, views.camera) / np.float32(255), self.config.colour_window_px),
            )
            for views in self.views(frame)
        ]

    def neighbours(self, frame: int) -> list[int]:
        """Return the frames whose cameras and returns are asked beside a frame's own, the nearest first."""
        reach, last = self.config.neighbour_frames, self.scene.num_frames - 1
        frames = range(max(0, frame - reach), min(last, frame + reach) + 1)
        return sorted((f for f in frames if f != frame), key=lambda f: (abs(f - frame), f))

    def witnesses(self, frame: int, camera: int) -> list[Witness]:
        """Return whom to ask about what a camera shows: itself, its neighbours, then both at the nearest frames."""

        def own_first(of_frame: list[Witness]) -> list[Witness]:
            return [of_frame[camera], *of_frame[:camera], *of_frame[camera + 1 :]]

        return [w for f in (frame, *self.neighbours(frame)) for w in own_first(self._witnesses(f))]

    def _read_returns(self, frame: int) -> Float[np.ndarray, "points 3"]:
        return lidar_points_world(self.scene, frame)

    def _make_tree(self, frame: int) -> KDTree:
        return KDTree(self.returns(frame))

    def returns_in(self, frame: int, camera: int, pose: Float[np.ndarray, "4 4"], size: tuple[int, int]) -> Returns:
        """Return the frame's LiDAR returns that fall into a view, as far as the field was fitted to their range."""
        points, scene = self.returns(frame), self.scene
        pixel, measured, index = project_lidar(
            points, pose, scene.intrinsics(camera, size=size), scene.fisheye(camera), image_size=size
        )
        near = measured <= self._max_lidar_m
        return Returns(pixel=pixel[near], termination_depth=measured[near], index=index[near])

    def sample(
        self, views: FieldViews, returns: Sequence[Returns], recorded: Returns, image: UInt8[np.ndarray, "_ _ 3"]
    ) -> list[SampledReturns]:
        """Return, for each view, returns that its recorded image shows too, with their colours there.

        Args:
            views: The views.
            returns: The frame's returns in each.
            recorded: Its returns in the recorded image of the same camera.
            image: That image.
        """
        size, points, sampled = views.size, self.returns(views.frame), []
        shown = shows_world(self.scene, views.camera, (image.shape[0], image.shape[1])).numpy()[recorded.pixel]
        for pose, seen in zip(views.poses, returns, strict=True):
            index, _, place = np.intersect1d(seen.index, recorded.index[shown], return_indices=True)
            rgb = image.reshape(-1, 3)[recorded.pixel[shown][place]] / np.float32(255)
            intrinsics = self.scene.intrinsics(views.camera, size=size)
            fisheye = self.scene.fisheye(views.camera)
            sampled.append(sample_returns(points[index], rgb, pose, intrinsics, fisheye, size=size))
        return sampled


def judge_views(
    recorded: RecordedViews, views: FieldViews, returns: Sequence[Returns], *, is_recorded: bool
) -> tuple[UInt8[np.ndarray, "views height width"], Float32[np.ndarray, "views height width"]]:
    """Return the verdict on every pixel of some views, and the distance of surfaces whose rays are sound.

    Args:
        recorded: Whom to ask.
        views: The views.
        returns: LiDAR returns of the same frame in each.
        is_recorded: Whether they are the recorded camera itself: its own image counts as a witness already, and is the
            one that colours are compared with, if the field was not fitted to it.

    Returns:
        Members of ``PixelVerdict``; and metres, ``SKY_DISTANCE_M`` for sky and NaN where rays are not sound.
    """
    config = recorded.config
    size, shape = views.size, views.opacity.shape
    sound, distance = recorded.judge_rays(views) if is_recorded else recorded.judge_rays_of(views, views.has_ray, None)
    is_fitted = views.frame in recorded.fitted_frames
    faults = [(PixelVerdict(fault), sound == fault) for fault in np.unique(sound) if fault != PixelVerdict.VALID]

    directions = camera_directions(recorded.scene, views.camera, size).numpy().astype(np.float64)
    in_world = np.stack([rotate(pose, directions) for pose in views.poses])
    through_moving = np.stack(
        [recorded.moving.hit_by(views.frame, p[:3, 3], d) for p, d in zip(views.poses, in_world, strict=True)]
    ).reshape(shape)
    if not is_fitted:
        faults.append((PixelVerdict.MOVED, through_moving))
    contradicted = [
        untrusted_pixels(
            depth,
            seen.pixel,
            seen.termination_depth,
            ratio=config.contradiction_ratio,
            reach=config.contradiction_reach_px,
        )
        for depth, seen in zip(distance, returns, strict=True)
    ]
    faults.append((PixelVerdict.CONTRADICTED, np.stack(contradicted)))

    asked = np.isfinite(distance)
    origins = np.broadcast_to(views.poses[:, None, None, :3, 3], (*shape, 3))
    points = origins[asked] + in_world.reshape(*shape, 3)[asked] * distance[asked][:, None].astype(np.float64)
    moves = through_moving[asked]
    witnesses = recorded.witnesses(views.frame, views.camera)
    own = int(is_recorded and is_fitted)
    testimony = ask_witnesses(
        points,
        moves,
        witnesses[1:] if is_recorded else witnesses,
        frame=views.frame,
        origins=origins[asked],
        tolerance=config.depth_tolerance,
        min_parallax=math.radians(config.min_parallax_deg),
        enough=config.min_witnesses - own,
    )
    is_seen = testimony.num_confirming + own >= config.min_witnesses
    doubtful = np.flatnonzero(~is_seen)
    neighbours = [recorded.tree(f) for f in recorded.neighbours(views.frame)]
    is_seen[doubtful] = beside_return(
        points[doubtful],
        moves[doubtful],
        recorded.tree(views.frame),
        neighbours,
        reach_m=np.minimum(config.lidar_reach_m, config.lidar_reach * distance[asked][doubtful]),
    )
    unseen = np.zeros(shape, bool)
    unseen[asked] = ~is_seen
    faults.append((PixelVerdict.UNSEEN, unseen))

    if not (is_recorded and is_fitted):
        shown = blur(views.rgb, config.colour_window_px)[asked]
        true = testimony.rgb
        if is_recorded:
            _, row, column = np.nonzero(asked)
            true = sample_image(witnesses[0].image, np.stack([column + 0.5, row + 0.5], axis=-1), size)
        differs = np.zeros(shape, bool)
        differs[asked] = ~(np.abs(shown - true).mean(axis=-1) <= config.colour_tolerance)
        faults.append((PixelVerdict.COLOUR, differs))
    return verdict_of(faults), distance


def judge_frame(recorded: RecordedViews, rendered: Sequence[FieldViews], *, is_recorded: bool) -> FrameViews:
    """Judge the views of all cameras of a frame, and bring together what they are compared with.

    Args:
        recorded: Whom to ask.
        rendered: The views of each camera.
        is_recorded: Whether they are the recorded cameras themselves.
    """
    verdicts, distances, sampled = [], [], []
    for views in rendered:
        returns = [recorded.returns_in(views.frame, views.camera, pose, views.size) for pose in views.poses]
        verdict, distance = judge_views(recorded, views, returns, is_recorded=is_recorded)
        own_pose = recorded.scene.camera_to_world(views.frame, views.camera)
        own = recorded.returns_in(views.frame, views.camera, own_pose, recorded.image_size)
        verdicts.append(verdict)
        distances.append(distance)
        sampled.append(recorded.sample(views, returns, own, recorded.image(views.frame, views.camera)))
    return FrameViews(
        frame=rendered[0].frame,
        verdict=np.stack(verdicts),
        distance=np.stack(distances),
        rgb=np.stack([views.rgb for views in rendered]),
        returns=sampled,
    )
