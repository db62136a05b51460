"""Fisheyes beside pinholes: lifted along their own rays, rendered inside their image circles, and nowhere else."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from storage.geometry.cameras import project_camera
from storage.geometry.transforms import apply_se3, invert_se3
from student.model.config import ModelConfig
from student.model.distillnerf import DistillNeRF
from student.model.lifting import camera_rays
from student.model.types import CameraInputs, TargetCameras

LENS = torch.tensor([-0.1, 0.0, 0.0, 0.0])  # folds at 105 degrees from the axis
PINHOLE = torch.full((4,), torch.nan)
Rig = tuple[CameraInputs, TargetCameras]


def with_fisheyes(rig: Rig, *cameras: int) -> Rig:
    """Give some cameras a lens of 210 degrees whose circle leaves the corners of the image empty."""
    inputs, targets = rig
    fisheye = PINHOLE.to(inputs.intrinsics.dtype).repeat(*inputs.camera_is_present.shape, 1)
    fisheye[:, list(cameras)] = LENS.to(inputs.intrinsics.dtype)
    scale = torch.ones(*inputs.camera_is_present.shape, 3, 1)
    scale[:, list(cameras), :2] = 0.35
    centre = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])

    def squeezed(intrinsics: torch.Tensor) -> torch.Tensor:
        return torch.where(centre.bool(), intrinsics, intrinsics * scale)

    return (
        replace(inputs, fisheye=fisheye, intrinsics=squeezed(inputs.intrinsics)),
        replace(targets, fisheye=fisheye, intrinsics=squeezed(targets.intrinsics)),
    )


@pytest.fixture
def model(mini_config: ModelConfig) -> DistillNeRF:
    torch.manual_seed(0)
    return DistillNeRF(mini_config).eval()


def test_rays_go_back_to_their_pixels(make_rig: Callable[..., Rig]) -> None:
    _, targets = with_fisheyes(make_rig(num_cameras=3), 1)
    assert targets.fisheye is not None
    intrinsics, poses, fisheye = targets.intrinsics[0], targets.camera_to_reference_ego[0], targets.fisheye[0]
    origins, directions = camera_rays(intrinsics, poses, fisheye, height=12, width=20)
    is_seen = torch.isfinite(directions).all(-1)
    assert is_seen[[0, 2]].all()
    assert 0.4 < is_seen[1].float().mean() < 0.9
    points = apply_se3(invert_se3(poses), (origins[:, None] + 7.0 * directions.flatten(1, 2)))
    pixels, _ = project_camera(points, intrinsics[:, None], fisheye[:, None])
    columns, rows = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(12) + 0.5, indexing="xy")
    wanted = torch.stack([columns, rows], -1).view(1, -1, 2).expand_as(pixels)
    torch.testing.assert_close(pixels[is_seen.flatten(1)], wanted[is_seen.flatten(1)], atol=2e-3, rtol=0)


def test_a_pinhole_is_the_same_beside_a_fisheye(model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    plain = make_rig(num_cameras=2)
    without = model(*plain)
    undefined = torch.full((1, 2, 4), torch.nan)
    with_nan = model(replace(plain[0], fisheye=undefined), replace(plain[1], fisheye=undefined))
    torch.testing.assert_close(with_nan.image, without.image, atol=0, rtol=0)
    mixed = model(*with_fisheyes(plain, 1))
    torch.testing.assert_close(mixed.coarse_termination_depth[:, 0], without.coarse_termination_depth[:, 0])


def test_outside_the_image_circle_there_is_nothing(model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    inputs, targets = with_fisheyes(make_rig(num_cameras=3), 0, 2)
    output = model(inputs, targets)
    assert output.is_seen[:, 1].all()
    outside = ~output.is_seen
    assert outside[:, [0, 2]].float().mean() > 0.1
    assert (output.opacity[outside] == 0).all()
    assert torch.isnan(output.termination_depth[outside]).all()
    assert torch.isnan(output.coarse_termination_depth[outside]).all()
    assert torch.isfinite(output.coarse_termination_depth[~outside]).all()
    assert torch.isfinite(output.image).all()
    hit = outside.flatten()[output.samples.ray_index]
    assert not hit.any()
    # What is listed of a ray is what its opacity is made of.
    total = torch.zeros(output.opacity.numel()).index_add(0, output.samples.ray_index, output.samples.weights)
    torch.testing.assert_close(total.view_as(output.opacity), output.opacity, atol=1e-5, rtol=1e-5)
    # Each seen pixel is lifted once per candidate at most; pixels in the corners are not.
    num_candidates = model.config.fine_depth.num_candidates
    assert output.num_voxels["fine"] <= num_candidates * int(torch.isfinite(output.coarse_termination_depth).sum())


def test_a_fisheye_lifts_beside_and_behind_itself(model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    """The lens sees 90 degrees to the side; a pinhole taken for it would put all in front."""
    inputs, targets = with_fisheyes(make_rig(num_cameras=1), 0)
    field = model.encode(inputs)
    cells = field.grid.shape.fine_cells(field.grid.fine_keys)
    side = cells[:, 1].float() / field.grid.shape.fine_resolution * 2 - 1
    assert side.min() < -0.05
    assert side.max() > 0.05
    as_pinhole = model.encode(replace(inputs, fisheye=None))
    assert field.grid.num_fine != as_pinhole.grid.num_fine
    assert not torch.equal(
        model.render(field, targets).opacity, model.render(field, replace(targets, fisheye=None)).opacity
    )


def test_mixed_rigs_share_a_batch(double_model: DistillNeRF, make_rig: Callable[..., Rig]) -> None:
    pinholes, targets = make_rig(num_cameras=2, seed=1, dtype=torch.float64)
    fisheyes, fisheye_targets = with_fisheyes(make_rig(num_cameras=2, seed=2, dtype=torch.float64), 0, 1)
    undefined = torch.full((1, 2, 4), torch.nan, dtype=torch.float64)

    def both(name: str, first: object, second: object) -> torch.Tensor:
        values = [getattr(part, name) for part in (first, second)]
        return torch.cat([undefined if value is None else value for value in values])

    inputs = CameraInputs(**{
        name: both(name, pinholes, fisheyes)
        for name in (f.name for f in fields(CameraInputs)) if name != "is_valid"
    })  # fmt: skip
    cameras = replace(targets, **{
        name: both(name, targets, fisheye_targets)
        for name in ("intrinsics", "camera_to_reference_ego", "target_is_present", "fisheye")
    })  # fmt: skip
    together = double_model(inputs, cameras)
    for index, (one, one_targets) in enumerate([(pinholes, targets), (fisheyes, fisheye_targets)]):
        alone = double_model(one, one_targets)
        torch.testing.assert_close(together.image[index], alone.image[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.opacity[index], alone.opacity[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(together.is_seen[index], alone.is_seen[0])


def test_gradients_are_finite_with_a_fisheye(mini_config: ModelConfig, make_rig: Callable[..., Rig]) -> None:
    torch.manual_seed(0)
    model = DistillNeRF(mini_config)
    output = model(*with_fisheyes(make_rig(num_cameras=2), 0))
    depth = output.coarse_termination_depth
    loss = output.image.mean() + depth[torch.isfinite(depth)].mean() + output.weight_entropy.mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
