"""Recorder of a world with a rig: every sensor at its own instant, with the exact truth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from storage.geometry.transforms import compose
from storage.ingest.nuscenes.occ3d import Occ3dLabels
from storage.procedural.config import ProceduralConfig
from storage.procedural.sensing.occupancy import OccupancyBuilder
from storage.procedural.sensing.posed_camera import PosedCamera
from storage.procedural.sensing.render import RenderedView, render_view
from storage.procedural.sensing.rigs import rig_cameras
from storage.procedural.sensing.sensors import Camera, LidarSweep, lidar_to_ego, simulate_lidar
from storage.procedural.sensing.visibility import camera_visibility, lidar_visibility
from storage.procedural.world.world import World
from storage.procedural.writers.annotate import annotate
from storage.procedural.writers.nuscenes_writer import Annotation
from storage.procedural.writers.truth import FrameTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedView:
    """One image of one camera.

    Attributes:
        name: Name of the camera.
        ego_to_world: Ego pose at that instant.
        camera: Pose and time of the camera.
        view: Rendered view.
    """

    name: str
    ego_to_world: Float[np.ndarray, "4 4"]
    camera: PosedCamera
    view: RenderedView


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSweep:
    """One sweep of the LiDAR.

    Attributes:
        time_us: World time, microseconds.
        ego_to_world: Ego pose at that time.
        sweep: Returns of the sweep.
    """

    time_us: int
    ego_to_world: Float[np.ndarray, "4 4"]
    sweep: LidarSweep


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFrame:
    """One keyframe of all sensors, with its truth.

    Attributes:
        time_us: World time of the LiDAR sweep, microseconds.
        exposures: One exposure for each camera, in the rig's order.
        sweep: LiDAR sweep.
        between: Images since the previous keyframe, in order of time, without truth.
        sweeps_between: LiDAR sweeps since the previous keyframe.
        annotations: Annotated boxes.
        occupancy: Occ3D classes in the ego frame of ``time_us``; 17 = free.
        is_visible: Whether some camera sees each voxel.
        is_scanned: Whether the LiDAR sees each voxel.
    """

    time_us: int
    exposures: tuple[CapturedView, ...]
    sweep: TimedSweep
    between: tuple[CapturedView, ...]
    sweeps_between: tuple[TimedSweep, ...]
    annotations: tuple[Annotation, ...]
    occupancy: UInt8[np.ndarray, "200 200 16"]
    is_visible: Bool[np.ndarray, "200 200 16"]
    is_scanned: Bool[np.ndarray, "200 200 16"]

    @property
    def labels(self) -> Occ3dLabels:
        """Return the occupancy in the form of Occ3D."""
        return Occ3dLabels(semantics=self.occupancy, mask_lidar=self.is_scanned, mask_camera=self.is_visible)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScene:
    """Everything that a writer needs of a scene before its frames.

    Attributes:
        name: Scene name.
        log_name: Name of the recording.
        location: Kind of place.
        description: One line of text.
        start_timestamp_us: Timestamp of world time 0.
        world: World that is recorded.
        world_to_global: Transform to the data set's coordinates.
    """

    name: str
    log_name: str
    location: str
    description: str
    start_timestamp_us: int
    world: World
    world_to_global: Float[np.ndarray, "4 4"]


class Recorder:
    """Records the keyframes of one scene in order; the LiDAR's noise continues from one to the next."""

    def __init__(
        self,
        config: ProceduralConfig,
        world: World,
        world_to_global: Float[np.ndarray, "4 4"],
        rng: np.random.Generator,
    ) -> None:
        """Prepare the occupancy of the world.

        Args:
            config: Rig, rates and image size.
            world: World to record.
            world_to_global: Transform to the frame of the annotations.
            rng: Source of the LiDAR's noise.
        """
        self._cameras = rig_cameras(config)
        self._config, self._world, self._rng = config, world, rng
        self._to_global = world_to_global
        self._occupancy = OccupancyBuilder(world)

    def record(self, frame: int) -> RecordedFrame:
        """Record a keyframe, and the images and sweeps since the one before."""
        config, world, time_us = self._config, self._world, self._config.keyframe_time_us(frame)
        between = [
            self._expose(camera, t + camera.delay_us)
            for t in config.times_between_us(frame, config.camera_sweep_rate_hz)
            for camera in self._cameras
        ]
        sweeps_between = [self._scan(t) for t in config.times_between_us(frame, config.lidar_sweep_rate_hz)]
        grid_to_world = world.ego_to_world(time_us)
        exposures = []
        is_visible = np.zeros((200, 200, 16), bool)
        for camera in self._cameras:
            exposure = self._expose(camera, time_us + camera.delay_us)
            exposures.append(exposure)
            snapshot = world.snapshot(exposure.camera.time_us)
            is_visible |= camera_visibility(snapshot, grid_to_world, exposure.camera, exposure.view.termination_depth)
        sweep = self._scan(time_us)
        lidar_to_world = compose(grid_to_world, lidar_to_ego())
        annotations = annotate(world, time_us, sweep.sweep, [e.camera for e in exposures], self._to_global)
        return RecordedFrame(
            time_us=time_us,
            exposures=tuple(exposures),
            sweep=sweep,
            between=tuple(between),
            sweeps_between=tuple(sweeps_between),
            annotations=tuple(annotations),
            occupancy=self._occupancy.occupancy(time_us),
            is_visible=is_visible,
            is_scanned=lidar_visibility(world.snapshot(time_us), grid_to_world, lidar_to_world, sweep.sweep),
        )

    def _scan(self, time_us: int) -> TimedSweep:
        ego_to_world = self._world.ego_to_world(time_us)
        sweep = simulate_lidar(self._world, time_us, compose(ego_to_world, lidar_to_ego()), self._rng)
        return TimedSweep(time_us=time_us, ego_to_world=ego_to_world, sweep=sweep)

    def _expose(self, camera: Camera, time_us: int) -> CapturedView:
        """Return one image of one camera."""
        config = self._config
        ego_to_world = self._world.ego_to_world(time_us)
        posed = PosedCamera(
            time_us=time_us,
            camera_to_world=compose(ego_to_world, camera.camera_to_ego()),
            intrinsics=camera.intrinsics(config.image_height, config.image_width),
            height=config.image_height,
            width=config.image_width,
            fisheye=None if camera.fisheye is None else np.array(camera.fisheye),
        )
        view = render_view(self._world, posed, antialias=config.antialias)
        return CapturedView(name=camera.name, ego_to_world=ego_to_world, camera=posed, view=view)


def truth_of(frame: RecordedFrame) -> FrameTruth:
    """Return the ground truth of a keyframe, without its images."""
    views = [e.view for e in frame.exposures]
    return FrameTruth(
        termination_depth=np.stack([v.termination_depth for v in views]),
        semantics=np.stack([v.semantics for v in views]),
        instance=np.stack([v.instance for v in views]),
        surface=np.stack([v.surface for v in views]),
        occupancy=frame.occupancy,
        occupancy_is_visible=frame.is_visible,
        occupancy_is_scanned=frame.is_scanned,
    )
