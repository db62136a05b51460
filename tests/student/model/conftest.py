"""Small rigs and a model small enough to test on one core."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from student.model.config import DepthBinsConfig, FeatureHeadConfig, ModelConfig, PyramidConfig, VoxelConfig
from student.model.distillnerf import DistillNeRF
from student.model.types import CameraInputs, TargetCameras
from student.presets.models import tiny_model

Rig = Callable[..., tuple[CameraInputs, TargetCameras]]


@pytest.fixture
def mini_config() -> ModelConfig:
    """A model of the same shape as the others, at the smallest widths."""
    tiny = tiny_model(depth_feature_channels=6, feature_heads=(FeatureHeadConfig(source="clip", channels=5),))
    pyramid = PyramidConfig(
        stem_width=8, stem_stride=2, stage_widths=(8, 8), stage_blocks=(1, 1), stage_strides=(1, 2),
        lateral_width=8, output_width=8,
    )  # fmt: skip
    bins = DepthBinsConfig(near=0.5, far=100.0, spacing="logarithmic", num_bins=24)
    return replace(
        tiny,
        coarse_depth=replace(tiny.coarse_depth, pyramid=pyramid, combiner_width=8, mono_width=8, bins=bins),
        fine_depth=replace(
            tiny.fine_depth, pyramid=pyramid, fuse_width=8, hidden_width=8, num_candidates=5, lift_detail=False
        ),
        voxels=VoxelConfig(coarse_level=5, feature_width=8, convolution_width=8, down_width=8),
        renderer=replace(tiny.renderer, bins=bins, num_fine_samples=8),
    )


@pytest.fixture
def double_model(mini_config: ModelConfig) -> DistillNeRF:
    """A model in double precision, for what must not change though its sums are made in another order.

    In single precision a last bit, which is another one on another processor, may put a candidate into the next cell;
    its pixels then change visibly.
    """
    torch.manual_seed(0)
    return DistillNeRF(mini_config).double().eval()


@pytest.fixture
def make_rig() -> Rig:
    """Build a ring of cameras, and target cameras at the same poses."""

    def build(
        *,
        num_cameras: int = 3,
        batch_size: int = 1,
        height: int = 24,
        width: int = 40,
        channels: int = 6,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[CameraInputs, TargetCameras]:
        generator = torch.Generator().manual_seed(seed)
        intrinsics = torch.tensor([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
        poses = torch.stack([_looking_outward(2 * math.pi * index / 6 + 0.1) for index in range(num_cameras)])
        shape = (batch_size, num_cameras)
        inputs = CameraInputs(
            images=torch.rand(*shape, 3, height, width, generator=generator).to(dtype),
            intrinsics=intrinsics.to(dtype).expand(*shape, 3, 3).clone(),
            camera_to_reference_ego=poses.to(dtype).expand(*shape, 4, 4).clone(),
            camera_is_present=torch.ones(shape, dtype=torch.bool),
            depth_features=torch.randn(*shape, channels, 3, 5, generator=generator).to(dtype),
        )
        to_render_grid = torch.tensor([0.5, 0.5, 1.0])[:, None]
        targets = TargetCameras(
            intrinsics=inputs.intrinsics * to_render_grid,
            camera_to_reference_ego=inputs.camera_to_reference_ego,
            target_is_present=torch.ones(shape, dtype=torch.bool),
            render_height=height // 2,
            render_width=width // 2,
        )
        return inputs, targets

    return build


def _looking_outward(angle: float) -> torch.Tensor:
    forward = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    up = torch.tensor([0.0, 0.0, 1.0])
    camera_to_ego = torch.eye(4)
    camera_to_ego[:3, 0] = torch.linalg.cross(forward, up)
    camera_to_ego[:3, 1] = -up
    camera_to_ego[:3, 2] = forward
    camera_to_ego[:3, 3] = forward + 1.5 * up
    return camera_to_ego
