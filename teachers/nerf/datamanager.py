"""nerfstudio's data manager over a scene store: every batch is drawn from rays that were prepared once.

No worker processes: the rays are in memory, and nerfstudio's parallel managers spawn, which hangs a program without a
``__main__`` guard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.nn import Parameter

from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.config import NerfConfig
from teachers.nerf.dataparser import scene_cameras
from teachers.nerf.error_map import ErrorMap
from teachers.nerf.model import to_ray_bundle
from teachers.nerf.moving_points import MovingPoints
from teachers.nerf.moving_source import find_moving
from teachers.nerf.refinement import PoseRefinement, camera_motion
from teachers.nerf.scene_rays import (
    FrameSplit,
    RayBatch,
    SceneBounds,
    SceneRays,
    measure_bounds,
    read_sky_mask,
    split_frames,
)
from teachers.nerf.splats import draw_image, seed_points
from teachers.nerf.trajectory import AlignedTrajectory, settle_trajectory

_FLOW_POINTS = 2048
"""Points per step whose flow is compared with how they are known to move."""


@dataclass
class SceneDataManagerConfig(DataManagerConfig):
    """Which scene of which home to fit, and how.

    ``scene_digest`` and ``sky_mask_digest`` pin versions; empty means the current one.
    """

    _target: type = field(default_factory=lambda: SceneDataManager)
    home_root: Path = Path("runs/default")
    store_url: str | None = None
    scene_key: str = ""
    scene_digest: str = ""
    sky_mask_digest: str = ""
    nerf: NerfConfig = field(default_factory=NerfConfig)


@dataclass(frozen=True)
class SceneDescription:
    """What nerfstudio's pipeline reads from a data set: its length, box and metadata."""

    cameras: Cameras
    scene_box: SceneBox
    metadata: dict[str, Any]

    def __len__(self) -> int:
        return len(self.cameras)


