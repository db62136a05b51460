"""Waymo's sensors in a procedural world: images through lenses, range images of a turning laser, boxes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Int32
from PIL import Image

from storage.digests import bytes_digest
from storage.geometry.transforms import apply_se3, invert_se3
from storage.ingest.waymo.frames import beam_directions
from storage.ingest.waymo.panoptic import encode_panoptic
from storage.ingest.waymo.projection import project_box, project_points
from storage.ingest.waymo.scene import (
    CAMERAS,
    Exposure,
    FrameContent,
    FrameHeader,
    LaserReturn,
    LaserSweep,
    WaymoBox,
    WaymoCamera,
    WaymoLaserMount,
)
from storage.procedural.appearance.materials import texture_atlas
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.sensors import LidarSweep
from storage.procedural.world.world import World
from storage.procedural.writers.annotate import annotate
from storage.testing.waymo.classes import waymo_lidar_table
from storage.testing.waymo.lens import render_through_lens
from storage.testing.waymo.panoptic import DIVISOR, panoptic_through_lens
from storage.testing.waymo.rig import WaymoRigConfig, exposure_delay_us

SPIN_US = 100_000
_SHUTTER_S = 0.0026
_MAX_RANGE_M = {"TOP": 75.0}
_NEAR_MAX_RANGE_M = 20.0
_MIN_RANGE_M = 0.5
_DIVERGENCE_RAD = 1.5e-3  # the lower rim of a beam; where it meets something else, there is a second return
_MIN_SPLIT_M = 0.5
_TYPES = {
    "TYPE_VEHICLE": ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle"),
    "TYPE_PEDESTRIAN": ("pedestrian",),
    "TYPE_CYCLIST": ("bicycle",),
}
_NUMBER_OF_CAMERA = {name: number for number, name in CAMERAS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedFrame:
    """One frame, ready to be written in either format, with the truth to check a reader against.

    Attributes:
        header: Poses, times, boxes.
        content: Images and range images.
        points_world: Place of every return in the world frame, metres: lasers in order, first returns before second
            ones.
    """

    header: FrameHeader
    content: FrameContent
    points_world: Float[np.ndarray, "points 3"]


class WaymoCapture:
    """Captures frames of one world, one after the other.

    Attributes:
        world: World that is captured.
        cameras: Calibrated cameras, by name.
        lasers: Calibrated lasers, by name.
    """

    def __init__(
        self,
        config: WaymoRigConfig,
        world: World,
        world_to_global: Float[np.ndarray, "4 4"],
        start_us: int,
    ) -> None:
        """Calibrate the rig.

        Args:
            config: Settings of the rig.
            world: World to capture.
            world_to_global: Transform to the data set's coordinates.
            start_us: Time 0 of the world, microseconds since 1970.
        """
        self._config, self.world, self._start_us = config, world, start_us
        self._to_global = world_to_global
        self.cameras = config.cameras()
        self.lasers = config.lasers()

    def capture(self, time_us: int, key: str, *, has_labels: bool = False) -> CapturedFrame:
        """Return the frame at world time ``time_us``; ``has_labels`` adds the labels of points and images."""
        world = self.world
        jpegs = {name: self._jpeg(camera, time_us + exposure_delay_us(name)) for name, camera in self.cameras.items()}
        panoptics = self._panoptics(time_us) if has_labels else {}
        divisor = DIVISOR if has_labels else None
        exposures = {
            name: replace(self._exposure(name, time_us, jpegs[name]), panoptic_divisor=divisor) for name in self.cameras
        }
        sweeps, points, actors = [], [], []
        for mount in self.lasers.values():
            sweep, hit_points, hit_actors = self._scan(mount, time_us, exposures, has_labels=has_labels)
            sweeps.append(sweep)
            points.append(hit_points)
            actors.append(hit_actors)
        header = FrameHeader(
            timestamp_us=self._start_us + time_us,
            ego_to_global=self._to_global @ world.ego_to_world(time_us),
            exposures=exposures,
            boxes=self._boxes(time_us, np.concatenate(actors)),
            projected={},
            lasers=tuple(self.lasers),
            key=key,
            has_lidar_labels=has_labels,
        )
        projected = {name: self._rectangles(header, camera) for name, camera in self.cameras.items()}
        return CapturedFrame(
            header=replace(header, projected=projected),
            content=FrameContent(jpegs=jpegs, sweeps=tuple(sweeps), panoptics=panoptics),
            points_world=np.concatenate(points),
        )

    # --- cameras ---------------------------------------------------------------------------------------------------

    def _exposure(self, name: str, time_us: int, jpeg: bytes) -> Exposure:
        exposed_us = time_us + exposure_delay_us(name)
        pose = self._to_global @ self.world.ego_to_world(exposed_us)
        later = self._to_global @ self.world.ego_to_world(exposed_us + 1000)
        turn = (later[:3, :3] @ pose[:3, :3].T - np.eye(3)) * 1000.0
        seconds = (self._start_us + exposed_us) * 1e-6
        return Exposure(
            ego_to_global=pose,
            pose_timestamp=seconds,
            trigger=seconds - 0.5 * _SHUTTER_S,
            readout_done=seconds + 0.5 * _SHUTTER_S,
            shutter=_SHUTTER_S,
            velocity=np.concatenate([(later[:3, 3] - pose[:3, 3]) * 1000.0, [turn[2, 1], turn[0, 2], turn[1, 0]]]),
            digest=bytes_digest(jpeg),
        )

    def _jpeg(self, camera: WaymoCamera, time_us: int) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(render_through_lens(self.world, time_us, camera))
        image.save(buffer, "JPEG", quality=self._config.jpeg_quality, subsampling=0)
        return buffer.getvalue()

    def _panoptics(self, time_us: int) -> dict[str, bytes]:
        return {
            name: encode_panoptic(panoptic_through_lens(self.world, time_us + exposure_delay_us(name), camera))
            for name, camera in self.cameras.items()
        }

    # --- lasers ----------------------------------------------------------------------------------------------------

    def _scan(
        self, mount: WaymoLaserMount, time_us: int, exposures: Mapping[str, Exposure], *, has_labels: bool
    ) -> tuple[LaserSweep, Float[np.ndarray, "points 3"], Int[np.ndarray, " points"]]:
        """Return a sweep, the places of its returns in world, and the actors that they came from (0: surroundings)."""
        spins = mount.name == "TOP"
        shape = self._config.top_shape if spins else self._config.near_shape
        directions = beam_directions(mount, shape)
        ranges = np.full((2, *shape), -1.0)
        intensity = np.full((2, *shape), -1.0)
        actor = np.zeros((2, *shape), np.int64)
        waymo_class = np.zeros((2, *shape), np.int64)
        place = np.zeros((2, *shape, 3))
        pixel_pose = np.zeros((*shape, 6), np.float32)
        for columns, spin_us in self._spin(shape[1]) if spins else [(np.arange(shape[1]), 0)]:
            ego_to_world = self.world.ego_to_world(time_us + spin_us)
            pixel_pose[:, columns] = _roll_pitch_yaw_xyz(self._to_global @ ego_to_world)
            part = self._cast(mount, directions[:, columns], time_us + spin_us, ego_to_world)
            for whole, piece in zip((ranges, intensity, actor, waymo_class, place), part, strict=True):
                whole[:, :, columns] = piece
        is_return = ranges > 0
        projection = self._camera_projection(place, is_return, exposures)
        rest = np.where(is_return, 0.0, -1.0)
        values = np.stack([ranges, intensity, rest, rest], axis=-1).astype(np.float32)
        # Waymo labels the spinning laser's points alone.
        labels = np.stack([actor, waymo_class], axis=-1).astype(np.int32) if has_labels and spins else (None, None)
        sweep = LaserSweep(
            name=mount.name,
            returns=tuple(LaserReturn(values=values[i], projection=projection[i], labels=labels[i]) for i in range(2)),
            pixel_pose=pixel_pose if spins else None,
        )
        return sweep, place[is_return], actor[is_return]

    def _spin(self, num_columns: int) -> list[tuple[Int[np.ndarray, " columns"], int]]:
        parts = np.array_split(np.arange(num_columns), self._config.spin_steps)
        return [(part, round((i + 0.5) / len(parts) * SPIN_US)) for i, part in enumerate(parts)]

    def _cast(
        self,
        mount: WaymoLaserMount,
        directions: Float[np.ndarray, "beams columns 3"],
        time_us: int,
        ego_to_world: Float[np.ndarray, "4 4"],
    ) -> tuple[np.ndarray, ...]:
        """Return ranges (-1 without a return), intensities, actors, classes and places in world of both returns."""
        laser_to_world = ego_to_world @ mount.laser_to_ego
        limit = _MAX_RANGE_M.get(mount.name, _NEAR_MAX_RANGE_M)
        rim = directions - [0.0, 0.0, _DIVERGENCE_RAD]
        found = [self._first_hits(rays, laser_to_world, time_us, limit) for rays in (directions, rim)]
        shape = directions.shape[:2]
        ranges = np.stack([f[0].reshape(shape) for f in found])
        is_split = (ranges > 0).all(axis=0) & (np.abs(ranges[1] - ranges[0]) > _MIN_SPLIT_M)
        ranges[1] = np.where(is_split, ranges[1], -1.0)
        intensity = np.where(ranges > 0, np.stack([f[1].reshape(shape) for f in found]), -1.0)
        actor, waymo_class = (np.where(ranges > 0, np.stack([f[i].reshape(shape) for f in found]), 0) for i in (2, 3))
        # A range image knows one direction for each pixel: the second return is placed along the beam's middle.
        local = directions * ranges[..., None]
        place = apply_se3(laser_to_world, local.reshape(-1, 3)).reshape(local.shape)
        return ranges, intensity, actor, waymo_class, place

    def _first_hits(
        self,
        local: Float[np.ndarray, "beams columns 3"],
        laser_to_world: Float[np.ndarray, "4 4"],
        time_us: int,
        limit: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        snapshot = self.world.snapshot(time_us)
        rays = local.reshape(-1, 3) @ laser_to_world[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        directions = np.ascontiguousarray(rays, np.float32)
        origins = np.broadcast_to(laser_to_world[:3, 3].astype(np.float32), directions.shape).copy()
        hits = snapshot.first_hits(origins, directions)
        is_hit = (hits.face >= 0) & (hits.distance > _MIN_RANGE_M) & (hits.distance < limit)
        face = np.where(is_hit, hits.face, 0)
        # float32 is what a range image holds; rounding here keeps the truth equal to what is written.
        ranges = np.where(is_hit, hits.distance, -1.0).astype(np.float32).astype(np.float64)
        reflectivity = texture_atlas().reflectivity[snapshot.table.material[face]]
        actor = np.where(is_hit, snapshot.table.instance[face], 0)
        waymo_class = waymo_lidar_table()[snapshot.table.class_id[face]]
        return ranges, reflectivity.astype(np.float64), actor.astype(np.int64), waymo_class

    def _camera_projection(
        self,
        place: Float[np.ndarray, "2 beams columns 3"],
        is_return: np.ndarray,
        exposures: Mapping[str, Exposure],
    ) -> Int32[np.ndarray, "2 beams columns 6"]:
        """Return number and pixel of up to two cameras that each return falls into; number 0 for no camera."""
        out = np.zeros((*place.shape[:3], 6), np.int32)
        points = apply_se3(self._to_global, place[is_return])
        found = np.zeros((len(points), 6), np.int32)
        for name, camera in self.cameras.items():
            pixels = np.nan_to_num(project_points(points, camera, exposures[name]), nan=-1.0)
            inside = ((pixels >= 0) & (pixels < [camera.size[1], camera.size[0]])).all(axis=1)
            for slot in (0, 3):
                free = inside & (found[:, slot] == 0)
                found[free, slot] = _NUMBER_OF_CAMERA[name]
                found[free, slot + 1 : slot + 3] = np.floor(pixels[free]).astype(np.int32)
                inside &= ~free
        out[is_return] = found
        return out

    # --- annotations -----------------------------------------------------------------------------------------------

    def _boxes(self, time_us: int, actors: Int[np.ndarray, " points"]) -> tuple[WaymoBox, ...]:
        world = self.world
        ego_to_world = world.ego_to_world(time_us)
        sweep = LidarSweep(
            points=np.zeros((len(actors), 3), np.float32),
            intensity=np.zeros(len(actors), np.float32),
            ring=np.zeros(len(actors), np.uint8),
            instance=actors,
        )
        views = [
            PosedCamera(
                time_us=time_us,
                camera_to_world=ego_to_world @ c.camera_to_ego,
                intrinsics=c.intrinsics,
                height=c.size[0],
                width=c.size[1],
            )
            for c in self.cameras.values()
        ]
        boxes = []
        for found in annotate(world, time_us, sweep, views, np.eye(4)):
            category = next((name for name, classes in _TYPES.items() if found.class_name in classes), None)
            if category is None:
                continue  # Waymo labels road users only
            box_to_ego = invert_se3(ego_to_world) @ found.box_to_global
            boxes.append(
                WaymoBox(
                    centre=box_to_ego[:3, 3].copy(),
                    size=np.array(found.size, np.float64),
                    heading=float(np.arctan2(box_to_ego[1, 0], box_to_ego[0, 0])),
                    category=category,
                    instance=f"actor-{found.instance:04d}",
                    num_lidar_points=found.num_lidar_points,
                )
            )
        return tuple(boxes)

    def _rectangles(self, header: FrameHeader, camera: WaymoCamera) -> dict[str, Float[np.ndarray, " 4"]]:
        found = {box.instance: project_box(box, header, camera) for box in header.boxes}
        return {instance: rectangle for instance, rectangle in found.items() if rectangle is not None}


def _roll_pitch_yaw_xyz(pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " 6"]:
    r = pose[:3, :3]
    return np.array(
        [
            np.arctan2(r[2, 1], r[2, 2]),
            -np.arcsin(np.clip(r[2, 0], -1.0, 1.0)),
            np.arctan2(r[1, 0], r[0, 0]),
            *pose[:3, 3],
        ]
    )
