"""The method ``distill-teacher`` of ``ns-train``: the field that the pipeline fits, as nerfstudio's users know one.

The pipeline's own fits keep safetensors in a home. Under ``ns-train``, nerfstudio's stock trainer runs instead, which
writes ``config.yml`` and ``nerfstudio_models/step-*.ckpt``; ``ns-eval``, ``ns-render`` and ``ns-viewer`` go on from
there. The field, its losses and the rays that it is fitted to are the same.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification
from torch import Tensor

from storage.errors import ErrorKind, TeacherDivergedError
from teachers.nerf.config import NerfConfig
from teachers.nerf.datamanager import SceneDataManager, SceneDataManagerConfig, describe
from teachers.nerf.dataparser import SceneDataParser, SceneDataParserConfig
from teachers.nerf.model import DrivingFieldModel, DrivingFieldModelConfig
from teachers.nerf.trainer import trainer_config

METHOD_NAME = "distill-teacher"

# nerfstudio's schedulers leave numpy numbers in its checkpoints, of every method, and torch since 2.6 refuses to load
# them: ns-eval, ns-render, ns-viewer and --load-dir would fail. Whatever loads a checkpoint has loaded methods before.
torch.serialization.add_safe_globals([np._core.multiarray.scalar, np.dtype, np.dtypes.Float64DType])


@dataclass
class DistillTeacherDataManagerConfig(VanillaDataManagerConfig):
    """nerfstudio's configuration of its data manager, with that of the fit."""

    _target: type = field(default_factory=lambda: DistillTeacherDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=SceneDataParserConfig)
    """Where the scene is; no other dataparser will do."""
    nerf: NerfConfig = field(default_factory=NerfConfig)
    """The fit. Its number of steps is --max-num-iterations; what the dataparser says of images goes before it."""
    train_num_rays_per_batch: tyro.conf.Suppress[int] = -1  # nerf.pixel_rays and its like say it


class DistillTeacherDataManager(VanillaDataManager):
    """nerfstudio's data manager, which draws the rays that the pipeline's fit draws, LiDAR beams among them.

    Held-out images, masks and poses are nerfstudio's affair, through the dataparser.
    """

    config: DistillTeacherDataManagerConfig
    dataparser: SceneDataParser

    def __init__(self, config: DistillTeacherDataManagerConfig, **options: Any) -> None:  # noqa: ANN401 - nerfstudio's
        source = config.dataparser
        if not isinstance(source, SceneDataParserConfig):
            raise ValueError(f"dataparser {type(source).__name__}, want distillnerf-scene")  # noqa: TRY004 - a choice
        if config.nerf.method != "driving-field":
            raise ValueError(
                f"nerf.method {config.nerf.method!r}, want 'driving-field': ns-train has the others itself"
            )
        self.nerf = dataclasses.replace(
            config.nerf,
            image_height=source.image_height or config.nerf.image_height,
            image_width=source.image_width or config.nerf.image_width,
            holdout_every=source.holdout_every or config.nerf.holdout_every,
        )
        config.dataparser = dataclasses.replace(
            source,
            image_height=self.nerf.image_height,
            image_width=self.nerf.image_width,
            holdout_every=self.nerf.holdout_every,
        )
        super().__init__(config, **options)
        fitted = self.dataparser.frames["train"]
        described = describe(self.dataparser.scene, fitted, self.dataparser.bounds, self.nerf)
        self.train_dataset.metadata |= {**described.metadata, "last_frame": self.dataparser.scene.num_frames - 1}

    @cached_property
    def rays(self) -> SceneDataManager:
        """Return the pipeline's data manager of the same scene; made by the first step of a training alone."""
        source = self.config.dataparser
        return SceneDataManager(
            SceneDataManagerConfig(
                home_root=source.home,
                store_url=source.store_url,
                scene_key=source.scene_key,
                scene_digest=source.scene_digest,
                nerf=self.nerf,
            ),
            device=str(self.device),
        )

    def setup_train(self) -> None:
        """Do nothing: rays are drawn from the store, not from nerfstudio's cache of images."""

    def setup_eval(self) -> None:
        """Set up what reads whole held-out images."""
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)
        self.eval_dataloader = RandIndicesEvalDataloader(self.eval_dataset, device=self.device)

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Draw the rays of one step."""
        self.train_count += 1
        return self.rays.next_train(step)

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Refuse: held-out frames are judged by whole images.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"step {step}: steps_per_eval_batch is set, want 0; steps_per_eval_image judges held-out images"
        )

    def get_train_rays_per_batch(self) -> int:
        """Return the number of rays of a step."""
        return self.nerf.pixel_rays + self.nerf.lidar_pixel_rays + self.nerf.lidar_rays


@dataclass
class DistillTeacherModelConfig(DrivingFieldModelConfig):
    """The field's hook, for cameras that nerfstudio makes."""

    _target: type = field(default_factory=lambda: DistillTeacherModel)


