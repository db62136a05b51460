"""nerfstudio's nerfacto as a teacher: its field, proposals and losses on this project's rays, judge and renders.

``depth-nerfacto`` is the same with nerfstudio's depth loss on rays with a LiDAR return. Neither knows a sky: what is
far is painted on far density, so opacity in the sky is what it happens to be, and the gate says so.

Sizes are those of ``NerfConfig``, so that a swap of the method is a swap of nothing else: levels, rows, cells in metres
inside the scene's box, samples, near and far plane. Poses are not refined.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.losses import DepthLossType, depth_loss, distortion_loss, interlevel_loss
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor, nn
from torchmetrics.image import lpip

from teachers.nerf.config import NerfConfig
from teachers.nerf.scene_rays import RayBatch, SceneBounds

_CONTRACTED_BOX_SHARE = 0.5
"""nerfacto's grids cover the contracted space, of which the scene's box takes half along each axis."""
_INITIAL_DENSITY_PER_M = 0.02
"""A mean free path of 50 m, as the driving field starts with: neither fog nor vacuum."""


@dataclass
class NerfactoTeacherConfig(NerfactoModelConfig):
    """nerfacto's own configuration; what ``NerfConfig`` says is put into it once the scene is known."""

    _target: type = field(default_factory=lambda: NerfactoTeacher)
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))


class NerfactoTeacher(NerfactoModel):
    """Fit and render one scene with nerfacto.

    Built with the same ``metadata`` as ``DrivingFieldModel``.
    """

    config: NerfactoTeacherConfig

    def populate_modules(self) -> None:
        """Build nerfacto at the sizes of the fit, with an appearance code for each camera of the rig."""
        metadata: dict[str, Any] = self.kwargs["metadata"]
        self.nerf: NerfConfig = metadata["nerf_config"]
        self.bounds: SceneBounds = metadata["bounds"]
        self.num_train_data = metadata["num_cameras"]
        _put_sizes(self.config, self.nerf, self.bounds)
        with without_perceptual_network():
            super().populate_modules()
        self.collider = None  # rays come with near and far planes

    @property
    def sampler(self) -> ProposalNetworkSampler:
        """Return the sampler, whose schedule a resumed fit continues."""
        return self.proposal_sampler

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Return ``rgb``, ``opacity`` and ``depth`` (nerfacto's median, scene units), and what the losses need."""
        outputs = super().get_outputs(ray_bundle)
        return {**outputs, "opacity": outputs["accumulation"]}

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the PSNR of the batch's camera rays."""
        return {"psnr": -10.0 * torch.log10(_colour_error(outputs, batch["rays"]).detach().clamp_min(1e-10))}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return nerfacto's losses, and depth-nerfacto's if the method is that."""
        rays: RayBatch = batch["rays"]
        weights, samples = outputs["weights_list"], outputs["ray_samples_list"]
        losses = {
            "rgb": _colour_error(outputs, rays),
            "interlevel": self.config.interlevel_loss_mult * interlevel_loss(weights, samples),
            "distortion": self.config.distortion_loss_mult * distortion_loss(weights, samples),
        }
        if self.nerf.method == "depth-nerfacto":
            losses["depth"] = self.nerf.losses.depth * self._depth_loss(outputs, rays)
        return losses

    def _depth_loss(self, outputs: dict[str, Any], rays: RayBatch) -> Tensor:
        """Return DS-NeRF's loss, its peak as wide as the last margin of the line of sight.

        It is divided by the area under the peak, so that its weight does not depend on the scene's scale.
        """
        width = self.nerf.losses.line_of_sight_margin_m[1] / self.bounds.metres_per_unit
        reach = self.nerf.losses.max_depth_m / self.bounds.metres_per_unit
        is_known = rays.lidar_depth <= reach  # false for NaN
        wanted = torch.where(is_known, rays.lidar_depth, torch.zeros_like(rays.lidar_depth))  # nerfstudio's "unknown"
        terms = [
            depth_loss(
                weights=weights,
                ray_samples=samples,
                termination_depth=wanted[:, None],
                predicted_depth=outputs["expected_depth"],
                sigma=torch.tensor([width**2], device=wanted.device),  # their formula takes a variance
                directions_norm=torch.ones_like(wanted[:, None]),
                is_euclidean=True,
                depth_loss_type=DepthLossType.DS_NERF,
            )
            for weights, samples in zip(outputs["weights_list"], outputs["ray_samples_list"], strict=True)
        ]
        return torch.stack(terms).mean() / (width * math.sqrt(2.0 * math.pi))


def _put_sizes(config: NerfactoTeacherConfig, nerf: NerfConfig, bounds: SceneBounds) -> None:
    def cells(cell_m: float) -> int:
        return max(2, round(2.0 * bounds.metres_per_unit / cell_m / _CONTRACTED_BOX_SHARE))

    size, sampling, scale = nerf.field, nerf.sampling, bounds.metres_per_unit
    config.implementation = "tcnn" if size.implementation == "tcnn" else "torch"
    config.near_plane, config.far_plane = sampling.near_m / scale, sampling.far_m / scale
    config.num_levels, config.features_per_level = size.num_levels, size.features_per_level
    config.log2_hashmap_size = size.log2_table_size
    config.base_res, config.max_res = cells(size.coarsest_cell_m), cells(size.finest_cell_m)
    config.hidden_dim = config.hidden_dim_color = size.hidden_width
    config.appearance_embed_dim = size.appearance_width
    config.average_init_density = _INITIAL_DENSITY_PER_M * scale
    samples = sampling.proposals[-1].num_samples
    config.num_proposal_samples_per_ray = (2 * samples, samples)
    config.num_nerf_samples_per_ray = sampling.num_field_samples
    config.proposal_weights_anneal_max_num_iters = min(1000, max(1, nerf.num_steps // 5))
    config.proposal_warmup = min(5000, nerf.num_steps)


def _colour_error(outputs: dict[str, Any], rays: RayBatch) -> Tensor:
    return (outputs["rgb"][: rays.num_camera_rays] - rays.rgb).square().mean()


@contextmanager
def without_perceptual_network() -> Iterator[None]:
    """Let nerfacto build without LPIPS, whose network it would download; the judge here does not ask for it."""
    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: nn.Identity()  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original
