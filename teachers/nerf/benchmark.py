"""How soon our field is as good as nerfacto: ``python -m teachers.nerf.benchmark --task-file TASK.json``.

``distillnerf bench teacher`` writes the task and reads the result; this half runs in nerfstudio's environment.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.freed_memory import reuse_freed_memory
from storage.kinds import Kind
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from teachers.nerf.race import Race, RaceTask, race
from teachers.nerf.torchvision_shim import declare_missing_operators

logger = logging.getLogger(__name__)


def run_race(task: RaceTask) -> Race:
    """Fit a scene with our field and with nerfacto in turns, on one device.

    Both see the images of the frames that are not held out, at the same size. Ours also sees what a recording has
    besides, its LiDAR and sky masks where they exist: that is what it is for.
    """
    declare_missing_operators()
    from teachers.nerf.nerfstudio_grid import settle_implementation
    from teachers.nerf.reference_nerfacto import nerfacto_trainer, render_nerfacto
    from teachers.nerf.teacher import NerfTeacher, resolve_device
    from teachers.nerf.trainer import quieten_nerfstudio, trainer_config

    quieten_nerfstudio()
    home = Home(Path(task.home_root))
    device = resolve_device(task.nerf.execution)
    nerf = settle_implementation(task.nerf, device)
    torch.manual_seed(nerf.seed)
    own: Any = trainer_config(nerf, home_root=home.root, scene_key=task.scene_key, device=device).setup(
        local_rank=0, world_size=1
    )
    own.setup(test_mode="inference")
    data = own.datamanager
    judge = _Judge(home, task, data)
    teacher = NerfTeacher(own.model, data.nerf, data.bounds, fitted_frames=data.split.train, execution=nerf.execution)
    with tempfile.TemporaryDirectory() as folder:
        other = nerfacto_trainer(
            data.scene,
            data.rays,
            rays_per_step=task.reference_rays,
            seed=nerf.seed,
            device=device,
            folder=Path(folder),
        )
        return race(
            _DrivenTrainer(own, nerf.num_steps, lambda rays: (teacher.render(rays),), judge),
            _DrivenTrainer(other, other.config.max_num_iterations, lambda rays: render_nerfacto(other, rays), judge),
            turn_s=task.turn_s,
        )


class _Judge:
    """The same held-out pixels for every fit: their colour as recorded, and the exact depth where it is stored."""

    def __init__(self, home: Home, task: RaceTask, data: Any) -> None:  # noqa: ANN401 - nerfstudio's typing is loose
        from teachers.nerf.scene_rays import SceneRays

        frames = data.split.held_out
        shown = data.rays_of(frames)
        self.image, pixel = _evenly(shown, task.judged_pixels)
        self.colour_rays = shown.pixel_rays(self.image, pixel)
        self.depth_rays, self.depth_m, self.max_depth_m = None, None, task.max_depth_m
        version = home.latest(Kind.SCENE_TRUTH, task.scene_key)
        if version is None:
            return
        truth = read_target(home.open_arrays(version), Kind.SCENE_TRUTH, "termination_depth")[list(frames)]
        exact = SceneRays(data.scene, frames, data.bounds, image_size=(truth.shape[2], truth.shape[3]))
        image, pixel = _evenly(exact, task.judged_pixels)
        depth = torch.from_numpy(truth.reshape(len(exact.pixels), -1))[image, pixel]
        is_judged = torch.isfinite(depth) & (depth <= task.max_depth_m)
        self.depth_rays = exact.pixel_rays(image[is_judged], pixel[is_judged])
        self.depth_m = depth[is_judged]

    def psnr(self, rgb: Tensor) -> float:
        """Return the mean over images of the PSNR of each, dB."""
        error = (rgb - self.colour_rays.rgb).square().mean(dim=-1)
        means = torch.stack([error[self.image == image].mean() for image in self.image.unique()])
        return float((-10.0 * means.clamp_min(1e-10).log10()).mean())

    def abs_rel(self, depth_m: Tensor) -> float:
        """Return the absolute relative error of depth, which is clipped to what is judged."""
        assert self.depth_m is not None
        return float(((depth_m.clamp_max(self.max_depth_m) - self.depth_m).abs() / self.depth_m).mean())


class _DrivenTrainer:
    """One of nerfstudio's trainers, driven as its own loop does."""

    def __init__(self, trainer: Any, num_steps: int, render: Any, judge: _Judge) -> None:  # noqa: ANN401 - nerfstudio's
        self.trainer, self.num_steps, self.render, self._judge = trainer, num_steps, render, judge
        self._step = 0

    def step(self) -> bool:
        from nerfstudio.engine.callbacks import TrainingCallbackLocation

        self.trainer.pipeline.train()
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(self._step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        self.trainer.train_iteration(self._step)
        for callback in self.trainer.callbacks:
            callback.run_callback_at_location(self._step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        self._step += 1
        return self._step < self.num_steps

    def judge(self) -> tuple[float, float | None]:
        """Return PSNR and, of all depths that the fit offers, the smallest error."""
        self.trainer.pipeline.eval()
        judge = self._judge
        psnr = judge.psnr(self.render(judge.colour_rays)[0].rgb)
        if judge.depth_rays is None:
            return psnr, None
        return psnr, min(judge.abs_rel(r.termination_depth) for r in self.render(judge.depth_rays))


def _evenly(rays: Any, count: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - its module imports much
    """Return images and pixels, evenly spaced over all that show the world."""
    pixels = [rays.seen_pixels(image) for image in range(len(rays.pixels))]
    image = torch.cat([torch.full_like(pixel, number) for number, pixel in enumerate(pixels)])
    chosen = torch.from_numpy(np.linspace(0, len(image) - 1, min(count, len(image))).round().astype(np.int64))
    return image[chosen], torch.cat(pixels)[chosen]


def main(arguments: list[str] | None = None) -> int:
    """Run one race and write it as JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="teachers.nerf.benchmark", description="Race our field against nerfacto.")
    parser.add_argument("--task-file", type=Path, required=True, help="JSON task")
    parser.add_argument("--result-file", type=Path, required=True, help="where the marks go, as JSON")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    task = config_from_json(RaceTask, json.loads(parsed.task_file.read_text()), str(parsed.task_file))
    outcome = run_race(task)
    parsed.result_file.write_text(json.dumps(config_json(outcome)))
    return 0


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())
