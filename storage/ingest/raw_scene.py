"""A scene as its tables describe it, checked before any of its image and LiDAR files is opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from storage.config_json import added_later
from storage.digests import digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.cameras import focal_fault
from storage.geometry.transforms import rotation_error
from storage.ingest.time_units import check_time_unit
from storage.scenes.schema import SceneBoxes

MAX_LIDAR_WINDOW_S = 10.0
MAX_ROTATION_ERROR = 1e-6  # of a matrix built in float64 from a quaternion that was normalised
MAX_MOUNTING_M = 50.0
"""Distance from the ego frame's origin at which no sensor of a vehicle sits."""

MAX_BOX_M = 450.0
"""Size that no annotated object has, trains included."""

_LEAST_UPRIGHT = 0.5  # cosine between up in the ego frame and up in the world: no vehicle leans by 60 degrees
_POSE_NOISE_RAD = 0.35  # poses of sensors that fire within milliseconds may differ by their noise
_MAX_TURN_RAD_PER_S = 3.0
_MAX_ACCELERATION_MPS2 = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """Parts of a recording to ingest, and limits beyond which it is refused.

    Attributes:
        cameras: Channels to ingest, in this order; empty for every camera of the rig.
        lidar: Channel whose sweeps give the frames' reference instants (nuScenes). Waymo frames have an instant of
            their own, and points of all lasers.
        max_frames: Number of frames to read; None for the whole scene.
        max_image_pixels: Area above which an image is refused as a decompression bomb.
        max_speed_mps: Ego speed between two frames above which a pose counts as a jump, metres a second.
        max_pose_jump_m: Distance by which poses may contradict each other beyond any speed and acceleration of a
            vehicle, metres: the noise of the trajectory.
        max_pose_gap_s: Longest time between two poses of a trajectory that is interpolated, seconds (rig manifest).
        frames: Choice of frames (nuScenes): the annotated keyframes at 2 Hz, or every exposure of the cameras at 12 Hz
            if the release holds the sweeps between keyframes.
        lidar_window_s: Sweeps up to this long before or after a frame's own are moved to its instant by the ego poses
            and added to its points, seconds (nuScenes); 0 for its own alone. Moving objects are smeared.
        allow_missing_lidar: Accept frames without a sweep, where the format permits them; they get no points, and the
            scene's attributes list them. A broken sweep is always an error.
    """

    cameras: tuple[str, ...] = ()
    lidar: str = "LIDAR_TOP"
    max_frames: int | None = None
    max_image_pixels: int = 50_000_000
    max_speed_mps: float = 100.0
    max_pose_jump_m: float = added_later(0.5)
    max_pose_gap_s: float = 0.5
    frames: Literal["keyframes", "sweeps"] = "keyframes"
    lidar_window_s: float = 0.0
    allow_missing_lidar: bool = False

    def __post_init__(self) -> None:
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras are {self.cameras}, want each once")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames is {self.max_frames}, want at least 1 or None")
        if self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels is {self.max_image_pixels}, want at least 1")
        if not self.max_speed_mps > 0:
            raise ValueError(f"max_speed_mps is {self.max_speed_mps}, want more than 0")
        if not self.max_pose_jump_m > 0:
            raise ValueError(f"max_pose_jump_m is {self.max_pose_jump_m}, want more than 0")
        if not self.max_pose_gap_s > 0:
            raise ValueError(f"max_pose_gap_s is {self.max_pose_gap_s}, want more than 0")
        if self.frames not in ("keyframes", "sweeps"):
            raise ValueError(f"frames is {self.frames!r}, want 'keyframes' or 'sweeps'")
        if not 0 <= self.lidar_window_s <= MAX_LIDAR_WINDOW_S:
            raise ValueError(f"lidar_window_s is {self.lidar_window_s}, want 0 to {MAX_LIDAR_WINDOW_S}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSweep:
    """A LiDAR sweep that is added to the points of another frame.

    Attributes:
        file: File, relative to the source's root.
        ego_to_world: Ego pose at its instant.
    """

    file: str
    ego_to_world: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScene:
    """Geometry, times, annotations and file names of one scene; arrays have the meaning given in ``SceneData``.

    Attributes:
        name: Scene name, for errors.
        camera_names: Camera names in the order of every camera axis below.
        image_sizes: Height and width that the tables give for each camera, pixels.
        intrinsics: Intrinsics of the images as stored, pixels.
        fisheye: Coefficients k1 to k4 of each fisheye lens, NaN for a pinhole; None if all are pinholes.
        is_valid: Pixels of each camera's stored images that show the world; None where all do.
        other_sweeps: Sweeps whose points are added to each frame; empty where no frame has any.
        lidar_label_files: File with the classes of each frame's own points, "" for a frame without; empty where no
            frame has one.
        camera_to_ego: Camera poses, fixed on the vehicle.
        lidar_to_ego: LiDAR pose, fixed on the vehicle.
        timestamp_us: Reference instant of each frame.
        ego_to_world: Ego pose at the reference instant.
        camera_timestamp_us: Instant of each exposure.
        camera_ego_to_world: Ego pose at each exposure.
        image_files: Image files ``[frame][camera]``, relative to the source's root; ``<file>#<place>`` inside a
            container file.
        lidar_files: LiDAR file of each frame, in the same form.
        boxes: Annotations.
        attributes: JSON values worth keeping.
        row_digests: SHA-256 of the table rows used, by ``<table file>#<scene>``.
        pose_source: Origin of the ego poses.
    """

    name: str
    camera_names: tuple[str, ...]
    image_sizes: tuple[tuple[int, int], ...]
    intrinsics: Float[np.ndarray, "cameras 3 3"]
    camera_to_ego: Float[np.ndarray, "cameras 4 4"]
    lidar_to_ego: Float[np.ndarray, "4 4"]
    timestamp_us: Int64[np.ndarray, " frames"]
    ego_to_world: Float[np.ndarray, "frames 4 4"]
    camera_timestamp_us: Int64[np.ndarray, "frames cameras"]
    camera_ego_to_world: Float[np.ndarray, "frames cameras 4 4"]
    image_files: tuple[tuple[str, ...], ...]
    lidar_files: tuple[str, ...]
    boxes: SceneBoxes
    attributes: dict[str, object]
    row_digests: Mapping[str, str]
    pose_source: str
    fisheye: Float[np.ndarray, "cameras 4"] | None = None
    is_valid: tuple[Bool[np.ndarray, "_ _"] | None, ...] | None = None
    other_sweeps: tuple[tuple[OtherSweep, ...], ...] = ()
    lidar_label_files: tuple[str, ...] = ()

    @property
    def calibration_digest(self) -> str:
        """Return the SHA-256 of intrinsics and mounting of every sensor."""
        return digest_of(
            {
                "cameras": self.camera_names,
                "sizes": self.image_sizes,
                "intrinsics": self.intrinsics.tolist(),
                "camera_to_ego": self.camera_to_ego.tolist(),
                "lidar_to_ego": self.lidar_to_ego.tolist(),
                "fisheye": None
                if self.fisheye is None
                else [None if np.isnan(k).all() else k.tolist() for k in self.fisheye],
            }
        )


def check_raw_scene(scene: RawScene, config: IngestConfig) -> None:
    """Check the rules that hold for every format.

    Raises:
        SourceDataError: If intrinsics are singular, an image claims too many pixels, a sensor sits far off the vehicle,
            a pose jumps, lies on its side or is no rigid transform, or time stands still, runs back or counts in
            another unit than microseconds.
    """
    for name, intrinsics, size in zip(scene.camera_names, scene.intrinsics, scene.image_sizes, strict=True):
        if size[0] * size[1] > config.max_image_pixels:
            message = f"claims {size[1]} x {size[0]} pixels, want at most {config.max_image_pixels}"
            raise SourceDataError(ErrorKind.IMAGE_INVALID, f"{scene.name}/{name}", message)
        _check_intrinsics(intrinsics, size, f"{scene.name}/{name}")
    if scene.fisheye is not None:
        for name, lens in zip(scene.camera_names, scene.fisheye, strict=True):
            _check_fisheye(lens, f"{scene.name}/{name}")
    _check_rigid(scene.camera_to_ego, ErrorKind.CALIBRATION_INVALID, f"{scene.name}: camera_to_ego")
    _check_rigid(scene.lidar_to_ego, ErrorKind.CALIBRATION_INVALID, f"{scene.name}: lidar_to_ego")
    for name, mounting in (*zip(scene.camera_names, scene.camera_to_ego, strict=True), ("LiDAR", scene.lidar_to_ego)):
        _check_mounting(mounting, f"{scene.name}/{name}")
    _check_rigid(scene.ego_to_world, ErrorKind.POSE_INVALID, f"{scene.name}: ego_to_world")
    _check_rigid(scene.camera_ego_to_world, ErrorKind.POSE_INVALID, f"{scene.name}: camera_ego_to_world")
    _check_advances(scene.timestamp_us, f"{scene.name}: reference instants", scene.lidar_files)
    for index, name in enumerate(scene.camera_names):
        _check_advances(scene.camera_timestamp_us[:, index], f"{scene.name}/{name}")
    _check_upright(scene)
    _check_motion(scene, config)


def check_box_size(size: Float[np.ndarray, "3"], key: str) -> None:
    """Check the size of a box, metres.

    Raises:
        SourceDataError: If it is not that of an object.
    """
    if not ((size > 0) & (size <= MAX_BOX_M)).all():
        message = f"is {size.tolist()}, want all above 0 and at most {MAX_BOX_M:g} m"
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)


