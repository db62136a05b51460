"""nerfstudio's trainer over our data manager, model and checkpoints.

nerfstudio pickles its checkpoints; this trainer keeps them as safetensors instead, with everything that a resumed fit
needs to continue as if it had not stopped: parameters, Adam's moments, both random states, the sampler's schedule.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from storage.errors import ErrorKind, TeacherDivergedError
from teachers.nerf.checkpoint import TrainingState, load_training_state, save_training_state
from teachers.nerf.config import NerfConfig
from teachers.nerf.datamanager import SceneDataManager, SceneDataManagerConfig
from teachers.nerf.methods import TeacherModel, learning_rates, model_config
from teachers.nerf.progress import Progress

_PROGRESS_EVERY_S = 2.0


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over memory: on a CPU several times faster for tables of millions of rows."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    fused: bool = True


@dataclass
class DrivingFieldTrainerConfig(TrainerConfig):
    """nerfstudio's trainer configuration, with where and how often a resumable checkpoint is written."""

    _target: type = field(default_factory=lambda: DrivingFieldTrainer)
    checkpoint_path: Path | None = None
    checkpoint_every_s: float = 20.0


class DrivingFieldTrainer(Trainer):
    """Train the driving field; stop at the first sign of divergence; resume where an interrupted fit stood.

    Attributes:
        on_progress: Told about the fit every few seconds.
        history: One row per report: step, PSNR of training rays, rays per second.
    """

    config: DrivingFieldTrainerConfig

    def __init__(self, config: DrivingFieldTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self.on_progress: Progress | None = None
        self.history: list[dict[str, float]] = []
        self._error_average = torch.zeros(())
        self._steps_averaged = 0
        self._reported_at = self._saved_at = time.perf_counter()

    @property
    def model(self) -> TeacherModel:
        """Return the model being fitted."""
        return self.pipeline.model

    @property
    def datamanager(self) -> SceneDataManager:
        """Return the scene being fitted to."""
        assert isinstance(self.pipeline.datamanager, SceneDataManager)
        return self.pipeline.datamanager

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one step.

        Raises:
            TeacherDivergedError: If the loss is not finite.
        """
        loss, losses, metrics = super().train_iteration(step)
        if not torch.isfinite(loss):
            broken = sorted(name for name, value in losses.items() if not torch.isfinite(value))
            raise TeacherDivergedError(
                ErrorKind.DIVERGED,
                self.datamanager.config.scene_key,
                f"loss {loss.item()} at step {step}, terms {broken or 'sum'}",
            )
        self._error_average = self._error_average + torch.pow(10.0, -metrics["psnr"] / 10.0)
        self._steps_averaged += 1
        now = time.perf_counter()
        last_step = self.datamanager.nerf.num_steps - 1
        if now - self._reported_at >= _PROGRESS_EVERY_S or step == last_step:
            self._report(step, now)
        if self.config.checkpoint_path is not None and now - self._saved_at >= self.config.checkpoint_every_s:
            self.save_checkpoint(step)
        return loss, losses, metrics

    def _report(self, step: int, now: float) -> None:
        row = {
            "step": float(step + 1),
            "psnr": float(-10.0 * torch.log10(self._error_average / self._steps_averaged)),
            "rays_per_s": self._steps_averaged
            * self.datamanager.get_train_rays_per_batch()
            / max(1e-6, now - self._reported_at),
        }
        self.history.append(row)
        if self.on_progress is not None:
            self.on_progress("fit", (step + 1) / self.datamanager.nerf.num_steps, row)
        self._error_average, self._steps_averaged, self._reported_at = torch.zeros(()), 0, now

    def save_checkpoint(self, step: int) -> None:
        """Write everything that a resumed fit needs, in one atomic file."""
        if self.config.checkpoint_path is None:
            return
        sampler = self.model.sampler
        state = TrainingState(
            step=step,
            model=self.model.state_dict(),
            optimizers={name: o.state_dict()["state"] for name, o in self.optimizers.optimizers.items()},
            random_states={"torch": torch.get_rng_state(), "rays": self.datamanager.generator.get_state()},
            counters={"sampler_step": sampler._step, "sampler_steps_since_update": sampler._steps_since_update},
        )
        save_training_state(self.config.checkpoint_path, state)
        self._saved_at = time.perf_counter()

    def _load_checkpoint(self) -> None:
        path = self.config.checkpoint_path
        if path is None or not path.is_file():
            return
        state = load_training_state(path)
        self.model.load_state_dict(state.model)
        for name, optimizer in self.optimizers.optimizers.items():
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state.optimizers[name]})
            scheduler = self.optimizers.schedulers[name]
            scheduler.last_epoch = state.step + 1
            for group, base, factor in zip(
                optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base * factor(scheduler.last_epoch)
        torch.set_rng_state(state.random_states["torch"])
        self.datamanager.generator.set_state(state.random_states["rays"])
        self.model.sampler._step = state.counters["sampler_step"]
        self.model.sampler._steps_since_update = state.counters["sampler_steps_since_update"]
        self.model.sampler.step_cb(state.step)  # the checkpoint was taken before the callbacks of its step
        self._start_step = state.step + 1
        self.config.max_num_iterations = self.datamanager.nerf.num_steps - self._start_step

    def _after_train(self) -> None:
        self.training_state = "completed"  # the artifact is written by whoever called; nothing is printed


def trainer_config(
    nerf: NerfConfig,
    *,
    home_root: Path = Path("runs/default"),
    store_url: str | None = None,
    scene_key: str = "",
    scene_digest: str = "",
    sky_mask_digest: str = "",
    work_folder: Path | None = None,
    device: str = "cpu",
) -> DrivingFieldTrainerConfig:
    """Return nerfstudio's configuration of one fit."""

    def group(learning_rate: float) -> dict[str, object]:
        return {
            "optimizer": FusedAdamConfig(lr=learning_rate),
            "scheduler": ExponentialDecaySchedulerConfig(
                lr_final=learning_rate * nerf.final_learning_rate_ratio,
                warmup_steps=min(20, nerf.num_steps // 10),
                lr_pre_warmup=learning_rate * 0.1,
                max_steps=nerf.num_steps,
            ),
        }

    folder = work_folder or Path("outputs")
    return DrivingFieldTrainerConfig(
        method_name=nerf.method,
        experiment_name=scene_key or "scene",
        timestamp="fit",
        output_dir=folder,
        machine=MachineConfig(seed=nerf.seed, device_type="cuda" if device.startswith("cuda") else "cpu"),
        logging=LoggingConfig(local_writer=LocalWriterConfig(enable=False), profiler="none", steps_per_log=20),
        max_num_iterations=nerf.num_steps,
        steps_per_save=nerf.num_steps + 1,  # checkpoints follow the clock instead
        mixed_precision=False,
        vis="tensorboard",
        pipeline=VanillaPipelineConfig(
            datamanager=SceneDataManagerConfig(
                home_root=home_root,
                store_url=store_url,
                scene_key=scene_key,
                scene_digest=scene_digest,
                sky_mask_digest=sky_mask_digest,
                nerf=nerf,
            ),
            model=model_config(nerf),
        ),
        optimizers={name: group(rate) for name, rate in learning_rates(nerf).items()},
        checkpoint_path=None if work_folder is None else work_folder / f"attempt-{nerf.seed}.safetensors",
        checkpoint_every_s=nerf.execution.checkpoint_every_s,
    )


def quieten_nerfstudio() -> None:
    """Silence nerfstudio's banners and tables, and drop the event writers of an earlier fit in this process."""
    CONSOLE.quiet = True
    writer.EVENT_WRITERS.clear()
