"""A scene as rays: what the field is fitted to and judged by, read from its store once and kept in memory.

Everything here is OpenCV axes and metres of the scene's world frame, except that rays are handed out in *scene units*:
the world shifted to the box's centre and divided by ``SceneBounds.metres_per_unit``, so that the box lies in
[-1, 1]^3. Distances along unit rays scale by the same number.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.cameras import unproject_camera
from storage.geometry.in_image import LIDAR_NEAR_M, points_in_image
from storage.geometry.rays import pixel_grid
from storage.geometry.resize import resize_nearest
from storage.geometry.transforms import apply_se3
from storage.kinds import Kind
from storage.scenes.held_out import held_out_frames
from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from teachers.nerf.error_map import ErrorMap
from teachers.nerf.refinement import PoseRefinement, rigid

_MIN_LIDAR_POINTS = 100

_LOW_WITHOUT_LIDAR_M, _HIGH_WITHOUT_LIDAR_M = np.array([-40.0, -40.0, -4.0]), np.array([40.0, 40.0, 12.0])
"""Box around each camera, world axes, where no LiDAR says how far the scene reaches."""

_BLANK_LEVELS = 8
"""An image is blank if no channel varies by more, of 255 levels, between its 1st and 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneBounds:
    """The box that the field spends its resolution on.

    Attributes:
        centre_m: Centre of the box in world, metres.
        half_extent_m: Half the size of the box along each world axis, metres.
    """

    centre_m: tuple[float, float, float]
    half_extent_m: tuple[float, float, float]

    @property
    def metres_per_unit(self) -> float:
        """Return the metric scale of scene units."""
        return max(self.half_extent_m)

    @property
    def half_extent(self) -> tuple[float, float, float]:
        """Return the box's half size in scene units."""
        x, y, z = (e / self.metres_per_unit for e in self.half_extent_m)
        return x, y, z

    def to_scene_units(self, points_world: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Return world points (metres) in scene units."""
        return (points_world - np.asarray(self.centre_m)) / self.metres_per_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSplit:
    """Which frames a field is fitted to, and when.

    Attributes:
        train: Fitted in the first phase.
        held_out: Judge the first phase; fitted in the second, if there is one.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """Return all frames."""
        return tuple(sorted((*self.train, *self.held_out)))


def split_frames(num_frames: int, *, holdout_every: int) -> FrameSplit:
    """Hold out one frame of every ``holdout_every``, as ``held_out_frames`` chooses it.

    Raises:
        SourceDataError: If the scene is too short to hold out any frame.
    """
    held_out = held_out_frames(num_frames, every=holdout_every)
    if not held_out or len(held_out) == num_frames:
        raise SourceDataError(
            ErrorKind.TABLE_INVALID,
            "frames",
            f"{num_frames} frames are too few to hold out 1 in {holdout_every}, and a field that is not judged is no "
            f"teacher; want at least {holdout_every // 2 + 1}",
        )
    return FrameSplit(train=tuple(i for i in range(num_frames) if i not in held_out), held_out=held_out)


def measure_bounds(scene: SceneReader, frames: tuple[int, ...], *, margin_m: float = 2.0) -> SceneBounds:
    """Return the box of 2 to 98 percent of the LiDAR returns of ``frames`` (EmerNeRF Sec. A.1.2).

    The box is widened to hold every camera. Where a scene has no LiDAR at all, it is the box of the cameras, widened by
    as far as a camera on a vehicle usually sees in detail.

    Raises:
        SourceDataError: If there are returns, but too few.
    """
    points = np.concatenate([lidar_points_world(scene, f)[::4] for f in frames])
    cameras = np.stack([scene.camera_to_world(f, c)[:3, 3] for f in frames for c in range(scene.num_cameras)])
    if len(points) == 0:
        points = np.concatenate([cameras + _LOW_WITHOUT_LIDAR_M, cameras + _HIGH_WITHOUT_LIDAR_M])
    elif len(points) < _MIN_LIDAR_POINTS:
        raise SourceDataError(
            ErrorKind.LIDAR_INVALID,
            "lidar",
            f"{4 * len(points)} returns, want none or at least {4 * _MIN_LIDAR_POINTS}",
        )
    low = np.minimum(np.percentile(points, 2, axis=0), cameras.min(axis=0)) - margin_m
    high = np.maximum(np.percentile(points, 98, axis=0), cameras.max(axis=0)) + margin_m
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    return SceneBounds(centre_m=tuple(centre.tolist()), half_extent_m=tuple(half.tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RayBatch:
    """Rays in scene units with what is known about each; camera rays come first.

    Attributes:
        origins: Scene units.
        directions: Unit vectors, world axes.
        camera_index: Camera of the ray; 0 for LiDAR rays, whose colour is never read.
        frame_index: Frame of the ray.
        rgb: Colour of the leading camera rays, [0, 1].
        is_sky: Sky of the leading camera rays; None without a sky mask.
        lidar_depth: Termination depth in scene units, NaN where no return is known.
        return_moves: Whether the return is known to belong to something that moves.
        place: Image and pixel of the leading camera rays; None for rays that belong to no image.
    """

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    camera_index: Int64[Tensor, " rays"]
    frame_index: Int64[Tensor, " rays"]
    rgb: Float[Tensor, "camera_rays 3"]
    is_sky: Bool[Tensor, " camera_rays"] | None
    lidar_depth: Float[Tensor, " rays"]
    return_moves: Bool[Tensor, " rays"]
    place: Int64[Tensor, "camera_rays 2"] | None = None

    @property
    def num_camera_rays(self) -> int:
        """Return how many leading rays have a colour."""
        return len(self.rgb)

    def to(self, device: str) -> "RayBatch":
        """Return the batch on a device."""
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


class SceneRays:
    """Images, LiDAR returns and sky mask of some frames, ready to be drawn from.

    ``is_moving`` (images, pixels) and ``lidar_is_moving`` (returns) are all False unless ``moving`` is given.
    ``shown_images`` are the images that are not blank: a dead camera's black frames are neither fitted nor judged.
    There may be no LiDAR return at all. While there is a ``refinement``, camera rays are corrected by it, and it gets a
    gradient.

    Args:
        scene: The ingested scene.
        frames: Frames to read.
        bounds: The field's box.
        image_size: Height and width that images are resized to.
        is_sky: Sky mask of *all* frames at any resolution, or None.
        moving: What annotations say moves, to tell pixels and returns apart when judging; None for fitting.
        returns_move: Per frame of ``frames``, which returns belong to something that moves; None where unknown.

    Raises:
        SourceDataError: If every image is blank.
    """

    def __init__(
        self,
        scene: SceneReader,
        frames: tuple[int, ...],
        bounds: SceneBounds,
        *,
        image_size: tuple[int, int],
        is_sky: Bool[np.ndarray, "frames cameras height width"] | None = None,
        moving: MovingBoxes | None = None,
        returns_move: list[Bool[np.ndarray, " _"]] | None = None,
    ) -> None:
        self.frames = frames
        self.bounds = bounds
        self.refinement: PoseRefinement | None = None
        self.height, self.width = image_size
        self.num_cameras = scene.num_cameras
        images = [(f, c) for f in frames for c in range(scene.num_cameras)]
        self.image_frame = torch.tensor([f for f, _ in images])
        self.image_camera = torch.tensor([c for _, c in images])
        self.camera_directions = torch.stack(
            [camera_directions(scene, c, image_size) for c in range(scene.num_cameras)]
        )
        is_seen = torch.stack([shows_world(scene, c, image_size) for c in range(scene.num_cameras)])
        self._num_seen = is_seen.sum(dim=1)
        # A row for each camera: the pixels that show the world in order, mostly all of a pinhole's, then the others.
        self._seen_first = torch.argsort((~is_seen).to(torch.uint8), dim=1, stable=True)
        poses = np.stack([scene.camera_to_world(f, c) for f, c in images])
        self.rotations = torch.tensor(poses[:, :3, :3], dtype=torch.float32)
        self.origins = torch.tensor(bounds.to_scene_units(poses[:, :3, 3]), dtype=torch.float32)
        self.pixels: UInt8[Tensor, "images pixels 3"] = torch.stack(
            [
                torch.from_numpy(scene.resized_image(f, c, height=self.height, width=self.width).reshape(-1, 3).copy())
                for f, c in images
            ]
        )
        is_blank = torch.tensor([self._is_blank(image) for image in range(len(images))])
        self.shown_images = torch.nonzero(~is_blank)[:, 0]
        if len(self.shown_images) == 0:
            raise SourceDataError(
                ErrorKind.IMAGE_INVALID, f"frames {frames[0]} to {frames[-1]}", "every image is blank"
            )
        self.is_sky: Bool[Tensor, "images pixels"] | None = None
        if is_sky is not None:
            resized = resize_nearest(is_sky[list(frames)], *image_size, axis=2)
            self.is_sky = torch.from_numpy(resized.reshape(len(images), -1))
        self._read_lidar(scene, images, returns_move, is_blank)
        self.is_moving = torch.zeros(self.pixels.shape[:2], dtype=torch.bool)
        if moving is not None:
            self._find_moving(moving, images, poses)

    def _find_moving(self, moving: MovingBoxes, images: list[tuple[int, int]], poses: np.ndarray) -> None:
        for index, (frame, camera) in enumerate(images):
            directions = self.camera_directions[camera].numpy() @ poses[index, :3, :3].T
            self.is_moving[index] = torch.from_numpy(moving.hit_by(frame, poses[index, :3, 3], directions))
        scale = self.bounds.metres_per_unit
        points = (self.lidar_origins + self.lidar_directions * self.lidar_distances[:, None]).numpy().astype(np.float64)
        points = points * scale + np.asarray(self.bounds.centre_m)
        for frame in self.frames:
            of_frame = self.lidar_frame == frame
            self.lidar_is_moving[of_frame] = torch.from_numpy(moving.contain(frame, points[of_frame.numpy()]))

    def _read_lidar(
        self,
        scene: SceneReader,
        images: list[tuple[int, int]],
        returns_move: list[Bool[np.ndarray, " _"]] | None,
        is_blank: Bool[Tensor, " images"],
    ) -> None:
        points = {f: lidar_points_world(scene, f) for f in self.frames}
        moves = {
            f: np.zeros(len(points[f]), bool) if returns_move is None else returns_move[i]
            for i, f in enumerate(self.frames)
        }
        columns: list[tuple[np.ndarray, ...]] = []
        for index, (frame, camera) in enumerate(images):
            pixel, depth, source = project_lidar(
                points[frame],
                scene.camera_to_world(frame, camera),
                scene.intrinsics(camera, size=(self.height, self.width)),
                scene.fisheye(camera),
                image_size=(self.height, self.width),
            )
            shown = shows_world(scene, camera, (self.height, self.width)).numpy()[pixel] & (not is_blank[index])
            pixel, depth, source = pixel[shown], depth[shown], source[shown]
            columns.append((np.full(len(pixel), index), pixel, depth, moves[frame][source]))
        image, pixel, depth, pixel_moves = (np.concatenate(c) for c in zip(*columns, strict=True))
        scale = self.bounds.metres_per_unit
        self.lidar_pixel_image = torch.from_numpy(image)
        self.lidar_pixel = torch.from_numpy(pixel)
        self.lidar_pixel_depth = torch.tensor(depth / scale, dtype=torch.float32)
        self.lidar_pixel_moves = torch.from_numpy(pixel_moves)
        origins, directions, distances, frame_of, beam_moves = [], [], [], [], []
        for frame in self.frames:
            origin = lidar_origin_world(scene, frame)
            offset = points[frame] - origin
            distance = np.linalg.norm(offset, axis=-1)
            seen = distance > LIDAR_NEAR_M
            directions.append(offset[seen] / distance[seen, None])
            distances.append(distance[seen] / scale)
            origins.append(self.bounds.to_scene_units(origin))
            frame_of.append(np.full(int(seen.sum()), frame))
            beam_moves.append(moves[frame][seen])
        self.lidar_frame = torch.from_numpy(np.concatenate(frame_of))
        row_of_frame = torch.zeros(max(self.frames) + 1, dtype=torch.int64)
        row_of_frame[list(self.frames)] = torch.arange(len(self.frames))
        self.lidar_origins = torch.tensor(np.stack(origins), dtype=torch.float32)[row_of_frame[self.lidar_frame]]
        self.lidar_directions = torch.tensor(np.concatenate(directions), dtype=torch.float32)
        self.lidar_distances = torch.tensor(np.concatenate(distances), dtype=torch.float32)
        self.lidar_moves = torch.from_numpy(np.concatenate(beam_moves))
        self.lidar_is_moving = torch.zeros(len(self.lidar_distances), dtype=torch.bool)

    def draw(
        self,
        generator: torch.Generator,
        *,
        pixel_rays: int,
        lidar_pixel_rays: int,
        lidar_rays: int,
        errors: ErrorMap | None = None,
        error_rays: int = 0,
    ) -> RayBatch:
        """Draw uniformly, with replacement, from pixels, pixels with a LiDAR return, and LiDAR returns.

        Where there are no returns of a kind, random pixels take their place. The last ``error_rays`` of the random
        pixels are drawn by ``errors`` instead.
        """
        if len(self.lidar_pixel) == 0 or self.refinement is not None:
            pixel_rays, lidar_pixel_rays = pixel_rays + lidar_pixel_rays, 0
        if len(self.lidar_distances) == 0:
            pixel_rays, lidar_rays = pixel_rays + lidar_rays, 0
        image = self.shown_images[torch.randint(len(self.shown_images), (pixel_rays,), generator=generator)]
        place = torch.randint(self.pixels.shape[1], (pixel_rays,), generator=generator)
        camera = self.image_camera[image]
        pixel = self._seen_first[camera, place * self._num_seen[camera] // self.pixels.shape[1]]
        if errors is not None and error_rays > 0:
            image[-error_rays:], pixel[-error_rays:] = errors.draw(generator, error_rays)
        nothing = torch.full((pixel_rays,), torch.nan)
        returns = torch.randint(max(1, len(self.lidar_pixel)), (lidar_pixel_rays,), generator=generator)
        beams = torch.randint(max(1, len(self.lidar_distances)), (lidar_rays,), generator=generator)
        image = torch.cat([image, self.lidar_pixel_image[returns]])
        pixel = torch.cat([pixel, self.lidar_pixel[returns]])
        lidar_depth = torch.cat([nothing, self.lidar_pixel_depth[returns], self.lidar_distances[beams]])
        moves = torch.cat(
            [torch.zeros(pixel_rays, dtype=torch.bool), self.lidar_pixel_moves[returns], self.lidar_moves[beams]]
        )
        return self._batch(image, pixel, beams, lidar_depth, moves)

    @property
    def blank_images(self) -> list[tuple[int, int]]:
        """Return frame and camera of every image that shows nothing."""
        shown = set(self.shown_images.tolist())
        places = zip(self.image_frame.tolist(), self.image_camera.tolist(), strict=True)
        return [place for image, place in enumerate(places) if image not in shown]

    @property
    def num_bytes(self) -> int:
        """Return how much memory the prepared rays take."""
        return sum(v.numel() * v.element_size() for v in vars(self).values() if isinstance(v, Tensor))

    def _is_blank(self, image: int) -> bool:
        seen = self.seen_pixels(image)
        if len(seen) == 0:
            return True
        sample = seen[:: max(1, len(seen) // 4096)]
        levels = self.pixels[image, sample].sort(dim=0).values.to(torch.int16)
        low, high = levels[len(levels) // 100], levels[-1 - len(levels) // 100]
        return bool((high - low).max() <= _BLANK_LEVELS)

    def seen_pixels(self, image: int) -> Int64[Tensor, " _"]:
        """Return the pixels of an image that show the world: all, but for a fisheye's corners and the own vehicle."""
        camera = int(self.image_camera[image])
        return self._seen_first[camera, : int(self._num_seen[camera])]

    def pixel_rays(self, image: Int64[Tensor, " rays"], pixel: Int64[Tensor, " rays"]) -> RayBatch:
        """Return the rays through given pixels, without LiDAR."""
        nothing = torch.zeros(0, dtype=torch.int64)
        unknown = torch.zeros(len(image), dtype=torch.bool)
        return self._batch(image, pixel, nothing, torch.full((len(image),), torch.nan), unknown)

    def lidar_beams(self, beams: Int64[Tensor, " rays"]) -> RayBatch:
        """Return the rays of given LiDAR returns."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return self._batch(nothing, nothing, beams, self.lidar_distances[beams], self.lidar_moves[beams])

    def _batch(
        self, image: Tensor, pixel: Tensor, beams: Tensor, lidar_depth: Tensor, return_moves: Tensor
    ) -> RayBatch:
        camera = self.image_camera[image]
        rotations, origins = self.rotations, self.origins
        if self.refinement is not None:
            turns, shifts = rigid(self.refinement.twists(self.image_frame, self.image_camera))
            origins = origins + torch.einsum("nij,nj->ni", rotations, shifts) / self.bounds.metres_per_unit
            rotations = rotations @ turns
        directions = torch.einsum("rij,rj->ri", rotations[image], self.camera_directions[camera, pixel])
        return RayBatch(
            origins=torch.cat([origins[image], self.lidar_origins[beams]]),
            directions=torch.cat([directions, self.lidar_directions[beams]]),
            camera_index=torch.cat([camera, torch.zeros(len(beams), dtype=torch.int64)]),
            frame_index=torch.cat([self.image_frame[image], self.lidar_frame[beams]]),
            rgb=self.pixels[image, pixel].to(torch.float32) / 255.0,
            is_sky=None if self.is_sky is None else self.is_sky[image, pixel],
            lidar_depth=lidar_depth,
            return_moves=return_moves,
            place=torch.stack([image, pixel], dim=-1),
        )


def read_sky_mask(home: Home, scene_key: str, digest: str | None) -> Bool[np.ndarray, "frames cameras height width"]:
    """Return a scene's sky mask.

    Raises:
        MissingTargetError: If it was never materialised.
    """
    return read_target(home.open_arrays(home.require(Kind.SKY_MASK, scene_key, digest)), Kind.SKY_MASK, "is_sky")


def camera_directions(scene: SceneReader, camera_index: int, image_size: tuple[int, int]) -> Float[Tensor, "pixels 3"]:
    """Return the unit directions, in camera axes, through the pixel centres of an image of that size, row-major.

    They are NaN outside the image circle of a fisheye.
    """
    intrinsics = scene.intrinsics(camera_index, size=image_size)
    directions = unproject_camera(pixel_grid(*image_size), intrinsics, scene.fisheye(camera_index))
    return torch.tensor(directions.reshape(-1, 3), dtype=torch.float32)


def shows_world(scene: SceneReader, camera_index: int, image_size: tuple[int, int]) -> Bool[Tensor, " pixels"]:
    """Return which pixels of an image, row-major, lie in the image circle and do not show the vehicle itself."""
    is_valid = torch.from_numpy(scene.is_valid(camera_index, size=image_size).reshape(-1).copy())
    return is_valid & torch.isfinite(camera_directions(scene, camera_index, image_size)).all(dim=-1)


def project_lidar(
    points_world: Float[np.ndarray, "points 3"],
    camera_to_world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"] | None = None,
    *,
    image_size: tuple[int, int],
    occlusion_window: int = 2,
    occlusion_ratio: float = 1.15,
) -> tuple[Int64[np.ndarray, " pixels"], Float[np.ndarray, " pixels"], Int64[np.ndarray, " pixels"]]:
    """Return the pixels (row-major) that LiDAR returns project to, termination depth (metres) and return of each.

    The LiDAR sits above the cameras and sees over what hides a return from them. A return is dropped where another,
    within ``occlusion_window`` pixels, is nearer by more than ``occlusion_ratio``; of several in one pixel the nearest
    is kept.
    """
    height, width = image_size
    seen = points_in_image(points_world, camera_to_world, intrinsics, fisheye, size=image_size, near=LIDAR_NEAR_M)
    pixel_of = seen.row * width + seen.column
    far_to_near = np.argsort(-seen.termination_depth, kind="stable")  # of several in one pixel the nearest is last
    depth, return_of = np.full(height * width, np.inf), np.zeros(height * width, np.int64)
    depth[pixel_of[far_to_near]] = seen.termination_depth[far_to_near]
    return_of[pixel_of[far_to_near]] = seen.index[far_to_near]
    depth = depth.reshape(height, width)
    nearest = depth
    for axis in (0, 1):
        padded = np.pad(nearest, [(occlusion_window,) * 2 if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * occlusion_window + 1, axis=axis)
        nearest = windows.min(axis=-1)
    pixel = np.flatnonzero(np.isfinite(depth) & (depth <= occlusion_ratio * nearest))
    return pixel, depth.reshape(-1)[pixel], return_of[pixel]


def lidar_points_world(scene: SceneReader, frame: int) -> Float[np.ndarray, "points 3"]:
    """Return a frame's LiDAR returns in world, metres."""
    return apply_se3(scene.ego_to_world(frame), scene.lidar_points(frame)[:, :3].astype(np.float64))


def lidar_origin_world(scene: SceneReader, frame: int) -> Float[np.ndarray, "3"]:
    """Return where the LiDAR was in world, metres."""
    return (scene.ego_to_world(frame) @ scene.lidar_to_ego)[:3, 3]
