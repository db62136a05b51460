"""Check that frames and axes are what they are said to be: x forward, z up, sweeps in the ego frame.

These come before any check of calibration: a rig whose axes are exchanged has no calibration to speak of.
"""

import math

import numpy as np
from jaxtyping import Float, Float32

from storage.audits.finding import Finding
from storage.audits.sampling import spread
from storage.geometry.transforms import invert_se3
from storage.scenes.store import SceneReader

_MIN_TRAVEL_M = 3.0
_STRAIGHT_RAD_PER_M = 0.02  # steps that turn less: a point off the axle moves sideways while the vehicle turns
_NEAR_M, _MIN_GROUND_POINTS = 15.0, 100
_CELL_M, _ON_PLANE_M = 1.0, 0.1
_NUM_PLANES = 200


def audit_axes(reader: SceneReader) -> list[Finding]:
    """Check the direction of travel and the direction of up in the ego frame.

    A vehicle that only drives backwards is undecided, because tugs do so and an ego frame may point backwards too.

    Args:
        reader: The scene.
    """
    direction, travelled = driving_direction(reader)
    off_axis = abs(math.degrees(math.remainder(direction, math.pi)))
    backwards = math.isfinite(direction) and math.cos(direction) < 0 and off_axis <= _MAX_OFF_X_DEG
    where = f"{travelled:.1f} m driven straight on"
    if math.isnan(direction):
        where = f"stands still, or only turns: {where}"
    tilt, height, num_frames = up_of_ground(reader)
    return [
        Finding(
            name="driving_direction_off_x_deg",
            value=180.0 if backwards else off_axis,
            threshold=_MAX_OFF_X_DEG,
            wanted="at_most",
            where=f"{where}, all of it backwards" if backwards else where,
            otherwise="undecided" if math.isnan(off_axis) or off_axis <= _MAX_OFF_X_DEG else "failed",
        ),
        Finding(
            name="ground_tilt_deg",
            value=tilt,
            threshold=10.0,
            wanted="at_most",
            where=f"ground at z = {height:.2f} m in {num_frames} sweeps" if num_frames else "no ground seen",
            otherwise="undecided" if math.isnan(tilt) else "failed",
        ),
    ]


_MAX_OFF_X_DEG = 20.0


def driving_direction(reader: SceneReader) -> tuple[float, float]:
    """Return the direction of travel in the ego frame, radians from x towards y, and the metres driven straight on.

    The direction is NaN where the vehicle hardly moved.
    """
    total, weight = np.zeros(2), 0.0
    for frame in range(reader.num_frames - 1):
        step = invert_se3(reader.ego_to_world(frame)) @ reader.ego_to_world(frame + 1)
        length = float(np.linalg.norm(step[:2, 3]))
        turned = abs(math.atan2(step[1, 0], step[0, 0]))
        if length > 1e-3 and turned <= _STRAIGHT_RAD_PER_M * length:
            # The middle of both frames: half of the turn belongs to each.
            total += step[:2, 3]
            weight += length
    if weight < _MIN_TRAVEL_M or np.linalg.norm(total) < 0.5 * weight:
        return math.nan, weight
    return float(math.atan2(total[1], total[0])), weight


def up_of_ground(reader: SceneReader) -> tuple[float, float, int]:
    """Return the angle between the ground's normal and z (degrees), its height below the vehicle, and frames used.

    The ground is the plane that most of the lowest returns near the vehicle share. An upside-down frame sees it above
    its sensor, at 180 degrees.
    """
    tilts, heights = [], []
    for frame in spread(reader.num_frames):
        points = reader.lidar_points(frame)
        plane = _ground(points, reader.lidar_to_ego[:3, 3])
        if plane is not None:
            normal, height = plane
            tilts.append(math.degrees(math.acos(float(np.clip(normal[2], -1, 1)))))
            heights.append(height)
    if not tilts:
        return math.nan, math.nan, 0
    return float(np.median(tilts)), float(np.median(heights)), len(tilts)


def _ground(
    points: Float32[np.ndarray, "points 4"], sensor: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3"], float] | None:
    """Return the normal of the largest plane near the sensor, towards the sensor, and its z at the origin."""
    xyz = points[:, :3].astype(np.float64)
    distance = np.linalg.norm(xyz - sensor, axis=1)
    near = xyz[(distance > 2.5) & (distance < _NEAR_M)]
    if len(near) < _MIN_GROUND_POINTS:
        return None
    # One point for each cell: rings near the vehicle would outvote everything else.
    _, first = np.unique(np.floor(near / _CELL_M).astype(np.int64), axis=0, return_index=True)
    cells = near[first]
    rng = np.random.default_rng(0)
    best, best_count = None, 0
    for _ in range(_NUM_PLANES):
        corners = cells[rng.integers(0, len(cells), 3)]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        area = float(np.linalg.norm(normal))
        if area < 1.0:
            continue
        normal /= area
        count = int((np.abs((cells - corners[0]) @ normal) < _ON_PLANE_M).sum())
        if count > best_count:
            best, best_count = (normal, corners[0]), count
    if best is None or best_count < 0.2 * len(cells):
        return None
    normal, corner = best
    if (sensor - corner) @ normal < 0:
        normal = -normal
    height = float(corner @ normal / normal[2]) if abs(normal[2]) > 0.1 else math.nan
    return normal, height
