"""nerfstudio's nerfacto on rays of our scenes: its model, its optimisers and its trainer, in plain torch.

The reference of ``teachers.nerf.benchmark``. Cameras are centred and scaled as its own dataparser does.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor
from torch.nn import Parameter

from storage.scenes.store import SceneReader
from teachers.nerf.datamanager import SceneDescription
from teachers.nerf.dataparser import scene_cameras
from teachers.nerf.nerfacto import without_perceptual_network
from teachers.nerf.quality import FieldRendering
from teachers.nerf.scene_rays import RayBatch, SceneRays


class OfflineNerfacto(NerfactoModel):
    """nerfacto without LPIPS, whose weights it would download and which only its own evaluation reads."""

    def populate_modules(self) -> None:
        """Build everything else."""
        with without_perceptual_network():
            super().populate_modules()


@dataclass
class ImageRaysConfig(DataManagerConfig):
    """Prepared rays of a scene's images."""

    _target: type = field(default_factory=lambda: ImageRays)
    scene: SceneReader | None = None
    rays: SceneRays | None = None
    rays_per_step: int = 4096
    seed: int = 0


class ImageRays(DataManager):
    """Draw pixels of fitted images; nothing else is known of them.

    Attributes:
        centre: Mean position of the cameras, scene units.
        scale: Its units per scene unit: no camera is farther than 1 along an axis.
    """

    config: ImageRaysConfig

    def __init__(self, config: ImageRaysConfig, device: str = "cpu", **_kwargs: object) -> None:
        assert config.scene is not None
        assert config.rays is not None
        self.config, self.device, self.rays = config, device, config.rays
        self.centre = self.rays.origins.mean(dim=0)
        self.scale = 1.0 / float((self.rays.origins - self.centre).abs().max().clamp_min(1e-6))
        self.generator = torch.Generator().manual_seed(config.seed)
        size = (self.rays.height, self.rays.width)
        box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
        cameras = scene_cameras(config.scene, self.rays.frames, self.rays.bounds, size)
        self.train_dataset = SceneDescription(cameras=cameras, scene_box=box, metadata={})  # type: ignore[assignment]
        self.eval_dataset = None
        self.test_mode = "inference"
        self._row = {frame: row for row, frame in enumerate(self.rays.frames)}
        super().__init__()

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Draw the rays of one step."""
        self.train_count += 1
        batch = self.rays.draw(self.generator, pixel_rays=self.config.rays_per_step, lidar_pixel_rays=0, lidar_rays=0)
        row = torch.tensor([self._row[frame] for frame in batch.frame_index.tolist()])
        image = row * self.rays.num_cameras + batch.camera_index
        return self.bundle(batch, image).to(self.device), {"image": batch.rgb.to(self.device)}

    def bundle(self, batch: RayBatch, image: Tensor) -> RayBundle:
        """Return rays in nerfacto's units."""
        ones = torch.ones_like(batch.origins[:, :1])
        return RayBundle(
            origins=(batch.origins - self.centre) * self.scale,
            directions=batch.directions,
            pixel_area=ones,
            camera_indices=image[:, None],
            metadata={"directions_norm": ones},
        )

    def get_train_rays_per_batch(self) -> int:
        """Return the number of rays of a step."""
        return self.config.rays_per_step

    def get_datapath(self) -> Path:
        """Return nothing of use: the rays are in memory."""
        return Path()

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Return nothing: the data has no parameters."""
        return {}


def nerfacto_trainer(
    scene: SceneReader, rays: SceneRays, *, rays_per_step: int, seed: int, device: str, folder: Path
) -> Trainer:
    """Return nerfstudio's trainer of its own method on these rays, ready for its first step."""
    settings: TrainerConfig = copy.deepcopy(method_configs["nerfacto"])
    model = settings.pipeline.model
    model._target, model.implementation = OfflineNerfacto, "torch"  # type: ignore[attr-defined]
    settings.pipeline = VanillaPipelineConfig(
        datamanager=ImageRaysConfig(scene=scene, rays=rays, rays_per_step=rays_per_step, seed=seed), model=model
    )
    settings.machine.seed, settings.machine.device_type = seed, "cuda" if device.startswith("cuda") else "cpu"
    settings.output_dir, settings.vis, settings.experiment_name, settings.timestamp = folder, "tensorboard", "race", ""
    settings.logging.local_writer.enable, settings.logging.profiler = False, "none"
    trainer = settings.setup(local_rank=0, world_size=1)
    trainer.setup(test_mode="inference")
    return trainer


@torch.no_grad()
def render_nerfacto(trainer: Trainer, batch: RayBatch, *, chunk: int = 4096) -> tuple[FieldRendering, FieldRendering]:
    """Return what nerfacto says about rays, with the median and with the expected depth.

    Args:
        trainer: Made by ``nerfacto_trainer``.
        batch: Rays in scene units.
        chunk: Rays rendered at once.
    """
    data, model = trainer.pipeline.datamanager, trainer.pipeline.model.eval()
    assert isinstance(data, ImageRays)
    bundle = data.bundle(batch, torch.zeros(len(batch.origins), dtype=torch.int64)).to(data.device)
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(batch.origins), chunk):
        outputs = model(bundle[start : start + chunk])
        depths = outputs["depth"], outputs["expected_depth"], outputs["accumulation"]
        parts.append((outputs["rgb"].cpu(), *(values[:, 0].cpu() for values in depths)))
    rgb, median, expected, opacity = (torch.cat(column) for column in zip(*parts, strict=True))
    metres = data.rays.bounds.metres_per_unit / data.scale
    return (
        FieldRendering(rgb=rgb, termination_depth=median * metres, opacity=opacity),
        FieldRendering(rgb=rgb, termination_depth=expected * metres, opacity=opacity),
    )
