"""Waymo perception v1: one TFRecord file for each segment, one ``Frame`` message for each record.

A file is read twice, one record at a time: first for everything small, then for images and range images. Memory holds
one frame.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32

from storage.digests import bytes_digest, file_digest
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.known_digests import KnownDigests
from storage.ingest.raw_files import resolve_inside
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.protos import count_unknown_fields, dataset_pb2, parse_frame, parse_message
from storage.ingest.waymo.recording import WaymoRecording
from storage.ingest.waymo.scene import (
    BOX_TYPES,
    CAMERAS,
    LASERS,
    Exposure,
    FrameContent,
    FrameHeader,
    LaserSweep,
    SegmentInfo,
    WaymoBox,
    WaymoCamera,
    WaymoLaserMount,
    box_of,
    camera_of,
    laser_return_of,
    panoptic_divisor_of,
    transform_of,
)
from storage.ingest.waymo.tfrecord import read_record_at, read_records
from storage.keys import check_name

_MAX_RANGE_IMAGE_BYTES = 1 << 26
_PATTERNS = ("*.tfrecord", "*/*.tfrecord")


def segment_files(root: Path) -> list[str]:
    """Return the TFRecord files below a root, at most one folder deep (a release's splits), by name."""
    return sorted({str(path.relative_to(root)) for pattern in _PATTERNS for path in root.glob(pattern)})


def segment_name(root: Path, file: str) -> str:
    """Return the segment that a file's first record belongs to.

    Raises:
        SourceDataError: If the first record is broken or its name cannot stand in a key.
    """
    for record in read_records(resolve_inside(root, file), file):
        return check_name(str(parse_frame(record.payload, file).context.name))
    raise AssertionError("read_records yields a record or raises")


def list_segments(root: Path, *, on_rejected: Callable[[SourceDataError], None] | None = None) -> list[tuple[str, str]]:
    """Return name and file of every segment, sorted by file name.

    Args:
        root: Folder of the data set.
        on_rejected: Called with the error of each file that is broken or repeats a name; the file is then left out.
            Without it the first such error is raised.

    Raises:
        SourceDataError: If there is no file, or a file was rejected and ``on_rejected`` is None.
    """
    files = segment_files(root)
    if not files:
        raise SourceDataError(ErrorKind.FILE_MISSING, str(root), f"holds no TFRecord file (looked for {_PATTERNS})")
    found: dict[str, str] = {}
    for file in files:
        try:
            name = _unused_name(segment_name(root, file), file, found)
        except SourceDataError as error:
            if on_rejected is None:
                raise
            on_rejected(error)
        else:
            found[name] = file
    return list(found.items())


def _unused_name(name: str, file: str, found: dict[str, str]) -> str:
    if name in found:
        raise SourceDataError(ErrorKind.SCENE_DUPLICATE, file, f"holds segment {name}, as {found[name]} does")
    return name


def find_segment(root: Path, name: str) -> str:
    """Return the file that holds a segment, trying files that carry its name before all others.

    Raises:
        SourceDataError: If no file holds it, or two files that carry its name do.
    """
    files = segment_files(root)
    # A fault of a file that carries its name is the segment's business.
    found = [file for file in files if name in file and segment_name(root, file) == name]
    if len(found) > 1:
        raise SourceDataError(ErrorKind.SCENE_DUPLICATE, found[1], f"holds segment {name}, as {found[0]} does")
    if found:
        return found[0]
    for file in (file for file in files if name not in file):
        try:
            if segment_name(root, file) == name:
                return file
        except SourceDataError:
            continue  # a broken neighbour is not
    raise SourceDataError(ErrorKind.SCENE_UNKNOWN, name, f"is in none of the {len(files)} TFRecord files below {root}")


def open_waymo_v1(
    source: SourceConfig, scene_name: str, config: IngestConfig, known: KnownDigests | None = None
) -> WaymoRecording:
    """Open a segment of a registered source.

    Raises:
        SourceDataError: If the segment is unknown, or anything but its images and points is broken.
    """
    check_name(scene_name)
    file = find_segment(source.root, scene_name)
    segment = WaymoV1Segment(source.root, file, max_frames=config.max_frames, known=known)
    return WaymoRecording(segment, config, version=source.version)


class WaymoV1Segment:
    """One segment's file, open for reading.

    Attributes:
        file: File, relative to the root.
        info: Everything but images and points.
    """

    def __init__(
        self, root: Path, file: str, *, max_frames: int | None = None, known: KnownDigests | None = None
    ) -> None:
        """Read everything small from all records.

        Raises:
            SourceDataError: If a record is broken, out of order, of another segment, or holds an impossible value.
        """
        self.file = file
        self._path = resolve_inside(root, file)
        self._known = known or KnownDigests()
        self._offsets: list[int] = []
        self._digests: list[str] = []
        self.info = self._scan(max_frames)

    def content(self, index: int) -> FrameContent:
        """Return images and range images of one frame; see ``WaymoSegment.content``."""
        key = self.info.headers[index].key
        payload = read_record_at(self._path, self._offsets[index], key)
        if bytes_digest(payload) != self._digests[index]:
            message = "is another record than a moment ago: it changed while it was read"
            raise SourceDataError(ErrorKind.DIGEST_MISMATCH, key, message)
        frame = parse_frame(payload, key)
        return FrameContent(
            jpegs={CAMERAS[image.name]: image.image for image in frame.images},
            sweeps=tuple(_sweep(laser, f"{key}/{LASERS[laser.name]}") for laser in frame.lasers if _has_range(laser)),
            panoptics={
                CAMERAS[image.name]: image.camera_segmentation_label.panoptic_label
                for image in frame.images
                if image.camera_segmentation_label.panoptic_label
            },
        )

    def check_unchanged(self) -> None:
        """Do nothing: ``content`` has checked each record against its digest."""

    def _scan(self, max_frames: int | None) -> SegmentInfo:
        headers: list[FrameHeader] = []
        unknown_fields = 0
        first: Any = None
        for record in read_records(self._path, self.file):
            key = f"{self.file}#record{record.index}"
            frame = parse_frame(record.payload, key)
            unknown_fields += count_unknown_fields(frame)
            if first is None:
                first = frame
            elif frame.context.name != first.context.name:
                message = f"belongs to segment {frame.context.name!r}, the first to {first.context.name!r}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)
            for field in ("camera_calibrations", "laser_calibrations"):
                if getattr(frame.context, field) != getattr(first.context, field):
                    message = f"{field} differ from those of the first frame: want one calibration for each segment"
                    raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)
            if headers and frame.timestamp_micros <= headers[-1].timestamp_us:
                message = f"is at {frame.timestamp_micros} us, want later than {headers[-1].timestamp_us}"
                raise SourceDataError(ErrorKind.TIME_INVALID, key, message)
            headers.append(_header(frame, key))
            self._offsets.append(record.offset)
            self._digests.append(bytes_digest(record.payload))
            if len(headers) == max_frames:
                break
        sources = {self.file: self._known.digest(self.file, self._path, lambda: file_digest(self._path))}
        for header in headers:
            sources |= {f"{header.key}/{name}": e.digest for name, e in header.exposures.items()}
        return SegmentInfo(
            name=check_name(str(first.context.name)),
            cameras=_cameras(first.context, self.file),
            lasers=_laser_mounts(first.context, self.file),
            headers=tuple(headers),
            sources=sources,
            attributes={
                "source_format": "waymo_v1",
                "file": self.file,
                "location": first.context.stats.location,
                "time_of_day": first.context.stats.time_of_day,
                "weather": first.context.stats.weather,
                "unknown_fields": unknown_fields,
            },
        )


