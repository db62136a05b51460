"""The optimiser, its learning rate over a run, and the average of the weights."""

import math

import torch
from torch import Tensor, nn

from encoders.efficientnet import EfficientNetLite0
from student.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW over every parameter that learns; vectors (biases, scales) are never decayed.

    Each group has a ``rate_factor`` beside its rate; see :func:`set_rate`.
    """
    trunks = (module for module in model.modules() if isinstance(module, EfficientNetLite0))
    pretrained = {id(p) for trunk in trunks for p in trunk.parameters()}
    groups = []
    for factor, of_trunk in ((1.0, False), (config.encoder_rate, True)):
        chosen = [p for p in model.parameters() if p.requires_grad and (id(p) in pretrained) == of_trunk]
        for decay, matrices in ((config.weight_decay, True), (0.0, False)):
            params = [p for p in chosen if (p.ndim >= 2) == matrices]
            if params:
                groups.append({"params": params, "weight_decay": decay, "rate_factor": factor})
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, of each group by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def learning_rate(config: OptimizerConfig, step: int, share_done: float) -> float:
    """Return the rate of one step.

    Args:
        config: Peak, warm-up and schedule.
        step: Steps taken before this one.
        share_done: Share of the run's budget used before it, in [0, 1].
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "step":
        factor = 1.0 if share_done < 2 / 3 else 0.1 if share_done < 0.9 else 0.01
    else:
        factor = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, share_done)))
    return config.learning_rate * warm * factor


class WeightAverage:
    """An exponential average of a model's parameters, corrected for its start.

    Args:
        model: The model to follow.
        decay: Share kept at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.average = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the average."""
        self.num_updates += 1
        # Early on the average would mostly be the random start: let it forget faster.
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in model.named_parameters():
            self.average[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the model's weights; a second call restores both."""
        for name, value in model.named_parameters():
            held = value.detach().clone()
            value.copy_(self.average[name])
            self.average[name] = held

    def tensors(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return self.average
