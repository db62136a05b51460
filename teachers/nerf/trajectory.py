"""Where the vehicle really was: frames of a scene aligned by their LiDAR, where recorded poses do not agree with it.

Localisation on a flat map knows neither height nor tilt: neighbouring frames of such a recording disagree by a
decimetre or more about where the ground is. A field cannot be sharp then: it shows every surface once per frame. Each
scan is aligned with the scans before it (generalised ICP by small_gicp), beginning at the middle of the scene. A
correction moves everything of a frame alike, cameras, LiDAR and boxes, so what a camera sees of its own frame stays.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import small_gicp
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from storage.geometry.transforms import apply_se3, invert_se3
from storage.scenes.store import SceneReader
from teachers.nerf.config import TrajectoryConfig

logger = logging.getLogger(__name__)

_MIN_RETURNS = 500
"""A scan with fewer returns is not aligned: its pose is carried on from its neighbour's."""

_NEIGHBOURS_OF_A_NORMAL = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTrajectory:
    """Corrections of the recorded poses, and what they gain.

    Attributes:
        corrections: Per frame, what its recorded poses are multiplied by from the left; the identity where they stay.
        recorded_gap_m: Median distance of returns from the surfaces of the next frame's scan, by the recorded poses.
        aligned_gap_m: The same by the aligned ones. Both are NaN without LiDAR.
        is_aligned: Whether the aligned poses are used.
    """

    corrections: Float[np.ndarray, "frames 4 4"]
    recorded_gap_m: float
    aligned_gap_m: float
    is_aligned: bool

    def metrics(self, scene: SceneReader) -> dict[str, float]:
        """Return its figures: the gaps, and how far the vehicle was moved and turned at most.

        Args:
            scene: The scene as recorded.
        """
        places = np.stack([scene.ego_to_world(f)[:3, 3] for f in range(scene.num_frames)])
        moved = np.stack([apply_se3(c, p[None])[0] for c, p in zip(self.corrections, places, strict=True)])
        return {
            "trajectory_aligned": float(self.is_aligned),
            "trajectory_gap_recorded_m": self.recorded_gap_m,
            "trajectory_gap_aligned_m": self.aligned_gap_m,
            "trajectory_max_shift_m": float(np.linalg.norm(moved - places, axis=-1).max()),
            "trajectory_max_turn_deg": float(
                np.degrees(Rotation.from_matrix(self.corrections[:, :3, :3]).magnitude().max())
            ),
        }


def settle_trajectory(scene: SceneReader, config: TrajectoryConfig) -> AlignedTrajectory:
    """Return the trajectory that a field is fitted along.

    With ``source`` "auto", aligned poses are used where they close the gap between neighbouring scans by at least
    ``min_gain``; exact poses stay untouched. The frames of a scene are aligned all together, held-out ones included: a
    frame that is judged stands where its own scan says.

    Args:
        scene: The scene as recorded.
        config: Which poses are wanted, and how scans are aligned.
    """
    recorded = np.stack([scene.ego_to_world(f) for f in range(scene.num_frames)])
    stays = np.tile(np.eye(4), (len(recorded), 1, 1))
    if config.source == "recorded":
        return AlignedTrajectory(corrections=stays, recorded_gap_m=np.nan, aligned_gap_m=np.nan, is_aligned=False)
    scans = [_nearby(scene.lidar_points(f)[:, :3].astype(np.float64), config.max_range_m) for f in range(len(recorded))]
    aligned = align_scans(scans, recorded, config)
    before, after = scan_gap(scans, recorded, config), scan_gap(scans, aligned, config)
    gains = bool(after <= (1.0 - config.min_gain) * before)  # false for NaN
    is_aligned = gains or config.source == "lidar"
    corrections = aligned @ np.asarray(invert_se3(recorded)) if is_aligned else stays
    logger.info("neighbouring scans are %.3f m apart, %.3f m once aligned: %s", before, after, is_aligned)
    return AlignedTrajectory(corrections=corrections, recorded_gap_m=before, aligned_gap_m=after, is_aligned=is_aligned)


def align_scans(
    scans: Sequence[Float[np.ndarray, "_ 3"]], ego_to_world: Float[np.ndarray, "frames 4 4"], config: TrajectoryConfig
) -> Float[np.ndarray, "frames 4 4"]:
    """Return ego poses by which scans agree; the middle one keeps its own.

    Args:
        scans: Returns of each frame, ego frame, metres.
        ego_to_world: Where each was recorded.
        config: How scans are aligned.
    """
    aligned = np.array(ego_to_world)
    middle = len(scans) // 2
    for frames in (range(middle + 1, len(scans)), range(middle - 1, -1, -1)):
        for frame in frames:
            earlier = [frame - frames.step * back for back in range(1, config.map_frames + 1)]
            earlier = [f for f in earlier if 0 <= f < len(scans) and (f - middle) * frames.step >= 0]
            step = invert_se3(ego_to_world[earlier[0]]) @ ego_to_world[frame]
            aligned[frame] = _align(
                scans[frame], [(scans[f], aligned[f]) for f in earlier], aligned[earlier[0]] @ step, config
            )
    return aligned


