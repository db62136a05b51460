"""Evidence about a scene's calibration: edges in the LiDAR's ranges, and edges in the images."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader

_ROWS = 300  # images are looked at with about so many: a degree is 7 pixels of nuScenes' then
_EDGE_SHARE = 0.08  # of an image's pixels that count as edges of either kind
_REACH_PX = 2.0  # distance to an edge over which a jump's score falls off
_MARGIN_PX = 14
_NEAR_M, _FAR_M = 2.0, 40.0
_OFF_GROUND_M = 0.4  # circles on the ground are not edges
_JUMP_SHARE, _JUMP_M = 0.1, 0.5  # ranges that grow by less are slanted surfaces
_NUM_NEIGHBOURS, _MAX_STEP_RAD = 24, np.deg2rad(1.6)  # beams farther apart leave too much between them
_PLACE_M = 3.0  # what is seen within one square of this size is one thing that may be misjudged as a whole
_BEAM_RAD = np.deg2rad(0.5)  # elevations that differ by less are those of the same two beams

# Edges that a beam beside the thing finds run up and down in the image, those that a beam above it finds run across.
_UPRIGHT, _LEVEL = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeJumps:
    """Edges of near things before far ones: each lies between a beam that hit the near thing and one that passed it.

    Attributes:
        hit: Point on the near thing, in the ego frame, metres.
        passed: Point on the passing beam at the same range, in the ego frame, metres.
    """

    hit: Float[np.ndarray, "jumps 3"]
    passed: Float[np.ndarray, "jumps 3"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Edges in the images and ranges of a scene. They do not depend on its calibration, so they are found once.

    Attributes:
        edges: Nearness of each pixel to an upright and to a level image edge, [0, 1], by frame and camera.
        jumps: Edges in the LiDAR's ranges, by frame.
    """

    edges: dict[tuple[int, int], Float32[np.ndarray, "2 _ _"]] = field(default_factory=dict)
    jumps: dict[int, RangeJumps] = field(default_factory=dict)

    def look_at(self, reader: SceneReader, frame: int) -> None:
        """Find the edges of one frame, unless they are known."""
        if frame not in self.jumps:
            self.jumps[frame] = find_range_jumps(reader, frame)
        for camera in range(reader.num_cameras):
            if (frame, camera) not in self.edges:
                height, width = _looked_at_size(reader, camera)
                image = reader.resized_image(frame, camera, height=height, width=width)
                self.edges[frame, camera] = edge_nearness(image)


