"""One step: what a batch is divided into does not matter, reduced precision means the same, and faults are named."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.errors import StudentDivergedError
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.sample import TrainingBatch, concatenate
from student.data.training_set import load_training_set
from student.losses.total import Losses
from student.training.processes import Processes
from student.training.step import TrainingStep

ALONE = Processes(rank=0, count=1, is_first_of_machine=True, device=torch.device("cpu"))


def without_chance(config: StudentConfig, **runtime: Any) -> StudentConfig:
    """The same run of two frames a step, where no random number depends on how they are divided."""
    model = replace(config.model, renderer=replace(config.model.renderer, jitter=False))
    fit = replace(config.fit, runtime=replace(config.fit.runtime, **runtime))
    return replace(config, model=model, data=replace(config.data, batch_size=2), fit=fit)


@pytest.fixture
def batch(shared_world: Any, student_config: StudentConfig) -> TrainingBatch:
    shared_world.freeze("step", student_config)
    data = FrameDataset(shared_world.home, load_training_set(shared_world.home, "step"), "train", student_config.data)
    return concatenate([data[0], data[3]])


def in_double(value: Any) -> Any:
    """Return tensors, or a dataclass or dictionary of them, in double precision."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: in_double(inner) for key, inner in value.items()}
    if is_dataclass(value):
        return replace(value, **{field.name: in_double(getattr(value, field.name)) for field in fields(value)})  # type: ignore[type-var]
    return value


def double_step(config: StudentConfig) -> TrainingStep:
    """Return a step that computes in double precision, for what must not change though sums are made in another order.

    In single precision a last bit, which is another one on another processor, may put a candidate into the next cell:
    gradients then change by some percent.
    """
    optimizer = replace(config.fit.optimizer, ema_decay=None)  # an average keeps the precision that it began in
    training = TrainingStep(replace(config, fit=replace(config.fit, optimizer=optimizer)), ALONE)
    training.model.double()
    return training


def gradient(training: TrainingStep) -> Tensor:
    return torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])


def weights(training: TrainingStep) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])