def _check_intrinsics(intrinsics: Float[np.ndarray, "3 3"], size: tuple[int, int], key: str) -> None:
    pinhole = intrinsics[1, 0] == 0 and (intrinsics[2] == (0, 0, 1)).all()
    if not (np.isfinite(intrinsics).all() and pinhole and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        message = f"intrinsics are {intrinsics.tolist()}, want [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0"
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)
    if (fault := focal_fault(intrinsics, height=size[0], width=size[1])) is not None:
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, fault)


def _check_fisheye(lens: Float[np.ndarray, "4"], key: str) -> None:
    if not (np.isfinite(lens).all() or np.isnan(lens).all()):
        message = f"fisheye coefficients are {lens.tolist()}, want four finite numbers, or four NaN for a pinhole"
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)


def _check_rigid(a_to_b: Float[np.ndarray, "*batch 4 4"], kind: ErrorKind, key: str) -> None:
    finite = np.isfinite(a_to_b).all(axis=(-2, -1))
    rigid = finite & (a_to_b[..., 3, :] == (0, 0, 0, 1)).all(axis=-1)
    # NaN compares false, so what is not finite never counts as a small error.
    rigid &= rotation_error(np.where(finite[..., None, None], a_to_b, 0.0)[..., :3, :3]) <= MAX_ROTATION_ERROR
    if not rigid.all():
        index = tuple(int(i) for i in np.argwhere(~rigid)[0])
        message = f"is {a_to_b[index].tolist()}, want a rotation and a finite translation"
        raise SourceDataError(kind, f"{key}{list(index)}", message)


