"""One scene of a rig manifest as a recording; every table, image and sweep is checked against the manifest."""

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from PIL import Image

from storage.digests import digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.distortion import LensDistortion, Undistortion, UndistortionMap
from storage.geometry.trajectory import Trajectory
from storage.geometry.transforms import apply_se3, invert_se3, rotation_to_quat_wxyz
from storage.ingest.known_digests import KnownDigests
from storage.ingest.manifest.manifest import RIG_MANIFEST_FILE, Rig, RigCamera, find_scene, load_manifest
from storage.ingest.manifest.tables import (
    BOXES,
    FRAMES,
    IMAGES,
    Columns,
    RawSweep,
    read_columns,
    read_poses,
    read_sweep,
    transforms_of,
)
from storage.ingest.raw_files import check_jpeg
from storage.ingest.raw_scene import IngestConfig, RawScene, check_box_size
from storage.ingest.read_ahead import read_ahead
from storage.ingest.recording import FramePayload, Sweep
from storage.ingest.source_config import SourceConfig
from storage.ingest.source_files import SourceFiles
from storage.ingest.time_units import check_time_unit
from storage.ingest.undistorted_jpeg import plan_camera, undistort_jpeg, undistortion_record
from storage.scenes.schema import SceneBoxes
from storage.stores.integrity import machine_faults

_MIN_POSE_STEP_US = 50.0  # an inertial sensor at 20 kHz
POSE_SOURCE = "rig manifest trajectory, interpolated"


