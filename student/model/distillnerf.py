"""DistillNeRF: surround images of one moment in, a renderable field out, in one forward pass.

estimate: images -> coarse depth -> fine candidates.
encode: fine candidates -> lifted points -> sparse voxels -> sparse convolutions.
render: target cameras -> rays -> weights and features -> sky behind -> image and foundation features.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from storage.geometry.cameras import scale_intrinsics
from storage.geometry.voxel_grid import OCC3D_GRID
from student.model.config import ModelConfig
from student.model.contraction import depth_bin_edges
from student.model.decoder import FeatureHead, ImageDecoder, SkyHead, VoxelFeatureHead
from student.model.depth_head import CoarseDepth, CoarseDepthHead, FineDepth, FineDepthHead
from student.model.lifting import camera_rays, points_on_candidates, pool_points
from student.model.occupancy_head import READ_HEIGHTS, GridReading, OccupancyHead, reading_width
from student.model.precision import full_precision
from student.model.renderer import Rays, RenderedRays, render_rays
from student.model.sparse_voxels import GridShape, build_grid
from student.model.types import CameraDepth, CameraInputs, RaySamples, Rendering, StudentOutput, TargetCameras
from student.model.voxel_field import VoxelField
from student.model.voxel_network import VoxelNetwork

_SKY_FLOOR = 1e-3
"""Least share of sky in a pixel, so that a scene without sky still has a mean."""


class _Estimate(NamedTuple):
    """Rays of the depth grid of all present cameras, and what is believed about each."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n height width 3"]
    is_seen: Bool[Tensor, "n height width"]
    coarse: CoarseDepth
    fine: FineDepth
    depth: CameraDepth


