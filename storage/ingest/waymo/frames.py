"""Points from range images.

Row 0 is the highest beam. Columns run clockwise seen from above, from the azimuth just below pi to just above -pi; the
mounting's own yaw is taken off first, so the middle column looks along the vehicle's x. The spinning laser sees each
column at another instant; if the vehicle's pose is stored for each pixel, points are moved to the frame's instant.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest.waymo.scene import LaserSweep, WaymoLaserMount


def beam_inclinations(mount: WaymoLaserMount, num_beams: int) -> Float[np.ndarray, " beams"]:
    """Return the inclination of each row of a range image, top row (highest beam) first, radians.

    Raises:
        SourceDataError: If the calibration has another number of beams.
    """
    if len(mount.inclinations):
        if len(mount.inclinations) != num_beams:
            message = f"lists {len(mount.inclinations)} beams, its range image has {num_beams} rows"
            raise SourceDataError(ErrorKind.CALIBRATION_INVALID, f"laser {mount.name}", message)
        return mount.inclinations[::-1]
    low, high = mount.inclination_range
    return (low + (high - low) * (np.arange(num_beams) + 0.5) / num_beams)[::-1]


def beam_directions(mount: WaymoLaserMount, shape: tuple[int, int]) -> Float[np.ndarray, "beams columns 3"]:
    """Return the unit direction of each pixel of a range image of ``shape`` (beams, columns), in the laser's frame."""
    num_beams, num_columns = shape
    inclination = beam_inclinations(mount, num_beams)[:, None]
    own_yaw = np.arctan2(mount.laser_to_ego[1, 0], mount.laser_to_ego[0, 0])
    share = (num_columns - np.arange(num_columns) - 0.5) / num_columns
    azimuth = ((2.0 * share - 1.0) * np.pi - own_yaw)[None]
    level = np.cos(inclination)
    return np.stack(np.broadcast_arrays(np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(inclination)), axis=-1)


def pixel_pose_matrices(pixel_pose: Float[np.ndarray, "*batch 6"]) -> Float[np.ndarray, "*batch 4 4"]:
    """Return vehicle-to-global transforms from roll, pitch, yaw (radians; about x, then y, then z) and x, y, z (m)."""
    roll, pitch, yaw = (pixel_pose[..., i].astype(np.float64) for i in range(3))
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    out = np.zeros((*pixel_pose.shape[:-1], 4, 4))
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            out[..., i, j] = value
    out[..., :3, 3] = pixel_pose[..., 3:]
    out[..., 3, 3] = 1.0
    return out


def sweep_points(
    sweep: LaserSweep, mount: WaymoLaserMount, ego_to_global: Float[np.ndarray, "4 4"], key: str
) -> Float32[np.ndarray, "points 4"]:
    """Return all returns of a sweep: x, y, z in the ego frame of the frame's instant, metres, and intensity.

    First returns come before second ones, each in row-major order of the range image.

    Args:
        sweep: Both returns of one laser.
        mount: The laser's calibration.
        ego_to_global: Vehicle pose at the frame's instant.
        key: Frame and laser, for errors.

    Raises:
        SourceDataError: If a range, intensity or pose of a returned pixel is not finite, or shapes disagree.
    """
    if not sweep.returns:
        return np.zeros((0, 4), np.float32)
    shape = sweep.returns[0].values.shape[:2]
    directions = beam_directions(mount, (int(shape[0]), int(shape[1])))
    parts = []
    for number, one in enumerate(sweep.returns, start=1):
        if one.values.shape[:2] != shape:
            message = f"return {number} has shape {one.values.shape[:2]}, the first {shape}"
            raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
        is_return = _is_return(one.values, f"{key}, return {number}")
        local = directions[is_return] * one.values[..., 0][is_return][:, None].astype(np.float64)
        ego = apply_se3(mount.laser_to_ego, local)
        if sweep.pixel_pose is not None:
            ego = _to_frame_instant(ego, sweep.pixel_pose, is_return, ego_to_global, key)
        parts.append(np.concatenate([ego, one.values[..., 1][is_return][:, None]], axis=1).astype(np.float32))
    return np.concatenate(parts)


def _is_return(values: Float32[np.ndarray, "beams columns 4"], key: str) -> Bool[np.ndarray, "beams columns"]:
    finite = np.isfinite(values[..., :2]).all(axis=-1)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        message = f"pixel ({row}, {column}) is {values[row, column].tolist()}, want finite range and intensity"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    return values[..., 0] > 0


def _to_frame_instant(
    points: Float[np.ndarray, "points 3"],
    pixel_pose: Float32[np.ndarray, "beams columns 6"],
    is_return: Bool[np.ndarray, "beams columns"],
    ego_to_global: Float[np.ndarray, "4 4"],
    key: str,
) -> Float[np.ndarray, "points 3"]:
    if pixel_pose.shape[:2] != is_return.shape:
        message = f"pixel poses have shape {pixel_pose.shape[:2]}, the range image {is_return.shape}"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    poses = pixel_pose[is_return]
    if not np.isfinite(poses).all():
        raise SourceDataError(ErrorKind.POSE_INVALID, key, "a pixel pose is not finite")
    # Poses of one column are equal: the matrix is built once for each different one.
    unique, which = np.unique(poses, axis=0, return_inverse=True)
    pixel_ego_to_ego = invert_se3(ego_to_global) @ pixel_pose_matrices(unique)
    moves = pixel_ego_to_ego[which.reshape(-1)]
    return np.einsum("nij,nj->ni", moves[:, :3, :3], points) + moves[:, :3, 3]