def test_a_batch_is_the_mean_of_its_samples(batch: TrainingBatch, student_config: StudentConfig) -> None:
    batch = in_double(batch)
    training = double_step(without_chance(student_config))
    together = training._losses(training.model, batch, 0)
    alone = [training._losses(training.model, sample, 0) for sample in batch.split()]
    # The samples differ, in how many pixels are known too, or this would say nothing.
    assert abs(alone[0].total.item() - alone[1].total.item()) > 1e-3
    assert alone[0].counts["lidar_rendered"] != alone[1].counts["lidar_rendered"]
    torch.testing.assert_close(together.total, torch.stack([one.total for one in alone]).mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(together.sample_totals, torch.stack([one.total for one in alone]), rtol=1e-5, atol=0)
    for name, term in together.terms.items():
        torch.testing.assert_close(term, (alone[0].terms[name] + alone[1].terms[name]) / 2, rtol=1e-4, atol=1e-6)
        assert together.counts[name] == alone[0].counts[name] + alone[1].counts[name]


def test_accumulated_parts_are_the_whole_batch(batch: TrainingBatch, student_config: StudentConfig) -> None:
    ends = []
    for parts in (1, 2):
        training = double_step(without_chance(student_config, accumulation_steps=parts))
        loss = training.take(in_double(batch), step=0, rate=1e-3).total.item()
        ends.append((loss, gradient(training)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    # Sums over another number of images round otherwise; a wrong weight of a part would be off by half.
    assert float((ends[0][1] - ends[1][1]).norm()) < 1e-3 * float(ends[0][1].norm())


def test_first_steps_may_fit_depth_alone(batch: TrainingBatch, student_config: StudentConfig) -> None:
    config = without_chance(student_config)
    optimizer = replace(config.fit.optimizer, weight_decay=0.1)  # which must not act on weights that are not fitted
    fit = replace(config.fit, max_steps=2, depth_steps=1, optimizer=optimizer)
    training = TrainingStep(replace(config, fit=fit), ALONE)
    start = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    whole = TrainingStep(config, ALONE)._losses(training.model, batch, 0)

    losses = training.take(batch, step=0, rate=1e-3)
    # Of what a whole step counts, all that is about input pixels, at the same value.
    of_inputs = {name for name in whole.terms if name.endswith(("_coarse", "_fine")) or name == "depth_likelihood"}
    assert {"lidar_coarse", "teacher_fine", "opacity_coarse", "entropy_coarse"} < of_inputs < set(whole.terms)
    assert set(losses.terms) == of_inputs
    for name in of_inputs:
        torch.testing.assert_close(losses.terms[name], whole.terms[name])
        assert losses.counts[name] == whole.counts[name]
    changed = {name.split(".")[0] for name, value in training.model.named_parameters() if not value.equal(start[name])}
    assert changed == {"coarse_depth", "fine_depth"}

    assert set(training.take(batch, step=1, rate=1e-3).terms) == set(whole.terms)
    changed = {name.split(".")[0] for name, value in training.model.named_parameters() if not value.equal(start[name])}
    assert {"voxel_network", "decoder"} < changed
    with pytest.raises(ValueError, match="depth_steps 3"):
        replace(fit, depth_steps=3)


def test_activations_are_recomputed_where_the_run_says_so(batch: TrainingBatch, student_config: StudentConfig) -> None:
    ends = []
    for recomputes in (False, True):
        training = TrainingStep(without_chance(student_config, recompute_activations=recomputes), ALONE)
        assert training.model.recomputes_activations == recomputes
        training.take(batch, step=0, rate=1e-3)
        ends.append(gradient(training))
    # Not bit by bit: contributions to a gradient may be added up in another order.
    assert float((ends[0] - ends[1]).norm()) < 1e-5 * float(ends[0].norm())


def test_a_batch_that_cannot_be_cut_is_refused(batch: TrainingBatch, student_config: StudentConfig) -> None:
    with pytest.raises(ValueError, match="3 equal parts"):
        batch.parts(3)
    with pytest.raises(ValueError, match="cannot be shared by 1 processes, each in 3 equal parts"):
        without_chance(student_config, accumulation_steps=3)


@pytest.mark.parametrize(("precision", "steps"), [("bfloat16", 6), ("float16", 3)])  # processors emulate float16
def test_reduced_precision_means_the_same(
    batch: TrainingBatch, student_config: StudentConfig, precision: Any, steps: int
) -> None:
    config = without_chance(student_config)
    whole = TrainingStep(config, ALONE)
    reduced = TrainingStep(replace(config, fit=replace(config.fit, precision=precision)), ALONE)
    first = [training._losses(training.model, batch, 0).total.item() for training in (whole, reduced)]
    assert first[0] != first[1]
    assert first[1] == pytest.approx(first[0], rel=0.02)
    if precision == "float16":  # the first steps find a scale that does not overflow: near it already
        reduced.scaler.load_state_dict({**reduced.scaler.state_dict(), "scale": 2.0**8})
    start = weights(reduced)
    losses = [reduced.take(batch, step=step, rate=3e-3).total.item() for step in range(steps)]
    assert losses[-1] < (1.0 - 0.017 * steps) * losses[0]
    assert torch.isfinite(weights(reduced)).all()
    assert weights(reduced).dtype == torch.float32
    assert not torch.equal(weights(reduced), start)


def test_gradients_that_overflow_in_half_precision_scale_losses_less(
    batch: TrainingBatch, student_config: StudentConfig
) -> None:
    config = replace(student_config, fit=replace(student_config.fit, precision="float16"))
    training = TrainingStep(config, ALONE)
    training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 2.0**40})
    start = weights(training)
    training.take(batch, step=0, rate=1e-3)
    assert torch.equal(weights(training), start)
    assert training.scaler.get_scale() == 2.0**39


def spoil(key: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Add something wrong to the loss of one sample."""
    from student.training import step as training_step

    original = training_step.student_losses

    def spoiled(output: Any, batch: TrainingBatch, *rest: Any, **named: Any) -> Losses:
        losses = original(output, batch, *rest, **named)
        if key not in batch.keys:
            return losses
        wrong = change(output.image.mean())
        is_it = torch.tensor([one == key for one in batch.keys])
        totals = losses.sample_totals + torch.where(is_it, wrong.detach(), 0.0)
        return replace(losses, total=losses.total + wrong, sample_totals=totals)

    monkeypatch.setattr(training_step, "student_losses", spoiled)


def test_a_loss_that_is_not_finite_names_its_sample_alone(
    batch: TrainingBatch, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingStep(student_config, ALONE)
    spoil("yard.a/000003", monkeypatch, lambda value: value * torch.inf)
    with pytest.raises(StudentDivergedError) as caught:
        training.take(batch, step=7, rate=1e-3)
    assert caught.value.key == "yard.a/000003"
    assert "at step 7" in caught.value.message


def test_a_gradient_that_is_not_finite_names_its_sample_alone(
    batch: TrainingBatch, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingStep(student_config, ALONE)
    start = weights(training)
    # The root of zero: 0, with an infinite slope.
    spoil("yard.a/000003", monkeypatch, lambda value: (value * 0.0).abs().sqrt())
    with pytest.raises(StudentDivergedError) as caught:
        training.take(batch, step=0, rate=1e-3)
    assert caught.value.key == "yard.a/000003"
    assert "gradient norm" in caught.value.message
    assert torch.equal(weights(training), start)
