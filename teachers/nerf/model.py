"""The nerfstudio model: sample rays by proposal, composite, add the sky, and compare with what was seen."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.ray_samplers import PDFSampler, ProposalNetworkSampler, SpacedSampler
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn
from torch.nn import Parameter

from teachers.nerf.config import NerfConfig
from teachers.nerf.field import DrivingField, FieldSamples, ProposalDensity
from teachers.nerf.losses import (
    composite_weights,
    depth_loss,
    distortion_loss,
    line_of_sight_loss,
    opacity_entropy_loss,
    proposal_loss,
    shadow_loss,
    sky_loss,
    static_clearance_loss,
    velocity_loss,
)
from teachers.nerf.moving_points import MovingPoints
from teachers.nerf.refinement import PoseRefinement
from teachers.nerf.scene_rays import RayBatch, SceneBounds


@dataclass
class DrivingFieldModelConfig(ModelConfig):
    """nerfstudio's hook; what the model is made of comes with the scene, as ``metadata``."""

    _target: type = field(default_factory=lambda: DrivingFieldModel)
    enable_collider: bool = False
    eval_num_rays_per_chunk: int = 8192


class DrivingFieldModel(Model):
    """Render and fit one scene.

    nerfstudio builds it with ``metadata``: ``nerf_config`` (NerfConfig), ``bounds`` (SceneBounds), ``num_cameras``,
    ``frame_seconds``, ``fitted_frames`` and ``camera_motion``. No perceptual metric is built: nerfstudio's stock models
    download one at construction.
    """

    config: DrivingFieldModelConfig

    def populate_modules(self) -> None:
        """Build field, proposal and sampler."""
        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs["metadata"]
        self.nerf: NerfConfig = metadata["nerf_config"]
        self.bounds: SceneBounds = metadata["bounds"]
        sampling, scale = self.nerf.sampling, self.bounds.metres_per_unit
        self.field = DrivingField(
            self.nerf.field,
            self.bounds,
            num_cameras=metadata["num_cameras"],
            frame_seconds=metadata["frame_seconds"],
            fitted_frames=metadata["fitted_frames"],
        )
        self.refinement: PoseRefinement | None = None
        if self.nerf.refinement.is_on:
            self.refinement = PoseRefinement(
                self.nerf.refinement,
                num_frames=len(metadata["frame_seconds"]),
                num_cameras=metadata["num_cameras"],
                motion=metadata["camera_motion"],
            )
        self.proposals = nn.ModuleList(
            ProposalDensity(proposal, self.nerf.field, self.bounds) for proposal in sampling.proposals
        )
        spacing = sampling.spacing_m / scale
        self.sampler = ProposalNetworkSampler(
            num_nerf_samples_per_ray=sampling.num_field_samples,
            num_proposal_samples_per_ray=tuple(proposal.num_samples for proposal in sampling.proposals),
            num_proposal_network_iterations=len(sampling.proposals),
            single_jitter=True,
            update_sched=lambda step: sampling.proposal_update_every - 1 if step > 50 else 0,
            initial_sampler=SpacedSampler(
                spacing_fn=lambda distance: torch.log1p(distance / spacing),
                spacing_fn_inv=lambda s: torch.expm1(s) * spacing,
                single_jitter=True,
            ),
            pdf_sampler=PDFSampler(
                include_original=False, single_jitter=True, histogram_padding=sampling.histogram_padding
            ),
        )
        self.step = 0

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Return grids and networks apart, for grids learn faster, and corrections of poses, if any are learned."""
        grids = [p for name, p in self.named_parameters() if name.endswith("table")]
        poses = [p for n, p in self.named_parameters() if n.startswith("refinement.") and p.requires_grad]
        networks = [
            p
            for n, p in self.named_parameters()
            if not n.endswith("table") and not n.startswith("refinement.") and p.numel() > 0
        ]
        return {"grids": grids, "networks": networks, **({"poses": poses} if poses else {})}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Tell the sampler and the loss schedules which step it is."""

        def before(step: int) -> None:
            self.step = step
            # Weights are softened at first, so that a proposal that is still wrong cannot hide surfaces.
            fraction = min(1.0, step / 100.0)
            self.sampler.set_anneal((10.0 * fraction) / (9.0 * fraction + 1.0))

        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before, update_every_num_iters=1),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.sampler.step_cb, update_every_num_iters=1
            ),
        ]

    def sample_rays(self, ray_bundle: RayBundle) -> tuple[RaySamples, list[Tensor], list[RaySamples]]:
        """Return the samples of the field along rays, and weights and samples of each proposal."""
        assert ray_bundle.times is not None
        region = None if self.field.dynamic is None else self.field.dynamic.region
        densities = [partial(proposal, instants=ray_bundle.times, region=region) for proposal in self.proposals]
        return self.sampler(ray_bundle, density_fns=densities)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:  # type: ignore[override]
        """Return ``rgb``, ``opacity`` and ``depth`` (scene units) of rays, and what the losses need.

        The sky fills what opacity leaves (EmerNeRF Eq. 5).
        """
        samples, proposal_weights, proposal_samples = self.sample_rays(ray_bundle)
        sampled = self.field.sample(samples)
        density = sampled.density
        edges = interval_edges(samples)
        lengths = edges[:, 1:] - edges[:, :-1]
        weights = composite_weights(density[..., 0], lengths)
        opacity = weights.sum(dim=-1, keepdim=True)
        midpoints = 0.5 * (edges[:, 1:] + edges[:, :-1])
        depth = (weights * midpoints).sum(dim=-1, keepdim=True) / opacity.clamp_min(1e-6)
        code = self.field.appearance_code(ray_bundle.camera_indices[:, 0], ray_bundle.times[:, 0])  # type: ignore[index]
        lit = weights if sampled.light is None else weights * sampled.light[..., 0]
        if self.nerf.field.shading == "deferred":
            geometry = (weights[..., None] * sampled.features).sum(dim=-2)
            # A ray has one colour: the sum over its samples of shadowed weight times colour is a product.
            surface = lit.sum(dim=-1, keepdim=True) * self.field.colour(geometry, ray_bundle.directions, code)
        else:
            colours = self.field.get_outputs(samples, sampled.features)
            surface = (lit[..., None] * colours[FieldHeadNames.RGB]).sum(dim=-2)
        rgb = surface + (1.0 - opacity) * self.field.sky_colour(ray_bundle.directions, code)
        outputs: dict[str, Any] = {"rgb": rgb, "opacity": opacity, "accumulation": opacity, "depth": depth}
        if self.training:
            outputs |= {
                "weights": weights,
                "edges": edges,
                "normalised_edges": normalised_edges(samples),
                "proposals": [
                    (of_proposal[..., 0], normalised_edges(drawn))
                    for of_proposal, drawn in zip(proposal_weights, proposal_samples, strict=True)
                ],
                "sampled": sampled,
            }
            if sampled.dynamic_density is not None:
                outputs["static_weights"] = composite_weights((density - sampled.dynamic_density)[..., 0], lengths)
        return outputs

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the PSNR of the batch's camera rays."""
        rays: RayBatch = batch["rays"]
        error = (outputs["rgb"].detach()[: rays.num_camera_rays] - rays.rgb).square().mean()
        return {"psnr": -10.0 * torch.log10(error.clamp_min(1e-10))}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return every weighted term of the sum (EmerNeRF Eq. 12).

        Colour is a squared error (EmerNeRF Eq. A2). The dynamic branch pays for its mean density (EmerNeRF Eq. 6), over
        all samples of all rays (EmerNeRF Eq. A5).
        """
        rays: RayBatch = batch["rays"]
        config, scale = self.nerf.losses, self.bounds.metres_per_unit
        num_camera_rays = rays.num_camera_rays
        opacity = outputs["opacity"][:, 0]
        progress = min(1.0, self.step / self.nerf.judged_steps)
        first, last = config.line_of_sight_margin_m
        margin = first * (last / first) ** progress
        colour_error = (outputs["rgb"][:num_camera_rays] - rays.rgb).square()
        if batch["errors"] is not None and rays.place is not None:
            batch["errors"].observe(rays.place, colour_error.detach().mean(dim=-1))
        losses = {
            "rgb": config.rgb * colour_error.mean(),
            "depth": config.depth
            * depth_loss(
                outputs["depth"][:, 0],
                rays.lidar_depth,
                max_depth=config.max_depth_m / scale,
                form=config.depth_form,
            ),
            "line_of_sight": config.line_of_sight
            * line_of_sight_loss(
                outputs["weights"],
                outputs["edges"],
                rays.lidar_depth,
                margin=margin / scale,
                form=config.line_of_sight_form,
            ),
            "distortion": config.distortion * distortion_loss(outputs["weights"], outputs["normalised_edges"]),
            "opacity_entropy": config.opacity_entropy * opacity_entropy_loss(opacity[:num_camera_rays]),
            "proposal": config.proposal
            * sum(
                proposal_loss(outputs["weights"], outputs["normalised_edges"], weights, edges)
                for weights, edges in outputs["proposals"]
            ),
        }
        if self.refinement is not None:
            losses["refinement"] = self.refinement.loss()
        if rays.is_sky is not None:
            losses["sky"] = config.sky * sky_loss(opacity[:num_camera_rays], rays.is_sky)
        sampled: FieldSamples = outputs["sampled"]
        if sampled.dynamic_density is not None:
            losses["dynamic"] = config.dynamic * sampled.dynamic_density.mean() / scale
            losses["static_clearance"] = config.static_clearance * static_clearance_loss(
                outputs["static_weights"],
                outputs["edges"],
                rays.lidar_depth,
                rays.return_moves,
                margin=margin / scale,
            )
        if sampled.shadow is not None:
            losses["shadow"] = config.shadow * shadow_loss(sampled.shadow)
        if sampled.cycle_error is not None:
            losses["flow_cycle"] = config.flow_cycle * sampled.cycle_error.mean()
            if batch["moving_points"] is not None:
                losses["flow"] = config.flow * self._flow_loss(batch["moving_points"].to(self.device))
        return losses

    def _flow_loss(self, points: MovingPoints) -> Float[Tensor, ""]:
        """Return how far the flow of points is from how they are known to move."""
        assert self.field.dynamic is not None
        assert self.field.dynamic.flow is not None
        velocities = self.field.dynamic.flow(self.field.unit_cube(points.positions), points.instants)
        return 0.5 * (
            velocity_loss(velocities.forward, points.forward) + velocity_loss(velocities.backward, points.backward)
        )

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the PSNR of one image, and the image beside the render, for nerfstudio's own viewers."""
        image = batch["image"].to(self.device)
        error = (outputs["rgb"] - image).square().mean()
        return {"psnr": float(-10.0 * torch.log10(error.clamp_min(1e-10)))}, {
            "img": torch.cat([image, outputs["rgb"]], dim=1)
        }


