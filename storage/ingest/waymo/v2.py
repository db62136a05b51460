"""Waymo perception v2: parquet components, joined by segment, time, and camera or laser.

Files are streamed side by side, and rows wait for their frame's turn. Memory holds a frame or two if the files are in
time order, as Waymo's are; another order only costs memory.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from storage.digests import bytes_digest, file_digest
from storage.errors import ErrorKind, SourceDataError
from storage.ingest.known_digests import KnownDigests
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.components import COMPONENTS, ComponentFile, Row
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
from storage.keys import check_name

_REQUIRED = ("vehicle_pose", "camera_calibration", "camera_image", "lidar_calibration")
_OF_LASERS = ("lidar_pose", "lidar_camera_projection", "lidar_segmentation")
_INTRINSIC = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")


def list_segments_v2(root: Path, *, on_rejected: Callable[[SourceDataError], None] | None = None) -> list[str]:
    """Return the names of all segments that have vehicle poses, sorted.

    Args:
        root: Folder of the data set.
        on_rejected: Called with the error of each name that cannot stand in a key; the segment is then left out.
            Without it the first such error is raised.

    Raises:
        SourceDataError: If there is no segment, or a segment was rejected and ``on_rejected`` is None.
    """
    files = sorted((root / "vehicle_pose").glob("*.parquet"))
    if not files:
        raise SourceDataError(ErrorKind.FILE_MISSING, str(root), "holds no vehicle_pose/*.parquet")
    names = []
    for file in files:
        try:
            names.append(check_name(file.stem))
        except SourceDataError as error:
            if on_rejected is None:
                raise
            on_rejected(error)
    return names


def files_of_segment(root: Path, segment: str) -> list[str]:
    """Return the component files of a segment, relative to the root: the required ones, and others that are there."""
    check_name(segment)
    files = {component: f"{component}/{segment}.parquet" for component in COMPONENTS}
    return [file for component, file in files.items() if component in _REQUIRED or (root / file).exists()]


def read_vehicle_poses(root: Path, segment: str) -> tuple[list[int], Float[np.ndarray, "frames 4 4"]]:
    """Return the time (microseconds) and ``ego_to_global`` of every frame of a segment.

    Raises:
        SourceDataError: If the component is broken, empty or out of time order, or a pose is no rigid transform.
    """
    file = ComponentFile(root, "vehicle_pose", segment)
    times, poses = [], []
    for row in file.rows():
        time = int(row["key.frame_timestamp_micros"])
        if times and time <= times[-1]:
            message = f"frame {len(times)} is at {time} us, want later than {times[-1]}"
            raise SourceDataError(ErrorKind.TIME_INVALID, file.key, message)
        key = f"{file.key}#{time}"
        times.append(time)
        poses.append(transform_of(row["world_from_vehicle.transform"], ErrorKind.POSE_INVALID, key))
    if not times:
        raise SourceDataError(ErrorKind.TABLE_INVALID, file.key, "holds no row")
    return times, np.stack(poses)


def open_waymo_v2(
    source: SourceConfig, scene_name: str, config: IngestConfig, known: KnownDigests | None = None
) -> WaymoRecording:
    """Open a segment of a registered source.

    Raises:
        SourceDataError: If the segment is unknown, or anything but its images and points is broken.
    """
    check_name(scene_name)
    segment = WaymoV2Segment(source.root, scene_name, max_frames=config.max_frames, known=known)
    return WaymoRecording(segment, config, version=source.version)


class WaymoV2Segment:
    """One segment's components, open for reading.

    Attributes:
        info: Everything but images and points.
    """

    def __init__(
        self, root: Path, segment: str, *, max_frames: int | None = None, known: KnownDigests | None = None
    ) -> None:
        """Read everything small, and the digests of all images.

        Raises:
            SourceDataError: If a component is missing or broken, or a row lacks its counterpart in another component.
        """
        self._segment = check_name(segment)
        self._known = known or KnownDigests()
        self._files: dict[str, ComponentFile] = {}
        for file in files_of_segment(root, segment):
            component = file.partition("/")[0]
            self._files[component] = ComponentFile(root, component, segment)
        times, poses = read_vehicle_poses(root, segment)
        self._times, poses = times[:max_frames], poses[:max_frames]
        self.info = self._read_info(poses)
        self._streams = {
            name: _FrameStream(self._files[name])
            for name in ("camera_image", "camera_segmentation", "lidar", *_OF_LASERS)
            if name in self._files
        }

    def content(self, index: int) -> FrameContent:
        """Return images and range images of one frame; see ``WaymoSegment.content``. Reading in order is cheapest."""
        time, key = self._times[index], self.info.headers[index].key
        rows = {name: stream.rows_at(time) for name, stream in self._streams.items()}
        by_laser = {name: {LASERS.get(row["key.laser_name"]): row for row in rows.get(name, [])} for name in _OF_LASERS}
        sweeps = []
        for row in rows.get("lidar", []):
            name = LASERS.get(row["key.laser_name"], str(row["key.laser_name"]))
            sweep = _sweep(name, row, {n: by_laser[n].get(name) for n in _OF_LASERS}, f"{key}/{name}")
            if sweep.returns:
                sweeps.append(sweep)
        return FrameContent(
            jpegs={CAMERAS[row["key.camera_name"]]: row["image"] for row in rows["camera_image"]},
            sweeps=tuple(sweeps),
            panoptics={
                CAMERAS[row["key.camera_name"]]: row["panoptic_label"] for row in rows.get("camera_segmentation", ())
            },
        )

    def check_unchanged(self) -> None:
        """Hash the components again, because they were streamed after the first hash.

        Raises:
            SourceDataError: If a component has changed.
        """
        for file in self._files.values():
            if (seen := file_digest(file.path)) != (wanted := self.info.sources[file.key]):
                message = f"SHA-256 is {seen}, was {wanted} a moment ago: it changed while it was read"
                raise SourceDataError(ErrorKind.DIGEST_MISMATCH, file.key, message)

    def _read_info(self, poses: Float[np.ndarray, "frames 4 4"]) -> SegmentInfo:
        exposures = self._exposures()
        boxes = self._boxes()
        lasers, labelled = self._lasers_of_frames("lidar"), self._lasers_of_frames("lidar_segmentation")
        headers = tuple(
            FrameHeader(
                timestamp_us=time,
                ego_to_global=pose,
                exposures=exposures.get(time, {}),
                boxes=tuple(boxes.get(time, ())),
                projected={},
                lasers=tuple(lasers.get(time, ())),
                key=f"{self._segment}#{time}",
                has_lidar_labels=time in labelled,
            )
            for time, pose in zip(self._times, poses, strict=True)
        )
        sources = {
            file.key: self._known.digest(file.key, file.path, partial(file_digest, file.path))
            for file in self._files.values()
        }
        for header in headers:
            sources |= {f"{header.key}/{name}": e.digest for name, e in header.exposures.items()}
        return SegmentInfo(
            name=self._segment,
            cameras=self._cameras(),
            lasers=self._laser_mounts(),
            headers=headers,
            sources=sources,
            attributes={
                "source_format": "waymo_v2",
                "components": sorted(self._files),
                "unknown_fields": sum(file.num_unknown_columns for file in self._files.values()),
            },
        )

    # --- components ------------------------------------------------------------------------------------------------

    def _cameras(self) -> dict[str, WaymoCamera]:
        file = self._files["camera_calibration"]
        cameras = [
            camera_of(
                number=row["key.camera_name"],
                intrinsic=[row[f"intrinsic.{name}"] for name in _INTRINSIC],
                extrinsic=row["extrinsic.transform"],
                size=(row["height"], row["width"]),
                readout=row["rolling_shutter_direction"],
                key=f"{file.key}/{CAMERAS.get(row['key.camera_name'])}",
            )
            for row in file.rows()
        ]
        return {camera.name: camera for camera in cameras}

    def _laser_mounts(self) -> dict[str, WaymoLaserMount]:
        file, mounts = self._files["lidar_calibration"], {}
        for row in file.rows():
            name = LASERS.get(row["key.laser_name"], str(row["key.laser_name"]))
            values = row.get("beam_inclination.values")
            mounts[name] = WaymoLaserMount(
                name=name,
                laser_to_ego=transform_of(
                    row["extrinsic.transform"], ErrorKind.CALIBRATION_INVALID, f"{file.key}/laser {name}"
                ),
                inclinations=np.zeros(0) if values is None else np.asarray(values, np.float64),
                inclination_range=(row["beam_inclination.min"], row["beam_inclination.max"]),
            )
        return mounts

    def _exposures(self) -> dict[int, dict[str, Exposure]]:
        file, divisors = self._files["camera_image"], self._panoptic_divisors()
        found: dict[int, dict[str, Exposure]] = defaultdict(dict)
        for row in self._rows_of_frames(file):
            time, number = row["key.frame_timestamp_micros"], row["key.camera_name"]
            key, name = f"{file.key}#{time}", CAMERAS.get(number)
            if name is None or name in found[time]:
                message = f"holds an image of camera {number}, want each of {CAMERAS} at most once"
                raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)
            found[time][name] = _exposure(row, divisors.pop((time, number), None), f"{key}/{name}")
        for time, number in divisors:
            key = f"{self._files['camera_segmentation'].key}#{time}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"labels camera {number}, which took no image then")
        return found

    def _panoptic_divisors(self) -> dict[tuple[int, int], int]:
        """Return the factor of the class in the labels of each labelled image, by time and camera."""
        found: dict[tuple[int, int], int] = {}
        if "camera_segmentation" in self._files:
            file, divisor = self._files["camera_segmentation"], "panoptic_label_divisor"
            for row in self._rows_of_frames(file, [divisor]):
                time, number = row["key.frame_timestamp_micros"], row["key.camera_name"]
                if (time, number) in found:
                    raise SourceDataError(
                        ErrorKind.TABLE_INVALID, f"{file.key}#{time}", f"labels camera {number} twice"
                    )
                found[time, number] = panoptic_divisor_of(row[divisor], f"{file.key}#{time}")
        return found

    def _boxes(self) -> dict[int, list[WaymoBox]]:
        found: dict[int, list[WaymoBox]] = defaultdict(list)
        if "lidar_box" not in self._files:
            return found
        file = self._files["lidar_box"]
        for row in self._rows_of_frames(file):
            time, instance = row["key.frame_timestamp_micros"], row["key.laser_object_id"]
            values = [row[f"box.{part}.{axis}"] for part in ("center", "size") for axis in "xyz"]
            found[time].append(
                box_of(
                    values=[*values, row["box.heading"]],
                    category=BOX_TYPES.get(row["type"], f"TYPE_{row['type']}"),
                    instance=instance,
                    num_lidar_points=row["num_lidar_points_in_box"],
                    key=f"{file.key}#{time}[{instance}]",
                )
            )
        return found

    def _lasers_of_frames(self, component: str) -> dict[int, list[str]]:
        """Return the lasers that hold a first return in a component of range images, by frame."""
        found: dict[int, list[str]] = defaultdict(list)
        if component in self._files:
            shape = "range_image_return1.shape"
            for row in self._rows_of_frames(self._files[component], [shape]):
                if row.get(shape) is not None:
                    number = row["key.laser_name"]
                    found[row["key.frame_timestamp_micros"]].append(LASERS.get(number, str(number)))
        return found

    def _rows_of_frames(self, file: ComponentFile, columns: list[str] | None = None) -> Iterator[Row]:
        """Yield the rows of the frames that are read; a row of an unknown frame is an error."""
        times, last = set(self._times), self._times[-1]
        for row in file.rows(columns):
            time = row["key.frame_timestamp_micros"]
            if time in times:
                yield row
            elif time < last:
                message = f"holds a row at {time} us, at which there is no vehicle pose"
                raise SourceDataError(ErrorKind.TABLE_INVALID, file.key, message)


class _FrameStream:
    """Rows of one component, given out frame by frame."""

    def __init__(self, file: ComponentFile) -> None:
        self._file = file
        self._count: dict[int, int] = defaultdict(int)
        for row in file.rows([]):
            self._count[row["key.frame_timestamp_micros"]] += 1
        self._restart()

    def _restart(self) -> None:
        self._rows = self._file.rows()
        self._waiting: dict[int, list[Row]] = defaultdict(list)
        self._given: set[int] = set()

    def rows_at(self, time: int) -> list[Row]:
        """Return all rows of a frame."""
        if time in self._given:
            self._restart()
        while len(self._waiting[time]) < self._count.get(time, 0):
            row = next(self._rows, None)
            if row is None:
                message = f"holds fewer rows at {time} us than a moment ago: it changed while it was read"
                raise SourceDataError(ErrorKind.DIGEST_MISMATCH, self._file.key, message)
            self._waiting[row["key.frame_timestamp_micros"]].append(row)
        self._given.add(time)
        return self._waiting.pop(time)


def _exposure(row: Row, panoptic_divisor: int | None, key: str) -> Exposure:
    velocity = [row[f"velocity.{kind}_velocity.{axis}"] for kind in ("linear", "angular") for axis in "xyz"]
    return Exposure(
        ego_to_global=transform_of(row["pose.transform"], ErrorKind.POSE_INVALID, f"{key}.pose"),
        pose_timestamp=row["pose_timestamp"],
        trigger=row["rolling_shutter_params.camera_trigger_time"],
        readout_done=row["rolling_shutter_params.camera_readout_done_time"],
        shutter=row["rolling_shutter_params.shutter"],
        velocity=np.array(velocity, np.float64),
        digest=bytes_digest(row["image"]),
        panoptic_divisor=panoptic_divisor,
    )


def _sweep(name: str, row: Row, beside: Mapping[str, Row | None], key: str) -> LaserSweep:
    """Return a laser's sweep; ``beside`` holds its rows of the components that go with the range images."""
    pose, projection, segmentation = (beside[component] for component in _OF_LASERS)
    returns = []
    for number in (1, 2):
        values = _image(row, number, 4, key)
        if values is None:
            continue
        pixels = None if projection is None else _image(projection, number, 6, key)
        labels = None if segmentation is None else _image(segmentation, number, 2, f"{key}: segmentation")
        returns.append(laser_return_of(values=values, projection=pixels, labels=labels, key=f"{key}, return {number}"))
    pixel_pose = None if pose is None else _image(pose, 1, 6, key)
    return LaserSweep(
        name=name,
        returns=tuple(returns),
        pixel_pose=None if pixel_pose is None else pixel_pose.astype(np.float32),
    )


def _image(row: Row, number: int, channels: int, key: str) -> np.ndarray | None:
    values, shape = (row.get(f"range_image_return{number}.{part}") for part in ("values", "shape"))
    if values is None or shape is None:
        return None
    dims = tuple(int(d) for d in shape)
    if len(dims) != 3 or dims[2] != channels or min(dims) < 1 or len(values) != int(np.prod(dims)):
        message = f"has {len(values)} values of shape {dims}, want (beams, columns, {channels})"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
    return np.asarray(values).reshape(dims)
