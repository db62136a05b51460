"""What a frame's content must satisfy in every format, beyond decoding: data that is wrong and looks right.

Each rule rests on evidence that clean data cannot give. A sensor that moved cannot see the same twice to the last bit,
and no LiDAR reaches two kilometres.
"""

import io

import numpy as np
from jaxtyping import Float32
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.raw_scene import RawScene
from storage.scenes.schema import SceneFrame

MAX_RANGE_M = 2000.0
"""Range that no LiDAR of a vehicle reaches."""

MAX_MEDIAN_RANGE_M = 200.0
"""Median range that no sweep has: half of its beams meet the ground or what stands on it."""

_MIN_DISTINCT_SHARE = 0.1  # several returns of one beam may coincide, but not ten of each
_NUM_COMPARED = 4096
_MIN_RETURNS, _MIN_INTENSITIES = 100, 8  # fewer may agree by chance
# Where a driver writes beams without a return. Of a nuScenes sweep, 54 returns off the sensor's own housing lay within
# a millimetre, none of them at zero.
_MAX_AT_ORIGIN, _AT_ORIGIN_M = 20, 1e-5
_MOVED_M, _CREPT_M = 0.1, 0.5  # since the frame before, and since the first of several that are the same
_START_OF_SCAN = b"\xff\xda"  # what comes before it in a JPEG may tell the time
_BLANK_LEVELS = 8  # between the 1st and 99th percentile of every channel, as the scene field counts


class FrameChecks:
    """Checks the frames of a scene in their order.

    Args:
        raw: The scene that they belong to.
    """

    def __init__(self, raw: RawScene) -> None:
        self._raw = raw
        self._before: SceneFrame | None = None
        self._frame = -1
        self._seen_since = [0] * len(raw.camera_names)  # frame in which each camera's present image came first
        self._swept_since = 0
        self.repeated_at_rest = 0
        """Images and sweeps that repeat the frame before while their sensor stood still, as a simulator's may."""

    def check(self, frame: SceneFrame) -> None:
        """Check the next frame.

        Raises:
            SourceDataError: If a point lies where no LiDAR reaches, a sweep's points are mostly one, half of them lie
                beyond any plausible range, many lie in the sensor itself, or a sensor that moved repeats the frame
                before.
        """
        self._frame += 1
        raw, before = self._raw, self._before
        if len(frame.points):
            key = f"{raw.name}: {raw.lidar_files[self._frame] or f'sweep of frame {self._frame}'}"
            check_returns(frame.points - np.append(raw.lidar_to_ego[:3, 3], 0).astype(np.float32), key)
        if before is not None:
            for camera, (seen, seen_before) in enumerate(zip(frame.jpegs, before.jpegs, strict=True)):
                if _scan(seen) == _scan(seen_before):
                    self._repeated_image(camera, seen)
                else:
                    self._seen_since[camera] = self._frame
            if _same_returns(frame.points, before.points):
                self._repeated_sweep()
            else:
                self._swept_since = self._frame
        self._before = frame

    def _repeated_image(self, camera: int, jpeg: bytes) -> None:
        raw, frame, since = self._raw, self._frame, self._seen_since[camera]
        poses = raw.camera_ego_to_world[:, camera]
        if _stood_still(poses, since, frame):
            self.repeated_at_rest += 1
        elif not is_blank(jpeg):
            moved = _travel(poses, since, frame)
            message = f"is the image of frame {since} again, but the vehicle moved {moved:.2f} m: its camera froze"
            raise SourceDataError(ErrorKind.IMAGE_INVALID, f"{raw.name}: {raw.image_files[frame][camera]}", message)

    def _repeated_sweep(self) -> None:
        raw, frame, since = self._raw, self._frame, self._swept_since
        if _stood_still(raw.ego_to_world, since, frame):
            self.repeated_at_rest += 1
            return
        moved = _travel(raw.ego_to_world, since, frame)
        message = f"is the sweep of frame {since} again, but the vehicle moved {moved:.2f} m"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, f"{raw.name}: {raw.lidar_files[frame]}", message)


def check_returns(points: Float32[np.ndarray, "points 4"], key: str) -> None:
    """Check one sweep, given relative to its sensor.

    Raises:
        SourceDataError: If a point lies beyond ``MAX_RANGE_M``, the median range is above ``MAX_MEDIAN_RANGE_M``, the
            points are mostly one, or many of them lie in the sensor.
    """
    distance = np.linalg.norm(points[:, :3].astype(np.float64), axis=-1)
    farthest = int(distance.argmax())
    median = float(np.median(distance))
    if median > MAX_MEDIAN_RANGE_M:
        message = (
            f"half of its {len(points)} points are more than {median:.0f} m from the sensor, "
            f"want at most {MAX_MEDIAN_RANGE_M:g}: are they in the world frame, or not in metres?"
        )
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    if distance[farthest] > MAX_RANGE_M:
        message = f"point {farthest} lies {distance[farthest]:.3g} m from the sensor, want at most {MAX_RANGE_M:g}"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    at_origin = int((distance < _AT_ORIGIN_M).sum())
    if at_origin > _MAX_AT_ORIGIN:
        message = (
            f"{at_origin} of its {len(points)} points lie in the sensor itself, want at most {_MAX_AT_ORIGIN}: "
            "leave out beams without a return"
        )
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    some = points[:: max(1, len(points) // _NUM_COMPARED), :3].astype(np.float64)
    places = len(np.unique(some @ (1.0, np.pi, np.e)))
    if places < _MIN_DISTINCT_SHARE * len(some):
        message = f"{len(some)} of its points lie at {places} places, the first at {some[0].tolist()} m from the sensor"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)


def is_blank(jpeg: bytes) -> bool:
    """Return whether an image shows nothing: no channel varies by more than a few levels."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (image.width // 4, image.height // 4))
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    low, high = np.percentile(pixels, [1, 99], axis=0)
    return bool((high - low <= _BLANK_LEVELS).all())


def _same_returns(points: Float32[np.ndarray, "_ 4"], before: Float32[np.ndarray, "_ 4"]) -> bool:
    """Return whether two sweeps are one: poses move their points, but not their intensities."""
    if len(points) != len(before) or len(points) < _MIN_RETURNS:
        return False
    if np.array_equal(points, before):
        return True
    intensity = points[:, 3]
    return np.array_equal(intensity, before[:, 3]) and len(np.unique(intensity)) >= _MIN_INTENSITIES


def _scan(jpeg: bytes) -> bytes:
    """Return a JPEG from its first scan on: the image without the notes before it."""
    start = jpeg.find(_START_OF_SCAN)
    return jpeg if start < 0 else jpeg[start:]


def _stood_still(poses: np.ndarray, first: int, last: int) -> bool:
    """Return whether a sensor may have seen the same: poses at rest have noise, which adds up over many frames."""
    return _travel(poses, last - 1, last) < _MOVED_M and _travel(poses, first, last) < _CREPT_M


def _travel(poses: np.ndarray, first: int, last: int) -> float:
    """Return the farthest that a sensor was from where it was in the first frame, up to the last, metres."""
    return float(np.linalg.norm(poses[first : last + 1, :3, 3] - poses[first, :3, 3], axis=-1).max())