class DistillTeacherModel(DrivingFieldModel):
    """The driving field, rendered from nerfstudio's cameras: of its data sets, camera paths and viewer."""

    def populate_modules(self) -> None:
        """Build the field; near and far planes of nerfstudio's rays are those of its own."""
        super().populate_modules()
        sampling, scale = self.nerf.sampling, self.bounds.metres_per_unit
        self.collider = NearFarCollider(sampling.near_m / scale, sampling.far_m / scale, reset_near_plane=False)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Return what one camera sees.

        Appearance and instant are those of the image that the camera belongs to. A camera of a path or of the viewer
        has neither: it gets the first camera's appearance, and its time if it has one, else the first frame's.
        """
        bundle = camera.generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        rig_camera = (camera.metadata or {}).get("rig_camera")
        time = 0.0 if camera.times is None else float(camera.times.flatten()[0])
        shape = bundle.origins[..., :1]
        bundle.metadata = {}
        bundle.camera_indices = torch.full_like(shape, 0 if rig_camera is None else int(rig_camera), dtype=torch.int64)
        bundle.times = torch.full_like(shape, time * self.kwargs["metadata"]["last_frame"])
        return self.get_outputs_for_camera_ray_bundle(bundle)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the PSNR of one image over what shows the world, and the image beside the render."""
        image = batch["image"].to(self.device)
        error = (outputs["rgb"].to(self.device) - image).square().mean(dim=-1)
        if "mask" in batch:
            error = error[batch["mask"].to(self.device)[..., 0].bool()]
        return {"psnr": psnr(error)}, {"img": torch.cat([image, outputs["rgb"].to(self.device)], dim=1)}


def psnr(squared_error: Float[Tensor, " pixels"] | Float[Tensor, "height width"]) -> float:
    """Return the peak signal-to-noise ratio of colours in [0, 1], dB."""
    return float(-10.0 * torch.log10(squared_error.mean().clamp_min(1e-10)))


@dataclass
class DistillTeacherTrainerConfig(TrainerConfig):
    """nerfstudio's configuration of its trainer."""

    _target: type = field(default_factory=lambda: DistillTeacherTrainer)


class DistillTeacherTrainer(Trainer):
    """nerfstudio's trainer, whose --max-num-iterations is the length of every schedule of the fit."""

    def __init__(self, config: DistillTeacherTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        data = config.pipeline.datamanager
        assert isinstance(data, DistillTeacherDataManagerConfig)
        data.nerf = dataclasses.replace(data.nerf, num_steps=config.max_num_iterations)
        for name, group in trainer_config(data.nerf).optimizers.items():
            config.optimizers[name]["scheduler"] = group["scheduler"]
        super().__init__(config, local_rank, world_size)

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one step.

        Raises:
            TeacherDivergedError: If the loss is not finite.
        """
        loss, losses, metrics = super().train_iteration(step)
        if not torch.isfinite(loss):
            scene_key = self.config.pipeline.datamanager.dataparser.scene_key
            raise TeacherDivergedError(ErrorKind.DIVERGED, scene_key, f"loss {loss.item()} at step {step}")
        return loss, losses, metrics


def method_config() -> DistillTeacherTrainerConfig:
    """Return the configuration that ``ns-train distill-teacher`` starts from."""
    nerf = NerfConfig()
    return DistillTeacherTrainerConfig(
        method_name=METHOD_NAME,
        machine=MachineConfig(seed=nerf.seed, device_type="cuda" if torch.cuda.is_available() else "cpu"),
        max_num_iterations=nerf.num_steps,
        steps_per_save=100,
        steps_per_eval_batch=0,
        steps_per_eval_image=100,
        mixed_precision=False,
        vis="tensorboard",
        pipeline=VanillaPipelineConfig(
            datamanager=DistillTeacherDataManagerConfig(), model=DistillTeacherModelConfig()
        ),
        optimizers=trainer_config(nerf).optimizers,
    )


distill_teacher = MethodSpecification(
    config=method_config(),
    description="LiDAR-supervised driving scenes from a distillnerf scene store, fast on a CPU.",
)
"""What nerfstudio's registry of methods loads."""