def _check_advances(timestamp_us: Int64[np.ndarray, " frames"], key: str, files: tuple[str, ...] = ()) -> None:
    check_time_unit(timestamp_us, key)
    backwards = np.flatnonzero(np.diff(timestamp_us) <= 0)
    if len(backwards):
        frame = int(backwards[0]) + 1
        message = f"frame {frame} is at {timestamp_us[frame]} us, want later than {timestamp_us[frame - 1]}"
        of_file = f" of {files[frame]}" if files and files[frame] else ""
        raise SourceDataError(ErrorKind.TIME_INVALID, f"{key}{of_file}", message)


def _check_mounting(sensor_to_ego: Float[np.ndarray, "4 4"], key: str) -> None:
    distance = float(np.linalg.norm(sensor_to_ego[:3, 3]))
    if distance > MAX_MOUNTING_M:
        message = (
            f"sits {distance:.4g} m from the ego frame's origin, want at most {MAX_MOUNTING_M:g}: "
            "is it given in mm, or in the world frame?"
        )
        raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)


def _check_upright(scene: RawScene) -> None:
    """Check that the vehicle stands on its wheels, by its source's own world where the scene tells of it."""
    to_global = scene.attributes.get("world_to_global")
    up = np.asarray(to_global, np.float64)[2, :3] if isinstance(to_global, list) else np.array([0.0, 0.0, 1.0])
    for name, poses in (("ego_to_world", scene.ego_to_world), ("camera_ego_to_world", scene.camera_ego_to_world)):
        upright = poses[..., :3, 2] @ up
        if (upright < _LEAST_UPRIGHT).any():
            index = tuple(int(i) for i in np.argwhere(upright < _LEAST_UPRIGHT)[0])
            lean = np.degrees(np.arccos(np.clip(upright[index], -1.0, 1.0)))
            message = (
                f"leans {lean:.0f} degrees away from the world's z axis, want at most "
                f"{np.degrees(np.arccos(_LEAST_UPRIGHT)):.0f}: are its quaternions in the order x, y, z, w, or does z "
                "point down?"
            )
            raise SourceDataError(ErrorKind.POSE_INVALID, f"{scene.name}: {name}{list(index)}", message)


