"""Two-stage probabilistic depth (DistillNeRF Sec. 3.1): where along its ray each input pixel ends.

Stage one spreads a density over depth bins and takes the expectation. Stage two places candidates around that depth
and scores each against the image.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm, leaky_relu, pad, pixel_unshuffle

from student.model.backbone import LEAKY_SLOPE, Bottleneck, Pyramid, instance_norm, resize, soft_clamp
from student.model.config import CoarseDepthConfig, ContractionConfig, FineDepthConfig
from student.model.contraction import contract_axis, depth_bin_edges
from student.model.precision import full_precision
from student.model.ray_embedding import RayEmbedding

LOGIT_LIMIT = 30.0
"""Depth logits are softly clamped to it."""
_FEATURE_LIMIT = 5.0
_TINY_OPACITY = 1e-12  # below the opacity of bins whose logits are all at the lower limit


def density_from_logit(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the density, per metre, of a bounded logit."""
    return torch.exp(logits - 1.0)


def ray_weights(optical_depth: Float[Tensor, "n samples *rest"]) -> Float[Tensor, "n samples *rest"]:
    """Return the probability that a ray ends in each sample, near to far (DistillNeRF Eq. 1).

    The weights sum to at most 1 over samples. The transmittance only adds up the samples before: a difference of
    running sums would cancel after an opaque sample.

    Args:
        optical_depth: Density of each sample times its length.
    """
    before = pad(optical_depth, (0, 0) * (optical_depth.ndim - 2) + (1, 0))[:, :-1]
    return -torch.expm1(-optical_depth) * torch.exp(-before.cumsum(1))


class CoarseDepth(NamedTuple):
    """Stage one's result for every present camera.

    Attributes:
        termination_depth: Metres along the unit ray.
        opacity: Sum of the weights, in [0, 1].
        weights: Probability that the ray ends in each bin.
        mono_features: Features that stage two builds on.
    """

    termination_depth: Float[Tensor, "n h w"]
    opacity: Float[Tensor, "n h w"]
    weights: Float[Tensor, "n bins h w"]
    mono_features: Float[Tensor, "n mono h w"]