def to_ray_bundle(batch: RayBatch, nerf: NerfConfig, bounds: SceneBounds) -> RayBundle:
    """Return rays as nerfstudio's bundle, with near and far planes set."""
    ones = torch.ones_like(batch.origins[:, :1])
    return RayBundle(
        origins=batch.origins,
        directions=batch.directions,
        pixel_area=ones,
        camera_indices=batch.camera_index[:, None],
        nears=ones * (nerf.sampling.near_m / bounds.metres_per_unit),
        fars=ones * (nerf.sampling.far_m / bounds.metres_per_unit),
        times=batch.frame_index[:, None].to(torch.float32),
    )


def interval_edges(samples: RaySamples) -> Float[Tensor, "rays edges"]:
    """Return where the sampled intervals of each ray begin and end, scene units."""
    frustums = samples.frustums
    return torch.cat([frustums.starts[..., 0], frustums.ends[:, -1:, 0]], dim=-1)


def normalised_edges(samples: RaySamples) -> Float[Tensor, "rays edges"]:
    """Return the same edges in the sampler's normalised distance, [0, 1]."""
    assert samples.spacing_starts is not None
    assert samples.spacing_ends is not None
    return torch.cat([samples.spacing_starts[..., 0], samples.spacing_ends[:, -1:, 0]], dim=-1)
