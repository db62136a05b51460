"""Does a scene's geometry fit what its sensors saw? LiDAR against images, and sweeps against each other.

Where the LiDAR's range jumps, an image mostly has an edge. How well jumps fall onto edges is a score of a camera's
calibration, and needs no annotation. A calibration is not compared with any truth but with its own neighbours: if the
score rises when the camera is turned by a degree or moved by a decimetre, the calibration is wrong by about that much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader

TURN_RAD = np.deg2rad(1.0)
MOVE_M = 0.1
_ROWS = 300  # images are looked at with about so many: a degree is 7 pixels of nuScenes' then
_EDGE_SHARE = 0.06  # of an image's pixels that count as edges
_REACH_PX = 2.0  # distance to an edge over which a jump's score falls off
_MARGIN_PX = 14
_NEAR_M, _FAR_M = 4.0, 40.0
_OFF_GROUND_M = 0.4  # circles on the ground are not edges
_NUM_NEIGHBOURS, _MAX_STEP_RAD = 6, np.deg2rad(1.6)  # beams farther apart leave too much between them
_NUM_ON_SURFACE = 8  # points that a surface is fitted to
_MIN_STANDING, _MIN_FACING = 100, 50  # points of a sweep; fewer say nothing
_MIN_JUMPS = 300  # over all frames; fewer say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RigFit:
    """How well the images of a rig fit its LiDAR.

    Attributes:
        num_jumps: Range jumps that fell into images.
        score: Mean nearness of jumps to edges, [0, 1].
        gains: Score after each small change of the LiDAR's pose in the ego frame, over the score as calibrated.
        offset_px: Shift in an image of the turn that would fit best, pixels of the stored images.
        camera_gains: For each camera that sees enough, the largest gain of turning it alone.
    """

    num_jumps: int
    score: float
    gains: Mapping[str, float]
    offset_px: float
    camera_gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the sensors of a scene saw, whatever its calibration; made once where the same scene is judged again.

    Attributes:
        edges: Nearness of each pixel to an image edge, by frame and camera.
        jumps: Edges in the LiDAR's ranges, by frame.
    """

    edges: dict[tuple[int, int], Float[np.ndarray, "_ _"]] = field(default_factory=dict)
    jumps: dict[int, Float[np.ndarray, "_ 3"]] = field(default_factory=dict)


def fit_rig(reader: SceneReader, frames: Sequence[int], evidence: Evidence | None = None) -> RigFit | None:
    """Return how well cameras and LiDAR fit each other, or None where too few range jumps are seen to say.

    Args:
        reader: The scene.
        frames: Frames to look at.
        evidence: Filled with what the sensors saw; what it holds already is not made again.
    """
    evidence = evidence or Evidence()
    views = []
    for frame in frames:
        if frame not in evidence.jumps:
            evidence.jumps[frame] = range_jumps(reader, frame)
        views += [_View(reader, frame, camera, evidence) for camera in range(reader.num_cameras)]
    count = sum(view.num_jumps for view in views)
    if count < _MIN_JUMPS:
        return None
    changes = _small_changes()
    score = _score(views, np.eye(4))
    gains = {name: _score(views, change) / max(score, 1e-9) for name, change in changes.items()}
    turns = [change for name, change in changes.items() if name.startswith("turn")]
    camera_gains = {}
    for camera, name in enumerate(reader.camera_names):
        own = [view for view in views if view.camera == camera]
        if sum(view.num_jumps for view in own) >= _MIN_JUMPS:
            base = max(_score(own, np.eye(4)), 1e-9)
            camera_gains[name] = max(_score(own, turn) / base for turn in turns)
    focal = float(np.median([reader.intrinsics(camera)[0, 0] for camera in range(reader.num_cameras)]))
    return RigFit(
        num_jumps=count,
        score=score,
        gains=gains,
        offset_px=focal * max(abs(_vertex(gains, axis)) for axis in "xyz"),
        camera_gains=camera_gains,
    )


