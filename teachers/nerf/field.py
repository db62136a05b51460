"""The driving field: static and dynamic density and features in space, colour per ray, sky by direction.

It is a field of EmerNeRF's class (arXiv 2311.02077) behind nerfstudio's ``Field`` interface (EmerNeRF Sec. 3.1). Unlike
EmerNeRF's, its colour is by default *deferred*: a small network gives density per sample, the grid features themselves
are composited like colours, and a second network reads the ray's colour from the result, the direction and the camera's
appearance code. Surfaces here are opaque, so little is lost. That network runs once per ray instead of once per sample,
and its gradient reaches the grids directly instead of through the density's.
"""

import itertools

import torch
from jaxtyping import Float, Int64
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn

from teachers.nerf.config import FieldConfig, SamplingConfig
from teachers.nerf.contraction import contract
from teachers.nerf.encoding import GridEncoding, geometric_resolutions
from teachers.nerf.nerfstudio_grid import Backend, NerfstudioGrid
from teachers.nerf.scene_rays import SceneBounds

_SKY_OCTAVES = 4
_SURFACE_OCTAVES = 1
"""Surfaces get a low frequency only: each is seen from a few directions, and a network that can tell them apart
memorises one colour per direction and shows neither from a third."""
_INITIAL_LOG_DENSITY = -4.0
"""Log of the density per metre before training: a mean free path of 55 m, neither fog nor vacuum."""


