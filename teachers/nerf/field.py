"""The driving field: static and dynamic density and features in space, colour per ray, sky by direction.

It is a field of EmerNeRF's class (arXiv 2311.02077) behind nerfstudio's ``Field`` interface (EmerNeRF Sec. 3.1). Unlike
EmerNeRF's, its colour is by default *deferred*: a small network gives density per sample, the grid features themselves
are composited like colours, and a second network reads the ray's colour from the result, the direction and the camera's
appearance code. Surfaces here are opaque, so little is lost. That network runs once per ray instead of once per sample,
and its gradient reaches the grids directly instead of through the density's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn

from teachers.nerf.config import FieldConfig, ProposalConfig
from teachers.nerf.contraction import contract
from teachers.nerf.dynamic import DynamicBranch
from teachers.nerf.encoding import GridEncoding, geometric_resolutions
from teachers.nerf.frame_times import FrameTimes
from teachers.nerf.grid_head import GridHead
from teachers.nerf.moving_region import MovingRegion
from teachers.nerf.nerfstudio_grid import Backend, NerfstudioGrid
from teachers.nerf.perceptron import perceptron
from teachers.nerf.scene_rays import SceneBounds

_SKY_OCTAVES = 4
_SURFACE_OCTAVES = 1
"""Surfaces get a low frequency only: each is seen from a few directions, and a network that can tell them apart
memorises one colour per direction and shows neither from a third."""
_INITIAL_LOG_DENSITY = -4.0
"""Log of the density per metre before training: a mean free path of 55 m, neither fog nor vacuum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSamples:
    """What the field says of samples, before colour.

    Attributes:
        density: Per scene unit.
        features: The grids' features.
        dynamic_density: The part of the density that moves, per scene unit; None without a dynamic branch.
        light: Share of the light that shadows leave, [0, 1]; None without shadows.
        shadow: The shadow ratio itself, [0, 1]; None without shadows.
        cycle_error: See ``DynamicSamples``; None without flow.
    """

    density: Float[Tensor, "*batch 1"]
    features: Float[Tensor, "*batch width"]
    dynamic_density: Float[Tensor, "*batch 1"] | None = None
    light: Float[Tensor, "*batch 1"] | None = None
    shadow: Float[Tensor, "*batch 1"] | None = None
    cycle_error: Float[Tensor, "*batch 1"] | None = None


