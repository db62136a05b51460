"""Named model sizes, as functions that return a complete config."""

from dataclasses import replace

from student.model.config import (
    CoarseDepthConfig,
    ContractionConfig,
    DecoderConfig,
    DepthBinsConfig,
    FeatureHeadConfig,
    FineDepthConfig,
    ImageEncoder,
    ModelConfig,
    PyramidConfig,
    RendererConfig,
    SkyHeadConfig,
    VoxelConfig,
)


def paper_model() -> ModelConfig:
    """Return the published widths in contracted space: 286 bins to 118 m, 0.98 m and 0.24 m cells."""
    return ModelConfig(fine_depth=replace(ModelConfig().fine_depth, lift_colour=False))


def paper_linear_model() -> ModelConfig:
    """Return the published widths in (all but) linear space: 250 bins to 50 m."""
    bins = DepthBinsConfig(spacing="linear", far=50.0)
    paper = paper_model()
    return replace(
        paper,
        contraction=ContractionConfig(inner_range_z=15.0, inner_ratio=0.999),
        coarse_depth=replace(paper.coarse_depth, bins=bins),
        renderer=replace(paper.renderer, bins=bins),
    )


def tiny_model(
    *,
    depth_feature_channels: int = 0,
    feature_heads: tuple[FeatureHeadConfig, ...] = (),
    encoder: ImageEncoder = "residual",
) -> ModelConfig:
    """Return a model that learns something in minutes on two CPU cores.

    The image encoders work at half resolution, bins are logarithmic, and cells are twice the paper's.

    Args:
        depth_feature_channels: Channels of the Depth Anything features; 0 for a model without them.
        feature_heads: Foundation features to render.
        encoder: Image encoder of the coarse depth.
    """
    bins = DepthBinsConfig(near=0.5, far=120.0, spacing="logarithmic", num_bins=64)
    return ModelConfig(
        contraction=ContractionConfig(inner_range_z=20.0),
        coarse_depth=CoarseDepthConfig(
            pyramid=PyramidConfig(
                encoder=encoder,
                stem_width=16,
                stem_stride=2,
                stage_widths=(24, 32, 48, 64),
                stage_blocks=(1, 1, 2, 2),
                stage_strides=(1, 2, 2, 2),
                lateral_width=32,
                output_width=24,
            ),
            depth_feature_channels=depth_feature_channels,
            combiner_width=32,
            mono_width=32,
            ray_width=32,
            bins=bins,
        ),
        fine_depth=FineDepthConfig(
            pyramid=PyramidConfig(
                stem_width=12,
                stem_stride=2,
                stage_widths=(16, 24),
                stage_blocks=(1, 1),
                stage_strides=(1, 2),
                lateral_width=16,
                output_width=16,
            ),
            fuse_width=24,
            hidden_width=16,
            embedding_width=16,
            num_candidates=7,
            relative_step=0.04,
            min_step=0.1,
            max_step=1.5,
            lift_detail=True,
        ),
        voxels=VoxelConfig(coarse_level=6, feature_width=16, convolution_width=24, down_width=16),
        renderer=RendererConfig(bins=replace(bins, num_bins=96), num_fine_samples=16),
        sky=SkyHeadConfig(hidden_width=24, num_frequencies=2),
        decoder=DecoderConfig(width=32, num_blocks=3, norm_groups=8),
        feature_heads=feature_heads,
    )