def scan_gap(
    scans: Sequence[Float[np.ndarray, "_ 3"]], ego_to_world: Float[np.ndarray, "frames 4 4"], config: TrajectoryConfig
) -> float:
    """Return the median distance of returns from the surfaces of the next frame's scan, metres; NaN without any."""
    gaps = []
    for frame in range(len(scans) - 1):
        if min(len(scans[frame]), len(scans[frame + 1])) < _MIN_RETURNS:
            continue
        surface, _ = _prepared(scans[frame + 1], config)
        points, normals = surface.points()[:, :3], surface.normals()[:, :3]
        next_from_this = invert_se3(ego_to_world[frame + 1]) @ ego_to_world[frame]
        moved = apply_se3(next_from_this, scans[frame])
        found = KDTree(points).query(moved, distance_upper_bound=config.max_correspondence_m)
        distance, nearest = (np.asarray(column) for column in found)
        met = np.isfinite(distance)
        if met.any():
            offset = moved[met] - points[nearest[met]]
            gaps.append(np.median(np.abs((offset * normals[nearest[met]]).sum(axis=-1))))
    return float(np.median(gaps)) if gaps else float("nan")


def _align(
    scan: Float[np.ndarray, "_ 3"],
    earlier: Sequence[tuple[Float[np.ndarray, "_ 3"], Float[np.ndarray, "4 4"]]],
    guess: Float[np.ndarray, "4 4"],
    config: TrajectoryConfig,
) -> Float[np.ndarray, "4 4"]:
    """Return the pose of a scan that agrees with earlier ones and their poses."""
    centre = guess[:3, 3]  # far from the origin of a world, digits would be lost
    surroundings = np.concatenate([apply_se3(pose, points) for points, pose in earlier]) - centre
    if min(len(scan), len(surroundings)) < _MIN_RETURNS:
        return guess
    target, tree = _prepared(surroundings, config)
    source, _ = _prepared(scan, config)
    start = guess.copy()
    start[:3, 3] = 0.0

    def align(start: Float[np.ndarray, "4 4"], method: str, max_iterations: int) -> small_gicp.RegistrationResult:
        return small_gicp.align(
            target,
            source,
            tree,
            start,
            registration_type=method,
            max_correspondence_distance=config.max_correspondence_m,
            num_threads=1,  # sums in one order: a resumed fit finds the same poses
            max_iterations=max_iterations,
        )

    found = align(start, "GICP", config.max_iterations)
    if not (found.converged and np.isfinite(found.T_target_source).all()):
        return guess
    pose = np.array(found.T_target_source)
    # Generalised ICP finds the better pose, but holds on to points along a plane too: what a scan leaves open is told
    # by the planes alone.
    planes = align(pose, "PLANE_ICP", 1)
    held = _held_back(pose, start, np.array(planes.H), config)
    held[:3, 3] += centre
    return held


def _held_back(
    pose: Float[np.ndarray, "4 4"],
    guess: Float[np.ndarray, "4 4"],
    hessian: Float[np.ndarray, "6 6"],
    config: TrajectoryConfig,
) -> Float[np.ndarray, "4 4"]:
    """Return the most likely pose given the scans and the recorded motion.

    Along a bare wall scans say nothing about the way travelled: what they leave open, the recording decides. Both are
    normal distributions around their own pose. ``hessian`` is that of half the squared distances of points to planes,
    turn first, seen from the vehicle.
    """
    back = invert_se3(pose) @ guess
    towards = np.concatenate([Rotation.from_matrix(back[:3, :3]).as_rotvec(), back[:3, 3]])
    prior = np.diag(np.repeat([1.0 / np.radians(config.usual_turn_deg) ** 2, 1.0 / config.usual_shift_m**2], 3))
    evidence = hessian / config.point_error_m**2
    step = np.linalg.solve(evidence + prior, prior @ towards)
    held = np.eye(4)
    held[:3, :3] = Rotation.from_rotvec(step[:3]).as_matrix()
    held[:3, 3] = step[3:]
    return pose @ held


def _prepared(
    points: Float[np.ndarray, "_ 3"], config: TrajectoryConfig
) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    return small_gicp.preprocess_points(
        points, downsampling_resolution=config.voxel_m, num_neighbors=_NEIGHBOURS_OF_A_NORMAL, num_threads=1
    )


def _nearby(points: Float[np.ndarray, "_ 3"], max_range_m: float) -> Float[np.ndarray, "_ 3"]:
    return points[np.linalg.norm(points, axis=-1) <= max_range_m]
