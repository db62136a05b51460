"""What a scene holds beside what a student needs: numbers that tell its maker whether the recording was understood.

None of them fails: a scene with little travel or few frames is sound, but shows a field little.
"""

import numpy as np

from storage.audits.finding import Finding
from storage.audits.frames_and_axes import up_of_ground
from storage.audits.sampling import spread
from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, StoreVersion

_MAX_FRAMES = 5
_NEAR_VEHICLE_M = 3.0
_MAX_GROUND_OFF_M = 0.5


def scene_facts(home: Home, version: StoreVersion) -> list[Finding]:
    """Return frames, rate, travel, exposure times, returns, the LiDAR's height and boxes, with usual values.

    Args:
        home: Home of the scene.
        version: A version of kind ``scene``.
    """
    reader, metrics = SceneReader(home.open_arrays(version), version), home.metrics(version)
    number, duration = reader.num_frames, float(metrics["duration_s"])
    rate = f", {(number - 1) / duration:.2g} Hz" if duration else ""
    offsets = [
        abs(reader.camera_timestamp_us(frame, camera) - reader.timestamp_us(frame)) * 1e-6
        for frame in range(number)
        for camera in range(reader.num_cameras)
    ]
    worst = int(np.argmax(offsets))
    return [
        _fact("frames", number, 10, "at_least", f"of {reader.num_cameras} cameras, {duration:.1f} s{rate}"),
        _fact("travelled_m", float(metrics["travelled_m"]), 5.0, "at_least", "fields learn depth from parallax"),
        _fact(
            "exposure_off_instant_s",
            offsets[worst],
            0.06,
            "at_most",
            f"frame {worst // reader.num_cameras}, camera {reader.camera_names[worst % reader.num_cameras]}",
        ),
        *_lidar_facts(reader),
        _box_fact(reader),
    ]


def _lidar_facts(reader: SceneReader) -> list[Finding]:
    frames = spread(reader.num_frames, _MAX_FRAMES)
    sweeps = [points for frame in frames if len(points := reader.lidar_points(frame))]
    if not sweeps:
        return [_fact("returns_per_sweep", 0.0, 1000.0, "at_least", "no LiDAR: nothing vouches for depth of a field")]
    points = np.concatenate(sweeps)
    origin = reader.lidar_to_ego[:3, 3]
    level = np.hypot(points[:, 0] - origin[0], points[:, 1] - origin[1])
    ranges = np.linalg.norm(points[:, :3] - origin.astype(np.float32), axis=1)
    _, ground, seen = up_of_ground(reader)
    height = origin[2] - ground if seen else float("nan")
    low, high = np.percentile(points[:, 3], [1, 99])
    own = float(((level < _NEAR_VEHICLE_M) & (points[:, 2] > ground + 0.3)).mean()) if seen else float("nan")
    told = f"median {np.median(ranges):.1f} m, at most {ranges.max():.0f} m; intensity {low:.3g} to {high:.3g}"
    return [
        _fact("returns_per_sweep", len(points) / len(sweeps), 1000.0, "at_least", told),
        _fact("lidar_height_over_ground_m", height, 0.3, "at_least", f"ground at z = {ground:.2f} m of the ego frame"),
        _fact(
            "ground_off_ego_z0_m",
            abs(ground) if seen else float("nan"),
            _MAX_GROUND_OFF_M,
            "at_most",
            "students and occupancy grids take z = 0 for the ground",
        ),
        _fact(
            "returns_beside_lidar_share",
            own,
            0.2,
            "at_most",
            f"within {_NEAR_VEHICLE_M:g} m, off the ground: mostly the vehicle itself",
        ),
    ]


def _box_fact(reader: SceneReader) -> Finding:
    boxes = reader.boxes()
    objects, moving = len(set(boxes.instance)), MovingBoxes.of(reader)
    moves = sum(moving.count(frame) for frame in range(reader.num_frames))
    where = (
        f"of {objects} objects; {moves} of things that move" if objects else "without boxes nothing counts as moving"
    )
    return _fact("boxes", len(boxes.frame_index), 1, "at_least", where)


def _fact(name: str, value: float | int, threshold: float | int, wanted: str, where: str) -> Finding:
    is_least = wanted == "at_least"
    return Finding(
        name=name,
        value=float(value),
        threshold=float(threshold),
        wanted="at_least" if is_least else "at_most",
        where=where,
        otherwise="undecided",
    )
