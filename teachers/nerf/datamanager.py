"""nerfstudio's data manager over a scene store: every batch is drawn from rays that were prepared once.

No worker processes: the rays are in memory, and nerfstudio's parallel managers spawn, which hangs a program without a
``__main__`` guard.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from nerfstudio.data.scene_box import SceneBox
from torch.nn import Parameter

from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.config import NerfConfig
from teachers.nerf.dataparser import scene_cameras
from teachers.nerf.free_space import find_moving_returns
from teachers.nerf.model import to_ray_bundle
from teachers.nerf.scene_rays import (
    FrameSplit,
    SceneBounds,
    SceneRays,
    lidar_origin_world,
    lidar_points_world,
    measure_bounds,
    read_sky_mask,
    split_frames,
)


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
        scene: The scene's reader.
        split: Which frames are fitted and which are held out.
        bounds: The field's box.
        rays: Rays of the fitted frames.
    """

    config: SceneDataManagerConfig

    def __init__(self, config: SceneDataManagerConfig, device: str = "cpu", **_kwargs: object) -> None:
        self.config = config
        self.device = device
        self.nerf = config.nerf
        home = Home(config.home_root, store_url=config.store_url)
        self.scene = SceneReader.open(home, config.scene_key, config.scene_digest or None)
        self.split: FrameSplit = split_frames(self.scene.num_frames, holdout_every=self.nerf.holdout_every)
        self.bounds: SceneBounds = measure_bounds(self.scene, self.split.train)
        self.is_sky = (
            read_sky_mask(home, config.scene_key, config.sky_mask_digest or None) if self.nerf.use_sky_mask else None
        )
        returns_move = None
        if self.nerf.field.dynamic:
            returns_move = find_moving_returns(
                [lidar_origin_world(self.scene, f) for f in self.split.train],
                [lidar_points_world(self.scene, f) for f in self.split.train],
            )
        self.rays = self.rays_of(self.split.train, returns_move=returns_move)
        self.generator = torch.Generator().manual_seed(self.nerf.seed)
        self.train_dataset = describe(self.scene, self.split.train, self.bounds, self.nerf)  # type: ignore[assignment]
        self.eval_dataset = None
        self.test_mode = "inference"  # nerfstudio's own loaders are not set up
        super().__init__()

    def rays_of(
        self,
        frames: tuple[int, ...],
        *,
        moving: MovingBoxes | None = None,
        returns_move: list[Bool[np.ndarray, " _"]] | None = None,
    ) -> SceneRays:
        """Return the prepared rays of some frames, see ``SceneRays``."""
        return SceneRays(
            self.scene,
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
        batch = self.rays.draw(
            self.generator,
            pixel_rays=self.nerf.pixel_rays,
            lidar_pixel_rays=self.nerf.lidar_pixel_rays,
            lidar_rays=self.nerf.lidar_rays,
        ).to(self.device)
        return to_ray_bundle(batch, self.nerf, self.bounds), {"rays": batch}

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
            "num_frames": scene.num_frames,
            "fitted_frames": frames,
        },
    )
