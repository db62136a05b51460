"""nerfstudio's trainer over our data manager, model and checkpoints.

nerfstudio pickles its checkpoints; this trainer keeps them as safetensors instead, with everything that a resumed fit
needs to continue as if it had not stopped: parameters, Adam's moments, both random states, the sampler's schedule.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from storage.digests import undefined_as_null
from storage.errors import ErrorKind, TeacherDivergedError
from teachers.nerf.checkpoint import TrainingState, load_training_state, save_training_state
from teachers.nerf.config import NerfConfig
from teachers.nerf.datamanager import SceneDataManager, SceneDataManagerConfig
from teachers.nerf.limits import Limits
from teachers.nerf.methods import TeacherModel, learning_rates, model_config
from teachers.nerf.model import DrivingFieldModel
from teachers.nerf.progress import Progress
from teachers.nerf.schedule import learning_rate_factor

_PROGRESS_EVERY_S = 2.0


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over memory: on a CPU several times faster for tables of millions of rows."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    fused: bool = True


@dataclass
class TwoPhaseSchedulerConfig(SchedulerConfig):
    """The learning rate of ``teachers.nerf.schedule``, for nerfstudio."""

    _target: type = field(default_factory=lambda: TwoPhaseScheduler)
    nerf: NerfConfig = field(default_factory=NerfConfig)


class TwoPhaseScheduler(Scheduler):
    """Multiply the rate that an optimizer starts with by the factor of each step."""

    config: TwoPhaseSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """Return torch's scheduler."""
        return LambdaLR(optimizer, lambda step: learning_rate_factor(step, self.config.nerf))


@dataclass
class DrivingFieldTrainerConfig(TrainerConfig):
    """nerfstudio's trainer configuration, with where and how often a resumable checkpoint is written."""

    _target: type = field(default_factory=lambda: DrivingFieldTrainer)
    checkpoint_path: Path | None = None
    checkpoint_every_s: float = 20.0


class DrivingFieldTrainer(Trainer):
    """Train the driving field in two phases; stop at the first sign of divergence; resume where a fit stood.

    At the end of the first phase the field is judged on the frames held out. The second, if the
    configuration asks for one, goes on with all frames.

    Attributes:
        on_progress: Told about the fit every few seconds.
        history: One row per report: step, PSNR of training rays, rays per second.
        judge: What measures the field at the end of the first phase, when rays of all frames of the second are at hand;
            NaN is kept as None.
        judgement: What it measured; None before.
        limits: What this run may use, or None.
    """

    config: DrivingFieldTrainerConfig

    def __init__(self, config: DrivingFieldTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self.on_progress: Progress | None = None
        self.history: list[Mapping[str, float]] = []
        self.judge: Callable[[DrivingFieldTrainer], Mapping[str, Any]] = lambda _trainer: {}
        self.judgement: Mapping[str, Any] | None = None
        self.limits: Limits | None = None
        self._error_average = torch.zeros(())
        self._steps_averaged = 0
        self._reported_at = self._saved_at = time.perf_counter()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build data, field and optimizers, or take them up where an interrupted fit stood."""
        super().setup(test_mode)
        if isinstance(self.model, DrivingFieldModel):
            self.datamanager.refinement = self.model.refinement
            self.model.field.confine_moving(self.datamanager.moving_places)

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
            OutOfCapacityError: If a limit of this run is exceeded or the disk is full; a checkpoint is left.
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
        if step == self.datamanager.nerf.judged_steps - 1:
            self.save_checkpoint(step)  # a judgement takes a while
            self._end_first_phase()
            self.save_checkpoint(step)
        elif now - self._saved_at >= self.config.checkpoint_every_s:
            self.save_checkpoint(step)
        done = f"step {step + 1} of {self.datamanager.nerf.num_steps}"
        if step != last_step and self.limits is not None and (exceeded := self.limits.exceeded(done)) is not None:
            self.save_checkpoint(step)
            raise exceeded
        return loss, losses, metrics

    def _end_first_phase(self) -> None:
        """Judge the field, unless it was; then let the second phase draw from all its frames."""
        whole = self.datamanager.split.whole if self.datamanager.nerf.whole_steps else None
        if whole is not None:
            self.datamanager.fit_frames(whole)
        if self.judgement is None:
            sampler = self.model.sampler
            steps_since_update = sampler._steps_since_update
            self.judgement = undefined_as_null(self.judge(self))
            sampler._steps_since_update = steps_since_update  # it counts what is rendered for a judgement as a step
        if whole is not None and isinstance(self.model, DrivingFieldModel):
            self.model.field.set_fitted_frames(whole)
            self.model.field.confine_moving(self.datamanager.moving_places)

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
            history=self.history,
            judgement=self.judgement,
            data=self.datamanager.state(),
        )
        save_training_state(self.config.checkpoint_path, state)
        self._saved_at = time.perf_counter()

    def _load_checkpoint(self) -> None:
        path = self.config.checkpoint_path
        state = None if path is None else load_training_state(path)
        if state is None:
            return
        self.model.load_state_dict(state.model)
        for name, optimizer in self.optimizers.optimizers.items():
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state.optimizers.get(name, {})})
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
        self.history, self.judgement = list(state.history), state.judgement
        is_past_first = state.step >= self.datamanager.nerf.judged_steps - 1  # judged, or interrupted before it was
        if self.judgement is None:
            self.datamanager.load_state(state.data)  # of the first phase; the second starts with a map of its own
        if is_past_first:
            self._end_first_phase()
        if state.judgement is not None:
            self.datamanager.load_state(state.data)
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
            "optimizer": FusedAdamConfig(lr=learning_rate, betas=nerf.betas),
            "scheduler": TwoPhaseSchedulerConfig(nerf=nerf),
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
