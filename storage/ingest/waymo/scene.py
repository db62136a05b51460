"""A Waymo segment as both of its formats describe it: TFRecord frames (v1) and parquet components (v2).

Waymo's vehicle frame (x forward, y left, z up, near the ground) is our ego frame as it is. Its camera frames look along
x; ours look along z. Its pixel 0 begins at the image's left edge, as ours does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int32

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import LensDistortion
from storage.ingest.raw_scene import check_box_size

# Waymo's numbers of cameras and lasers, as in its CameraName and LaserName enumerations.
CAMERAS = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT"}
LASERS = {1: "TOP", 2: "FRONT", 3: "SIDE_LEFT", 4: "SIDE_RIGHT", 5: "REAR"}
BOX_TYPES = {0: "TYPE_UNKNOWN", 1: "TYPE_VEHICLE", 2: "TYPE_PEDESTRIAN", 3: "TYPE_SIGN", 4: "TYPE_CYCLIST"}
READOUTS = {
    0: "UNKNOWN",
    1: "TOP_TO_BOTTOM",
    2: "LEFT_TO_RIGHT",
    3: "BOTTOM_TO_TOP",
    4: "RIGHT_TO_LEFT",
    5: "GLOBAL_SHUTTER",
}
CAMERA_ORDER = ("SIDE_LEFT", "FRONT_LEFT", "FRONT", "FRONT_RIGHT", "SIDE_RIGHT")
MAIN_LASER = "TOP"
# Columns are our camera axes (right, down, forward) in Waymo's (forward, left, up).
OPENCV_TO_WAYMO_CAMERA = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
_MAX_STORED_ROTATION_DEFECT = 1e-3  # some releases store poses as float32


@dataclass(frozen=True, slots=True, kw_only=True)
class WaymoCamera:
    """Calibration of one camera.

    Attributes:
        name: Waymo's name of the sensor.
        size: Height and width, pixels.
        intrinsics: Intrinsics of the recorded, distorted image, pixels.
        lens: Lens distortion.
        camera_to_ego: Pose on the vehicle, OpenCV axes.
        readout: Direction of the rolling shutter, a value of ``READOUTS``.
    """

    name: str
    size: tuple[int, int]
    intrinsics: Float[np.ndarray, "3 3"]
    lens: LensDistortion
    camera_to_ego: Float[np.ndarray, "4 4"]
    readout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaymoLaserMount:
    """Calibration of one laser.

    Attributes:
        name: Waymo's name of the sensor.
        laser_to_ego: Pose on the vehicle.
        inclinations: Inclinations of the beams, lowest first, radians; empty where they are evenly spaced.
        inclination_range: Lowest and highest inclination, radians.
    """

    name: str
    laser_to_ego: Float[np.ndarray, "4 4"]
    inclinations: Float[np.ndarray, " beams"]
    inclination_range: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Time and place of one image.

    Attributes:
        ego_to_global: Vehicle pose at ``pose_timestamp``.
        pose_timestamp: Time of that pose, seconds.
        trigger: Start of the first line's exposure, seconds.
        readout_done: End of the last line's readout, seconds.
        shutter: Exposure time of each line, seconds.
        velocity: Velocity of the vehicle in the global frame (v, w), metres and radians a second.
        digest: SHA-256 of the encoded image as recorded.
        panoptic_divisor: Factor of the class in the image's panoptic labels; None for an image without labels.
    """

    ego_to_global: Float[np.ndarray, "4 4"]
    pose_timestamp: float
    trigger: float
    readout_done: float
    shutter: float
    velocity: Float[np.ndarray, " 6"]
    digest: str
    panoptic_divisor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaymoBox:
    """One upright box in the ego frame of the frame's instant: metres, radians; ``size`` is length, width, height."""

    centre: Float[np.ndarray, " 3"]
    size: Float[np.ndarray, " 3"]
    heading: float
    category: str
    instance: str
    num_lidar_points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Everything of a frame but images and range images.

    Attributes:
        timestamp_us: Reference instant.
        ego_to_global: Vehicle pose at that instant.
        exposures: Exposures by camera.
        boxes: Boxes annotated by hand from LiDAR.
        projected: The file's own image rectangles by camera and object: left, top, right, bottom, pixels.
        lasers: Names of the lasers that hold a range image.
        key: File and frame, for errors.
        has_lidar_labels: Whether points of this frame carry classes; Waymo labels only some frames.
    """

    timestamp_us: int
    ego_to_global: Float[np.ndarray, "4 4"]
    exposures: Mapping[str, Exposure]
    boxes: tuple[WaymoBox, ...]
    projected: Mapping[str, Mapping[str, Float[np.ndarray, " 4"]]]
    lasers: tuple[str, ...]
    key: str
    has_lidar_labels: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaserReturn:
    """One return of one laser.

    Attributes:
        values: Range (metres, <= 0 without a return), intensity, elongation, and a flag for no-label zones.
        projection: First and second camera number and pixel (column, row) of each point, where stored.
        labels: Instance and semantic class of each point (0 without a return), where stored.
    """

    values: Float32[np.ndarray, "beams columns 4"]
    projection: Int32[np.ndarray, "beams columns 6"] | None = None
    labels: Int32[np.ndarray, "beams columns 2"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaserSweep:
    """Both returns of one laser, and the vehicle pose at each pixel of the spinning one.

    Attributes:
        name: Waymo's name of the sensor.
        returns: First and second return; the second may be missing.
        pixel_pose: Roll, pitch, yaw (radians) and x, y, z (metres) of the vehicle in global; None for the frame's own
            pose.
    """

    name: str
    returns: tuple[LaserReturn, ...]
    pixel_pose: Float32[np.ndarray, "beams columns 6"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameContent:
    """The large parts of a frame.

    Attributes:
        jpegs: Encoded images, by camera.
        sweeps: Sweeps of its lasers.
        panoptics: Labels of the labelled images, 16-bit PNG, by camera.
    """

    jpegs: Mapping[str, bytes]
    sweeps: tuple[LaserSweep, ...]
    panoptics: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """Everything of a segment but images and points.

    Attributes:
        name: Context name of the segment.
        cameras: Cameras by name.
        lasers: Lasers by name.
        headers: Frames in time order.
        sources: SHA-256 of files and images.
        attributes: JSON values worth keeping.
    """

    name: str
    cameras: Mapping[str, WaymoCamera]
    lasers: Mapping[str, WaymoLaserMount]
    headers: tuple[FrameHeader, ...]
    sources: Mapping[str, str]
    attributes: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class WaymoSegment(Protocol):
    """One segment of either format, open for reading."""

    @property
    def info(self) -> SegmentInfo:
        """Everything but images and points."""
        ...

    def content(self, index: int) -> FrameContent:
        """Return images and range images of one frame."""
        ...

    def check_unchanged(self) -> None:
        """Raise ``SourceDataError`` if ``content`` may have come from other files than ``info.sources`` names."""
        ...


def transform_of(values: object, kind: ErrorKind, key: str) -> Float[np.ndarray, "4 4"]:
    """Return sixteen row-major numbers as a rigid transform whose rotation is exact to float64.

    Waymo stores matrices, in v2 partly as float32. The nearest exact rotation differs from them by rounding only.

    Raises:
        SourceDataError: If they are not sixteen finite numbers, or not a rigid transform up to rounding.
    """
    try:
        matrix = np.array(values, np.float64)  # a copy: its rotation is replaced below
    except (TypeError, ValueError) as error:
        raise SourceDataError(kind, key, f"is {values!r}, want sixteen numbers") from error
    if matrix.shape != (16,):
        raise SourceDataError(kind, key, f"has shape {matrix.shape}, want sixteen numbers")
    matrix = matrix.reshape(4, 4)
    if not np.isfinite(matrix).all():
        raise SourceDataError(kind, key, f"is {matrix.tolist()}, want finite numbers")
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    defect = np.abs(rotation - matrix[:3, :3]).max()
    if defect > _MAX_STORED_ROTATION_DEFECT or np.linalg.det(rotation) < 0 or (matrix[3] != (0, 0, 0, 1)).any():
        raise SourceDataError(kind, key, f"is {matrix.tolist()}, want a rotation and a translation")
    matrix[:3, :3] = rotation
    return matrix


def camera_of(
    *, number: int, intrinsic: object, extrinsic: object, size: tuple[int, int], readout: int, key: str
) -> WaymoCamera:
    """Return a camera from the values of its calibration: f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3, and its mounting.

    Raises:
        SourceDataError: If the camera number is unknown or a value is impossible.
    """
    values = np.asarray(intrinsic, np.float64)
    if values.shape != (9,) or not np.isfinite(values).all() or number not in CAMERAS or min(size) < 2:
        message = (
            f"camera {number} has intrinsic {values.tolist()} and size {size}, want nine finite numbers and a size"
        )
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)
    f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 = values.tolist()
    if min(f_u, f_v) <= 0:
        message = f"focal lengths are {f_u} and {f_v} pixels, want > 0"
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)
    waymo_camera_to_ego = transform_of(extrinsic, ErrorKind.CALIBRATION_INVALID, f"{key}.extrinsic")
    return WaymoCamera(
        name=CAMERAS[number],
        size=size,
        intrinsics=np.array([[f_u, 0.0, c_u], [0.0, f_v, c_v], [0.0, 0.0, 1.0]]),
        lens=LensDistortion(k1=k1, k2=k2, p1=p1, p2=p2, k3=k3),
        camera_to_ego=waymo_camera_to_ego @ OPENCV_TO_WAYMO_CAMERA,
        readout=READOUTS.get(readout, "UNKNOWN"),
    )


def box_of(*, values: list[float], category: str, instance: str, num_lidar_points: int, key: str) -> WaymoBox:
    """Return a box from centre, length, width, height and heading.

    Raises:
        SourceDataError: If a value is not finite, or the size is that of no object.
    """
    if not np.isfinite(values).all() or min(values[3:6]) < 0:
        message = f"is {values}, want a finite centre, a size >= 0 and a finite heading"
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)
    size = np.array(values[3:6], np.float64)
    check_box_size(size, f"{key}: size")
    return WaymoBox(
        centre=np.array(values[:3], np.float64),
        size=size,
        heading=float(values[6]),
        category=category,
        instance=instance,
        num_lidar_points=num_lidar_points,
    )


def laser_return_of(
    *, values: np.ndarray, projection: np.ndarray | None, labels: np.ndarray | None, key: str
) -> LaserReturn:
    """Return one return of a laser; its range image, projection and labels must have one shape.

    Raises:
        SourceDataError: If the shapes differ.
    """
    for name, image in (("camera projection", projection), ("segmentation", labels)):
        if image is not None and image.shape[:2] != values.shape[:2]:
            message = f"its {name} has shape {image.shape[:2]}, its ranges {values.shape[:2]}"
            raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    return LaserReturn(
        values=values.astype(np.float32),
        projection=None if projection is None else projection.astype(np.int32),
        labels=None if labels is None else labels.astype(np.int32),
    )


def panoptic_divisor_of(divisor: int, key: str) -> int:
    """Return the checked factor of the class in panoptic labels of 16 bits.

    Raises:
        SourceDataError: If the factor is impossible.
    """
    if not 0 < divisor < 1 << 16:
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"panoptic_label_divisor is {divisor}, want 1 to 65535")
    return int(divisor)