class DistillNeRF(nn.Module):
    """The student (DistillNeRF Sec. 3.1).

    It works on any number of cameras, pinholes and fisheyes in one rig, any batch size, and any image size that its
    encoder can halve often enough. Permuting cameras changes nothing. After ``eval()`` it is deterministic.

    Attributes:
        occupancy_head: Reader of a finished field, no part of :meth:`forward`: it is taught when the rest is done.
        voxel_feature_heads: Readers of what the occupancy head sees, by source, taught together with it.
        recomputes_activations: Whether the depth heads and the voxel network forget what they computed on the way, and
            compute it again for their gradients: the same gradients, for less memory and more time.
    """

    ray_edges: Tensor
    recomputes_activations: bool = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        coarse, voxels = config.coarse_depth, config.voxels
        self.coarse_depth = CoarseDepthHead(coarse, config.contraction)
        self.fine_depth = FineDepthHead(
            config.fine_depth,
            config.contraction,
            mono_width=coarse.mono_width,
            level_width=voxels.feature_width,
            near=coarse.bins.near,
            far=coarse.bins.far,
        )
        self.voxel_network = VoxelNetwork(voxels)
        width = 2 * voxels.feature_width
        self.sky = SkyHead(config.sky, width)
        self.decoder = (
            None
            if config.decoder is None
            else ImageDecoder(config.decoder, width, reads_detail=config.fine_depth.lift_detail)
        )
        self.feature_heads = nn.ModuleDict({head.source: FeatureHead(head, width) for head in config.feature_heads})
        self.occupancy_head = (
            None
            if config.occupancy_head is None
            else OccupancyHead(config.occupancy_head, OCC3D_GRID, feature_width=width, num_labels=1)
        )
        sight = 0 if config.occupancy_head is None else config.occupancy_head.width
        self.voxel_feature_heads = nn.ModuleDict(
            {
                head.source: VoxelFeatureHead(head, seen_width=sight, reading_width=reading_width(width))
                for head in config.feature_heads
                if head.voxel_width
            }
        )
        edges = depth_bin_edges(config.renderer.bins, config.contraction)
        self.register_buffer("ray_edges", edges, persistent=False)

    def forward(
        self,
        inputs: CameraInputs,
        targets: TargetCameras | None,
        surface_depth: Float[Tensor, "batch targets render_height render_width"] | None = None,
    ) -> StudentOutput | CameraDepth:
        """Encode the inputs and render the targets; without targets, estimate the depth of the inputs alone.

        With the known depth of pixels, metres along unit rays and NaN where unknown, features of those places are read
        too.
        """
        if targets is None:
            return self._estimate(inputs).depth
        field = self.encode(inputs)
        rendering = self.render(field, targets)
        surface, has_surface = {}, None
        if surface_depth is not None:
            places, has_surface = self.surface_features(field, targets, surface_depth)
            surface = {
                source: (head(places) * has_surface[..., None]).movedim(-1, 2)
                for source, head in self.feature_heads.items()
            }
        return StudentOutput(
            image=rendering.image,
            termination_depth=rendering.termination_depth,
            opacity=rendering.opacity,
            weight_entropy=rendering.weight_entropy,
            is_seen=rendering.is_seen,
            features=rendering.features,
            samples=rendering.samples,
            coarse_termination_depth=field.depth.coarse_termination_depth,
            coarse_opacity=field.depth.coarse_opacity,
            coarse_weights=field.depth.coarse_weights,
            coarse_edges=field.depth.coarse_edges,
            fine_termination_depth=field.depth.fine_termination_depth,
            fine_opacity=field.depth.fine_opacity,
            surface_features=surface,
            has_surface=has_surface,
            num_voxels={"coarse": field.grid.num_coarse, "fine": field.grid.num_fine},
        )

    def encode(self, inputs: CameraInputs) -> VoxelField:
        """Lift images into a voxel field in the ego frame of their reference time.

        Raises:
            ValueError: If depth features are missing, unwanted or of the wrong width, or if images are too
                small for the encoder.
        """
        is_present = inputs.camera_is_present
        batch_index = is_present.nonzero()[:, 0]
        estimate = self._estimate(inputs)
        coarse, fine, is_seen = estimate.coarse, estimate.fine, estimate.is_seen
        shape = GridShape(batch_size=len(is_present), coarse_level=self.config.voxels.coarse_level)
        pixel = is_seen.flatten().nonzero()[:, 0]
        points_ego = _seen(points_on_candidates(estimate.origins, estimate.directions, fine.candidates), pixel)
        cells = shape.cell_coordinates(points_ego, self.config.contraction)
        pixel_batch = torch.div(pixel, is_seen[0].numel() if len(is_seen) else 1, rounding_mode="floor")
        point_batch = batch_index.index_select(0, pixel_batch)[:, None].expand(cells.shape[:-1])
        grid, order = build_grid(shape, shape.fine_keys(cells, point_batch).reshape(-1))
        # A candidate is believed as far as its score says, and as far as its ray ends anywhere at all.
        opacity = fine.probability * coarse.opacity[:, None]
        fine_level, coarse_level = self._run(
            self.voxel_network,
            grid,
            *pool_points(
                grid,
                order,
                _seen(fine.lifted_features.movedim(1, -1), pixel),
                _seen(opacity.movedim(1, -1), pixel).reshape(-1),
                _seen(fine.logits.movedim(1, -1), pixel).reshape(-1),
                pooling=self.config.voxels.pooling,
            ),
        )
        return VoxelField(
            grid=grid,
            contraction=self.config.contraction,
            fine=fine_level,
            coarse=coarse_level,
            mean_sky=_mean_sky(fine.lifted_features, coarse.opacity, is_seen, batch_index, len(is_present)),
            depth=estimate.depth,
            lookup=self.config.renderer.lookup,
            logit_limit=self.config.renderer.logit_limit,
        )

    def _estimate(self, inputs: CameraInputs) -> "_Estimate":
        """Estimate where the ray of every pixel of the depth grid ends, in two stages."""
        is_present = inputs.camera_is_present
        images = inputs.images[is_present] * 2.0 - 1.0
        depth_features = None if inputs.depth_features is None else inputs.depth_features[is_present].to(images.dtype)
        origins, directions = self._depth_rays(inputs)
        is_seen = torch.isfinite(directions[..., 0])
        if inputs.is_valid is not None:
            is_valid = inputs.is_valid[is_present]
            images = images * is_valid[:, None]  # the vehicle itself is grey
            is_seen = is_seen & _all_covered(is_valid, (is_seen.shape[-2], is_seen.shape[-1]))
        coarse: CoarseDepth = self._run(self.coarse_depth, images, depth_features, origins, directions)
        fine: FineDepth = self._run(
            self.fine_depth,
            images,
            coarse.termination_depth,
            coarse.mono_features,
            min_opacity=self.config.renderer.min_opacity,
        )
        depth = _camera_depth(coarse, fine, self.coarse_depth.edges, is_present, is_seen)
        return _Estimate(origins, directions, is_seen, coarse, fine, depth)

    def _run(self, part: nn.Module, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as any module
        if self.recomputes_activations and torch.is_grad_enabled():
            return checkpoint(part, *arguments, use_reentrant=False, **options)
        return part(*arguments, **options)

    def _depth_rays(self, inputs: CameraInputs) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n height width 3"]]:
        """Return the rays of the depth grid of every present camera, in the ego frame."""
        is_present = inputs.camera_is_present
        pyramid = self.coarse_depth.pyramid
        height, width = pyramid.map_size(inputs.images.shape[-2], inputs.images.shape[-1])
        # By the stride itself: of an odd number of rows, the last one is beyond the grid.
        spanned = (height * pyramid.stem_stride, width * pyramid.stem_stride)
        intrinsics = scale_intrinsics(inputs.intrinsics[is_present], from_size=spanned, to_size=(height, width))
        return camera_rays(
            intrinsics,
            inputs.camera_to_reference_ego[is_present],
            None if inputs.fisheye is None else inputs.fisheye[is_present],
            height=height,
            width=width,
        )

    def render(self, field: VoxelField, targets: TargetCameras) -> Rendering:
        """Render target cameras from a field."""
        is_present = targets.target_is_present
        height, width = targets.render_height, targets.render_width
        origins, directions = _target_rays(targets)
        num_targets, pixels = len(origins), height * width
        is_seen = torch.isfinite(directions[..., 0])
        if targets.is_valid is not None:
            is_seen = is_seen & targets.is_valid[is_present]
        pixel = is_seen.flatten().nonzero()[:, 0]
        target = torch.div(pixel, pixels, rounding_mode="floor")
        rays = Rays(
            origins.index_select(0, target),
            _seen(directions, pixel),
            is_present.nonzero()[:, 0].index_select(0, target),
        )
        rendered = render_rays(field, rays, self.ray_edges, self.config.renderer, training=self.training)
        sky = self.sky(rays.directions, field.mean_sky, rays.batch_index)
        features = rendered.features + (1.0 - rendered.opacity)[:, None] * sky
        maps = _unseen(features, pixel, num_targets * pixels, 0.0).view(num_targets, height, width, -1)
        image = None if self.decoder is None else self.decoder(maps.movedim(-1, 1))

        def by_target(values: Tensor, padding: float) -> Tensor:
            grid = _unseen(values, pixel, num_targets * pixels, padding)
            return _pad(grid.view(num_targets, height, width), is_present, padding)

        return Rendering(
            image=None if image is None else _pad(image, is_present, 0.0),
            termination_depth=by_target(rendered.termination_depth, torch.nan),
            opacity=by_target(rendered.opacity, 0.0),
            weight_entropy=by_target(rendered.weight_entropy, 0.0),
            is_seen=_pad(is_seen, is_present, 0.0),
            features={
                source: _pad(head(maps).movedim(-1, 1), is_present, 0.0) for source, head in self.feature_heads.items()
            },
            samples=_renumber(rendered, pixel, is_present, pixels),
            composited=_pad(maps.movedim(-1, 1), is_present, 0.0),
        )

    def surface_features(
        self, field: VoxelField, targets: TargetCameras, depth: Float[Tensor, "batch targets height width"]
    ) -> tuple[Float[Tensor, "batch targets height width channels"], Bool[Tensor, "batch targets height width"]]:
        """Return what a field holds where rays of targets are known to end, and which of these places it filled.

        Args:
            field: The field.
            targets: The views.
            depth: Length of each ray, metres; NaN where unknown.
        """
        is_present = targets.target_is_present
        origins, directions = _target_rays(targets)
        known = depth[is_present]
        pixel = (torch.isfinite(known) & torch.isfinite(directions[..., 0])).flatten().nonzero()[:, 0]
        target = torch.div(pixel, known[0].numel() if len(known) else 1, rounding_mode="floor")
        points = origins.index_select(0, target) + _seen(directions, pixel) * _seen(known, pixel)[:, None]
        rows = field.locate(points, is_present.nonzero()[:, 0].index_select(0, target))
        found = rows.coarse.is_occupied
        order = torch.arange(len(points), device=points.device)
        features = field.weighted_features(rows, found.float(), order, len(points))

        def by_pixel(values: Tensor) -> Tensor:
            full = values.new_zeros((known.numel(), *values.shape[1:])).index_copy(0, pixel, values)
            return _pad(full.view(*known.shape, *values.shape[1:]), is_present, 0.0)

        return by_pixel(features), by_pixel(found)

    def foundation_features(
        self, source: str, features: Float[Tensor, "*shape channels"]
    ) -> Float[Tensor, "*shape source_channels"]:
        """Read a foundation model's features, in [0, 1], from features of :meth:`VoxelField.query`.

        Raises:
            ValueError: If the model has no head for ``source``.
        """
        if source not in self.feature_heads:
            raise ValueError(f"no feature head {source!r}; there are {sorted(self.feature_heads)}")
        return self.feature_heads[source](features)

    def voxel_features(
        self,
        source: str,
        reading: GridReading,
        seen: Float[Tensor, "n width"],
        nearest: Int64[Tensor, " n"],
    ) -> Float[Tensor, "n source_channels"]:
        """Tell a foundation model's features of voxels, in [0, 1]; differentiable in what tells them from the field.

        Args:
            source: Foundation model; one of ``voxel_feature_heads``.
            reading: What the field holds.
            seen: What the occupancy head sees in and around each voxel.
            nearest: Row of the reading that is nearest to each voxel.
        """
        held = reading.values.index_select(0, nearest)
        head = self.feature_heads[source]
        assert isinstance(head, FeatureHead)
        with torch.no_grad():
            logits = head.logits(held[:, len(READ_HEIGHTS) :])
        return self.voxel_feature_heads[source](seen, held, logits)


def _target_rays(targets: TargetCameras) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n height width 3"]]:
    """Return the rays of the render grid of every present target, in the ego frame."""
    is_present = targets.target_is_present
    return camera_rays(
        targets.intrinsics[is_present],
        targets.camera_to_reference_ego[is_present],
        None if targets.fisheye is None else targets.fisheye[is_present],
        height=targets.render_height,
        width=targets.render_width,
    )


def _mean_sky(
    lifted_features: Float[Tensor, "n channels height width"],
    opacity: Float[Tensor, "n height width"],
    is_seen: Bool[Tensor, "n height width"],
    batch_index: Int64[Tensor, " n"],
    batch_size: int,
) -> Float[Tensor, "batch channels"]:
    """Average what pixels carry over those whose rays leave the scene, by how far they do."""
    transmittance = (1.0 - opacity).clamp(min=_SKY_FLOOR) * is_seen
    with full_precision(transmittance):
        total = torch.einsum("nchw,nhw->nc", lifted_features.to(transmittance.dtype), transmittance)
    by_scene = total.new_zeros(batch_size, total.shape[1]).index_add(0, batch_index, total)
    weight = total.new_zeros(batch_size).index_add(0, batch_index, transmittance.sum((-2, -1)))
    return by_scene / weight.clamp(min=_SKY_FLOOR)[:, None]


def _all_covered(is_valid: Bool[Tensor, "n _ _"], size: tuple[int, int]) -> Bool[Tensor, "n height width"]:
    """Return the pixels of another grid over the same image of which every part is valid."""
    if is_valid.shape[-2:] == size:
        return is_valid
    return functional.adaptive_max_pool2d((~is_valid[:, None]).float(), size)[:, 0] == 0


def _seen(values: Float[Tensor, "n height width *rest"], pixel: Int64[Tensor, " seen"]) -> Float[Tensor, " seen *rest"]:
    """Return what belongs to the listed pixels; without a fisheye these are all, and nothing is copied."""
    flat = values.flatten(0, 2)
    return flat if len(pixel) == len(flat) else flat.index_select(0, pixel)


def _unseen(values: Float[Tensor, " seen *rest"], pixel: Int64[Tensor, " seen"], number: int, padding: float) -> Tensor:
    """Put values of the listed pixels back among all of them."""
    if len(pixel) == number:
        return values
    return values.new_full((number, *values.shape[1:]), padding).index_copy(0, pixel, values)


def _pad(values: Tensor, is_present: Bool[Tensor, "batch slots"], padding: float) -> Tensor:
    """Put values of the present slots back among the padded ones."""
    padded = values.new_full((*is_present.shape, *values.shape[1:]), padding)
    padded[is_present] = values
    return padded


def _camera_depth(
    coarse: CoarseDepth, fine: FineDepth, edges: Tensor, is_present: Tensor, is_seen: Tensor
) -> CameraDepth:
    def where_seen(values: Tensor, padding: float) -> Tensor:
        mask = is_seen if values.ndim == is_seen.ndim else is_seen[:, None]
        return _pad(torch.where(mask, values, padding), is_present, padding)

    return CameraDepth(
        coarse_termination_depth=where_seen(coarse.termination_depth, torch.nan),
        coarse_opacity=where_seen(coarse.opacity, 0.0),
        coarse_weights=where_seen(coarse.weights, 0.0),
        coarse_edges=edges,
        fine_termination_depth=where_seen(fine.termination_depth, torch.nan),
        fine_opacity=where_seen(fine.opacity, 0.0),
    )


def _renumber(rendered: RenderedRays, pixel: Tensor, is_present: Tensor, pixels: int) -> RaySamples:
    """Count rays over unseen pixels and padded targets too."""
    samples = rendered.samples
    slot = is_present.reshape(-1).nonzero()[:, 0]
    ray = pixel.index_select(0, samples.ray_index)
    return RaySamples(
        ray_index=slot[ray // pixels] * pixels + ray % pixels,
        distances=samples.distances,
        lengths=samples.lengths,
        weights=samples.weights,
    )