class JumpView:
    """Range jumps of one frame in one camera, with the nearness of each pixel to image edges.

    Attributes:
        frame: Index of the frame.
        camera: Index of the camera.
        speed_mps: Speed of the camera at its exposure.
        num_jumps: Jumps that fall into the image, away from its border and from the vehicle itself.
        weight: Certainty of each jump's place in the image, (0, 1]; it falls with the distance between the two beams.
        world_place: Square of the world that each jump lies in.
        ego_place: Square around the vehicle that each jump lies in.
        beam_place: What errs together because of the beams. A level edge lies somewhere between two beams: along a roof
            or a bridge that is as long as the image is wide, every jump between those two is off by the same.
    """

    def __init__(self, reader: SceneReader, frame: int, camera: int, evidence: Evidence) -> None:
        size = _looked_at_size(reader, camera)
        self.frame, self.camera = frame, camera
        self._step, self._step_s = _step(reader, frame, camera)
        self.speed_mps = float(np.linalg.norm(self._step[:3, 3])) / self._step_s
        self._nearness = evidence.edges[frame, camera]
        self._intrinsics, self._fisheye = reader.intrinsics(camera, size=size), reader.fisheye(camera)
        self._ego_to_camera = invert_se3(reader.camera_to_reference_ego(frame, camera))
        jumps = evidence.jumps[frame]
        between = 0.5 * (jumps.hit + jumps.passed)
        pixels = self._project(between, self._ego_to_camera)
        # Those that leave the image after a small change would count as misses: a margin keeps them out.
        kept = ((pixels >= _MARGIN_PX) & (pixels < np.array(size[::-1]) - _MARGIN_PX)).all(axis=-1)
        column, row = np.where(kept[:, None], pixels, 0.0).astype(np.int64).T
        kept &= reader.is_valid(camera, size=size)[row, column]
        self._between = between[kept]
        self.num_jumps = int(kept.sum())
        gap = self._project(jumps.passed[kept], self._ego_to_camera) - self._project(
            jumps.hit[kept], self._ego_to_camera
        )
        gap = np.where(np.isfinite(gap), gap, 0.0)
        self._direction = np.where(np.abs(gap[:, 0]) >= np.abs(gap[:, 1]), _UPRIGHT, _LEVEL)
        self.weight = 1.0 / (1.0 + (0.5 * np.linalg.norm(gap, axis=-1) / _REACH_PX) ** 2)
        self.ego_place = _squares(self._between)
        self.world_place = _squares(apply_se3(reader.ego_to_world(frame), self._between))
        self.beam_place = self._beam_places(reader)

    def _beam_places(self, reader: SceneReader) -> Int[np.ndarray, "jumps 4"]:
        seen = apply_se3(invert_se3(reader.lidar_to_ego), self._between)
        elevation = np.arctan2(seen[:, 2], np.linalg.norm(seen[:, :2], axis=-1))
        beam = np.floor(elevation / _BEAM_RAD).astype(np.int64)[:, None]
        level = np.concatenate([beam, np.zeros_like(beam)], axis=-1)
        place = np.where(self._direction[:, None] == _LEVEL, level, self.ego_place)
        return np.column_stack([self._direction, np.full(self.num_jumps, self.camera), place])

    def after(self, seconds: float) -> Float[np.ndarray, "4 4"]:
        """Return the motion, in the camera's frame, of what stands still, if the image was exposed so much later."""
        share = seconds / self._step_s
        turn = Rotation.from_matrix(self._step[:3, :3]).as_rotvec()
        moved = np.eye(4)
        moved[:3, :3] = Rotation.from_rotvec(share * turn).as_matrix()
        moved[:3, 3] = share * self._step[:3, 3]
        return invert_se3(moved)

    def nearness(
        self,
        *,
        in_ego: Float[np.ndarray, "4 4"] | None = None,
        in_camera: Float[np.ndarray, "4 4"] | None = None,
        outwards: float = 0.0,
    ) -> Float32[np.ndarray, " jumps"]:
        """Return the nearness of each jump to an image edge.

        Args:
            in_ego: Change of the LiDAR's pose in the ego frame.
            in_camera: Change of the LiDAR's pose in the camera's frame.
            outwards: Change of the lens, see :func:`bend`.
        """
        ego_to_camera = self._ego_to_camera if in_ego is None else self._ego_to_camera @ in_ego
        pixels = self._project(self._between, ego_to_camera if in_camera is None else in_camera @ ego_to_camera)
        height, width = self._nearness.shape[1:]
        pixels = bend(pixels, self._intrinsics[:2, 2], (height, width), outwards)
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=-1)
        column, row = np.where(inside[:, None], pixels, 0.0).astype(np.int64).T
        return np.where(inside, self._nearness[self._direction, row, column], np.float32(0))

    def _project(
        self, points: Float[np.ndarray, "points 3"], ego_to_camera: Float[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "points 2"]:
        return project_camera(apply_se3(ego_to_camera, points), self._intrinsics, self._fisheye)[0]


def _step(reader: SceneReader, frame: int, camera: int) -> tuple[Float[np.ndarray, "4 4"], float]:
    """Return the camera's motion to the next frame, or from the one before, in its own frame, and its seconds."""
    first = min(frame, reader.num_frames - 2)
    if first < 0:
        return np.eye(4), 1.0
    step = invert_se3(reader.camera_to_world(first, camera)) @ reader.camera_to_world(first + 1, camera)
    return step, 1e-6 * (reader.camera_timestamp_us(first + 1, camera) - reader.camera_timestamp_us(first, camera))


def bend(
    pixels: Float[np.ndarray, "points 2"],
    principal_point: Float[np.ndarray, "2"],
    size: tuple[int, int],
    outwards: float,
) -> Float[np.ndarray, "points 2"]:
    """Return where a lens that bends more draws what another draws at some pixels.

    Args:
        pixels: Right and down.
        principal_point: Its pixel, right and down.
        size: Height and width of the image.
        outwards: Share by which a pixel half a diagonal away from the principal point is drawn farther from it; nearer
            ones move less, by the cube of their distance.
    """
    from_centre = pixels - principal_point
    share = (from_centre**2).sum(axis=-1, keepdims=True) / (0.25 * (size[0] ** 2 + size[1] ** 2))
    return pixels + outwards * share * from_centre


def find_range_jumps(reader: SceneReader, frame: int) -> RangeJumps:
    """Return the range jumps between each LiDAR beam and the next one beside, above or below it."""
    points = reader.lidar_points(frame)[:, :3].astype(np.float64)
    seen = apply_se3(invert_se3(reader.lidar_to_ego), points)
    distance = np.linalg.norm(seen, axis=-1)
    kept = (distance > _NEAR_M) & (distance < 2 * _FAR_M)
    points, seen, distance = points[kept], seen[kept], distance[kept]
    if len(points) <= _NUM_NEIGHBOURS:
        return RangeJumps(hit=np.zeros((0, 3)), passed=np.zeros((0, 3)))
    azimuth = np.arctan2(seen[:, 1], seen[:, 0])
    elevation = np.arcsin(np.clip(seen[:, 2] / distance, -1, 1))
    angles = np.stack([azimuth, elevation], axis=-1)
    asked = np.flatnonzero((distance < _FAR_M) & (points[:, 2] > _OFF_GROUND_M))
    hits, passes = [], []
    for hit, beside in _next_beams(angles, asked):
        jumps = distance[beside] > (1.0 + _JUMP_SHARE) * distance[hit] + _JUMP_M
        hits.append(hit[jumps])
        passes.append(beside[jumps])
    hit, passed = np.concatenate(hits), np.concatenate(passes)
    at_same_range = seen[passed] * (distance[hit] / distance[passed])[:, None]
    return RangeJumps(hit=points[hit], passed=apply_se3(reader.lidar_to_ego, at_same_range))


def _next_beams(
    angles: Float[np.ndarray, "beams 2"], asked: Int[np.ndarray, " asked"]
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Yield, for each of four directions, the asked beams that have a neighbour there, and that neighbour."""
    found = KDTree(angles).query(angles[asked], k=_NUM_NEIGHBOURS + 1, distance_upper_bound=_MAX_STEP_RAD)
    distance, beside = (np.asarray(part)[:, 1:] for part in found)
    is_there = np.isfinite(distance)
    step = angles[np.where(is_there, beside, 0)] - angles[asked, None]
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        along = sign * step[..., axis]
        ahead = np.where(is_there & (np.abs(step[..., 1 - axis]) < 0.5 * along), distance, np.inf)
        nearest = ahead.argmin(axis=1)[:, None]
        has_next = np.isfinite(np.take_along_axis(ahead, nearest, axis=1)[:, 0])
        yield asked[has_next], np.take_along_axis(beside, nearest, axis=1)[has_next, 0]


def edge_nearness(image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "2 height width"]:
    """Return 1 on the strongest upright and level edges of an image, falling off within a few pixels."""
    grey = gaussian_filter(image.mean(axis=-1, dtype=np.float32), 1.0)
    down, across = (np.abs(gradient) for gradient in np.gradient(grey))
    strength = np.hypot(down, across)
    # Strong in its neighbourhood, so that a dark street and a bright sky both have edges.
    strength /= uniform_filter(strength, 31) + 2.0
    maps = []
    for is_of_kind in (across > down, across <= down):
        of_kind = np.where(is_of_kind, strength, np.float32(0))
        distance = distance_transform_edt(of_kind <= np.quantile(of_kind, 1.0 - _EDGE_SHARE))
        maps.append(np.exp(-0.5 * (np.asarray(distance, np.float32) / np.float32(_REACH_PX)) ** 2))
    return np.stack(maps)


def _looked_at_size(reader: SceneReader, camera: int) -> tuple[int, int]:
    height, width = reader.image_size(camera)
    scale = min(1.0, _ROWS / height)
    return round(height * scale), round(width * scale)


def _squares(points: Float[np.ndarray, "points 3"]) -> Int[np.ndarray, "points 2"]:
    return np.floor(points[:, :2] / _PLACE_M).astype(np.int64)
