"""Overfit one real frame, to see whether the student can represent it from images and LiDAR alone.

``python -m student.experiments.overfit DATA --scene scene-0916`` ingests the scene and takes every camera of one frame
as input and as target. It trains until the rendered frame reaches 30 dB with LiDAR AbsRel at most 0.10, or until the
budget is spent. The exit code is 0 if both were reached. The last line is JSON, and ``overfit.png`` in the home shows
the rendered frame.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from storage.audits.scene_audit import audit_scene
from storage.freed_memory import reuse_freed_memory
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.run import ingest_scene
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from storage.targets.images import InputImagesConfig, resize_scene_images
from student.config import StudentConfig, TrainingSetConfig
from student.data.dataset import FrameDataset
from student.data.sample import TrainingBatch
from student.data.training_set import freeze_training_set, load_training_set
from student.data.views import all_views
from student.metrics import peak_signal_to_noise
from student.model.config import ModelConfig
from student.model.distillnerf import DistillNeRF
from student.model.lifting import camera_rays
from student.model.sparse_voxels import GridShape
from student.presets.students import student_preset
from student.training.optimization import learning_rate
from student.training.processes import Processes
from student.training.step import TrainingStep
from student.training.validation import draw, score

logger = logging.getLogger("student.experiments.overfit")

_NEIGHBOURS_OF_COLUMN = 2


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """Overfit one frame of a nuScenes scene.

    Attributes:
        data: Folder of nuScenes.
        version: Release inside it.
        scene: Name of the scene.
        frame: Index of the frame.
        home: Home of the stores.
        store_url: Location of array stores, as s3://bucket/prefix. The default is DISTILLNERF_STORE_URL, or else the
            home.
        preset: Size of the student.
        steps: Largest number of optimisation steps.
        seconds: Time limit; None for no limit.
        rate: Peak learning rate.
        device: Device to compute on.
        min_psnr: PSNR that the rendered images must reach, dB.
        max_abs_rel: Largest AbsRel of the rendered depth against LiDAR.
        look_every: Steps between evaluations of both figures.
        coarse_level: Level of the cells' size (:class:`student.model.config.VoxelConfig`). None takes the preset's,
            whose cells are twice as large and too coarse for 30 dB.
        depth_above_lidar: Assumed depth above the highest return of an image column, metres. No beam measures there;
            without a target, the depth falls to that of the ground, whose cells blur the image. None assumes no depth.
    """

    data: Annotated[Path, tyro.conf.Positional]
    version: str = "v1.0-mini"
    scene: str = "scene-0916"
    frame: int = 10
    home: Path = Path("runs/overfit")
    store_url: str | None = field(default_factory=store_url_from_environment)
    preset: Literal["tiny", "small", "paper"] = "small"
    steps: int = 400
    seconds: float | None = None
    rate: float = 1.5e-3
    device: Literal["cpu", "cuda"] = "cpu"
    min_psnr: float = 30.0
    max_abs_rel: float = 0.10
    look_every: int = 20
    coarse_level: int | None = 8
    depth_above_lidar: float | None = 30.0

    def run(self) -> bool:
        """Fit, and return whether both figures were reached."""
        config = self.student()
        batch = self._frame(config)
        training = TrainingStep(
            config, Processes(rank=0, count=1, is_first_of_machine=True, device=torch.device(self.device))
        )
        _start_from_colours(training.model)
        batch = batch.to(self.device)
        began = time.perf_counter()
        figures: dict[str, float] = {}
        for step in range(self.steps):
            share = step / self.steps
            if self.seconds is not None:
                share = max(share, (time.perf_counter() - began) / self.seconds)
            if share >= 1.0:
                break
            losses = training.take(batch, step=step, rate=learning_rate(config.fit.optimizer, step, share))
            if (step + 1) % self.look_every == 0:
                figures = self._look(training, batch)
                seen = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
                logger.info("step %d, loss %.4f: %s", step + 1, losses.total.item(), seen)
                if self._is_reached(figures):
                    break
        figures = figures or self._look(training, batch)
        reached = self._is_reached(figures)
        record = {**asdict(self), **figures, "step": step + 1, "elapsed_s": time.perf_counter() - began}
        logger.info("%s", json.dumps({**record, "reached": reached}, default=str))
        return reached

    def student(self) -> StudentConfig:
        """Return the preset without the parts that need a teacher or several frames, and with more weight on the image.

        Depth is good after about sixty steps, and the image takes longer. So the image weighs more here, and rays are
        sampled at the same places as at evaluation.
        """
        run = student_preset(self.preset, "depth_contracted")
        coarse = replace(run.model.coarse_depth, depth_feature_channels=0)
        level = run.model.voxels.coarse_level if self.coarse_level is None else self.coarse_level
        space, renderer = run.model.contraction, run.model.renderer
        cell = (
            2 * space.inner_range_xy / (space.inner_ratio * GridShape(batch_size=1, coarse_level=level).fine_resolution)
        )
        views = replace(run.data.views, neighbour=0, virtual=0)
        optimizer = replace(run.fit.optimizer, learning_rate=self.rate, schedule="cosine", warmup_steps=20)
        return replace(
            run,
            model=replace(
                run.model,
                coarse_depth=coarse,
                voxels=replace(run.model.voxels, coarse_level=level),
                # Rays must not step over cells.
                renderer=replace(
                    renderer, jitter=False, bins=replace(renderer.bins, step=min(renderer.bins.step, cell))
                ),
            ),
            data=replace(
                run.data, views=views, depth_anything=False, teacher_depth=False, sky_masks=False, batch_size=1
            ),
            losses=replace(
                run.losses,
                teacher_depth=0.0 if self.depth_above_lidar is None else 1.0,
                sky=0.0,
                rgb=3.0,
                perceptual=0.5,
                log_depth=1.0,
            ),
            fit=replace(run.fit, max_steps=self.steps, optimizer=optimizer),
        )

    def _frame(self, config: StudentConfig) -> TrainingBatch:
        home, key = Home(self.home, store_url=self.store_url), SceneKey("nuscenes", self.scene)
        register_source(home, SourceConfig(dataset="nuscenes", root=self.data, version=self.version))
        ingest_scene(home, key, IngestConfig())
        size = InputImagesConfig(height=config.data.image_height, width=config.data.image_width)
        resize_scene_images(home, key, size)
        audit_scene(home, key)
        name = f"overfit-{config.data.image_height}x{config.data.image_width}"
        freeze_training_set(home, name, TrainingSetConfig(train_scenes=(str(key),), kinds=config.data.kinds))
        frozen = load_training_set(home, name)
        dataset = FrameDataset(home, frozen, "train", config.data)
        batch = dataset.sample(str(key), self.frame, all_views(frozen.scenes[0], self.frame))
        batch = with_lidar_solid(batch)
        return batch if self.depth_above_lidar is None else _with_depth_above_lidar(batch, self.depth_above_lidar)

    def _look(self, training: TrainingStep, batch: TrainingBatch) -> dict[str, float]:
        training.model.eval()
        with torch.no_grad():
            output = training.model(batch.inputs, batch.cameras)
        training.model.train()
        Image.fromarray(draw(output, batch)).save(self.home / "overfit.png")
        return score(output, batch) | {
            "psnr_of_cells": psnr_of_cells(output.termination_depth, batch, training.model.config)
        }

    def _is_reached(self, figures: dict[str, float]) -> bool:
        return figures["psnr"] >= self.min_psnr and figures["depth_abs_rel"] <= self.max_abs_rel


def _start_from_colours(model: DistillNeRF) -> None:
    """Initialise the model so that it lifts only the pixels' own colours."""
    last = model.fine_depth.lifted[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)