class DrivingField(Field):
    """Density, features and colour of one scene.

    Args:
        config: Size of the field.
        bounds: The scene's box.
        num_cameras: Cameras of the scene.
        frame_seconds: Time of each frame.
        fitted_frames: Frames that the field is fitted to.
    """

    def __init__(
        self,
        config: FieldConfig,
        bounds: SceneBounds,
        *,
        num_cameras: int,
        frame_seconds: Sequence[float],
        fitted_frames: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.metres_per_unit = bounds.metres_per_unit
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.static_grid = _static_grid(config, bounds)
        self.head = GridHead(config, config.num_levels)
        self.feature_width = self.static_grid.output_width
        self.times = FrameTimes(frame_seconds, fitted_frames)
        self.dynamic = DynamicBranch(config, bounds, self.times) if config.dynamic else None
        if self.dynamic is not None:
            self.feature_width += self.dynamic.output_width
        self.num_cameras = num_cameras
        num_codes = num_cameras * (1 if config.appearance == "camera" else len(frame_seconds))
        self.appearance = nn.Embedding(num_codes, config.appearance_width)
        nn.init.zeros_(self.appearance.weight)
        view_width = 3 + 6 * _SURFACE_OCTAVES + config.appearance_width
        self.colour_network = perceptron(self.feature_width + view_width, 2 * config.hidden_width, 3, layers=3)
        self.sky_network = perceptron(3 + 6 * _SKY_OCTAVES + config.appearance_width, config.hidden_width, 3)

    def set_fitted_frames(self, frames: Sequence[int]) -> None:
        """Say which frames the field is fitted to from now on."""
        self.times.set_fitted(frames)

    def confine_moving(self, places: Sequence[Float[np.ndarray, "_ 3"]] | None) -> None:
        """Let the dynamic branch, if there is one, exist near these points alone; see ``MovingRegion.confine``."""
        if self.dynamic is not None:
            self.dynamic.region.confine(places)

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"]]:
        """Return density per scene unit, and the grids' features."""
        sampled = self.sample(ray_samples)
        return sampled.density, sampled.features

    def sample(self, ray_samples: RaySamples) -> FieldSamples:
        """Return density and features of samples, and what moves there.

        A static and a dynamic grid give a density each (EmerNeRF Eq. 1). Their features are blended by their shares of
        the density (EmerNeRF Eq. 4), of which shadows take light from the static share alone.
        """
        positions = ray_samples.frustums.get_positions()
        batch = positions.shape[:-1]
        positions = positions.reshape(-1, 3)
        features = self.static_grid(self.unit_cube(positions))
        density = self._density(self.head.log_density(features))
        if self.dynamic is None:
            return FieldSamples(density=density.view(*batch, 1), features=features.view(*batch, -1))
        assert ray_samples.times is not None
        moving = self.dynamic(positions, ray_samples.times.expand(*batch, 1).reshape(-1))
        dynamic_density = self._density(moving.log_density)
        total = density + dynamic_density
        share = (dynamic_density / total.clamp_min(1e-6)).detach()
        blended = torch.cat([(1.0 - share) * features, share * moving.features], dim=-1)
        parts = {"dynamic_density": dynamic_density, "shadow": moving.shadow, "cycle_error": moving.cycle_error}
        if moving.shadow is not None:
            parts["light"] = 1.0 - (1.0 - share) * moving.shadow
        return FieldSamples(
            density=total.view(*batch, 1),
            features=blended.view(*batch, -1),
            **{name: part.view(*batch, 1) for name, part in parts.items() if part is not None},
        )

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """Return the colour of every sample, before shadows."""
        assert density_embedding is not None
        batch = density_embedding.shape[:-1]
        directions = ray_samples.frustums.directions.expand(*batch, 3).reshape(-1, 3)
        assert ray_samples.camera_indices is not None
        assert ray_samples.times is not None
        code = self.appearance_code(
            ray_samples.camera_indices.expand(*batch, 1).reshape(-1), ray_samples.times.expand(*batch, 1).reshape(-1)
        )
        colour = self.colour(density_embedding.reshape(-1, density_embedding.shape[-1]), directions, code)
        return {FieldHeadNames.RGB: colour.view(*batch, 3)}

    def appearance_code(
        self, camera_index: Int64[Tensor, " rays"], instants: Float[Tensor, " rays"]
    ) -> Float[Tensor, "rays width"]:
        """Return the codes of cameras at instants (frames).

        With a code per image, that of an image which was not fitted lies between those of its camera's fitted
        neighbours, by distance in time.
        """
        if self.config.appearance == "camera":
            return self.appearance(camera_index)
        near = self.times.neighbours(instants)
        own, before, after = (
            self.appearance(frame * self.num_cameras + camera_index)
            for frame in (instants.round().long(), near.previous, near.next)
        )
        between = torch.lerp(before, after, near.next_share()[:, None])
        return torch.where(near.is_fitted[:, None], own, between)

    def colour(
        self,
        features: Float[Tensor, "points width"],
        directions: Float[Tensor, "points 3"],
        code: Float[Tensor, "points code_width"],
    ) -> Float[Tensor, "points 3"]:
        """Return the colour, [0, 1], that shows along directions from composited features, for an appearance code.

        Static and dynamic features share this network (EmerNeRF Eq. 2), which corrects the first guesses of both.
        """
        view = torch.cat([encode_directions(directions, octaves=_SURFACE_OCTAVES), code], dim=-1)
        raw = self.colour_network(torch.cat([features, view], dim=-1))
        of_static = self.static_grid.output_width
        raw = raw + self.head.colour_guess(features[:, :of_static])
        if self.dynamic is not None:
            raw = raw + self.dynamic.head.colour_guess(features[:, of_static:])
        return torch.sigmoid(raw)

    def sky_colour(
        self, directions: Float[Tensor, "rays 3"], code: Float[Tensor, "rays code_width"]
    ) -> Float[Tensor, "rays 3"]:
        """Return the colour, [0, 1], of the sky along directions for an appearance code (EmerNeRF Eq. 3)."""
        return torch.sigmoid(self.sky_network(torch.cat([encode_directions(directions), code], dim=-1)))

    def unit_cube(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return where positions in scene units lie in the grids' unit cube."""
        return 0.25 * (contract(positions / self.half_extent) + 2.0)

    def _density(self, raw: Float[Tensor, "points 1"]) -> Float[Tensor, "points 1"]:
        return self.metres_per_unit * trunc_exp(raw + _INITIAL_LOG_DENSITY)


class ProposalDensity(nn.Module):
    """A coarse density that tells the sampler where to look (EmerNeRF Sec. A.1.2).

    It is a sum over grid levels, without any network. Where something is known to move, a slice of its own for each
    frame is added: what stands there in most frames would otherwise draw the samples away from what is there now.
    """

    def __init__(self, config: ProposalConfig, field: FieldConfig, bounds: SceneBounds) -> None:
        super().__init__()
        self.metres_per_unit = bounds.metres_per_unit
        self.half_extent: Tensor
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.grid = GridEncoding(
            geometric_resolutions(
                bounds.half_extent_m,
                coarsest_cell_m=field.coarsest_cell_m,
                finest_cell_m=config.finest_cell_m,
                num_levels=config.num_levels,
            ),
            features_per_level=1,
            interpolation="nearest",
            log2_table_size=config.log2_table_size,
        )
        self.slices = None
        if field.dynamic:
            self.slices = GridEncoding(
                geometric_resolutions(
                    bounds.half_extent_m,
                    coarsest_cell_m=config.finest_cell_m,
                    finest_cell_m=config.finest_cell_m,
                    num_levels=1,
                ),
                features_per_level=1,
                interpolation="nearest",
                log2_table_size=field.dynamic_log2_table_size,
            )

    def forward(
        self,
        positions: Float[Tensor, "*batch 3"],
        instants: Float[Tensor, "rays 1"],
        region: MovingRegion | None = None,
    ) -> Float[Tensor, "*batch 1"]:
        """Return density per scene unit.

        Args:
            positions: Scene units.
            instants: Frame of each ray.
            region: Where something may move; None without a dynamic branch.
        """
        points = positions.reshape(-1, 3)
        unit_cube = 0.25 * (contract(points / self.half_extent) + 2.0)
        # A factor on the sum lets Adam's fixed step cross the decades of density in tens of steps.
        raw = 5.0 * self.grid(unit_cube).sum(dim=-1, keepdim=True)
        if region is not None and self.slices is not None and bool(region.is_confined):
            frame = instants.expand(positions.shape[:-1]).reshape(-1)
            chosen = torch.nonzero(region(points, frame))[:, 0]
            own = 5.0 * self.slices(unit_cube[chosen], frame[chosen].round().to(torch.int32))
            raw = raw.index_add(0, chosen, own)
        return (self.metres_per_unit * trunc_exp(raw + _INITIAL_LOG_DENSITY)).view(*positions.shape[:-1], 1)


def encode_directions(
    directions: Float[Tensor, "points 3"], *, octaves: int = _SKY_OCTAVES
) -> Float[Tensor, "points width"]:
    """Return directions with sines and cosines of their octaves."""
    scaled = [directions * 2.0**octave for octave in range(octaves)]
    return torch.cat([directions, *map(torch.sin, scaled), *map(torch.cos, scaled)], dim=-1)


def _static_grid(config: FieldConfig, bounds: SceneBounds) -> GridEncoding | NerfstudioGrid:
    resolutions = geometric_resolutions(
        bounds.half_extent_m,
        coarsest_cell_m=config.coarsest_cell_m,
        finest_cell_m=config.finest_cell_m,
        num_levels=config.num_levels,
    )
    width, rows = config.features_per_level, config.log2_table_size
    if config.implementation in ("tcnn", "nerfstudio"):
        backend: Backend = "tcnn" if config.implementation == "tcnn" else "torch"
        return NerfstudioGrid(resolutions, features_per_level=width, log2_table_size=rows, backend=backend)
    return GridEncoding(resolutions, features_per_level=width, log2_table_size=rows, gradient=config.grid_gradient)
