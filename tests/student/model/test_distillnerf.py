"""The whole model: shapes, invariances, padding, finiteness."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from storage.geometry.rays import camera_rays as rays_of_pixels
from storage.geometry.transforms import compose, invert_se3
from student.model.config import ModelConfig
from student.model.depth_head import CoarseDepthHead, ray_weights
from student.model.distillnerf import DistillNeRF
from student.model.types import CameraInputs, StudentOutput, TargetCameras, to_device
from student.presets.models import paper_linear_model, paper_model, tiny_model
from student.presets.published import paper_compatible, published_student
from student.presets.students import student_preset

TOLERANCE = 1e-5


@pytest.fixture
def model(mini_config) -> DistillNeRF:
    torch.manual_seed(0)
    return DistillNeRF(mini_config).eval()


def assert_same_rendering(first: StudentOutput, second: StudentOutput, tolerance: float = TOLERANCE) -> None:
    for name in ("image", "opacity", "termination_depth", "weight_entropy"):
        torch.testing.assert_close(
            getattr(first, name),
            getattr(second, name),
            atol=tolerance,
            rtol=tolerance,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    for source, features in first.features.items():
        torch.testing.assert_close(features, second.features[source], atol=tolerance, rtol=tolerance)


def test_outputs_have_the_promised_shapes_and_ranges(model, make_rig):
    inputs, targets = make_rig(batch_size=2)
    output = model(inputs, targets)
    assert output.image is not None
    assert output.image.shape == (2, 3, 3, 24, 40)
    assert output.termination_depth.shape == output.opacity.shape == (2, 3, 12, 20)
    assert output.features["clip"].shape == (2, 3, 5, 12, 20)
    assert output.coarse_weights.shape == (2, 3, 24, 12, 20)
    assert output.fine_termination_depth.shape == (2, 3, 12, 20)
    assert (output.coarse_weights.sum(2) <= 1 + 1e-5).all()
    assert ((output.opacity >= 0) & (output.opacity <= 1)).all()
    assert torch.isnan(output.termination_depth[output.opacity < model.config.renderer.min_opacity]).all()
    assert torch.isfinite(output.termination_depth[output.opacity >= model.config.renderer.min_opacity]).all()
    assert output.num_voxels["fine"] >= output.num_voxels["coarse"] > 0
    total = torch.zeros(2 * 3 * 240).index_add(0, output.samples.ray_index, output.samples.weights)
    torch.testing.assert_close(total.view(2, 3, 12, 20), output.opacity, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_cameras", [4, 10])
def test_permuting_cameras_changes_nothing(double_model, make_rig, num_cameras):
    inputs, targets = make_rig(num_cameras=num_cameras, dtype=torch.float64)
    order = torch.randperm(num_cameras, generator=torch.Generator().manual_seed(1))
    permuted = CameraInputs(
        images=inputs.images[:, order],
        intrinsics=inputs.intrinsics[:, order],
        camera_to_reference_ego=inputs.camera_to_reference_ego[:, order],
        camera_is_present=inputs.camera_is_present[:, order],
        depth_features=inputs.depth_features[:, order],
    )
    assert_same_rendering(double_model(inputs, targets), double_model(permuted, targets))


def test_moving_world_and_rig_together_changes_nothing(double_model, make_rig):
    inputs, targets = make_rig(dtype=torch.float64)
    ego_to_world = torch.eye(4, dtype=torch.float64)
    ego_to_world[:3, 3] = torch.tensor([1.0, 2.0, 0.5])
    moved = torch.eye(4, dtype=torch.float64)
    moved[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    moved[:3, 3] = torch.tensor([500.0, -1200.0, 30.0])

    def seen_from(world: torch.Tensor) -> tuple[CameraInputs, TargetCameras]:
        pose = compose(world, ego_to_world)
        pose = pose.expand_as(inputs.camera_to_reference_ego)
        camera_to_ego = compose(invert_se3(pose), compose(pose, inputs.camera_to_reference_ego))
        return replace(inputs, camera_to_reference_ego=camera_to_ego), replace(
            targets, camera_to_reference_ego=camera_to_ego
        )

    identity = torch.eye(4, dtype=torch.float64)
    assert_same_rendering(double_model(*seen_from(identity)), double_model(*seen_from(moved)))


def test_rays_of_the_depth_grid_pass_through_the_pixels_that_their_features_are_of(mini_config, make_rig):
    stem = replace(mini_config.coarse_depth.pyramid, stem_stride=2)
    fine_stem = replace(mini_config.fine_depth.pyramid, stem_stride=2)
    config = replace(
        mini_config,
        coarse_depth=replace(mini_config.coarse_depth, pyramid=stem),
        fine_depth=replace(mini_config.fine_depth, pyramid=fine_stem),
    )
    model = DistillNeRF(config).eval()
    odd, _ = make_rig(num_cameras=1, height=31, width=45)
    even = replace(odd, images=odd.images[..., :30, :44])  # a crop at the far edges keeps its intrinsics
    for one, other in zip(model._depth_rays(odd), model._depth_rays(even), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_of_mixed_rigs_equals_separate_runs(double_model, make_rig):
    small, small_targets = make_rig(num_cameras=2, seed=1, dtype=torch.float64)
    large, large_targets = make_rig(num_cameras=4, seed=2, dtype=torch.float64)

    def pad(tensor: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([tensor, torch.full_like(tensor[:, :1], fill).expand(-1, 2, *tensor.shape[2:])], dim=1)

    inputs = CameraInputs(
        images=torch.cat([pad(small.images, torch.nan), large.images]),
        intrinsics=torch.cat([pad(small.intrinsics, 0.0), large.intrinsics]),
        camera_to_reference_ego=torch.cat([pad(small.camera_to_reference_ego, 0.0), large.camera_to_reference_ego]),
        camera_is_present=torch.tensor([[True, True, False, False], [True] * 4]),
        depth_features=torch.cat([pad(small.depth_features, torch.nan), large.depth_features]),
    )
    targets = replace(
        large_targets,
        intrinsics=torch.cat([pad(small_targets.intrinsics, 0.0), large_targets.intrinsics]),
        camera_to_reference_ego=inputs.camera_to_reference_ego,
        target_is_present=inputs.camera_is_present,
    )
    both = double_model(inputs, targets)
    for batch, (one_inputs, one_targets) in enumerate([(small, small_targets), (large, large_targets)]):
        alone = double_model(one_inputs, one_targets)
        count = alone.opacity.shape[1]
        torch.testing.assert_close(both.image[batch, :count], alone.image[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both.opacity[batch, :count], alone.opacity[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both.coarse_termination_depth[batch, :count], alone.coarse_termination_depth[0])
    assert (both.opacity[0, 2:] == 0).all()
    assert torch.isnan(both.termination_depth[0, 2:]).all()
    assert torch.isnan(both.coarse_termination_depth[0, 2:]).all()
    assert int(both.samples.ray_index.max()) >= 4 * 240


def test_a_training_step_gives_every_parameter_a_finite_gradient(mini_config, make_rig):
    torch.manual_seed(0)
    model = DistillNeRF(mini_config)
    assert model.coarse_depth.rays is not None
    nn.init.normal_(model.coarse_depth.rays.output.weight)  # it starts at zero, and lets no gradient through
    inputs, targets = make_rig()
    output = model(inputs, targets)
    loss = (
        (output.image - inputs.images).abs().mean()
        + output.features["clip"].mean()
        + output.termination_depth.nan_to_num(0.0).mean()
        + output.weight_entropy.mean()
        + output.coarse_termination_depth.mean()
        + output.fine_termination_depth.nan_to_num(0.0).mean()
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_recomputed_activations_give_the_same_gradients_and_are_not_kept(mini_config, make_rig):
    inputs, targets = make_rig(num_cameras=2)
    gradients, kept = [], []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = DistillNeRF(mini_config).train()
        model.recomputes_activations = recomputes
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, into: dict[int, int] = storages) -> torch.Tensor:
            into[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(inputs, targets)
        kept.append(sum(storages.values()))
        (output.image.square().mean() + output.opacity.mean() + output.coarse_opacity.mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    # Not bit by bit: contributions to a gradient may be added up in another order.
    largest = float(gradients[0].abs().max())
    torch.testing.assert_close(gradients[1], gradients[0], atol=TOLERANCE * largest, rtol=TOLERANCE)
    assert kept[1] < 0.5 * kept[0]


def test_gradients_stay_finite_when_weights_are_extreme(mini_config, make_rig):
    torch.manual_seed(0)
    model = DistillNeRF(mini_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(30.0)
    inputs, targets = make_rig()
    output = model(inputs, targets)
    loss = output.image.abs().mean() + output.coarse_termination_depth.mean() + output.weight_entropy.mean()
    (loss + output.termination_depth.nan_to_num(0.0).mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_any_camera_count_resolution_and_feature_grid(model, make_rig):
    inputs, targets = make_rig(num_cameras=1, height=31, width=45)
    features = torch.randn(1, 1, 6, 2, 7)
    output = model(replace(inputs, depth_features=features), replace(targets, render_height=9, render_width=13))
    assert output.image.shape == (1, 1, 3, 18, 26)
    assert torch.isfinite(output.image).all()


def test_a_scene_without_any_camera_is_sky(model, make_rig):
    inputs, targets = make_rig(batch_size=2)
    present = inputs.camera_is_present.clone()
    present[1] = False
    output = model(replace(inputs, camera_is_present=present), targets)
    assert (output.opacity[1] == 0).all()
    assert torch.isfinite(output.image).all()


@pytest.mark.parametrize("features", [None, torch.zeros(1, 3, 4, 3, 5)])
def test_depth_features_of_another_width_are_refused(model, make_rig, features):
    inputs, targets = make_rig()
    with pytest.raises(ValueError, match="depth feature channels"):
        model(replace(inputs, depth_features=features), targets)


def test_images_too_small_for_the_encoder_are_refused(model, make_rig):
    inputs, targets = make_rig(height=6, width=8)
    with pytest.raises(ValueError, match="too small"):
        model(inputs, targets)


def test_untrained_rays_end_anywhere_rather_than_at_the_camera(mini_config):
    head = CoarseDepthHead(mini_config.coarse_depth, mini_config.contraction)
    density = (head.logits.bias.detach() - 1).exp()[None] * head.edges.diff()
    weights = ray_weights(density)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.9 / weights.shape[1]))


def test_lifted_detail_is_read_out_exactly() -> None:
    """What is lifted of an image is all of it, and an untrained decoder reads it back."""
    torch.manual_seed(0)
    head = DistillNeRF(tiny_model()).fine_depth
    decoder = DistillNeRF(tiny_model()).decoder
    assert decoder is not None
    nn.init.zeros_(decoder.output.weight)
    images = torch.rand(2, 3, 24, 40)
    lifted = head._add_colour(torch.zeros(2, 2 * head.level_width, 12, 20), images * 2 - 1)
    torch.testing.assert_close(decoder(lifted), images, atol=1e-5, rtol=0)
    # Half of the colour is of each level. Without the fine level's detail, the image would be smooth.
    lifted[:, 3 : head.level_width] = 0
    assert (decoder(lifted) - images).abs().mean() > 0.1


def test_foundation_features_of_a_point_come_from_the_same_head(model, make_rig):
    inputs, _ = make_rig()
    field = model.encode(inputs)
    _, features = field.query(torch.randn(1, 10, 3))
    assert model.foundation_features("clip", features).shape == (1, 10, 5)
    with pytest.raises(ValueError, match="dinov2"):
        model.foundation_features("dinov2", features)


@torch.no_grad()
def test_features_of_surfaces_are_read_where_rays_are_known_to_end(model, make_rig):
    inputs, targets = make_rig(batch_size=2)
    depth = 1.0 + 20.0 * torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(3))
    depth[:, :, 0] = torch.nan
    targets = replace(targets, target_is_present=torch.tensor([[True, True, True], [True, False, True]]))
    output = model(inputs, targets, depth)
    assert model(inputs, targets).surface_features == {}
    field = model.encode(inputs)
    number = 0
    for scene, view, row, column in torch.cartesian_prod(*map(torch.arange, depth.shape)).tolist():
        place = (scene, view, row, column)
        pose = targets.camera_to_reference_ego[scene, view].numpy()
        origins, directions = rays_of_pixels(targets.intrinsics[scene, view].numpy(), pose, height=12, width=20)
        point = torch.from_numpy(origins[row, column] + directions[row, column] * float(depth[place])).float()
        is_there = bool(torch.isfinite(depth[place])) and bool(targets.target_is_present[scene, view])
        density, features = field.query(point.nan_to_num().expand(2, 1, 3))
        is_there = is_there and float(density[scene, 0]) > 0
        assert bool(output.has_surface[place]) == is_there, place
        seen = output.surface_features["clip"][scene, view, :, row, column]
        wanted = model.foundation_features("clip", features[scene, 0]) if is_there else torch.zeros(5)
        torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-4)
        number += is_there
    assert 50 < number < depth.numel() / 2
    for index, one in enumerate(output.split()):
        assert torch.equal(one.has_surface[0], output.has_surface[index])
        assert torch.equal(one.surface_features["clip"][0], output.surface_features["clip"][index])


def test_presets_have_the_published_size():
    counts = {build.__name__: num_parameters(build()) for build in (paper_model, paper_linear_model, tiny_model)}
    assert counts["paper_model"] == pytest.approx(15.8e6, rel=0.02)
    assert counts["paper_linear_model"] < counts["paper_model"]
    assert counts["tiny_model"] < 1e6


def num_parameters(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in DistillNeRF(config).parameters())


def test_a_sample_can_be_moved_between_devices(make_rig):
    inputs, targets = make_rig()
    assert to_device(inputs, "meta").images.is_meta
    assert to_device(targets, "meta").render_height == targets.render_height


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        paper_compatible(published_student("nuscenes-128x228")),
        published_student("nuscenes-128x228", output="clip"),
        published_student("waymo-144x216", space="linear", output="dinov2"),
        published_student("nuscenes-224x400"),  # the larger sizes render half as many bins
        student_preset("paper", "clip_dinov2"),
        student_preset("small", "clip_dinov2"),
    ],
)
def test_complete_runs_go_forward_and_backward(run, make_rig):
    """At full width but a sixteenth of the area of one camera: image sizes share their weights."""
    torch.manual_seed(0)
    model = DistillNeRF(run.model)
    channels = run.model.coarse_depth.depth_feature_channels
    stride = run.model.coarse_depth.pyramid.stem_stride
    inputs, targets = make_rig(num_cameras=1, height=32 * stride, width=57 * stride, channels=channels)
    output = model(inputs, replace(targets, render_height=8, render_width=14))
    assert output.image.shape == (1, 1, 3, 16, 28)
    loss = output.image.mean() + output.coarse_termination_depth.mean()
    sum((features.mean() for features in output.features.values()), loss).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert set(output.features) == {head.source for head in run.model.feature_heads}
