"""Heads of features come to rest: they learn, they alone, and the same from the same seed."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from storage.errors import StudentDivergedError
from student.config import FeatureHeadFitConfig, StudentConfig
from student.data.dataset import FrameDataset
from student.data.training_set import load_training_set
from student.model.distillnerf import DistillNeRF
from student.training import feature_heads
from student.training.feature_heads import settle_feature_heads
from student.training.fit import fit_student


def with_heads(config: StudentConfig, steps: int) -> StudentConfig:
    return replace(config, fit=replace(config.fit, heads=FeatureHeadFitConfig(steps=steps, max_frames=2)))


@pytest.fixture
def dataset(shared_world: Any, student_config: StudentConfig) -> FrameDataset:
    shared_world.freeze("heads", student_config)
    return FrameDataset(shared_world.home, load_training_set(shared_world.home, "heads"), "train", student_config.data)


def untrained(config: StudentConfig) -> DistillNeRF:
    torch.manual_seed(0)
    return DistillNeRF(config.model)


def test_heads_learn_and_nothing_else_does(dataset: FrameDataset, student_config: StudentConfig) -> None:
    config = with_heads(student_config, 60)
    ends, told = [], []
    for _ in range(2):
        model = untrained(config)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        lesson = settle_feature_heads(model, dataset, config, seed=3, on_progress=lambda *said: told.append(said))
        assert lesson is not None
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]) == (not name.startswith("feature_heads.")), name
        ends.append(torch.cat([p.detach().flatten() for p in model.feature_heads.parameters()]))
    assert torch.equal(*ends)
    assert (lesson.frames, lesson.steps) == (2, 60)
    assert lesson.pixels > 100
    one_step = settle_feature_heads(untrained(config), dataset, with_heads(config, 1), seed=3)
    assert one_step is not None
    assert lesson.loss < 0.95 * one_step.loss  # the features of this world are noise
    assert {stage for stage, *_ in told} == {"features", "heads"}


def test_both_terms_of_the_fit_are_descended(
    dataset: FrameDataset, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surfaces(model: DistillNeRF, field: Any, targets: Any, depth: Any) -> Any:
        held = torch.full((*depth.shape, 2 * model.config.voxels.feature_width), 0.5)
        return held, torch.isfinite(depth)

    monkeypatch.setattr(DistillNeRF, "surface_features", surfaces)
    both = with_heads(student_config, 1)
    values = []
    for feature, surface in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        config = replace(both, losses=replace(both.losses, feature=feature, surface_feature=surface))
        lesson = settle_feature_heads(untrained(config), dataset, config)
        assert lesson is not None
        assert lesson.places > 10
        values.append(lesson.loss)
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-5)
    assert min(values) > 0


def test_nothing_is_done_that_is_not_asked_for(dataset: FrameDataset, student_config: StudentConfig) -> None:
    config = with_heads(student_config, 5)
    silent = replace(config, losses=replace(config.losses, feature=0.0, surface_feature=0.0))
    headless = replace(
        config, model=replace(config.model, feature_heads=()), data=replace(config.data, feature_sources=())
    )
    for run in (with_heads(config, 0), silent, headless):
        assert settle_feature_heads(untrained(run), dataset, run) is None


def test_a_loss_that_is_not_finite_is_said(
    dataset: FrameDataset, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_heads, "absolute_error", lambda a, b: ((a - b).sum() * float("nan"), 1))
    with pytest.raises(StudentDivergedError, match="feature_heads"):
        settle_feature_heads(untrained(student_config), dataset, with_heads(student_config, 2))


def test_a_fit_publishes_heads_that_rest(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("rest", student_config)
    ends = [fit_student(shared_world.home, "rest", with_heads(student_config, steps)) for steps in (0, 4)]
    assert "heads" not in ends[0].metrics
    assert ends[1].metrics["heads"]["steps"] == 4
    assert ends[0].metrics["validation"] == ends[1].metrics["validation"]  # nothing but heads of features differs
