"""Records a world with a rig: every sensor at its own instant, and the exact truth beside it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from storage.geometry.transforms import compose
from storage.procedural.annotate import annotate
from storage.procedural.config import ProceduralConfig
from storage.procedural.nuscenes_writer import Annotation
from storage.procedural.occupancy import OccupancyBuilder
from storage.procedural.posed_camera import PosedCamera
from storage.procedural.render import RenderedView, render_view
from storage.procedural.sensors import CAMERAS, Camera, LidarSweep, lidar_to_ego, simulate_lidar
from storage.procedural.truth import SceneTruth
from storage.procedural.visibility import camera_visibility, lidar_visibility
from storage.procedural.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One image of one camera.

    Attributes:
        name: The camera's.
        ego_to_world: Pose of the car at that instant.
        camera: Where it was, and when.
        view: What it saw.
    """

    name: str
    ego_to_world: Float[np.ndarray, "4 4"]
    camera: PosedCamera
    view: RenderedView


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFrame:
    """One keyframe of all sensors, with its truth.

    Attributes:
        time_us: World time of the LiDAR sweep.
        ego_to_world: Pose of the car then.
        exposures: One for each camera, in the rig's order.
        sweep: The LiDAR's.
        annotations: Boxes.
        occupancy: Occ3D classes in the ego frame of ``time_us``; 17 = free.
        is_visible: Voxels that some camera sees.
        is_scanned: Voxels that the LiDAR sees.
    """

    time_us: int
    ego_to_world: Float[np.ndarray, "4 4"]
    exposures: tuple[Exposure, ...]
    sweep: LidarSweep
    annotations: tuple[Annotation, ...]
    occupancy: UInt8[np.ndarray, "200 200 16"]
    is_visible: Bool[np.ndarray, "200 200 16"]
    is_scanned: Bool[np.ndarray, "200 200 16"]


class Recorder:
    """Records keyframes of one scene, in order: the LiDAR's noise continues from one to the next."""

    def __init__(
        self,
        config: ProceduralConfig,
        world: World,
        world_to_global: Float[np.ndarray, "4 4"],
        rng: np.random.Generator,
        cameras: tuple[Camera, ...] = CAMERAS,
    ) -> None:
        """Prepare the occupancy of the world.

        Args:
            config: Image size and quality.
            world: What to record.
            world_to_global: Frame of the annotations.
            rng: The LiDAR's noise.
            cameras: The rig.
        """
        self._cameras = cameras
        self._config, self._world, self._rng = config, world, rng
        self._to_global = world_to_global
        self._occupancy = OccupancyBuilder(world)

    def record(self, time_us: int) -> RecordedFrame:
        """Record the keyframe whose LiDAR sweep ends at ``time_us``."""
        world = self._world
        grid_to_world = world.ego_to_world(time_us)
        exposures = []
        is_visible = np.zeros((200, 200, 16), bool)
        for camera in self._cameras:
            exposure = self.expose(camera, time_us + camera.delay_us)
            exposures.append(exposure)
            snapshot = world.snapshot(exposure.camera.time_us)
            is_visible |= camera_visibility(snapshot, grid_to_world, exposure.camera, exposure.view.termination_depth)
        lidar_to_world = compose(grid_to_world, lidar_to_ego())
        sweep = simulate_lidar(world, time_us, lidar_to_world, self._rng)
        annotations = annotate(world, time_us, sweep, [e.camera for e in exposures], self._to_global)
        return RecordedFrame(
            time_us=time_us,
            ego_to_world=grid_to_world,
            exposures=tuple(exposures),
            sweep=sweep,
            annotations=tuple(annotations),
            occupancy=self._occupancy.occupancy(time_us),
            is_visible=is_visible,
            is_scanned=lidar_visibility(world.snapshot(time_us), grid_to_world, lidar_to_world, sweep),
        )

    def expose(self, camera: Camera, time_us: int) -> Exposure:
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
        return Exposure(name=camera.name, ego_to_world=ego_to_world, camera=posed, view=view)


def truth_of(frames: list[RecordedFrame]) -> SceneTruth:
    """Return the ground truth of recorded keyframes, without their images."""
    return SceneTruth(
        termination_depth=np.stack([[e.view.termination_depth for e in f.exposures] for f in frames]),
        semantics=np.stack([[e.view.semantics for e in f.exposures] for f in frames]),
        instance=np.stack([[e.view.instance for e in f.exposures] for f in frames]),
        occupancy=np.stack([f.occupancy for f in frames]),
        occupancy_is_visible=np.stack([f.is_visible for f in frames]),
        occupancy_is_scanned=np.stack([f.is_scanned for f in frames]),
        intrinsics=np.stack([e.camera.intrinsics for e in frames[0].exposures]),
    )