class RigManifestRecording:
    """One scene of a rig manifest.

    Attributes:
        raw: Scene with the intrinsics of the undistorted images; fisheye images stay as recorded.
    """

    def __init__(
        self, source: SourceConfig, scene_name: str, config: IngestConfig, known: KnownDigests | None = None
    ) -> None:
        """Read the manifest and the scene's tables.

        Raises:
            SourceDataError: If the manifest, a table or a mask is broken, or an image or a pose is missing.
        """
        self._config, self._files = config, SourceFiles(source.root, source.link_roots, known)
        manifest = load_manifest(source.root)
        self._scene = find_scene(manifest, scene_name)
        self._rig = manifest.rigs[self._scene.rig]
        self._cameras = _chosen_cameras(self._rig, config, f"{RIG_MANIFEST_FILE}: rigs.{self._scene.rig}.cameras")
        self._plans = {c.name: _plan(c, self._rig, scene_name) for c in self._cameras}
        self._trajectory = self._read_trajectory()
        self.raw = self._read_tables(manifest.version)

    def sources(self) -> Mapping[str, str]:
        """Return the SHA-256 of every table, mask, image and sweep."""
        masks = [camera.valid_mask for camera in self._cameras if camera.valid_mask is not None]
        tables = [f for f in (self._scene.poses, self._scene.frames, self._scene.images, self._scene.boxes) if f]
        images = [file for row in self.raw.image_files for file in row]
        return self._files.digests([*tables, *masks, *images, *(f for f in self.raw.lidar_files if f)])

    def payloads(self) -> Iterator[FramePayload]:
        """Yield images and points in frame order."""
        maps = [plan and plan.build_map() for plan in self._plans.values()]

        def images(frame: int) -> list[Callable[[], bytes]]:
            files = zip(self.raw.image_files[frame], self.raw.image_sizes, maps, strict=True)
            return [partial(self._jpeg, *image) for image in files]

        yield from read_ahead(len(self.raw.timestamp_us), images, self._sweep)

    def _jpeg(self, file: str, size: tuple[int, int], undistortion: UndistortionMap | None) -> bytes:
        data = self._files.read(file)
        check_jpeg(data, file, width=size[1], height=size[0], max_pixels=self._config.max_image_pixels)
        return data if undistortion is None else undistort_jpeg(data, undistortion)

    def _sweep(self, frame: int) -> Sweep:
        file = self.raw.lidar_files[frame]
        return (self._points(frame, file) if file else np.zeros((0, 4), np.float32)), None

    def _points(self, frame: int, file: str) -> Float32[np.ndarray, "points 4"]:
        """Return a sweep's points in the ego frame of the frame's instant, corrected for the vehicle's motion."""
        sweep = read_sweep(self._files.read(file), file)
        points = apply_se3(self.raw.lidar_to_ego, sweep.points[:, :3].astype(np.float64))
        if sweep.time_offset_us is not None:
            points = self._compensated(points, sweep, frame, file)
        return np.concatenate([points.astype(np.float32), sweep.points[:, 3:]], axis=1)

    def _compensated(
        self, points: Float[np.ndarray, "points 3"], sweep: RawSweep, frame: int, file: str
    ) -> Float[np.ndarray, "points 3"]:
        assert sweep.time_offset_us is not None
        offsets, which = np.unique(np.append(sweep.time_offset_us, 0), return_inverse=True)
        try:
            ego_to_world = self._trajectory.at(self.raw.timestamp_us[frame] + offsets)
        except ValueError as error:
            raise SourceDataError(ErrorKind.POSE_INVALID, f"{file}: time_offset_us", str(error)) from error
        moved = (invert_se3(ego_to_world[which[-1]]) @ ego_to_world)[which[:-1]]
        return (moved[:, :3, :3] @ points[:, :, None])[..., 0] + moved[:, :3, 3]

    # --- tables ------------------------------------------------------------------------------------------------------

    def _read_trajectory(self) -> Trajectory:
        instants, poses = read_poses(self._files.read(self._scene.poses), self._scene.poses)
        check_time_unit(instants, f"{self._scene.poses}: timestamp_us", min_step_us=_MIN_POSE_STEP_US)
        try:
            return Trajectory(instants, poses, max_gap_s=self._config.max_pose_gap_s)
        except ValueError as error:
            raise SourceDataError(ErrorKind.TIME_INVALID, f"{self._scene.poses}: timestamp_us", str(error)) from error

    def _read_tables(self, version: str) -> RawScene:
        scene, cameras = self._scene, self._cameras
        recorded = self._frames()
        frames = {name: values[: self._config.max_frames] for name, values in recorded.items()}
        instants = frames["timestamp_us"]
        check_time_unit(instants, f"{scene.frames}: timestamp_us")
        images = read_columns(self._files.read(scene.images), scene.images, IMAGES)
        rows = self._image_rows(images, len(instants))
        exposures = images["timestamp_us"][rows]
        check_time_unit(exposures[:, 0], f"{scene.images}: timestamp_us")
        ego_to_world = self._poses_at(instants, f"{scene.frames}: timestamp_us")
        camera_poses = self._poses_at(exposures, f"{scene.images}: timestamp_us")
        global_to_world = invert_se3(ego_to_world[0])
        lidar, sweeps = self._rig.lidar, self._lidar_files(frames)
        return RawScene(
            name=scene.name,
            camera_names=tuple(c.name for c in cameras),
            image_sizes=tuple((c.height, c.width) for c in cameras),
            intrinsics=np.stack([self._stored_intrinsics(c) for c in cameras]),
            fisheye=np.array([_fisheye(c) for c in cameras]),
            is_valid=tuple(self._is_valid(c) for c in cameras),
            camera_to_ego=np.stack([c.camera_to_ego.sensor_to_ego for c in cameras]),
            lidar_to_ego=np.eye(4) if lidar is None else lidar.lidar_to_ego.sensor_to_ego,
            timestamp_us=instants,
            ego_to_world=global_to_world @ ego_to_world,
            camera_timestamp_us=exposures,
            camera_ego_to_world=global_to_world @ camera_poses,
            image_files=tuple(tuple(str(f) for f in row) for row in images["file"][rows]),
            lidar_files=sweeps,
            boxes=self._boxes(global_to_world, len(instants), len(recorded["frame"])),
            attributes={
                "source_format": "rig_manifest",
                "version": version,
                "rig": scene.rig,
                "description": scene.description,
                "location": scene.location,
                "world_to_global": ego_to_world[0].tolist(),
                "principal_point_shift_px": _pixel_shift(self._rig),
                "undistortion": {
                    c.name: undistortion_record(_intrinsics(c, self._rig), _lens(c), self._plans[c.name])
                    for c in cameras
                    if c.model == "pinhole"
                },
                "lasers": [] if lidar is None else [lidar.name],
                "frames_without_lidar": [] if lidar is None else [i for i, file in enumerate(sweeps) if not file],
            },
            row_digests={f"{RIG_MANIFEST_FILE}#{scene.name}": digest_of([self._rig, scene])},
            pose_source=POSE_SOURCE,
        )

    def _frames(self) -> Columns:
        frames = read_columns(self._files.read(self._scene.frames), self._scene.frames, FRAMES)
        seen = frames["frame"]
        wrong = np.flatnonzero(seen != np.arange(len(seen)))
        if len(wrong) or not len(seen):
            at = int(wrong[0]) if len(wrong) else 0
            message = f"is {seen[at]}, want {at}: frames are numbered from 0" if len(seen) else "holds no frame"
            raise SourceDataError(ErrorKind.TABLE_INVALID, f"{self._scene.frames}: frame[{at}]", message)
        return frames

    def _image_rows(self, images: Columns, num_frames: int) -> Int64[np.ndarray, "frames cameras"]:
        """Return the image-table row of each frame and camera."""
        file = self._scene.images
        known = {camera.name for camera in self._rig.cameras}
        row_of: dict[tuple[int, str], int] = {}
        for row, key in enumerate(zip(images["frame"].tolist(), images["camera"], strict=True)):
            if key[1] not in known:
                message = f"is {key[1]!r}, want one of {sorted(known)}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, f"{file}: camera[{row}]", message)
            if key in row_of:
                message = f"frame {key[0]} has a second image of {key[1]}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, f"{file}: row {row}", message)
            row_of[key] = row
        for frame in range(num_frames):
            for camera in self._cameras:
                if (frame, camera.name) not in row_of:
                    message = f"frame {frame} has no image of {camera.name}"
                    raise SourceDataError(ErrorKind.TABLE_INVALID, file, message)
        return np.array([[row_of[f, c.name] for c in self._cameras] for f in range(num_frames)], np.int64)

    def _poses_at(self, instants: np.ndarray, key: str) -> Float[np.ndarray, "*batch 4 4"]:
        try:
            return self._trajectory.at(instants)
        except ValueError as error:
            raise SourceDataError(ErrorKind.POSE_INVALID, key, f"{error} ({self._scene.poses})") from error

    def _lidar_files(self, frames: Columns) -> tuple[str, ...]:
        num_frames = len(frames["frame"])
        files = frames.get("lidar_file", np.full(num_frames, None, dtype=object))
        if self._rig.lidar is None:
            if any(files):
                message = f"names sweeps, but rig {self._scene.rig!r} has no LiDAR"
                raise SourceDataError(ErrorKind.CALIBRATION_INVALID, f"{self._scene.frames}: lidar_file", message)
            return ("",) * num_frames
        missing = [frame for frame, file in enumerate(files) if not file]
        if missing and not self._config.allow_missing_lidar:
            message = (
                f"is empty, as in {len(missing)} of {num_frames} frames; --ingest.allow-missing-lidar accepts that"
            )
            raise SourceDataError(ErrorKind.LIDAR_INVALID, f"{self._scene.frames}: lidar_file[{missing[0]}]", message)
        return tuple(str(file or "") for file in files)

    def _stored_intrinsics(self, camera: RigCamera) -> Float[np.ndarray, "3 3"]:
        plan = self._plans[camera.name]
        return _intrinsics(camera, self._rig) if plan is None else plan.intrinsics

    def _is_valid(self, camera: RigCamera) -> Bool[np.ndarray, "_ _"] | None:
        if camera.valid_mask is None:
            return None
        if camera.width * camera.height > self._config.max_image_pixels:
            message = f"claims {camera.width} x {camera.height} pixels, want at most {self._config.max_image_pixels}"
            raise SourceDataError(ErrorKind.IMAGE_INVALID, camera.valid_mask, message)
        mask = _decode_mask(self._files.read(camera.valid_mask), camera.valid_mask, (camera.height, camera.width))
        if not mask.any():
            message = f"leaves no pixel of {camera.name}, want what shows the world above 0"
            raise SourceDataError(ErrorKind.IMAGE_INVALID, camera.valid_mask, message)
        plan = self._plans[camera.name]
        if plan is None:
            return mask
        # A stored pixel is blended from four recorded ones: it shows the world only if all of them do.
        spread = np.repeat(np.where(mask, np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)
        return plan.build_map().apply(spread)[..., 0] == 255

    def _boxes(self, global_to_world: Float[np.ndarray, "4 4"], num_frames: int, num_recorded: int) -> SceneBoxes:
        file = self._scene.boxes
        if file is None:
            return SceneBoxes.none()
        columns = read_columns(self._files.read(file), file, BOXES)
        sizes = np.stack([columns[name] for name in ("length", "width", "height")], axis=-1)
        of_frame = columns["frame"]
        if len(wrong := np.flatnonzero((of_frame < 0) | (of_frame >= num_recorded))):
            row = int(wrong[0])
            message = f"is of frame {of_frame[row]}, and the scene has frames 0 to {num_recorded - 1}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, f"{file}: row {row}", message)
        for row, size in enumerate(sizes):
            check_box_size(size, f"{file}: row {row}, size")
        kept = of_frame < num_frames
        box_to_world = global_to_world @ transforms_of(columns, file, ErrorKind.TABLE_INVALID)[kept]
        return SceneBoxes(
            frame_index=of_frame[kept],
            centre=box_to_world[:, :3, 3].copy(),
            size=sizes[kept],
            quat_wxyz=rotation_to_quat_wxyz(box_to_world[:, :3, :3]),
            category=tuple(columns["category"][kept]),
            instance=tuple(columns["instance"][kept]),
        )


def _chosen_cameras(rig: Rig, config: IngestConfig, key: str) -> tuple[RigCamera, ...]:
    by_name = {camera.name: camera for camera in rig.cameras}
    for name in config.cameras:
        if name not in by_name:
            raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, f"has no camera {name!r}, only {list(by_name)}")
    return tuple(by_name[name] for name in config.cameras) or rig.cameras


