"""The ImageNet encoder as an encoder of the student, like any other."""

from dataclasses import replace

import pytest
import torch

from student.config import OptimizerConfig
from student.model.backbone import Pyramid
from student.model.config import PyramidConfig
from student.training.optimization import build_optimizer, set_rate


def test_a_pyramid_of_it_returns_a_map_at_half_the_size_and_learns() -> None:
    config = PyramidConfig(encoder="efficientnet-lite0", stem_stride=2, lateral_width=8, output_width=6)
    pyramid = Pyramid(config)
    y = pyramid(torch.rand(1, 3, 72, 128) * 2 - 1)
    assert y.shape == (1, 6, *pyramid.map_size(72, 128))
    y.square().mean().backward()
    without = [name for name, p in pyramid.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_a_stem_of_stride_one_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 2"):
        PyramidConfig(encoder="efficientnet-lite0", stem_stride=1)


def test_the_rate_of_the_encoder_is_its_own() -> None:
    pyramid = Pyramid(PyramidConfig(encoder="efficientnet-lite0", stem_stride=2, lateral_width=8, output_width=6))
    optimizer = build_optimizer(pyramid, replace(OptimizerConfig(), encoder_rate=0.25))
    set_rate(optimizer, 0.008)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in pyramid.named_parameters():
        assert rates[id(parameter)] == (0.002 if name.startswith("trunk.") else 0.008), name