def range_jumps(reader: SceneReader, frame: int) -> Float[np.ndarray, "jumps 3"]:
    """Return the edges of things in front of others, in the ego frame, metres: where the LiDAR's range jumps."""
    points = reader.lidar_points(frame)[:, :3].astype(np.float64)
    seen = apply_se3(invert_se3(reader.lidar_to_ego), points)
    distance = np.linalg.norm(seen, axis=-1)
    kept = (distance > _NEAR_M) & (distance < 2 * _FAR_M)
    points, seen, distance = points[kept], seen[kept], distance[kept]
    if len(points) < 8:
        return np.zeros((0, 3))
    azimuth = np.arctan2(seen[:, 1], seen[:, 0])
    elevation = np.arcsin(np.clip(seen[:, 2] / distance, -1, 1))
    angles = np.stack([azimuth, elevation], axis=-1)
    found = KDTree(angles).query(angles, k=_NUM_NEIGHBOURS + 1, distance_upper_bound=_MAX_STEP_RAD)
    near, beside = np.repeat(np.arange(len(seen)), _NUM_NEIGHBOURS), np.asarray(found[1])[:, 1:].reshape(-1)
    near, beside = near[beside < len(seen)], beside[beside < len(seen)]  # the rest have no neighbour so near
    jumps = (distance[beside] > 1.25 * distance[near] + 0.5) & (distance[near] < _FAR_M)
    jumps &= points[near, 2] > _OFF_GROUND_M
    near, beside = near[jumps], beside[jumps]
    # The edge lies somewhere between two beams: half-way, at the nearer one's range, is right on average.
    between = seen[near] / distance[near, None] + seen[beside] / distance[beside, None]
    between *= distance[near, None] / np.linalg.norm(between, axis=-1, keepdims=True)
    return apply_se3(reader.lidar_to_ego, between)


def align_sweeps(reader: SceneReader, frames: Sequence[int], *, min_travel_m: float = 0.5) -> float:
    """Return how much closer consecutive sweeps lie when poses bring them together; NaN if nothing was seen to tell.

    Only surfaces that face the way of travel are compared: walls along it look the same a few metres on, and the beams
    that travel with the sensor then even fall closer together *without* poses.

    Args:
        reader: The scene.
        frames: Frames whose sweeps are compared with those of the next frames.
        min_travel_m: Pairs between which the vehicle moved less say nothing.
    """
    together, apart = [], []
    for frame in frames:
        if frame + 1 >= reader.num_frames:
            continue
        next_to_here = invert_se3(reader.ego_to_world(frame)) @ reader.ego_to_world(frame + 1)
        travel = float(np.linalg.norm(next_to_here[:3, 3]))
        here, there = _standing(reader, frame), _standing(reader, frame + 1)
        if travel < min_travel_m or min(len(here), len(there)) < _MIN_STANDING:
            continue
        facing = there[_faces(there, next_to_here[:3, :3].T @ next_to_here[:3, 3] / travel)]
        if len(facing) < _MIN_FACING:
            continue
        tree = KDTree(here)
        together.append(np.median(tree.query(apply_se3(next_to_here, facing))[0]))
        apart.append(np.median(tree.query(facing)[0]))
    return float(np.mean(apart) / max(np.mean(together), 1e-6)) if together else float("nan")


def _faces(points: Float[np.ndarray, "points 3"], way: Float[np.ndarray, "3"]) -> Bool[np.ndarray, " points"]:
    """Return the points on flat surfaces whose normal lies within 60 degrees of a direction, either way."""
    distance, index = KDTree(points).query(points, k=_NUM_ON_SURFACE)
    around = points[index] - points[index].mean(axis=1, keepdims=True)
    spread, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    is_flat = (spread[:, 0] < 0.02 * spread[:, 1]) & (distance[:, -1] < 1.0)
    return is_flat & (np.abs(axes[:, :, 0] @ way) > 0.5)


