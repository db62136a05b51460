"""What a camera sees of its own vehicle is not looked at, not lifted and not rendered."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from student.model.config import ModelConfig
from student.model.distillnerf import DistillNeRF
from student.model.types import CameraInputs, TargetCameras

Rig = tuple[CameraInputs, TargetCameras]


@pytest.fixture
def model(mini_config: ModelConfig) -> DistillNeRF:
    torch.manual_seed(0)
    return DistillNeRF(mini_config).eval()


def masked(rig: Rig) -> Rig:
    """The lower left part of camera 0 shows the vehicle."""
    inputs, targets = rig
    seen = torch.ones(inputs.images[:, :, 0].shape, dtype=torch.bool)
    seen[:, 0, 14:, :21] = False
    on_targets = torch.ones(*targets.target_is_present.shape, targets.render_height, targets.render_width).bool()
    on_targets[:, 0, 7:, :10] = False
    return replace(inputs, is_valid=seen), replace(targets, is_valid=on_targets)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_image_under_the_mask_changes_nothing(model: DistillNeRF, make_rig: Callable[..., Rig], seed: int) -> None:
    inputs, targets = masked(make_rig(seed=seed))
    noise = torch.rand(inputs.images.shape, generator=torch.Generator().manual_seed(seed + 100))
    assert inputs.is_valid is not None
    other = replace(inputs, images=torch.where(inputs.is_valid[:, :, None], inputs.images, noise))
    first, second = model(inputs, targets), model(other, targets)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.opacity, second.opacity)
    assert first.num_voxels == second.num_voxels
    unmasked = [model(replace(one, is_valid=None), targets) for one in (inputs, other)]
    assert not torch.equal(unmasked[0].image, unmasked[1].image)


def test_nothing_is_lifted_or_rendered_there(model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    inputs, targets = masked(make_rig())
    output = model(inputs, targets)
    assert targets.is_valid is not None
    assert torch.equal(output.is_seen, targets.is_valid)
    assert (output.opacity[~targets.is_valid] == 0).all()
    assert torch.isnan(output.termination_depth[~targets.is_valid]).all()
    assert torch.isnan(output.coarse_termination_depth).any()
    assert output.num_voxels["fine"] < model(replace(inputs, is_valid=None), targets).num_voxels["fine"]


def test_a_mask_without_holes_is_none(model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    inputs, targets = make_rig()
    whole = replace(inputs, is_valid=torch.ones_like(inputs.images[:, :, 0], dtype=torch.bool))
    everywhere = replace(targets, is_valid=torch.ones(1, 3, targets.render_height, targets.render_width).bool())
    assert torch.equal(model(whole, everywhere).image, model(inputs, targets).image)
