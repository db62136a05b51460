"""One optimisation step: forward, losses, backward, clipping and update; it stops at values that are not finite."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from storage.errors import ErrorKind, StudentDivergedError
from student.config import StudentConfig
from student.data.sample import TrainingBatch
from student.losses.depth import surface_depth
from student.losses.perceptual import PerceptualDistance, perceptual_distance
from student.losses.total import Losses, merge, student_losses
from student.model.distillnerf import DistillNeRF
from student.training.optimization import WeightAverage, build_optimizer, set_rate
from student.training.processes import Processes

_REDUCED: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MIN_GRADIENT_SCALE = 1.0
"""Smallest loss scale. If gradients overflow even at this one, the number format is not the cause."""


class TrainingStep:
    """A student with its optimiser, average, loss scaling and processes.

    Args:
        config: The run.
        processes: Processes that train together; all start from the same weights.
        keeps_depth: Whether the network of the first depth keeps its weights. Images alone pull it anywhere that
            explains them.
    """

    def __init__(self, config: StudentConfig, processes: Processes, *, keeps_depth: bool = False) -> None:
        self.config = config
        self.processes = processes
        torch.manual_seed(config.fit.seed)
        self.model = DistillNeRF(config.model).to(processes.device).train()
        self.model.recomputes_activations = config.fit.runtime.recompute_activations
        if self.model.occupancy_head is not None:  # it is taught afterwards, with what reads its sight
            self.model.occupancy_head.requires_grad_(False)
            self.model.voxel_feature_heads.requires_grad_(False)
        if keeps_depth:
            self.model.coarse_depth.requires_grad_(False)
        self.optimizer = build_optimizer(self.model, config.fit.optimizer)
        decay = config.fit.optimizer.ema_decay
        self.average = None if decay is None else WeightAverage(self.model, decay)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.fit.precision == "float16")
        self.perceptual: PerceptualDistance = perceptual_distance(config.losses.lpips_weights).to(processes.device)
        self._network: nn.Module = self.model
        if processes.count > 1:
            self._network = DistributedDataParallel(
                self.model,
                device_ids=[processes.device] if processes.device.type == "cuda" else None,
                find_unused_parameters=config.fit.depth_steps > 0,
            )

    def take(self, batch: TrainingBatch, *, step: int, rate: float) -> Losses:
        """Take one optimisation step on this process's share of a batch.

        Args:
            batch: This process's share.
            step: Number of the step; the seed and it determine the random numbers.
            rate: Learning rate.

        Returns:
            The losses of the share.

        Raises:
            StudentDivergedError: If a loss or gradient is not finite in any process. All processes raise it, and its
                key names the samples.
        """
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        self._seed(step)
        parts = batch.parts(self.config.fit.runtime.accumulation_steps)
        losses = []
        for index, part in enumerate(parts):
            with self._gathering(is_last=index == len(parts) - 1):
                losses.append(self._losses(self._network, part, step))
                self._require_finite_loss(losses[-1], part, step)
                self.scaler.scale(losses[-1].total / len(parts)).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.fit.optimizer.max_gradient_norm)
        self._require_finite_gradient(norm, batch, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return merge(losses)

    def forget_average(self) -> None:
        """Start the average anew, from the model's weights as they are."""
        decay = self.config.fit.optimizer.ema_decay
        self.average = None if decay is None else WeightAverage(self.model, decay)

    @contextmanager
    def published_weights(self) -> Iterator[None]:
        """Put the weights that would be published now into ``model`` while the context lasts."""
        if self.average is None:
            yield
            return
        self.average.swap(self.model)
        try:
            yield
        finally:
            self.average.swap(self.model)

    def _seed(self, step: int) -> None:
        # From the step alone, so that a fit which goes on needs no generator's state, whatever its number of processes.
        entropy = (self.config.fit.seed, step, self.processes.rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _gathering(self, *, is_last: bool) -> nullcontext[None]:
        """Return a context that averages gradients over processes only if this part is the last."""
        if is_last or not isinstance(self._network, DistributedDataParallel):
            return nullcontext()
        return self._network.no_sync()  # pyright: ignore[reportReturnType] - a context manager as well

    def _losses(self, network: nn.Module, batch: TrainingBatch, step: int) -> Losses:
        dtype = _REDUCED.get(self.config.fit.precision)
        targets = batch.cameras if step >= self.config.fit.depth_steps else None
        wants_surface = bool(self.config.losses.surface_feature and self.config.model.feature_heads)
        surface = surface_depth(batch.view_targets) if targets is not None and wants_surface else None
        with torch.autocast(self.processes.device.type, dtype=dtype, enabled=dtype is not None):
            output = network(batch.inputs, targets, surface)
        return student_losses(output, batch, self.config.losses, perceptual=self.perceptual, step=step)

    # --- what is not finite -------------------------------------------------------------------------------------------

    def _require_finite_loss(self, losses: Losses, batch: TrainingBatch, step: int) -> None:
        is_finite = torch.isfinite(losses.sample_totals)
        if self._agree(bool(is_finite.all())):
            return
        keys = [key for key, fine in zip(batch.keys, is_finite.tolist(), strict=True) if not fine]
        terms = {name: float(term) for name, term in losses.terms.items() if not torch.isfinite(term)}
        self._stop(step, keys, f"{terms}" if keys else "")

    def _require_finite_gradient(self, norm: Tensor, batch: TrainingBatch, step: int) -> None:
        """Stop at a gradient that is not finite; with scaled losses, only if the scale is already the smallest."""
        if torch.isfinite(norm):  # the same in every process
            return
        if self.scaler.is_enabled() and self.scaler.get_scale() > _MIN_GRADIENT_SCALE:
            return  # the scaler leaves this step out and scales less
        keys = [sample.keys[0] for sample in batch.split() if not self._is_gradient_finite(sample, step)]
        self._stop(step, keys or batch.keys, f"gradient norm {float(norm)}")

    def _is_gradient_finite(self, sample: TrainingBatch, step: int) -> bool:
        self.optimizer.zero_grad(set_to_none=True)
        with self._gathering(is_last=False):
            self._losses(self.model, sample, step).total.backward()
        return all(bool(torch.isfinite(p.grad).all()) for p in self.model.parameters() if p.grad is not None)

    def _agree(self, is_fine: bool) -> bool:
        wrong = torch.tensor(0.0 if is_fine else 1.0, device=self.processes.device)
        return float(self.processes.total(wrong)) == 0.0

    def _stop(self, step: int, keys: list[str] | tuple[str, ...], what: str) -> None:
        found = self.processes.gather((tuple(keys), what))
        named = ", ".join(key for keys, _ in found for key in keys)
        raise StudentDivergedError(
            ErrorKind.DIVERGED, named, f"at step {step}: {'; '.join(what for _, what in found if what)}"
        )
