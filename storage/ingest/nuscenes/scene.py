"""A scene as the tables of nuScenes describe it, in this project's conventions.

Points are moved to the ego frame by :mod:`storage.ingest.nuscenes.recording`. Global coordinates (metres, origin in a
map's corner) become relative to the first reference ego pose here. Box sizes are width, length, height and become
length, width, height. Principal points are taken as they are: nuScenes does not say whether its pixel centres are
integers, and half a pixel of 1600 is less than the error of its calibration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from storage.digests import digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import (
    apply_se3,
    from_rotation_translation,
    invert_se3,
    quat_wxyz_to_rotation,
    rotation_to_quat_wxyz,
)
from storage.ingest.nuscenes.splits import splits_of_scene
from storage.ingest.nuscenes.sweeps import choose_frames, walk_chain
from storage.ingest.nuscenes.tables import TABLES, NuScenesTables, Row, as_in_file, find_scene
from storage.ingest.raw_files import number_list
from storage.ingest.raw_scene import IngestConfig, OtherSweep, RawScene, check_box_size
from storage.keys import check_name
from storage.scenes.schema import SceneBoxes

POSE_SOURCE = "nuscenes ego_pose table"
# Two rows of three, as one looks around; cameras of other rigs follow by name.
_CAMERA_ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
_MAX_QUATERNION_DEFECT = 1e-4  # writers round quaternions to a few digits; they are normalised on reading


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shot:
    """One sample_data row: a file, its instant, and the vehicle's pose then."""

    token: str
    file: str
    timestamp_us: int
    ego_to_global: Float[np.ndarray, "4 4"]
    calibration_token: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A sweep with its images, and its sample if it is a keyframe."""

    sweep: _Shot
    shots: list[_Shot]
    sample: Row | None


def read_raw_scene(tables: NuScenesTables, scene_name: str, config: IngestConfig) -> RawScene:
    """Return a scene as its tables describe it.

    Raises:
        SourceDataError: If the scene is unknown or named twice, or one of its rows is missing or holds a wrong value.
    """
    return _SceneRows(tables, check_name(scene_name)).read(config)


class _SceneRows:
    """The rows of one scene; the rows used are remembered, so that their digest can be recorded."""

    def __init__(self, tables: NuScenesTables, scene_name: str) -> None:
        self.tables = tables
        self.scene_name = scene_name
        self.used: dict[str, dict[str, dict[str, Any]]] = {}
        self._channels = {str(row.get("channel")) for row in tables.rows("sensor")}
        self.scene = find_scene(tables, scene_name)
        self._remember("scene", self.scene)

    def read(self, config: IngestConfig) -> RawScene:
        samples = self._samples(config.max_frames)
        cameras = config.cameras or self._cameras(samples)
        frames = self._frames(samples, cameras, config)
        sweeps, shots = [frame.sweep for frame in frames], [frame.shots for frame in frames]
        calibration_rows = [self._fixed_calibration([s[c] for s in shots], name) for c, name in enumerate(cameras)]
        sizes = [self._fixed_size([s[c] for s in shots], name) for c, name in enumerate(cameras)]
        lidar_row = self._fixed_calibration(sweeps, config.lidar)
        first_ego_to_global = sweeps[0].ego_to_global
        global_to_world = invert_se3(first_ego_to_global)
        keyframes = [(i, f.sample) for i, f in enumerate(frames) if f.sample is not None]
        return RawScene(
            name=self.scene_name,
            camera_names=tuple(cameras),
            image_sizes=tuple(sizes),
            intrinsics=np.stack([self._intrinsics(row) for row in calibration_rows]),
            camera_to_ego=np.stack([self._mounting(row) for row in calibration_rows]),
            lidar_to_ego=self._mounting(lidar_row),
            timestamp_us=np.array([s.timestamp_us for s in sweeps], np.int64),
            ego_to_world=global_to_world @ np.stack([s.ego_to_global for s in sweeps]),
            camera_timestamp_us=np.array([[s.timestamp_us for s in row] for row in shots], np.int64),
            camera_ego_to_world=global_to_world @ np.array([[s.ego_to_global for s in row] for row in shots]),
            image_files=tuple(tuple(s.file for s in row) for row in shots),
            lidar_files=tuple(s.file for s in sweeps),
            other_sweeps=self._window(samples[0], sweeps, global_to_world, config),
            lidar_label_files=self._label_files(sweeps),
            boxes=self._boxes(keyframes, global_to_world),
            attributes=self._attributes(frames, config, first_ego_to_global),
            row_digests=self._row_digests(),
            pose_source=POSE_SOURCE,
        )

    def _frames(self, samples: list[Row], cameras: tuple[str, ...], config: IngestConfig) -> list[_Frame]:
        keyframes = [
            _Frame(sweep=self._shot(s, config.lidar), shots=[self._shot(s, c) for c in cameras], sample=s)
            for s in samples
        ]
        if config.frames == "keyframes":
            return keyframes
        sweeps = self._chain(samples[0], config.lidar)
        images = [self._chain(samples[0], camera) for camera in cameras]
        at = [{shot.token: i for i, shot in enumerate(chain)} for chain in (sweeps, *images)]
        chosen, image_of = choose_frames(
            np.array([s.timestamp_us for s in sweeps], np.int64),
            [np.array([s.timestamp_us for s in chain], np.int64) for chain in images],
            [at[0][k.sweep.token] for k in keyframes],
            np.array([[at[1 + c][shot.token] for c, shot in enumerate(k.shots)] for k in keyframes], np.int64),
        )
        sample_of = {k.sweep.token: k.sample for k in keyframes}
        frames = [
            _Frame(
                sweep=sweeps[sweep],
                shots=[chain[i] for chain, i in zip(images, row, strict=True)],
                sample=sample_of.get(sweeps[sweep].token),
            )
            for sweep, row in zip(chosen.tolist(), image_of.tolist(), strict=True)
        ]
        return frames[: config.max_frames]

    def _chain(self, sample: Row, channel: str) -> list[_Shot]:
        """Return all exposures or sweeps of a channel in order of time, including those between keyframes."""
        start = self._row("sample_data", self._keyframe_token(sample, channel), f"sample {sample['token']}")
        rows = walk_chain(start, lambda token, by: self._row("sample_data", token, by), f"{self.scene_name}/{channel}")
        shots = [self._shot_of(row) for row in rows]
        times = [shot.timestamp_us for shot in shots]
        if (wrong := next((i for i in range(1, len(times)) if times[i] <= times[i - 1]), None)) is not None:
            message = f"is at {times[wrong]} us, want later than {times[wrong - 1]}, the row before it"
            raise SourceDataError(ErrorKind.TIME_INVALID, self._key("sample_data", rows[wrong], "timestamp"), message)
        return shots

    def _window(
        self, sample: Row, sweeps: list[_Shot], global_to_world: Float[np.ndarray, "4 4"], config: IngestConfig
    ) -> tuple[tuple[OtherSweep, ...], ...]:
        """Return, for each frame, the sweeps within the window around its own."""
        if config.lidar_window_s == 0:
            return ()
        chain, window_us = self._chain(sample, config.lidar), config.lidar_window_s * 1e6
        return tuple(
            tuple(
                OtherSweep(file=other.file, ego_to_world=global_to_world @ other.ego_to_global)
                for other in chain
                if other.token != own.token and abs(other.timestamp_us - own.timestamp_us) <= window_us
            )
            for own in sweeps
        )

    def _label_files(self, sweeps: list[_Shot]) -> tuple[str, ...]:
        """Return the lidarseg file of each frame, "" for a frame without labels; () for a release without labels."""
        files = {row["sample_data_token"]: str(row["filename"]) for row in self.tables.optional_rows("lidarseg")}
        return tuple(files.get(sweep.token, "") for sweep in sweeps) if files else ()

    # --- rows ------------------------------------------------------------------------------------------------------

    def _key(self, table: str, row: Row, column: str) -> str:
        return f"{self.tables.name(table)}[{row.get('token')}].{column}"

    def _remember(self, table: str, row: Row) -> None:
        self.used.setdefault(table, {})[str(row["token"])] = as_in_file(table, row)

    def _row(self, table: str, token: object, named_by: str) -> Row:
        row = self.tables.row(table, token, named_by=named_by)
        self._remember(table, row)
        return row

    def _row_digests(self) -> dict[str, str]:
        return {
            f"{self.tables.name(table)}#{self.scene_name}": self._digest(table, rows)
            for table, rows in sorted(self.used.items())
        }

    def _digest(self, table: str, rows: Mapping[str, Any]) -> str:
        try:
            return digest_of([rows[token] for token in sorted(rows)])
        except (RecursionError, UnicodeError) as error:
            fault = "is nested too deeply" if isinstance(error, RecursionError) else "holds text that is no Unicode"
            message = f"a row of scene {self.scene_name} {fault}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.tables.name(table), message) from error

    def _samples(self, max_frames: int | None) -> list[Row]:
        token = self.tables.value("scene", self.scene, "first_sample_token")
        named_by, samples = f"scene {self.scene_name}", []
        wanted = self._integer("scene", self.scene, "nbr_samples", ErrorKind.TABLE_INVALID)
        while token:
            sample = self._row("sample", token, named_by)
            if self.tables.value("sample", sample, "scene_token") != self.scene["token"] or len(samples) >= wanted:
                message = f"leads out of scene {self.scene_name} after {len(samples)} of its {wanted} samples"
                raise SourceDataError(ErrorKind.TABLE_INVALID, self._key("sample", sample, "next"), message)
            samples.append(sample)
            if max_frames is not None and len(samples) == max_frames:
                return samples
            token, named_by = self.tables.value("sample", sample, "next"), f"sample {token}"
        if len(samples) != wanted or not samples:
            message = f"is {wanted}, but the chain of samples holds {len(samples)}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self._key("scene", self.scene, "nbr_samples"), message)
        return samples

    def _cameras(self, samples: list[Row]) -> tuple[str, ...]:
        """Return every camera of any keyframe: one that is missing in the first is missed there, not left out."""
        channels = {
            channel
            for sample in samples
            for channel, token in sample["data"].items()
            if self.tables.row("sample_data", token, named_by="its sample")["sensor_modality"] == "camera"
        }
        if not channels:
            message = f"has no camera image, only {sorted(samples[0]['data'])}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self._key("sample", samples[0], "data"), message)
        known = [c for c in _CAMERA_ORDER if c in channels]
        return (*known, *sorted(channels.difference(known)))

    # --- values ----------------------------------------------------------------------------------------------------

    def _keyframe_token(self, sample: Row, channel: str) -> object:
        if channel not in sample["data"]:
            message = f"sample {sample['token']} has no keyframe of {channel!r}, only of {sorted(sample['data'])}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.tables.name("sample_data"), message)
        if (sample["token"], channel) in self.tables.second_keyframes:
            message = f"sample {sample['token']} has several keyframes of {channel!r}, want one"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.tables.name("sample_data"), message)
        return sample["data"][channel]

    def _shot(self, sample: Row, channel: str) -> _Shot:
        return self._shot_of(
            self._row("sample_data", self._keyframe_token(sample, channel), f"sample {sample['token']}")
        )

    def _shot_of(self, row: Row) -> _Shot:
        pose = self._row("ego_pose", self.tables.value("sample_data", row, "ego_pose_token"), f"row {row['token']}")
        return _Shot(
            token=str(row["token"]),
            file=self._file(row),
            timestamp_us=self._integer("sample_data", row, "timestamp", ErrorKind.TIME_INVALID),
            ego_to_global=self._transform("ego_pose", pose, ErrorKind.POSE_INVALID),
            calibration_token=self.tables.value("sample_data", row, "calibrated_sensor_token"),
            size=(
                self._integer("sample_data", row, "height", ErrorKind.TABLE_INVALID),
                self._integer("sample_data", row, "width", ErrorKind.TABLE_INVALID),
            ),
        )

    def _file(self, row: Row) -> str:
        value = self.tables.value("sample_data", row, "filename")
        if not isinstance(value, str):
            key = self._key("sample_data", row, "filename")
            raise SourceDataError(ErrorKind.FILE_UNSAFE, key, f"is {value!r}, want a path relative to the root")
        folder, channel = PurePosixPath(value).parent.name, row.get("channel")
        if folder in self._channels and folder != channel:  # names swapped in a table, or files in their folders
            message = f"is {value!r}, a file of {folder}, want one of {channel}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self._key("sample_data", row, "filename"), message)
        return value

    def _integer(self, table: str, row: Row, column: str, kind: ErrorKind, *, at_least: int = 0) -> int:
        value = self.tables.value(table, row, column)
        if type(value) is not int or not at_least <= value < 2**63:
            raise SourceDataError(kind, self._key(table, row, column), f"is {value!r}, want an integer >= {at_least}")
        return value

    def _transform(self, table: str, row: Row, kind: ErrorKind) -> Float[np.ndarray, "4 4"]:
        rotation = quat_wxyz_to_rotation(self._quaternion(table, row, kind))
        key = self._key(table, row, "translation")
        translation = number_list(self.tables.value(table, row, "translation"), (3,), kind, key)
        return from_rotation_translation(rotation, translation)

    def _quaternion(self, table: str, row: Row, kind: ErrorKind) -> Float[np.ndarray, " 4"]:
        key = self._key(table, row, "rotation")
        quat_wxyz = number_list(self.tables.value(table, row, "rotation"), (4,), kind, key)
        norm = float(np.linalg.norm(quat_wxyz))
        if abs(norm - 1.0) > _MAX_QUATERNION_DEFECT:
            raise SourceDataError(kind, key, f"is {quat_wxyz.tolist()} of norm {norm:.6g}, want a unit quaternion")
        return quat_wxyz

    def _fixed_calibration(self, shots: list[_Shot], channel: str) -> Row:
        """Return the calibration of a channel, which must be the same in all frames."""
        rows = [
            self._row("calibrated_sensor", token, f"a sample_data row of {channel}")
            for token in dict.fromkeys(s.calibration_token for s in shots)
        ]
        for row in rows[1:]:
            for column in ("translation", "rotation", "camera_intrinsic"):
                if row[column] != rows[0][column]:
                    key = self._key("calibrated_sensor", row, column)
                    message = f"{channel} changes from {rows[0][column]} to {row[column]} within {self.scene_name}"
                    raise SourceDataError(ErrorKind.CALIBRATION_INVALID, key, message)
        self._row("sensor", self.tables.value("calibrated_sensor", rows[0], "sensor_token"), f"{channel}'s calibration")
        return rows[0]

    def _fixed_size(self, shots: list[_Shot], channel: str) -> tuple[int, int]:
        for shot in shots:
            if shot.size != shots[0].size or 0 in shot.size:
                message = f"{channel} is {shot.size} (height, width) in its table, want {shots[0].size} and not 0"
                raise SourceDataError(ErrorKind.IMAGE_INVALID, str(shot.file), message)
        return shots[0].size

    def _intrinsics(self, row: Row) -> Float[np.ndarray, "3 3"]:
        value = self.tables.value("calibrated_sensor", row, "camera_intrinsic")
        key = self._key("calibrated_sensor", row, "camera_intrinsic")
        return number_list(value, (3, 3), ErrorKind.CALIBRATION_INVALID, key)

    def _mounting(self, row: Row) -> Float[np.ndarray, "4 4"]:
        return self._transform("calibrated_sensor", row, ErrorKind.CALIBRATION_INVALID)

    def _boxes(self, keyframes: list[tuple[int, Row]], global_to_world: Float[np.ndarray, "4 4"]) -> SceneBoxes:
        rows = [
            (frame, self._row("sample_annotation", token, f"sample {sample['token']}"))
            for frame, sample in keyframes
            for token in sample["anns"]
        ]
        if not rows:
            return SceneBoxes.none()
        centres, sizes, quaternions, categories, num_points = [], [], [], [], []
        for _, row in rows:
            quaternions.append(self._quaternion("sample_annotation", row, ErrorKind.TABLE_INVALID))
            for column, values in (("translation", centres), ("size", sizes)):
                key = self._key("sample_annotation", row, column)
                raw = self.tables.value("sample_annotation", row, column)
                values.append(number_list(raw, (3,), ErrorKind.TABLE_INVALID, key))
            check_box_size(sizes[-1], self._key("sample_annotation", row, "size"))
            instance = self._row("instance", row["instance_token"], f"row {row['token']}")
            categories.append(str(self._row("category", instance["category_token"], "an instance")["name"]))
            num_points.append(self._num_points(row))
        world_rotations = global_to_world[:3, :3] @ quat_wxyz_to_rotation(np.stack(quaternions))
        return SceneBoxes(
            frame_index=np.array([frame for frame, _ in rows], np.int64),
            centre=apply_se3(global_to_world, np.stack(centres)),
            size=np.stack(sizes)[:, [1, 0, 2]],
            quat_wxyz=rotation_to_quat_wxyz(world_rotations),
            category=tuple(categories),
            instance=tuple(str(row["instance_token"]) for _, row in rows),
            num_lidar_points=np.array(num_points, np.int64),
            attributes=tuple(self._attribute_names(row) for _, row in rows),
        )

    def _num_points(self, row: Row) -> int:
        if "num_lidar_pts" not in row:
            return -1
        return self._integer("sample_annotation", row, "num_lidar_pts", ErrorKind.TABLE_INVALID, at_least=-1)

    def _attribute_names(self, row: Row) -> tuple[str, ...]:
        """Return an annotated object's attributes, such as ``vehicle.parked``; empty without the attribute table."""
        if "attribute" in self.tables.missing:
            return ()
        tokens = row.get("attribute_tokens", [])
        if not isinstance(tokens, list):
            key = self._key("sample_annotation", row, "attribute_tokens")
            raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"is {tokens!r}, want a list of tokens")
        return tuple(str(self._row("attribute", token, f"row {row['token']}")["name"]) for token in tokens)

    def _attributes(
        self, frames: list[_Frame], config: IngestConfig, first_ego_to_global: Float[np.ndarray, "4 4"]
    ) -> dict[str, object]:
        log = self._row("log", self.tables.value("scene", self.scene, "log_token"), f"scene {self.scene_name}")
        lidarseg = self.tables.optional_rows("lidarseg")
        categories = {str(row["index"]): row["name"] for row in self.tables.rows("category") if "index" in row}
        return {
            "source_format": "nuscenes",
            "version": self.tables.version,
            "splits": splits_of_scene(self.scene_name, self.tables.version),
            "description": str(self.scene.get("description", "")),
            "location": str(log.get("location", "")),
            "logfile": str(log.get("logfile", "")),
            "frames": config.frames,
            "lidar_window_s": config.lidar_window_s,
            "sample_tokens": [None if f.sample is None else f.sample["token"] for f in frames],
            "world_to_global": first_ego_to_global.tolist(),
            "principal_point_shift_px": 0.0,
            "lidarseg_categories": categories if lidarseg else {},
            "missing_tables": list(self.tables.missing),
            "empty_tables": [t for t in TABLES if t not in self.tables.missing and not self.tables.rows(t)],
        }
