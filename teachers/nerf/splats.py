"""Gaussians as a teacher, rasterised by gsplat: a fixed number of them, started from LiDAR returns that a camera saw.

A teacher is asked for rays: pixels of any lens, LiDAR beams. A rasteriser gives images. So the rays that share an
origin are looked up in images of the faces of a cube around it, in fit and render alike. Behind the Gaussians is a sky
that depends on the direction alone. Nothing is split or pruned, so that tensors keep their shapes and a fit can be
resumed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn
from torch.nn import Parameter

from teachers.nerf.config import NerfConfig
from teachers.nerf.losses import depth_loss, sky_loss
from teachers.nerf.scene_rays import RayBatch, SceneBounds, SceneRays

_INITIAL_OPACITY = 0.5
_SKY_WIDTH = 32
_GROUP_RATES = {"means": 0.008, "log_scales": 0.25, "quats": 0.05, "logit_opacities": 2.5, "logit_colours": 0.25}
"""gsplat's usual rates of its groups, relative to the 0.02 that a fit's learning rate is by default."""

Rasterize = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]


def gsplat_rasterization(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:  # noqa: ANN401
    """Call gsplat, which is imported, and on first use compiled, here: it needs CUDA."""
    from gsplat import rasterization

    return rasterization(*arguments, **options)


@dataclass
class SplatTeacherConfig(ModelConfig):
    """nerfstudio's hook, and what rasterises."""

    _target: type = field(default_factory=lambda: SplatTeacher)
    enable_collider: bool = False
    rasterize: Rasterize = gsplat_rasterization


class _NoSchedule:
    """Stands where other models have a sampler of proposals, whose schedule a resumed fit continues."""

    _step = 0
    _steps_since_update = 0

    def step_cb(self, step: int) -> None:
        """Do nothing."""

    def set_anneal(self, anneal: float) -> None:
        """Do nothing."""


class SplatTeacher(Model):
    """Fit and render one scene with Gaussians.

    Built with the same ``metadata`` as ``DrivingFieldModel``, and for a fit with ``seeds`` from ``seed_points``.
    """

    config: SplatTeacherConfig

    def populate_modules(self) -> None:
        """Place the Gaussians, at the origin if they are about to be loaded."""
        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs["metadata"]
        self.nerf: NerfConfig = metadata["nerf_config"]
        self.bounds: SceneBounds = metadata["bounds"]
        count = self.nerf.num_gaussians
        means, colours = metadata.get("seeds", (torch.zeros(count, 3), torch.full((count, 3), 0.5)))
        size = torch.tensor(self.nerf.field.finest_cell_m / self.bounds.metres_per_unit)
        self.gaussians = nn.ParameterDict(
            {
                "means": Parameter(means.clone()),
                "log_scales": Parameter(size.log().expand(count, 3).clone()),
                "quats": Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)),
                "logit_opacities": Parameter(torch.full((count,), _INITIAL_OPACITY).logit()),
                "logit_colours": Parameter(colours.clamp(0.02, 0.98).logit()),
            }
        )
        self.sky = nn.Sequential(nn.Linear(3, _SKY_WIDTH), nn.ReLU(), nn.Linear(_SKY_WIDTH, 3), nn.Sigmoid())
        self.sampler = _NoSchedule()

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Return each property of the Gaussians apart, and the sky."""
        return {**{name: [p] for name, p in self.gaussians.items()}, "sky": list(self.sky.parameters())}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:  # type: ignore[override]
        """Return ``rgb``, ``opacity`` and ``depth`` (scene units) of rays."""
        origins, directions = ray_bundle.origins, ray_bundle.directions
        places, place_of = torch.unique(origins, dim=0, return_inverse=True)
        seen = torch.zeros(len(origins), 5, device=origins.device)
        for index, place in enumerate(places):
            rays = (place_of == index).nonzero()[:, 0]
            seen = seen.index_put((rays,), self._look(place, directions[rays]))
        opacity = seen[:, 4:]
        rgb = seen[:, :3] + (1.0 - opacity) * self.sky(directions)
        return {"rgb": rgb, "opacity": opacity, "accumulation": opacity, "depth": seen[:, 3:4]}

    def _look(self, origin: Float[Tensor, "3"], directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 5"]:
        """Return colour, termination depth and opacity along rays from one place."""
        face, on_face, z = cube_lookup(directions)
        faces, face_index = torch.unique(face, return_inverse=True)
        rotations = cube_rotations().to(origin)[faces]
        viewmats = torch.eye(4, device=origin.device).repeat(len(faces), 1, 1)
        viewmats[:, :3, :3] = rotations
        viewmats[:, :3, 3] = -rotations @ origin
        size, scale, sampling = self.face_size, self.bounds.metres_per_unit, self.nerf.sampling
        half = 0.5 * size
        intrinsics = torch.tensor([[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]], device=origin.device)
        images, opacities, _ = self.config.rasterize(
            means=self.gaussians["means"],
            quats=F.normalize(self.gaussians["quats"], dim=-1),
            scales=self.gaussians["log_scales"].exp(),
            opacities=self.gaussians["logit_opacities"].sigmoid(),
            colors=self.gaussians["logit_colours"].sigmoid(),
            viewmats=viewmats,
            Ks=intrinsics.expand(len(faces), 3, 3),
            width=size,
            height=size,
            near_plane=sampling.near_m / scale,
            far_plane=sampling.far_m / scale,
            render_mode="RGB+ED",
        )
        layers = torch.cat([images, opacities], dim=-1).permute(0, 3, 1, 2)
        found = torch.zeros(len(directions), 5, device=origin.device)
        for index in range(len(faces)):
            rays = (face_index == index).nonzero()[:, 0]
            grid = on_face[rays][None, None]
            sampled = F.grid_sample(layers[index : index + 1], grid, padding_mode="border", align_corners=False)
            found = found.index_put((rays,), sampled[0, :, 0].T)
        depth = found[:, 3:4] / z[:, None]  # along the ray, from along the face's axis
        return torch.cat([found[:, :3], depth, found[:, 4:]], dim=-1)

    @property
    def face_size(self) -> int:
        """Return the pixels along a face: as fine as a training image that is 90 degrees wide."""
        return max(self.nerf.image_size)

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the PSNR of the batch."""
        error = (outputs["rgb"].detach() - batch["rays"].rgb).square().mean()
        return {"psnr": -10.0 * torch.log10(error.clamp_min(1e-10))}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return absolute error of colour, and the driving field's terms of depth and sky."""
        rays: RayBatch = batch["rays"]
        config = self.nerf.losses
        reach = config.max_depth_m / self.bounds.metres_per_unit
        losses = {
            "rgb": config.rgb * (outputs["rgb"] - rays.rgb).abs().mean(),
            "depth": config.depth * depth_loss(outputs["depth"][:, 0], rays.lidar_depth, max_depth=reach),
        }
        if rays.is_sky is not None:
            losses["sky"] = config.sky * sky_loss(outputs["opacity"][:, 0], rays.is_sky)
        return losses