class SceneDataManager(DataManager):
    """Draw training rays of one scene.

    Attributes:
        recorded: The scene as recorded.
        trajectory: Corrections of its poses.
        scene: The scene with corrected poses.
        split: Which frames are fitted when, and which judge.
        bounds: The field's box.
        fitted_frames: Frames that are drawn from: those of the first phase, later all.
        rays: Rays of the fitted frames.
        moving_points: Points whose motion is known; None where none is.
        moving_places: Per frame of the scene, points of what moves there; see ``FoundMoving``.
    """

    config: SceneDataManagerConfig

    def __init__(self, config: SceneDataManagerConfig, device: str = "cpu", **_kwargs: object) -> None:
        self.config = config
        self.device = device
        self.nerf = config.nerf
        home = Home(config.home_root, store_url=config.store_url)
        self.recorded = SceneReader.open(home, config.scene_key, config.scene_digest or None)
        self.trajectory: AlignedTrajectory = settle_trajectory(self.recorded, self.nerf.trajectory)
        self.scene = self.recorded.moved(self.trajectory.corrections)
        self.split: FrameSplit = split_frames(self.scene.num_frames, holdout_every=self.nerf.holdout_every)
        self.bounds: SceneBounds = measure_bounds(self.scene, self.split.train)
        self.is_sky = (
            read_sky_mask(home, config.scene_key, config.sky_mask_digest or None) if self.nerf.use_sky_mask else None
        )
        self.refinement: PoseRefinement | None = None
        self.fit_frames(self.split.train)
        self.generator = torch.Generator().manual_seed(self.nerf.seed)
        self.train_dataset = describe(self.scene, self.split.train, self.bounds, self.nerf)  # type: ignore[assignment]
        if self.nerf.method == "gsplat":
            seeds = seed_points(self.rays, self.nerf.num_gaussians, self.generator)
            self.train_dataset.metadata["seeds"] = seeds
        self.eval_dataset = None
        self.test_mode = "inference"  # nerfstudio's own loaders are not set up
        super().__init__()

    def fit_frames(self, frames: tuple[int, ...]) -> None:
        """Draw from these frames from now on."""
        returns_move = None
        self.moving_points: MovingPoints | None = None
        self.moving_places: list[Float[np.ndarray, "_ 3"]] | None = None
        if self.nerf.field.dynamic:
            moving = find_moving(self.scene, frames, self.bounds, source=self.nerf.moving_source)
            returns_move, self.moving_points = moving.returns_move, moving.points
            self.moving_places = moving.places
        self.fitted_frames = frames
        self.rays = self.rays_of(frames, returns_move=returns_move)
        self.errors = self._error_map()

    def rays_of(
        self,
        frames: tuple[int, ...],
        *,
        scene: SceneReader | None = None,
        moving: MovingBoxes | None = None,
        returns_move: list[Bool[np.ndarray, " _"]] | None = None,
    ) -> SceneRays:
        """Return the prepared rays of some frames of the scene, or of the same with other poses; see ``SceneRays``."""
        return SceneRays(
            self.scene if scene is None else scene,
            frames,
            self.bounds,
            image_size=self.nerf.image_size,
            is_sky=self.is_sky,
            moving=moving,
            returns_move=returns_move,
        )

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Draw the rays of one step."""
        self.train_count += 1
        if self.errors is not None and step > 0 and step % self.nerf.error_sampling.refresh_every == 0:
            self.errors.refresh()
        begins = round(self.nerf.refinement.start_share * self.nerf.judged_steps)
        self.rays.refinement = self.refinement if step >= begins else None
        batch = draw_image(self.rays, self.generator) if self.nerf.method == "gsplat" else self._draw_rays()
        batch = batch.to(self.device)
        points = None
        if self.nerf.field.flow and self.moving_points is not None:
            points = self.moving_points.draw(self.generator, _FLOW_POINTS)
        return to_ray_bundle(batch, self.nerf, self.bounds), {
            "rays": batch,
            "moving_points": points,
            "errors": self.errors,
        }

    def _draw_rays(self) -> RayBatch:
        return self.rays.draw(
            self.generator,
            pixel_rays=self.nerf.pixel_rays,
            lidar_pixel_rays=self.nerf.lidar_pixel_rays,
            lidar_rays=self.nerf.lidar_rays,
            errors=self.errors,
            error_rays=round(self.nerf.error_sampling.share * self.nerf.pixel_rays),
        )

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed fit needs to draw the same rays, besides the generator."""
        return {} if self.errors is None else self.errors.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state`` returned."""
        if self.errors is not None:
            self.errors.load_state(state)

    def _error_map(self) -> ErrorMap | None:
        sampling = self.nerf.error_sampling
        if sampling.share == 0:
            return None
        shown = set(self.rays.shown_images.tolist())
        nothing = torch.zeros(0, dtype=torch.int64)
        seen = [self.rays.seen_pixels(i) if i in shown else nothing for i in range(len(self.rays.pixels))]
        return ErrorMap(seen, self.nerf.image_size, tile_px=sampling.tile_px)

    def get_train_rays_per_batch(self) -> int:
        """Return the number of rays of a step."""
        return self.nerf.pixel_rays + self.nerf.lidar_pixel_rays + self.nerf.lidar_rays

    def get_datapath(self) -> Path:
        """Return where the scene lives."""
        return self.config.home_root

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Return nothing: the data has no parameters."""
        return {}


def describe(scene: SceneReader, frames: tuple[int, ...], bounds: SceneBounds, nerf: NerfConfig) -> SceneDescription:
    """Return what nerfstudio's pipeline and our model need to know of a scene."""
    half = torch.tensor(bounds.half_extent)
    return SceneDescription(
        cameras=scene_cameras(scene, frames, bounds, nerf.image_size),
        scene_box=SceneBox(aabb=torch.stack([-half, half])),
        metadata={
            "nerf_config": nerf,
            "bounds": bounds,
            "num_cameras": scene.num_cameras,
            "frame_seconds": scene.frame_seconds(),
            "fitted_frames": frames,
            "camera_motion": camera_motion(scene) if nerf.refinement.is_on else None,
        },
    )