def _pixel_shift(rig: Rig) -> float:
    """Return the shift of principal points, pixels, that makes (0, 0) the corner of the first pixel."""
    return 0.5 if rig.pixel_origin == "centre" else 0.0


def _intrinsics(camera: RigCamera, rig: Rig) -> Float[np.ndarray, "3 3"]:
    k, shift = camera.intrinsics, _pixel_shift(rig)
    return np.array([[k["fx"], 0.0, k["cx"] + shift], [0.0, k["fy"], k["cy"] + shift], [0.0, 0.0, 1.0]])


def _fisheye(camera: RigCamera) -> list[float]:
    if camera.model == "pinhole":
        return [np.nan] * 4
    assert camera.distortion is not None
    return [float(camera.distortion[name]) for name in ("k1", "k2", "k3", "k4")]


def _lens(camera: RigCamera) -> LensDistortion:
    return LensDistortion(**(camera.distortion or {}))


def _plan(camera: RigCamera, rig: Rig, scene_name: str) -> Undistortion | None:
    if camera.model == "fisheye":
        return None  # what a pinhole could not hold: its images stay as recorded
    return plan_camera(
        _intrinsics(camera, rig), _lens(camera), (camera.height, camera.width), f"{scene_name}/{camera.name}"
    )


def _decode_mask(content: bytes, key: str, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    try:
        with machine_faults(key), Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode != "L" or (image.height, image.width) != size:
                message = (
                    f"is {image.height} x {image.width} of mode {image.mode}, want {size} (height, width) of mode L"
                )
                raise SourceDataError(ErrorKind.IMAGE_INVALID, key, message)
            return np.asarray(image) > 0
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceDataError(ErrorKind.IMAGE_INVALID, key, f"is no PNG that decodes: {error}") from error