class CoarseDepthHead(nn.Module):
    """Stage one: a density over depth bins, and the depth that it expects (DistillNeRF Eq. 2).

    The expectation is divided by the opacity, so that it is a depth also where the ray may leave the scene. Frozen
    Depth Anything features join the image's own (DistillNeRF Sec. A.7).
    """

    edges: Tensor
    midpoints: Tensor

    def __init__(self, config: CoarseDepthConfig, contraction: ContractionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.combiner_width
        self.pyramid = Pyramid(config.pyramid)
        channels = config.depth_feature_channels
        self.depth_feature_projection = (
            nn.Conv2d(channels, width, 1) if channels not in {0, width} else nn.Identity() if channels else None
        )
        self.combiner = nn.Sequential(
            Bottleneck(config.pyramid.output_width + (width if channels else 0), width),
            Bottleneck(width, width),
            nn.Conv2d(width, width, 1),
        )
        self.rays = (
            RayEmbedding(config.ray_width, width, near=config.bins.near, far=config.bins.far)
            if config.ray_width
            else None
        )
        self.mono = nn.Conv2d(width, config.mono_width, 1)
        edges = depth_bin_edges(config.bins, contraction)
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("midpoints", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.spatial = nn.Conv2d(config.mono_width, config.mono_width, 3, padding=1)
        self.logits = nn.Conv2d(config.mono_width, len(edges) - 1, 1)
        self._spread_initial_depth()

    def _spread_initial_depth(self) -> None:
        """Start with every bin equally likely: equal logits would end every ray within a few metres."""
        num_bins = len(self.edges) - 1
        weight = self.config.initial_opacity / num_bins
        transmittance = 1.0 - weight * torch.arange(num_bins, device=self.edges.device)
        density = -torch.log1p(-weight / transmittance) / self.edges.diff()
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.logits.bias.copy_(density.log() + 1.0)  # pyright: ignore[reportOptionalMemberAccess]

    def forward(
        self,
        images: Float[Tensor, "n 3 height width"],
        depth_features: Float[Tensor, "n channels grid_height grid_width"] | None,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n h w 3"],
    ) -> CoarseDepth:
        """Estimate depth per pixel of the depth grid.

        Args:
            images: RGB in [-1, 1].
            depth_features: On any grid that spans the image. Their scale does not matter: each location is
                normalised over channels.
            origins: Camera centres in the ego frame, metres.
            directions: Unit directions of the depth grid's rays in the ego frame; NaN where a pixel sees nothing.

        Raises:
            ValueError: If depth features are missing, unwanted, or of another width than configured.
        """
        image_features = self.pyramid(images)
        combined = self._combine(image_features, depth_features)
        if self.rays is not None:  # after the last normalisation, which would take away what a whole image shares
            combined = combined + self.rays(origins, directions)
        mono = leaky_relu(self.mono(combined), LEAKY_SLOPE)
        logits = self.logits(leaky_relu(self.spatial(mono), LEAKY_SLOPE)).float()
        density = density_from_logit(soft_clamp(logits, LOGIT_LIMIT))
        weights = ray_weights(density * self.edges.diff()[:, None, None])
        opacity = weights.sum(1)
        with full_precision(weights):
            depth = torch.einsum("nbhw,b->nhw", weights, self.midpoints) / opacity.clamp(min=_TINY_OPACITY)
        return CoarseDepth(depth, opacity.clamp(max=1.0), weights, mono)

    def _combine(self, image_features: Tensor, depth_features: Tensor | None) -> Tensor:
        wanted = self.config.depth_feature_channels
        given = 0 if depth_features is None else depth_features.shape[1]
        if given != wanted:
            raise ValueError(f"the model is configured for {wanted} depth feature channels, got {given}")
        if depth_features is None or self.depth_feature_projection is None:
            return instance_norm(self.combiner(image_features))
        resized = resize(depth_features, (image_features.shape[-2], image_features.shape[-1]))
        normalised = layer_norm(resized.movedim(1, -1), (given,)).movedim(-1, 1)
        depth_part = self.depth_feature_projection(normalised)
        return depth_part + instance_norm(self.combiner(torch.cat([image_features, depth_part], dim=1)))


class FineDepth(NamedTuple):
    """Stage two's result for every present camera.

    Attributes:
        candidates: Distances along the unit ray, metres, ascending. Detached.
        probability: Probability that the surface is at the candidate, each judged by itself, in (0, 1).
        logits: Density logit of each candidate.
        termination_depth: Expectation over the candidates, metres; NaN where they are all but empty.
        opacity: Opacity of the stretch of ray that the candidates span.
        lifted_features: Features that each pixel carries into its voxels.
    """

    candidates: Float[Tensor, "n k h w"]
    probability: Float[Tensor, "n k h w"]
    logits: Float[Tensor, "n k h w"]
    termination_depth: Float[Tensor, "n h w"]
    opacity: Float[Tensor, "n h w"]
    lifted_features: Float[Tensor, "n lifted h w"]


class FineDepthHead(nn.Module):
    """Stage two: candidates around the coarse depth, each with a density of its own (DistillNeRF Sec. 3.1).

    The candidates are spaced evenly and symmetrically, by a step that grows with the coarse depth. A candidate is
    embedded by Fourier features of its contracted and its logarithmic distance, so that 50 m and 52 m differ as clearly
    as 2 m and 2.1 m do. A linear map of raw metres under a layer norm cannot tell the first pair apart.
    """

    def __init__(
        self,
        config: FineDepthConfig,
        contraction: ContractionConfig,
        *,
        mono_width: int,
        level_width: int,
        near: float,
        far: float,
    ) -> None:
        super().__init__()
        self.config, self.contraction = config, contraction
        self.level_width, self.near, self.far = level_width, near, far
        width, hidden, embedding = config.fuse_width, config.hidden_width, config.embedding_width
        self.pyramid = Pyramid(config.pyramid)
        self.fuse = nn.ModuleList(
            [
                nn.Conv2d(config.pyramid.output_width + mono_width, width, 3, padding=1, bias=False),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            ]
        )
        self.lifted = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1), nn.LeakyReLU(LEAKY_SLOPE), nn.Conv2d(hidden, 2 * level_width, 1)
        )
        self.pixel_embedding = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1), nn.LeakyReLU(LEAKY_SLOPE), nn.Conv2d(hidden, embedding, 1)
        )
        self.candidate_embedding = nn.Conv2d(2 + 4 * config.num_frequencies, embedding, 1)
        along_ray = partial(nn.Conv2d, kernel_size=(3, 1), padding=(1, 0))
        self.score = nn.ModuleList([along_ray(embedding, hidden), along_ray(hidden, hidden), along_ray(hidden, 1)])
        nn.init.constant_(self.score[-1].bias, config.initial_logit)  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        images: Float[Tensor, "n 3 height width"],
        coarse_depth: Float[Tensor, "n h w"],
        mono_features: Float[Tensor, "n mono h w"],
        *,
        min_opacity: float,
    ) -> FineDepth:
        """Score candidates around the coarse depth."""
        image_features = self.pyramid(images)
        fused = torch.cat([image_features, mono_features], dim=1)
        for layer in self.fuse:
            fused = leaky_relu(instance_norm(layer(fused)), LEAKY_SLOPE)
        candidates = self._candidates(coarse_depth)
        scores = self._scores(fused, candidates).float()
        logits = LOGIT_LIMIT * torch.tanh(scores / 2)
        depth, opacity = _expected_depth(candidates, logits, min_opacity)
        lifted = soft_clamp(self.lifted(fused), _FEATURE_LIMIT)
        if self.config.lift_colour:
            lifted = self._add_colour(lifted, images)
        return FineDepth(candidates.detach(), torch.sigmoid(scores), logits, depth, opacity, lifted)

    def _candidates(self, coarse_depth: Tensor) -> Tensor:
        config = self.config
        step = (coarse_depth * config.relative_step).clamp(config.min_step, config.max_step)
        half = config.num_candidates // 2
        offsets = torch.arange(-half, half + 1, device=step.device, dtype=step.dtype)
        return (coarse_depth[:, None] + offsets[:, None, None] * step[:, None]).clamp(self.near, self.far)

    def _scores(self, fused: Tensor, candidates: Tensor) -> Tensor:
        n, k, h, w = candidates.shape
        contraction = self.contraction
        contracted = contract_axis(candidates, contraction.inner_range_xy, contraction.inner_ratio)
        logarithmic = torch.log(candidates / self.near) / math.log(self.far / self.near)
        position = torch.stack([contracted, logarithmic], dim=1).view(n, 2, k, h * w)
        octaves = math.pi * 2.0 ** torch.arange(self.config.num_frequencies, device=position.device)
        # The octaves turn by hundreds of radians over the range: as gradients of depth they would be noise.
        phase = (position.detach()[:, :, None] * octaves[:, None, None]).flatten(1, 2)
        encoded = torch.cat([position, phase.sin(), phase.cos()], dim=1)
        pixel = self.pixel_embedding(fused).flatten(2)
        x = self.candidate_embedding(encoded) * pixel[:, :, None]
        for layer in self.score[:-1]:
            x = leaky_relu(instance_norm(layer(x)), LEAKY_SLOPE)
        return self.score[-1](x).view(n, k, h, w)

    def _add_colour(self, lifted: Tensor, images: Tensor) -> Tensor:
        colour = resize(images, (lifted.shape[-2], lifted.shape[-1]))
        added = lifted.new_zeros(lifted.shape)
        added[:, :3] = added[:, self.level_width : self.level_width + 3] = colour
        if self.config.lift_detail:
            smooth = interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
            detail = pixel_unshuffle(images[..., : smooth.shape[-2], : smooth.shape[-1]] - smooth, 2)
            added[:, 3 : 3 + detail.shape[1]] = detail
        return lifted + added


def _expected_depth(candidates: Tensor, logits: Tensor, min_opacity: float) -> tuple[Tensor, Tensor]:
    """Return the depth that the candidates expect (DistillNeRF Eq. 2), and their opacity.

    Densities are those at the midpoints of candidates, over the lengths between them.
    """
    density = density_from_logit((logits[:, 1:] + logits[:, :-1]) / 2)
    weights = ray_weights(density * candidates.diff(dim=1))
    opacity = weights.sum(1)
    midpoints = (candidates[:, 1:] + candidates[:, :-1]) / 2
    depth = (weights * midpoints).sum(1) / opacity.clamp(min=min_opacity)
    return torch.where(opacity >= min_opacity, depth, torch.nan), opacity.clamp(max=1.0)