def _check_motion(scene: RawScene, config: IngestConfig) -> None:
    """Check that the poses of all sensors are those of one vehicle that moves as vehicles do."""
    tracks = [("ego_to_world", scene.ego_to_world, scene.timestamp_us)]
    for index, name in enumerate(scene.camera_names):
        tracks.append(
            (f"{name}.ego_to_world", scene.camera_ego_to_world[:, index], scene.camera_timestamp_us[:, index])
        )
    named = [(name, frame) for name, poses, _ in tracks for frame in range(len(poses))]
    poses, instants = np.concatenate([t[1] for t in tracks]), np.concatenate([t[2] for t in tracks])
    order = np.argsort(instants, kind="stable")
    _check_steps(poses[order], instants[order], [named[i] for i in order], config, scene.name)
    for name, track, times in tracks:
        _check_acceleration(track, times, config.max_pose_jump_m, f"{scene.name}: {name}")


def _check_steps(
    poses: Float[np.ndarray, "poses 4 4"],
    instants: Int64[np.ndarray, " poses"],
    named: list[tuple[str, int]],
    config: IngestConfig,
    scene_name: str,
) -> None:
    seconds = np.diff(instants) * 1e-6
    distance = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1)
    turns = np.swapaxes(poses[:-1, :3, :3], -1, -2) @ poses[1:, :3, :3]
    angle = np.arccos(np.clip(0.5 * (np.trace(turns, axis1=-2, axis2=-1) - 1.0), -1.0, 1.0))
    excess = np.maximum(
        (distance - config.max_pose_jump_m) / config.max_speed_mps - seconds,
        (angle - _POSE_NOISE_RAD) / _MAX_TURN_RAD_PER_S - seconds,
    )
    if len(excess) and excess.max() > 0:
        at = int(excess.argmax())
        (before, frame_before), (after, frame_after) = named[at], named[at + 1]
        message = (
            f"pose jumps by {distance[at]:.2f} m and {np.degrees(angle[at]):.0f} degrees within {seconds[at]:.4f} s of "
            f"{before}[{frame_before}], want at most {config.max_speed_mps:g} m/s and {_MAX_TURN_RAD_PER_S:g} rad/s"
        )
        raise SourceDataError(ErrorKind.POSE_INVALID, f"{scene_name}: {after}[{frame_after}]", message)


def _check_acceleration(
    poses: Float[np.ndarray, "frames 4 4"], instants: Int64[np.ndarray, " frames"], max_jump_m: float, key: str
) -> None:
    if len(poses) < 3:
        return
    seconds, place = np.diff(instants) * 1e-6, poses[:, :3, 3]
    share = (seconds[:-1] / (seconds[:-1] + seconds[1:]))[:, None]
    astray = np.linalg.norm(place[1:-1] - (1.0 - share) * place[:-2] - share * place[2:], axis=-1)
    allowed = max_jump_m + 0.5 * _MAX_ACCELERATION_MPS2 * seconds[:-1] * seconds[1:]
    if (astray > allowed).any():
        frame = int(np.argmax(astray - allowed))
        message = (
            f"lies {astray[frame]:.2f} m from the way between the poses before and after it, want at most "
            f"{allowed[frame]:.2f}: no vehicle accelerates like that"
        )
        raise SourceDataError(ErrorKind.POSE_INVALID, f"{key}[{frame + 1}]", message)