def _header(frame: Any, key: str) -> FrameHeader:  # noqa: ANN401 - generated class
    return FrameHeader(
        timestamp_us=int(frame.timestamp_micros),
        ego_to_global=transform_of(frame.pose.transform, ErrorKind.POSE_INVALID, f"{key}.pose"),
        exposures=_exposures(frame, key),
        boxes=tuple(_box(label, f"{key}.laser_labels") for label in frame.laser_labels),
        projected={
            CAMERAS[labels.name]: {
                label.id.removesuffix(f"_{CAMERAS[labels.name]}"): _rectangle(label.box) for label in labels.labels
            }
            for labels in frame.projected_lidar_labels
        },
        lasers=tuple(LASERS[laser.name] for laser in frame.lasers if _has_range(laser)),
        key=key,
        has_lidar_labels=any(
            one.segmentation_label_compressed
            for laser in frame.lasers
            for one in (laser.ri_return1, laser.ri_return2)
            if _has_range(laser)
        ),
    )


def _exposures(frame: Any, key: str) -> dict[str, Exposure]:  # noqa: ANN401
    found: dict[str, Exposure] = {}
    for image in frame.images:
        name = CAMERAS.get(image.name)
        if name is None or name in found:
            message = f"holds an image of camera {image.name}, want each of {CAMERAS} at most once"
            raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)
        v = image.velocity
        found[name] = Exposure(
            ego_to_global=transform_of(image.pose.transform, ErrorKind.POSE_INVALID, f"{key}/{name}.pose"),
            pose_timestamp=image.pose_timestamp,
            trigger=image.camera_trigger_time,
            readout_done=image.camera_readout_done_time,
            shutter=image.shutter,
            velocity=np.array([v.v_x, v.v_y, v.v_z, v.w_x, v.w_y, v.w_z], np.float64),
            digest=bytes_digest(image.image),
            panoptic_divisor=panoptic_divisor_of(
                image.camera_segmentation_label.panoptic_label_divisor, f"{key}/{name}"
            )
            if image.camera_segmentation_label.panoptic_label
            else None,
        )
    return found