def with_lidar_solid(batch: TrainingBatch) -> TrainingBatch:
    """Return the batch with only the rays that have a LiDAR return marked as hitting something.

    There is no sky mask here, and an empty ray has no depth to learn from. In a view without returns, every ray counts
    as hitting something, as published.
    """
    inputs, views = batch.input_targets, batch.view_targets
    return replace(
        batch,
        input_targets=replace(
            inputs, is_sky=torch.zeros_like(inputs.is_sky), is_sky_known=torch.isfinite(inputs.lidar_depth)
        ),
        view_targets=replace(
            views, is_sky=torch.zeros_like(views.is_sky), is_sky_known=torch.isfinite(views.lidar_depth)
        ),
    )


def _with_depth_above_lidar(batch: TrainingBatch, distance: float) -> TrainingBatch:
    inputs, views = batch.input_targets, batch.view_targets
    return replace(
        batch,
        input_targets=replace(inputs, teacher_depth=depth_above_returns(inputs.lidar_depth, distance)),
        view_targets=replace(views, teacher_depth=depth_above_returns(views.lidar_depth, distance)),
    )


def depth_above_returns(
    lidar_depth: Float[Tensor, "*views height width"], distance: float
) -> Float[Tensor, "*views height width"]:
    """Return ``distance`` above each column's highest return; NaN below it and in columns without a return.

    A column is joined with its neighbours, because some beams do not return.
    """
    is_at_or_below = torch.isfinite(lidar_depth).cumsum(-2) > 0
    margin = _NEIGHBOURS_OF_COLUMN
    is_at_or_below = F.max_pool2d(is_at_or_below.float(), (1, 2 * margin + 1), stride=1, padding=(0, margin)) > 0
    is_above = ~is_at_or_below & is_at_or_below[..., -1:, :]
    return torch.where(is_above, distance, torch.nan)


def psnr_of_cells(
    termination_depth: Float[Tensor, "1 views height width"], batch: TrainingBatch, config: ModelConfig
) -> float:
    """Return the PSNR in dB of pinhole images whose pixels show the mean colour of their fine cell.

    It is the quality that cells of this size allow without any network.

    Args:
        termination_depth: Distance at which each pixel's ray ends, metres; pixels where it is NaN are left out.
        batch: Images of the views and their cameras.
        config: Grid of the cells.
    """
    cameras = batch.cameras
    origins, directions = camera_rays(
        cameras.intrinsics[0],
        cameras.camera_to_reference_ego[0],
        height=cameras.render_height,
        width=cameras.render_width,
    )
    depth = termination_depth[0]
    ends = torch.isfinite(depth)
    points = (origins[:, None, None] + directions * depth[..., None])[ends]
    shape = GridShape(batch_size=1, coarse_level=config.voxels.coarse_level)
    cells = shape.cell_coordinates(points, config.contraction)
    cell = torch.unique(shape.fine_keys(cells, torch.zeros_like(cells[:, 0])), return_inverse=True)[1]
    # Four pixels of the image to each ray.
    pixels = pixel_unshuffle(batch.view_targets.image[0], 2).movedim(1, -1)[ends]
    total = pixels.new_zeros(len(pixels), pixels.shape[1]).index_add_(0, cell, pixels)
    mean = total / torch.bincount(cell, minlength=len(pixels)).clamp(min=1)[:, None]
    return peak_signal_to_noise(mean[cell].cpu().numpy(), pixels.cpu().numpy())


if __name__ == "__main__":
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    raise SystemExit(0 if tyro.cli(Overfit).run() else 1)