def _standing(reader: SceneReader, frame: int) -> Float[np.ndarray, "points 3"]:
    """Return points that tell poses apart: off the ground, whose circles move with the sensor, and off the vehicle."""
    points = reader.lidar_points(frame)[:, :3].astype(np.float64)
    distance = np.linalg.norm(points[:, :2], axis=1)
    return points[(points[:, 2] > 0.5) & (distance > 4) & (distance < 30)]


class _View:
    """The range jumps of one frame in one camera, and the nearness of each pixel to an image edge."""

    def __init__(self, reader: SceneReader, frame: int, camera: int, evidence: Evidence) -> None:
        height, width = reader.image_size(camera)
        scale = min(1.0, _ROWS / height)
        size = (round(height * scale), round(width * scale))
        if (frame, camera) not in evidence.edges:
            image = reader.resized_image(frame, camera, height=size[0], width=size[1])
            evidence.edges[frame, camera] = _edge_nearness(image)
        self.camera = camera
        self._nearness = evidence.edges[frame, camera]
        self._intrinsics, self._fisheye = reader.intrinsics(camera, size=size), reader.fisheye(camera)
        self._ego_to_camera = invert_se3(reader.camera_to_reference_ego(frame, camera))
        # Those that leave the image after a small change would count as misses: a margin keeps them out.
        jumps = evidence.jumps[frame]
        pixels = self._project(jumps, np.eye(4))
        self._jumps = jumps[((pixels >= _MARGIN_PX) & (pixels < np.array(size[::-1]) - _MARGIN_PX)).all(axis=-1)]
        self.num_jumps = len(self._jumps)

    def nearness(self, change: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " jumps"]:
        """Return the nearness of each jump to an edge after a change of the LiDAR's pose in the ego frame."""
        pixels = self._project(self._jumps, change)
        height, width = self._nearness.shape
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=-1)
        column, row = np.where(inside[:, None], pixels, 0.0).astype(np.int64).T
        return np.where(inside, self._nearness[row, column], 0.0)

    def _project(
        self, points: Float[np.ndarray, "points 3"], change: Float[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "points 2"]:
        return project_camera(apply_se3(self._ego_to_camera @ change, points), self._intrinsics, self._fisheye)[0]


def _edge_nearness(image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width"]:
    """Return 1 on the strongest gradients of an image, falling off within a few pixels."""
    grey = gaussian_filter(image.mean(axis=-1, dtype=np.float32), 1.0)
    strength = np.hypot(*np.gradient(grey))
    # Strong in its neighbourhood, so that a dark street and a bright sky both have edges.
    strength /= uniform_filter(strength, 31) + 2.0
    distance = distance_transform_edt(strength < np.quantile(strength, 1.0 - _EDGE_SHARE))
    return np.exp(-0.5 * (np.asarray(distance) / _REACH_PX) ** 2)


def _small_changes() -> dict[str, Float[np.ndarray, "4 4"]]:
    changes = {}
    for sign, mark in ((1, "+"), (-1, "-")):
        for axis, name in enumerate("xyz"):
            turn, move = np.eye(4), np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(sign * TURN_RAD * np.eye(3)[axis]).as_matrix()
            move[axis, 3] = sign * MOVE_M
            changes[f"turn {name} {mark}1 degree"] = turn
            changes[f"move {name} {mark}0.1 m"] = move
    return changes


def _score(views: Sequence[_View], change: Float[np.ndarray, "4 4"]) -> float:
    return float(np.concatenate([view.nearness(change) for view in views]).mean())


def _vertex(gains: Mapping[str, float], axis: str) -> float:
    """Return the turn about an axis at which a parabola through three scores is highest, radians; at most two steps."""
    above, below = (gains[f"turn {axis} {mark}1 degree"] for mark in "+-")
    curvature = above - 2.0 + below
    if curvature >= 0:  # no peak between them: it lies beyond the better side
        return float(np.sign(above - below) * 2.0 * TURN_RAD)
    return float(np.clip(0.5 * (below - above) / curvature, -2.0, 2.0) * TURN_RAD)
