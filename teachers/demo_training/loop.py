"""Training loop of all demo models: seeded, with a progress bar and a schedule."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Int
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor


def train(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.05,
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Minimise a loss with AdamW, a warm-up over 5 % of the steps and a cosine down to zero.

    Args:
        name: Label of the progress bar.
        parameters: Parameters to train.
        loss_of_step: Function that returns the loss of one step.
        steps: Number of updates.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of AdamW; vectors (biases, norms, positions of one axis) have none.
        after_step: Function called after each update, for example to update a moving average.

    Returns:
        Loss of each step.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    trained = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    losses: list[float] = []
    with progress_bar() as bar:
        task = bar.add_task(name, total=steps)
        for step in range(steps):
            loss = loss_of_step(step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{name}: loss {float(loss)} at step {step}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            if after_step is not None:
                after_step(step)
            losses.append(float(loss.detach()))
            bar.update(task, advance=1, description=f"{name}  loss {np.mean(losses[-50:]):.3f}")
    return losses


def progress_bar() -> Progress:
    """Return a bar with counts, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


def shuffled_batches(
    num_items: int, batch_size: int, generator: torch.Generator
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yield batches of indices for ever: each item once per round, in a new order every round."""
    while True:
        order = torch.randperm(num_items, generator=generator).numpy()
        for start in range(0, num_items - batch_size + 1, batch_size):
            yield np.sort(order[start : start + batch_size])
