"""What the calibration of a ray says about depth: right on flat ground, of any lens, and silent before training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from student.model.distillnerf import DistillNeRF
from student.model.lifting import camera_rays
from student.model.ray_embedding import RayEmbedding, ray_geometry

NEAR, FAR = 0.5, 120.0


def rays_of(*, focal: float = 20.0, height: float = 1.6, tilt: float = 0.0, turn: float = 0.0, fisheye=None):
    """Rays of a camera of 16 by 24 pixels that looks ahead, tilted up and turned left by radians."""
    right, down, ahead = (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([right, down, ahead], dtype=torch.float64).T
    cosine, sine = math.cos(tilt), math.sin(tilt)
    up = torch.tensor([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]], dtype=torch.float64)
    cosine, sine = math.cos(turn), math.sin(turn)
    left = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=torch.float64)
    pose[:3, :3] = left @ up @ pose[:3, :3]
    pose[2, 3] = height
    intrinsics = torch.tensor([[focal, 0, 12], [0, focal, 8], [0, 0, 1]], dtype=torch.float64)
    lens = None if fisheye is None else torch.tensor([fisheye], dtype=torch.float64)
    return camera_rays(intrinsics[None], pose[None], lens, height=16, width=24)


def geometry_of(**camera) -> torch.Tensor:
    return ray_geometry(*rays_of(**camera), near=NEAR, far=FAR)[0]


@pytest.mark.parametrize("camera", [{}, {"tilt": -0.2, "height": 2.4}, {"tilt": 0.1, "turn": 1.0, "focal": 40.0}])
def test_the_ground_is_where_the_ray_meets_it(camera) -> None:
    origins, directions = rays_of(**camera)
    share = geometry_of(**camera)[1]
    distance = NEAR * (FAR / NEAR) ** share
    ends = origins[0] + directions[0] * distance[..., None]
    meets = (directions[0, ..., 2] < 0) & (distance < FAR * 0.999) & (distance > NEAR * 1.001)
    assert meets.any()
    torch.testing.assert_close(ends[meets][:, 2], torch.zeros_like(ends[meets][:, 2]), atol=1e-9, rtol=0)
    assert (share[directions[0, ..., 2] >= 0] == 1).all()


def test_turning_the_vehicle_changes_nothing() -> None:
    torch.testing.assert_close(geometry_of(turn=0.0), geometry_of(turn=2.1), atol=1e-9, rtol=0)


def test_the_angle_between_pixels_tells_the_focal_length() -> None:
    wide, narrow = geometry_of(focal=20.0)[2], geometry_of(focal=40.0)[2]
    centre = (slice(7, 9), slice(10, 14))
    torch.testing.assert_close((wide - narrow)[centre], torch.full((2, 4), math.log(2.0)).double(), atol=0.02, rtol=0)


def test_pixels_that_see_nothing_are_zero_and_their_neighbours_are_not() -> None:
    lens = (-0.2, 0.0, 0.0, 0.0)  # folds within the image: the corners see nothing
    _, directions = rays_of(focal=6.0, fisheye=lens)
    is_seen = torch.isfinite(directions[0, ..., 0])
    geometry = geometry_of(focal=6.0, fisheye=lens)
    assert 0 < is_seen.float().mean() < 1
    assert torch.isfinite(geometry).all()
    assert (geometry[:, ~is_seen] == 0).all()
    assert (geometry[2, is_seen] != 0).all()


def test_it_is_silent_before_it_is_trained() -> None:
    torch.manual_seed(0)
    embedding = RayEmbedding(8, 5, near=NEAR, far=FAR)
    origins, directions = (values.float() for values in rays_of())
    assert torch.equal(embedding(origins, directions), torch.zeros(1, 5, 16, 24))


def speaking(config) -> DistillNeRF:
    """A model whose embedding of rays is not silent."""
    torch.manual_seed(0)
    model = DistillNeRF(config).eval()
    rays = model.coarse_depth.rays
    assert rays is not None
    torch.nn.init.normal_(rays.output.weight, std=0.3)
    return model


def depth_of(model: DistillNeRF, inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(inputs, None).coarse_termination_depth


def test_the_same_images_by_another_lens_have_another_depth(mini_config, make_rig) -> None:
    inputs, _ = make_rig()
    by_another_lens = replace(inputs, intrinsics=inputs.intrinsics * torch.tensor([0.5, 0.5, 1.0])[:, None])
    blind = DistillNeRF(replace(mini_config, coarse_depth=replace(mini_config.coarse_depth, ray_width=0))).eval()
    assert torch.equal(depth_of(blind, inputs), depth_of(blind, by_another_lens))
    model = speaking(mini_config)
    assert not torch.allclose(depth_of(model, inputs), depth_of(model, by_another_lens), rtol=1e-3)


def test_a_vehicle_that_faces_another_way_sees_the_same(mini_config, make_rig) -> None:
    inputs, _ = make_rig()
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = replace(inputs, camera_to_reference_ego=turn @ inputs.camera_to_reference_ego)
    model = speaking(mini_config)
    np.testing.assert_allclose(depth_of(model, turned), depth_of(model, inputs), rtol=1e-4)
