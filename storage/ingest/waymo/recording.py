"""A Waymo segment, of either format, as a recording: undistorted images, points in the ego frame, provenance."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from storage.digests import bytes_digest
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import UndistortionMap
from storage.geometry.transforms import invert_se3, rotation_to_quat_wxyz
from storage.ingest.raw_files import check_jpeg
from storage.ingest.raw_scene import IngestConfig, RawScene
from storage.ingest.recording import FramePayload, Sweep
from storage.ingest.undistorted_jpeg import plan_camera, undistort_jpeg, undistortion_record
from storage.ingest.waymo.frames import sweep_points
from storage.ingest.waymo.labels import LIDAR_CLASSES, sweep_labels
from storage.ingest.waymo.panoptic import CAMERA_CLASSES, stored_panoptic
from storage.ingest.waymo.projection import projection_ious
from storage.ingest.waymo.scene import (
    CAMERA_ORDER,
    MAIN_LASER,
    FrameHeader,
    LaserSweep,
    SegmentInfo,
    WaymoCamera,
    WaymoSegment,
)
from storage.scenes.schema import SceneBoxes

POSE_SOURCE = "Waymo frame and image poses"


class WaymoRecording:
    """A segment as a ``Recording``.

    Attributes:
        raw: Scene with the intrinsics of the undistorted images.
    """

    def __init__(self, segment: WaymoSegment, config: IngestConfig, *, version: str) -> None:
        """Check that every camera and laser exists, and plan the undistortion of each camera.

        Raises:
            SourceDataError: If a camera is missing, or LiDAR is missing and ``config`` does not allow it.
        """
        self._segment, self._config = segment, config
        info = segment.info
        self._cameras = _chosen_cameras(info, config)
        self._undistortions = {
            name: plan_camera(camera.intrinsics, camera.lens, camera.size, f"{info.name}/{name}")
            for name, camera in self._cameras.items()
        }
        if MAIN_LASER not in info.lasers:
            message = f"has calibrations of lasers {sorted(info.lasers)}, want {MAIN_LASER}"
            raise SourceDataError(ErrorKind.CALIBRATION_INVALID, info.name, message)
        without_lidar = _frames_without_lidar(info, config)
        self.raw = self._raw(info, version, without_lidar)

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of the files and of every image as recorded."""
        return self._segment.info.sources

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images and points in frame order."""
        info = self._segment.info
        maps = {name: plan and plan.build_map() for name, plan in self._undistortions.items()}
        for index, header in enumerate(info.headers):
            content = self._segment.content(index)
            jpegs = [self._jpeg(content.jpegs[name], header, name, undistortion) for name, undistortion in maps.items()]
            panoptics = [self._panoptic(content.panoptics.get(name), header, name, map_) for name, map_ in maps.items()]
            points, labels = self._points(content.sweeps, header)
            yield FramePayload(
                jpegs=tuple(jpegs), points=points, labels=labels, panoptics=tuple(panoptics) if any(panoptics) else None
            )
        self._segment.check_unchanged()

    def _panoptic(
        self, png: bytes | None, header: FrameHeader, name: str, undistortion: UndistortionMap | None
    ) -> bytes:
        divisor = header.exposures[name].panoptic_divisor
        if png is None or divisor is None:
            return b""
        return stored_panoptic(
            png, divisor, size=self._cameras[name].size, undistortion=undistortion, key=f"{header.key}/{name}"
        )

    def _points(self, sweeps: tuple[LaserSweep, ...], header: FrameHeader) -> Sweep:
        points, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.uint8)]
        for sweep in sweeps:
            key = f"{header.key}/{sweep.name}"
            mount = self._segment.info.lasers.get(sweep.name)
            if mount is None:
                raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, "has no calibration")
            if sweep.name == MAIN_LASER and sweep.pixel_pose is None:
                message = "has no pixel poses: without them a turning laser's points smear as the vehicle moves"
                raise SourceDataError(ErrorKind.LIDAR_INVALID, key, message)
            points.append(sweep_points(sweep, mount, header.ego_to_global, key))
            labels.append(sweep_labels(sweep, key))
        merged = np.concatenate(points)
        if header.lasers and not len(merged):
            raise SourceDataError(ErrorKind.LIDAR_INVALID, header.key, "its range images hold no return")
        return merged, np.concatenate(labels) if header.has_lidar_labels else None

    def _jpeg(self, data: bytes, header: FrameHeader, name: str, undistortion: UndistortionMap | None) -> bytes:
        key, camera = f"{header.key}/{name}", self._cameras[name]
        if (seen := bytes_digest(data)) != header.exposures[name].digest:
            message = f"SHA-256 is {seen}, was {header.exposures[name].digest} a moment ago: it changed while read"
            raise SourceDataError(ErrorKind.DIGEST_MISMATCH, key, message)
        height, width = camera.size
        check_jpeg(data, key, width=width, height=height, max_pixels=self._config.max_image_pixels)
        if undistortion is None:
            return data  # an ideal pinhole: verbatim
        return undistort_jpeg(data, undistortion)

    def _raw(self, info: SegmentInfo, version: str, without_lidar: list[int]) -> RawScene:
        headers, names = info.headers, tuple(self._cameras)
        first = headers[0].ego_to_global
        ious = projection_ious(info)
        global_to_world = invert_se3(first)
        exposures = [[header.exposures[name] for name in names] for header in headers]
        divisor = _panoptic_divisor(headers, names)
        labelled = [index for index, header in enumerate(headers) if header.has_lidar_labels]
        intrinsics = [
            camera.intrinsics if plan is None else plan.intrinsics
            for camera, plan in zip(self._cameras.values(), self._undistortions.values(), strict=True)
        ]
        return RawScene(
            name=info.name,
            camera_names=names,
            image_sizes=tuple(camera.size for camera in self._cameras.values()),
            intrinsics=np.stack(intrinsics),
            camera_to_ego=np.stack([camera.camera_to_ego for camera in self._cameras.values()]),
            lidar_to_ego=info.lasers[MAIN_LASER].laser_to_ego,
            timestamp_us=np.array([header.timestamp_us for header in headers], np.int64),
            ego_to_world=global_to_world @ np.stack([header.ego_to_global for header in headers]),
            camera_timestamp_us=np.array(
                [[_microseconds(e.pose_timestamp, info.name) for e in row] for row in exposures], np.int64
            ),
            camera_ego_to_world=global_to_world @ np.array([[e.ego_to_global for e in row] for row in exposures]),
            image_files=tuple(tuple(f"{h.key}/{name}" for name in names) for h in headers),
            lidar_files=tuple(h.key for h in headers),
            boxes=_boxes(headers, global_to_world),
            attributes={
                **info.attributes,
                "version": version,
                "world_to_global": first.tolist(),
                "principal_point_shift_px": 0.0,
                "undistortion": {
                    name: undistortion_record(self._cameras[name].intrinsics, self._cameras[name].lens, plan)
                    for name, plan in self._undistortions.items()
                },
                "exposures": {name: [_exposure_record(header, name) for header in headers] for name in self._cameras},
                "readout": {name: camera.readout for name, camera in self._cameras.items()},
                "lasers": sorted({name for header in headers for name in header.lasers}),
                "frames_without_lidar": without_lidar,
                "projected_label_iou": float(np.median(ious)) if len(ious) else None,
                "lidarseg_frames": labelled,
                "lidarseg_categories": {str(n): name for n, name in enumerate(LIDAR_CLASSES)} if labelled else {},
                "panoptic_images": sum(e.panoptic_divisor is not None for row in exposures for e in row),
                "panoptic_divisor": divisor,
                "panoptic_categories": {} if divisor is None else {str(n): c for n, c in enumerate(CAMERA_CLASSES)},
            },
            row_digests={},
            pose_source=POSE_SOURCE,
        )


def _chosen_cameras(info: SegmentInfo, config: IngestConfig) -> dict[str, WaymoCamera]:
    # A camera that is calibrated but took no image, or the other way round, is a fault unless others were asked for.
    seen = {*info.cameras, *(name for header in info.headers for name in header.exposures)}
    names = config.cameras or tuple(name for name in CAMERA_ORDER if name in seen)
    if not names:
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, info.name, "has no camera calibration")
    for name in names:
        if name not in info.cameras:
            message = f"has no calibration of camera {name!r}, only of {sorted(info.cameras)}"
            raise SourceDataError(ErrorKind.CALIBRATION_INVALID, info.name, message)
        for header in info.headers:
            if name not in header.exposures:
                message = f"has no image of camera {name!r}, only of {sorted(header.exposures)}"
                raise SourceDataError(ErrorKind.IMAGE_INVALID, header.key, message)
    return {name: info.cameras[name] for name in names}


def _frames_without_lidar(info: SegmentInfo, config: IngestConfig) -> list[int]:
    missing = [index for index, header in enumerate(info.headers) if not header.lasers]
    if missing and not config.allow_missing_lidar:
        frames = f"{len(missing)} of {len(info.headers)} frames"
        message = f"has no LiDAR, as {frames} have none; --ingest.allow-missing-lidar accepts that"
        raise SourceDataError(ErrorKind.LIDAR_INVALID, info.headers[missing[0]].key, message)
    return missing


def _panoptic_divisor(headers: tuple[FrameHeader, ...], names: tuple[str, ...]) -> int | None:
    """Return the factor of the class in all panoptic labels; None without labels."""
    seen: int | None = None
    for header in headers:
        for name in names:
            divisor = header.exposures[name].panoptic_divisor
            if None not in (divisor, seen) and divisor != seen:
                message = f"panoptic_label_divisor is {divisor}, was {seen}: want one for each segment"
                raise SourceDataError(ErrorKind.TABLE_INVALID, f"{header.key}/{name}", message)
            seen = seen if divisor is None else divisor
    return seen


def _microseconds(seconds: float, key: str) -> int:
    if not (np.isfinite(seconds) and 0 <= seconds < 2**43):
        raise SourceDataError(ErrorKind.TIME_INVALID, key, f"an image is at {seconds} s, want seconds since 1970")
    return round(seconds * 1e6)


def _exposure_record(header: FrameHeader, name: str) -> dict[str, object]:
    e = header.exposures[name]
    return {
        "trigger_s": e.trigger,
        "readout_done_s": e.readout_done,
        "shutter_s": e.shutter,
        "velocity_global": e.velocity.tolist(),
    }


def _boxes(headers: tuple[FrameHeader, ...], global_to_world: Float[np.ndarray, "4 4"]) -> SceneBoxes:
    rows = [(index, header, box) for index, header in enumerate(headers) for box in header.boxes]
    if not rows:
        return SceneBoxes.none()
    box_to_ego = np.tile(np.eye(4), (len(rows), 1, 1))
    heading = np.array([box.heading for _, _, box in rows])
    box_to_ego[:, 0, 0] = box_to_ego[:, 1, 1] = np.cos(heading)
    box_to_ego[:, 1, 0] = np.sin(heading)
    box_to_ego[:, 0, 1] = -np.sin(heading)
    box_to_ego[:, :3, 3] = [box.centre for _, _, box in rows]
    box_to_world = global_to_world @ np.stack([header.ego_to_global for _, header, _ in rows]) @ box_to_ego
    return SceneBoxes(
        frame_index=np.array([index for index, _, _ in rows], np.int64),
        centre=box_to_world[:, :3, 3].copy(),
        size=np.stack([box.size for _, _, box in rows]),
        quat_wxyz=rotation_to_quat_wxyz(box_to_world[:, :3, :3]),
        category=tuple(box.category for _, _, box in rows),
        instance=tuple(box.instance for _, _, box in rows),
        num_lidar_points=np.array([box.num_lidar_points for _, _, box in rows], np.int64),
    )