class DrivingField(Field):
    """Density, features and colour of one scene.

    Args:
        config: Size of the field.
        bounds: The scene's box.
        num_cameras: Appearance codes to learn.
        num_frames: Frames of the scene.
        fitted_frames: Frames that the field is fitted to; only they have a dynamic part.
    """

    def __init__(
        self,
        config: FieldConfig,
        bounds: SceneBounds,
        *,
        num_cameras: int,
        num_frames: int,
        fitted_frames: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.metres_per_unit = bounds.metres_per_unit
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.static_grid = _static_grid(config, bounds)
        self.density_network = network(self.static_grid.output_width, config.hidden_width, 1)
        self.feature_width = self.static_grid.output_width
        self.dynamic_grid: GridEncoding | None = None
        if config.dynamic:
            self.dynamic_grid = _dynamic_grid(config, bounds)
            self.frame_is_fitted: Tensor
            self.register_buffer("frame_is_fitted", torch.zeros(num_frames, dtype=torch.bool))
            self.set_fitted_frames(fitted_frames)
            self.dynamic_network = network(self.dynamic_grid.output_width, config.hidden_width, 1)
            self.feature_width += self.dynamic_grid.output_width
        self.appearance = nn.Embedding(num_cameras, config.appearance_width)
        nn.init.zeros_(self.appearance.weight)
        view_width = 3 + 6 * _SURFACE_OCTAVES + config.appearance_width
        self.colour_network = network(self.feature_width + view_width, 2 * config.hidden_width, 3, layers=3)
        self.sky_network = network(3 + 6 * _SKY_OCTAVES + config.appearance_width, config.hidden_width, 3)

    def set_fitted_frames(self, frames: tuple[int, ...]) -> None:
        """Say which frames the field is fitted to from now on."""
        if self.dynamic_grid is not None:
            self.frame_is_fitted.zero_()
            self.frame_is_fitted[list(frames)] = True

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"]]:
        """Return density per scene unit, and the grids' features."""
        density, features, _ = self.density_and_features(ray_samples)
        return density, features

    def density_and_features(
        self, ray_samples: RaySamples
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch width"], Float[Tensor, "*batch 1"] | None]:
        """Return density per scene unit, the grids' features, and the part of the density that moves.

        A static and a dynamic grid give a density each (EmerNeRF Eq. 1). Their features are blended by their shares of
        the density (EmerNeRF Eq. 4); there is no shadow.
        """
        positions = ray_samples.frustums.get_positions()
        batch = positions.shape[:-1]
        unit_cube = self.unit_cube(positions.reshape(-1, 3))
        features = self.static_grid(unit_cube)
        density = self._density(self.density_network(features))
        dynamic_density = None
        if self.dynamic_grid is not None:
            assert ray_samples.times is not None
            frames = ray_samples.times.round().to(torch.int32).expand(*batch, 1).reshape(-1)
            moving = self.dynamic_grid(unit_cube, frames)
            # Emptier than the static branch at first, and absent from frames that were not fitted.
            known = self.frame_is_fitted[frames.long()][:, None]
            dynamic_density = self._density(self.dynamic_network(moving) - 1.0) * known
            total = density + dynamic_density
            share = (dynamic_density / total.clamp_min(1e-6)).detach()
            features = torch.cat([(1.0 - share) * features, share * moving], dim=-1)
            density, dynamic_density = total, dynamic_density.view(*batch, 1)
        return density.view(*batch, 1), features.view(*batch, -1), dynamic_density

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """Return the colour of every sample."""
        assert density_embedding is not None
        assert ray_samples.camera_indices is not None
        batch = density_embedding.shape[:-1]
        directions = ray_samples.frustums.directions.expand(*batch, 3).reshape(-1, 3)
        cameras = ray_samples.camera_indices.expand(*batch, 1).reshape(-1)
        colour = self.colour(density_embedding.reshape(-1, density_embedding.shape[-1]), directions, cameras)
        return {FieldHeadNames.RGB: colour.view(*batch, 3)}

    def colour(
        self,
        features: Float[Tensor, "points width"],
        directions: Float[Tensor, "points 3"],
        camera_index: Int64[Tensor, " points"],
    ) -> Float[Tensor, "points 3"]:
        """Return the colour, [0, 1], that a camera sees from composited features along directions.

        Static and dynamic features share this head (EmerNeRF Eq. 2).
        """
        view = torch.cat(
            [encode_directions(directions, octaves=_SURFACE_OCTAVES), self.appearance(camera_index)], dim=-1
        )
        return torch.sigmoid(self.colour_network(torch.cat([features, view], dim=-1)))

    def sky_colour(
        self, directions: Float[Tensor, "rays 3"], camera_index: Int64[Tensor, " rays"]
    ) -> Float[Tensor, "rays 3"]:
        """Return the colour, [0, 1], of the sky along directions (EmerNeRF Eq. 3)."""
        return torch.sigmoid(
            self.sky_network(torch.cat([encode_directions(directions), self.appearance(camera_index)], dim=-1))
        )

    def unit_cube(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return where positions in scene units lie in the grids' unit cube."""
        return 0.25 * (contract(positions / self.half_extent) + 2.0)

    def _density(self, raw: Float[Tensor, "points 1"]) -> Float[Tensor, "points 1"]:
        return self.metres_per_unit * trunc_exp(raw + _INITIAL_LOG_DENSITY)


class ProposalDensity(nn.Module):
    """A coarse density that tells the sampler where to look (EmerNeRF Sec. A.1.2).

    It is a sum over grid levels, without any network.
    """

    def __init__(self, config: SamplingConfig, field: FieldConfig, bounds: SceneBounds) -> None:
        super().__init__()
        self.metres_per_unit = bounds.metres_per_unit
        self.half_extent: Tensor
        self.register_buffer("half_extent", torch.tensor(bounds.half_extent), persistent=False)
        self.grid = GridEncoding(
            geometric_resolutions(
                bounds.half_extent_m,
                coarsest_cell_m=field.coarsest_cell_m,
                finest_cell_m=config.proposal_finest_cell_m,
                num_levels=config.proposal_levels,
            ),
            features_per_level=1,
            interpolation="nearest",
            log2_table_size=config.proposal_log2_table_size,
        )

    def forward(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Return density per scene unit at positions in scene units."""
        unit_cube = 0.25 * (contract(positions.reshape(-1, 3) / self.half_extent) + 2.0)
        # A factor on the sum lets Adam's fixed step cross the decades of density in tens of steps.
        raw = 5.0 * self.grid(unit_cube).sum(dim=-1, keepdim=True)
        return (self.metres_per_unit * trunc_exp(raw + _INITIAL_LOG_DENSITY)).view(*positions.shape[:-1], 1)


def encode_directions(
    directions: Float[Tensor, "points 3"], *, octaves: int = _SKY_OCTAVES
) -> Float[Tensor, "points width"]:
    """Return directions with sines and cosines of their octaves."""
    scaled = [directions * 2.0**octave for octave in range(octaves)]
    return torch.cat([directions, *map(torch.sin, scaled), *map(torch.cos, scaled)], dim=-1)


def network(width_in: int, hidden: int, width_out: int, *, layers: int = 2) -> nn.Sequential:
    """Return a perceptron with rectified hidden layers."""
    widths = [width_in, *([hidden] * (layers - 1)), width_out]
    modules: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


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
    return GridEncoding(resolutions, features_per_level=width, log2_table_size=rows)


def _dynamic_grid(config: FieldConfig, bounds: SceneBounds) -> GridEncoding:
    return GridEncoding(
        geometric_resolutions(
            bounds.half_extent_m,
            coarsest_cell_m=4.0 * config.dynamic_cell_m,
            finest_cell_m=config.dynamic_cell_m,
            num_levels=2,
        ),
        features_per_level=config.features_per_level,
        log2_table_size=config.log2_table_size,
    )