def _box(label: Any, key: str) -> WaymoBox:  # noqa: ANN401
    box = label.box
    return box_of(
        values=[box.center_x, box.center_y, box.center_z, box.length, box.width, box.height, box.heading],
        category=BOX_TYPES.get(label.type, f"TYPE_{label.type}"),
        instance=str(label.id),
        num_lidar_points=int(label.num_lidar_points_in_box),
        key=f"{key}[{label.id}]",
    )


def _rectangle(box: Any) -> Float[np.ndarray, " 4"]:  # noqa: ANN401
    half = np.array([box.length, box.width]) / 2
    centre = np.array([box.center_x, box.center_y])
    return np.concatenate([centre - half, centre + half])


def _cameras(context: Any, file: str) -> dict[str, WaymoCamera]:  # noqa: ANN401
    cameras = [
        camera_of(
            number=c.name,
            intrinsic=list(c.intrinsic),
            extrinsic=list(c.extrinsic.transform),
            size=(int(c.height), int(c.width)),
            readout=int(c.rolling_shutter_direction),
            key=f"{file}/{CAMERAS.get(c.name, c.name)}",
        )
        for c in context.camera_calibrations
    ]
    return {camera.name: camera for camera in cameras}


def _laser_mounts(context: Any, file: str) -> dict[str, WaymoLaserMount]:  # noqa: ANN401
    mounts = {}
    for c in context.laser_calibrations:
        name = LASERS.get(c.name, str(c.name))
        key = f"{file}/laser {name}"
        mounts[name] = WaymoLaserMount(
            name=name,
            laser_to_ego=transform_of(list(c.extrinsic.transform), ErrorKind.CALIBRATION_INVALID, f"{key}.extrinsic"),
            inclinations=np.array(c.beam_inclinations, np.float64),
            inclination_range=(float(c.beam_inclination_min), float(c.beam_inclination_max)),
        )
    return mounts


# --- range images ----------------------------------------------------------------------------------------------------


def _has_range(laser: Any) -> bool:  # noqa: ANN401
    return laser.name in LASERS and bool(laser.ri_return1.range_image_compressed)


def _sweep(laser: Any, key: str) -> LaserSweep:  # noqa: ANN401
    returns = []
    for number, one in enumerate((laser.ri_return1, laser.ri_return2), start=1):
        where = f"{key}, return {number}"
        if not one.range_image_compressed:
            continue
        returns.append(
            laser_return_of(
                values=_floats(one.range_image_compressed, 4, where),
                projection=_integers(one.camera_projection_compressed, 6, where),
                labels=_integers(one.segmentation_label_compressed, 2, where),
                key=where,
            )
        )
    pose = laser.ri_return1.range_image_pose_compressed
    return LaserSweep(
        name=LASERS[laser.name], returns=tuple(returns), pixel_pose=_floats(pose, 6, key) if pose else None
    )


def _floats(data: bytes, channels: int, key: str) -> Float32[np.ndarray, "beams columns channels"]:
    return _matrix(dataset_pb2().MatrixFloat, data, channels, key).astype(np.float32)


def _integers(data: bytes, channels: int, key: str) -> Int32[np.ndarray, "beams columns channels"] | None:
    return _matrix(dataset_pb2().MatrixInt32, data, channels, key).astype(np.int32) if data else None


def _matrix(message_class: Any, data: bytes, channels: int, key: str) -> np.ndarray:  # noqa: ANN401
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MAX_RANGE_IMAGE_BYTES)
    except zlib.error as error:
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, f"does not inflate: {error}") from error
    if not inflater.eof:
        message = f"is cut, or inflates to more than {_MAX_RANGE_IMAGE_BYTES} bytes"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    matrix = parse_message(message_class, content, key)
    dims = tuple(matrix.shape.dims)
    if len(dims) != 3 or dims[2] != channels or min(dims) < 1 or len(matrix.data) != int(np.prod(dims)):
        message = f"has {len(matrix.data)} values of shape {dims}, want (beams, columns, {channels})"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    return np.array(matrix.data).reshape(dims)
