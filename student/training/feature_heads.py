"""Bring the heads of foundation features to rest, on a field that does not move any more.

While a field is fitted, what its heads read moves with every step, and they follow. A head is small: on features that
stay as they are it finds in a minute what it would not have found in hours.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from storage.errors import ErrorKind, StudentDivergedError
from storage.progress import ProgressCallback
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.evenly_spaced import evenly_spaced
from student.data.sample import TrainingBatch
from student.losses.depth import surface_depth
from student.losses.images import resized
from student.losses.terms import absolute_error, squared_error
from student.model.distillnerf import DistillNeRF

_PER_FRAME = 3000
"""Pixels, and places, that are kept of each frame."""
_PER_STEP = 4096
_LOG_EVERY = 100


class Readings(NamedTuple):
    """What heads are given, and what they should make of it.

    Attributes:
        given: Features of the field.
        wanted: Features of each foundation model.
    """

    given: Float[Tensor, "readings channels"]
    wanted: dict[str, Float[Tensor, "readings _"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeadLesson:
    """What heads learned from.

    Attributes:
        frames: Number of frames.
        pixels: Number of rendered pixels.
        places: Number of places where rays end.
        steps: Steps taken.
        loss: Mean loss of the last tenth of the steps.
    """

    frames: int
    pixels: int
    places: int
    steps: int
    loss: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def settle_feature_heads(
    model: DistillNeRF,
    dataset: FrameDataset,
    config: StudentConfig,
    *,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> FeatureHeadLesson | None:
    """Fit the heads of foundation features alone; nothing else of the model changes.

    They descend the fit's own losses, of rendered maps (DistillNeRF Eq. 9) and of places where rays end.

    Args:
        model: The student. It is left in evaluation mode.
        dataset: Its training samples.
        config: The run.
        seed: Seed of the choice of pixels.
        on_progress: Called with a stage, the share done, and figures.

    Returns:
        What they learned from; None if the run asks for no step, the model has no head, or no term counts.

    Raises:
        StudentDivergedError: If a loss is not finite.
    """
    budget, losses = config.fit.heads, config.losses
    if not (budget.steps and len(model.feature_heads) and (losses.feature or losses.surface_feature)):
        return None
    tell = on_progress or (lambda *_: None)
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    chosen = evenly_spaced(range(len(dataset)), budget.max_frames)
    parts = []
    for done, index in enumerate(chosen):
        parts.append(_read(model, dataset[index], generator))
        tell("features", (done + 1) / len(chosen), {"step": 0, "frame": index})
    pixels, places = (_joined([part[which] for part in parts]) for which in (0, 1))
    values: list[float] = []

    def loss() -> Tensor:
        given, shown = _some(pixels, generator), _some(places, generator)
        total = torch.zeros((), device=given.given.device)
        for source, head in model.feature_heads.items():
            total = total + losses.feature * absolute_error(head(given.given), given.wanted[source])[0]
            total = total + losses.surface_feature * squared_error(head(shown.given), shown.wanted[source])[0]
        return total

    for value in descend(model.feature_heads, loss, steps=budget.steps, learning_rate=budget.learning_rate):
        values.append(value)
        step = len(values)
        if not math.isfinite(value):
            raise StudentDivergedError(ErrorKind.DIVERGED, "feature_heads", f"at step {step - 1}: loss {value}")
        if step % _LOG_EVERY == 0 or step == budget.steps:
            figures = {"step": step, "steps": budget.steps, "loss": float(np.mean(values[-_LOG_EVERY:]))}
            tell("heads", step / budget.steps, figures)
    model.eval()
    return FeatureHeadLesson(
        frames=len(parts),
        pixels=len(pixels.given),
        places=len(places.given),
        steps=budget.steps,
        loss=float(np.mean(values[-max(1, budget.steps // 10) :])),
    )


def descend(heads: nn.Module, loss: Callable[[], Tensor], *, steps: int, learning_rate: float) -> Iterator[float]:
    """Take steps of Adam on heads alone, at a rate that falls to 0 linearly, and yield the loss of each.

    Args:
        heads: What is fitted.
        loss: Returns the loss of a step, of readings that it draws.
        steps: Number of steps.
        learning_rate: Rate of the first one.
    """
    heads.train()
    optimizer = torch.optim.Adam(heads.parameters(), lr=learning_rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1.0 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        yield float(value.detach())
    heads.eval()


@torch.no_grad()
def _read(model: DistillNeRF, batch: TrainingBatch, generator: torch.Generator) -> tuple[Readings, Readings]:
    """Return some rendered pixels of a frame, and some of the places where their rays are known to end."""
    batch = batch.to(next(model.parameters()).device)
    targets, real = batch.view_targets, slice(batch.view_targets.num_real)
    is_present = batch.cameras.target_is_present[:, real]
    field = model.encode(batch.inputs)
    rendering = model.render(field, batch.cameras)
    assert rendering.composited is not None
    held, has_surface = model.surface_features(field, batch.cameras, surface_depth(targets))
    size = (batch.cameras.render_height, batch.cameras.render_width)
    wanted = {source: resized(maps[is_present], size).movedim(1, -1) for source, maps in targets.features.items()}

    def some(given: Tensor, is_known: Bool[Tensor, "views height width"]) -> Readings:
        known = is_known.flatten().nonzero()[:, 0].cpu()
        kept = known[torch.randperm(len(known), generator=generator)[:_PER_FRAME]].to(given.device)
        return Readings(
            given.flatten(0, 2).index_select(0, kept),
            {source: maps.flatten(0, 2).index_select(0, kept) for source, maps in wanted.items()},
        )

    composited = rendering.composited[:, real][is_present].movedim(1, -1)
    return (
        some(composited, rendering.is_seen[:, real][is_present]),
        some(held[:, real][is_present], has_surface[:, real][is_present]),
    )


def _joined(parts: list[Readings]) -> Readings:
    return Readings(
        torch.cat([part.given for part in parts]),
        {source: torch.cat([part.wanted[source] for part in parts]) for source in parts[0].wanted},
    )


def _some(readings: Readings, generator: torch.Generator) -> Readings:
    """Return as many of them as a step takes, drawn at random."""
    if not len(readings.given):
        return readings
    chosen = torch.randint(len(readings.given), (_PER_STEP,), generator=generator).to(readings.given.device)
    return Readings(
        readings.given.index_select(0, chosen),
        {source: values.index_select(0, chosen) for source, values in readings.wanted.items()},
    )