def splat_learning_rates(nerf: NerfConfig) -> dict[str, float]:
    """Return the rate of each group of parameters."""
    return {**{name: ratio * nerf.learning_rate for name, ratio in _GROUP_RATES.items()}, "sky": nerf.learning_rate}


def cube_rotations() -> Float[Tensor, "6 3 3"]:
    """Return the rotation from world axes to the camera axes (OpenCV) of each face: +x, +y, +z, -x, -y, -z."""
    faces = []
    for sign in (1.0, -1.0):
        for axis in range(3):
            z, x = sign * torch.eye(3)[axis], torch.eye(3)[(axis + 1) % 3]
            faces.append(torch.stack([x, torch.linalg.cross(z, x), z]))
    return torch.stack(faces)


def cube_lookup(
    directions: Float[Tensor, "rays 3"],
) -> tuple[Int64[Tensor, " rays"], Float[Tensor, "rays 2"], Float[Tensor, " rays"]]:
    """Return the face that each direction meets, where on it in [-1, 1], and the direction's part along its axis."""
    axis = directions.abs().argmax(dim=-1)
    is_negative = torch.take_along_dim(directions, axis[:, None], dim=1)[:, 0] < 0
    face = axis + 3 * is_negative
    in_camera = torch.einsum("rij,rj->ri", cube_rotations().to(directions)[face], directions)
    return face, in_camera[:, :2] / in_camera[:, 2:], in_camera[:, 2]


def draw_image(rays: SceneRays, generator: torch.Generator) -> RayBatch:
    """Draw one image: all its pixels that show the world, with the LiDAR's depth where a return projects to."""
    image = int(torch.randint(len(rays.pixels), (1,), generator=generator))
    pixel = rays.seen_pixels(image)
    depth = torch.full((rays.pixels.shape[1],), torch.nan)
    of_image = rays.lidar_pixel_image == image
    depth[rays.lidar_pixel[of_image]] = rays.lidar_pixel_depth[of_image]
    return replace(rays.pixel_rays(torch.full_like(pixel, image), pixel), lidar_depth=depth[pixel])


def seed_points(
    rays: SceneRays, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """Return places (scene units) and colours of LiDAR returns that a camera saw, drawn with replacement."""
    drawn = torch.randint(len(rays.lidar_pixel), (count,), generator=generator)
    seen = rays.pixel_rays(rays.lidar_pixel_image[drawn], rays.lidar_pixel[drawn])
    return seen.origins + seen.directions * rays.lidar_pixel_depth[drawn, None], seen.rgb
