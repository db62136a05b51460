"""Every size and switch of the student model, as nested frozen dataclasses.

Defaults are the published widths, bins and grids (nuScenes, contracted space), with this project's own way of lifting
colour, pooling and drawing fine samples. :func:`student.presets.models.paper_model` lifts no colour, as published, and
:func:`student.presets.published.paper_compatible` sets the rest.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from storage.config_json import added_later

MAX_SIZE = 8192
"""Largest width, number of bins or of samples. A configuration from elsewhere must not ask for terabytes."""
MAX_LAYERS = 64
"""Largest number of blocks in a row, or of parts of a tuple."""

ImageEncoder = Literal["residual", "efficientnet-lite0"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractionConfig:
    """Map of unbounded ego space, axis by axis, into (-1, 1) (DistillNeRF Eq. 3).

    Attributes:
        inner_range_xy: Half extent that is mapped linearly along x and y, metres.
        inner_range_z: Half extent that is mapped linearly along z, metres.
        inner_ratio: Share of the contracted half axis that the inner range takes, in (0, 1). 0.999 is
            the published "linear" space.
    """

    inner_range_xy: float = 50.0
    inner_range_z: float = 6.4
    inner_ratio: float = 0.8

    def __post_init__(self) -> None:
        """Reject a map that would not be a bijection."""
        _require(self.inner_range_xy > 0 and self.inner_range_z > 0, "inner ranges must be positive")
        _require(0 < self.inner_ratio < 1, f"inner_ratio must lie in (0, 1), got {self.inner_ratio}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthBinsConfig:
    """Bins along a unit ray, of the coarse depth or of the renderer's coarse pass.

    Attributes:
        near: First edge, metres.
        far: No edge lies beyond, metres.
        spacing: "contracted" has constant steps up to ``linear_until`` and then constant steps in
            contracted distance; "linear" has constant steps only; "logarithmic" has ``num_bins`` bins of
            constant ratio, which spends few bins well.
        step: Width of the constant bins, metres ("contracted" and "linear").
        linear_until: Distance where "contracted" leaves constant steps, metres; the contraction's inner range.
        num_bins: Number of bins ("logarithmic" only).
    """

    near: float = 0.1
    far: float = 120.0
    spacing: Literal["contracted", "linear", "logarithmic"] = "contracted"
    step: float = 0.2
    linear_until: float = 50.0
    num_bins: int = 64

    def __post_init__(self) -> None:
        """Reject ranges without a bin."""
        _require(0 < self.near < self.far, f"need 0 < near < far, got {self.near} and {self.far}")
        _require(self.step > 0, f"step must be positive, got {self.step}")
        _require(self.num_bins >= 2, f"num_bins must be at least 2, got {self.num_bins}")
        _require((self.far - self.near) / self.step <= MAX_SIZE, f"step {self.step}: want <= {MAX_SIZE} bins up to far")


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidConfig:
    """A convolutional encoder with a top-down path.

    Attributes:
        encoder: "residual" has the stem and the stages below. "efficientnet-lite0" has its own instead, works at half
            resolution, and starts from ImageNet weights unless the fit starts from a checkpoint.
        stem_width: Channels of the first convolution.
        stem_stride: Stride of the first convolution: the output grid is the image divided by it (rounded down).
        stage_widths: Channels of each residual stage.
        stage_blocks: Blocks of each stage.
        stage_strides: Stride of each stage.
        lateral_width: Channels of the top-down path.
        output_width: Channels returned.
    """

    encoder: ImageEncoder = "residual"
    stem_width: int = 64
    stem_stride: int = 1
    stage_widths: tuple[int, ...] = (128, 128, 192, 256, 256)
    stage_blocks: tuple[int, ...] = (2, 3, 5, 5, 5)
    stage_strides: tuple[int, ...] = (1, 2, 2, 2, 2)
    lateral_width: int = 192
    output_width: int = 64

    def __post_init__(self) -> None:
        """Reject stages that do not line up."""
        lengths = {len(self.stage_widths), len(self.stage_blocks), len(self.stage_strides)}
        _require(len(lengths) == 1 and 0 not in lengths, f"stage tuples must have one length, got {lengths}")
        _require(all(stride in {1, 2} for stride in (*self.stage_strides, self.stem_stride)), "strides are 1 or 2")
        _require(
            self.encoder == "residual" or self.stem_stride == 2, f"encoder {self.encoder} has a stem of stride 2, not 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseDepthConfig:
    """Stage one: a categorical depth per pixel.

    Attributes:
        pyramid: Image encoder.
        depth_feature_channels: Channels of the Depth Anything features the loader provides; 0 builds a
            model without them.
        combiner_width: Channels in which image and Depth Anything features are combined.
        mono_width: Channels of the combined feature handed to stage two.
        ray_width: Hidden channels in which the calibration of each ray is embedded, so that one student serves rigs of
            any focal length and height; 0 for a model that sees images alone, as published.
        bins: Depth bins.
        initial_opacity: Opacity of every ray before training, spread evenly over the bins.
    """

    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    depth_feature_channels: int = 128
    combiner_width: int = 128
    mono_width: int = 64
    ray_width: int = added_later(0)
    bins: DepthBinsConfig = field(default_factory=DepthBinsConfig)
    initial_opacity: float = 0.9

    def __post_init__(self) -> None:
        """Reject a negative width and a degenerate prior."""
        for name in ("depth_feature_channels", "ray_width"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(0 < self.initial_opacity < 1, f"initial_opacity must lie in (0, 1), got {self.initial_opacity}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineDepthConfig:
    """Stage two: candidates around the coarse depth, scored and lifted.

    Attributes:
        pyramid: Second image encoder; its grid must equal stage one's.
        fuse_width: Channels after fusing it with stage one's feature.
        hidden_width: Channels of the small heads.
        embedding_width: Channels in which a candidate's depth is compared with the pixel.
        num_candidates: Odd: as many nearer as farther.
        relative_step: Candidate spacing as a share of the coarse depth.
        min_step: Lower bound of the spacing, metres.
        max_step: Upper bound of the spacing, metres.
        num_frequencies: Fourier octaves of the candidate embedding.
        lift_colour: Add the pixel's own colour to the first three lifted channels of each level, so that
            appearance need not be learned from nothing. No parameters.
        lift_detail: Behind a strided stem, a pixel of the map stands for four of the image: add what these
            differ by from the map's colour, interpolated, to the fine level's next twelve channels, as in a
            Laplacian pyramid, and let the decoder read it there.
        initial_logit: Score of every candidate before training. Slightly negative: a field that starts
            opaque hides what is behind it and gets no gradient there.
    """

    pyramid: PyramidConfig = field(
        default_factory=lambda: PyramidConfig(
            stem_width=16, stage_widths=(32, 32, 48, 64, 64), lateral_width=48, output_width=16
        )
    )
    fuse_width: int = 32
    hidden_width: int = 16
    embedding_width: int = 65
    num_candidates: int = 15
    relative_step: float = 0.025
    min_step: float = 0.05
    max_step: float = 0.3
    num_frequencies: int = 8
    lift_colour: bool = True
    lift_detail: bool = False
    initial_logit: float = -0.1

    def __post_init__(self) -> None:
        """Reject an asymmetric candidate set."""
        _require(self.num_candidates >= 3 and self.num_candidates % 2 == 1, "num_candidates must be odd and >= 3")
        _require(0 < self.min_step <= self.max_step, "need 0 < min_step <= max_step")
        strided = self.pyramid.stem_stride == 2
        _require(not self.lift_detail or (self.lift_colour and strided), "detail is lifted beside colour, at stride 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelConfig:
    """The two-level sparse grid and its convolutions.

    Attributes:
        coarse_level: The coarse grid has ``2**coarse_level`` cells per contracted axis; the fine one
            four times as many.
        feature_width: Features per cell at each level; twice this many are lifted and rendered.
        pooling: How points of one cell are averaged: weighted by their opacity, or evenly.
        convolution_width: Channels inside the sparse network.
        down_width: Channels that its strided convolution hands from the fine to the coarse level.
    """

    coarse_level: int = 7
    feature_width: int = 32
    pooling: Literal["opacity", "mean"] = "opacity"
    convolution_width: int = 128
    down_width: int = 64

    def __post_init__(self) -> None:
        """Reject levels whose dense coarse index would not be small."""
        _require(2 <= self.coarse_level <= 8, f"coarse_level must lie in [2, 8], got {self.coarse_level}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererConfig:
    """Volume rendering along target rays.

    Attributes:
        bins: Coarse sample bins.
        num_fine_samples: Samples placed by the coarse weights; 0 for none.
        fine_sampling: "inverse_cdf" draws from the coarse weights; "window", the published code's way, takes fixed
            offsets of ``window_step`` around the heaviest coarse sample.
        window_step: Metres between the samples of a window.
        jitter: Move samples at random within their bins while training. Without it, training is deterministic too.
        lookup: Value of the cell around a sample, or trilinear between cells.
        logit_limit: Density logits are softly clamped to it, which bounds density and its gradient.
        min_opacity: Rays under it have no termination depth.
        min_feature_weight: At evaluation, samples of smaller weight do not fetch features. Training
            fetches all, so that no gradient is cut.
    """

    bins: DepthBinsConfig = field(default_factory=DepthBinsConfig)
    num_fine_samples: int = 30
    fine_sampling: Literal["inverse_cdf", "window"] = "inverse_cdf"
    window_step: float = 0.1
    jitter: bool = True
    lookup: Literal["nearest", "trilinear"] = "nearest"
    logit_limit: float = 10.0
    min_opacity: float = 0.05
    min_feature_weight: float = 1e-4

    def __post_init__(self) -> None:
        """Reject ranges without meaning."""
        _require(self.num_fine_samples >= 0, "num_fine_samples must not be negative")
        _require(0 < self.min_opacity < 1, f"min_opacity must lie in (0, 1), got {self.min_opacity}")
        _require(self.logit_limit > 0, "logit_limit must be positive")
        _require(self.window_step > 0, f"window_step must be positive, got {self.window_step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Convolutions from rendered features to an image of twice the size.

    Attributes:
        width: Channels of the convolutions.
        num_blocks: Blocks; the image is upsampled before the last.
        norm_groups: Groups of the normalisation.
    """

    width: int = 160
    num_blocks: int = 4
    norm_groups: int = 32

    def __post_init__(self) -> None:
        """Reject groups that do not divide the width."""
        _require(self.width % self.norm_groups == 0, "norm_groups must divide width")
        _require(self.num_blocks >= 1, "num_blocks must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeadConfig:
    """One foundation-feature head.

    Attributes:
        source: Foundation model whose features it renders, one of ``storage.kinds.FEATURE_SOURCES``.
        channels: Channels of the basis-reduced target.
        hidden_width: Width of the head's two hidden layers.
        voxel_width: Hidden width of a second head, which tells the features of voxels by what the occupancy head sees
            around them; 0 for none.
    """

    source: str
    channels: int = 64
    hidden_width: int = 64
    voxel_width: int = added_later(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyHeadConfig:
    """Sky head: what a ray sees where nothing is, by its direction and the whole rig's images.

    Attributes:
        hidden_width: Width of the hidden layers.
        num_frequencies: Fourier octaves of the direction.
    """

    hidden_width: int = 32
    num_frequencies: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupancyHeadConfig:
    """Widths of a head that labels voxels.

    Attributes:
        width: Channels of a voxel.
        column_width: Channels of a column of voxels, which looks along the ground.
        num_levels: Number of times that the resolution of columns is halved.
    """

    width: int = 16
    column_width: int = 48
    num_levels: int = 4

    def __post_init__(self) -> None:
        """Reject an empty head."""
        for name, most in (("width", MAX_SIZE), ("column_width", MAX_SIZE), ("num_levels", MAX_LAYERS)):
            _require(1 <= getattr(self, name) <= most, f"{name} {getattr(self, name)}: want within [1, {most}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The whole student.

    Attributes:
        contraction: Parameterised space.
        coarse_depth: Stage one.
        fine_depth: Stage two.
        voxels: Sparse grid.
        renderer: Volume renderer.
        sky: Sky head.
        decoder: RGB decoder, or None for a model of features only.
        feature_heads: Foundation features rendered beside the image.
        occupancy_head: Head that tells which voxels are occupied, taught by beams and sight after all else; None for a
            model whose occupancy is its density, as published.
    """

    contraction: ContractionConfig = field(default_factory=ContractionConfig)
    coarse_depth: CoarseDepthConfig = field(default_factory=CoarseDepthConfig)
    fine_depth: FineDepthConfig = field(default_factory=FineDepthConfig)
    voxels: VoxelConfig = field(default_factory=VoxelConfig)
    renderer: RendererConfig = field(default_factory=RendererConfig)
    sky: SkyHeadConfig = field(default_factory=SkyHeadConfig)
    decoder: DecoderConfig | None = field(default_factory=DecoderConfig)
    feature_heads: tuple[FeatureHeadConfig, ...] = ()
    occupancy_head: OccupancyHeadConfig | None = added_later(None)  # noqa: RUF009 - a field, as ``field`` makes

    def __post_init__(self) -> None:
        """Reject parts that do not fit together."""
        width, needed = self.voxels.feature_width, 15 if self.fine_depth.lift_detail else 3
        _require(width >= needed, f"feature_width {width} cannot hold the {needed} values of lifted colour")
        sources = [head.source for head in self.feature_heads]
        blind = [head.source for head in self.feature_heads if head.voxel_width and self.occupancy_head is None]
        _require(not blind, f"voxel_width of {blind} needs an occupancy head, whose sight it reads")
        _require(len(set(sources)) == len(sources), f"feature sources must differ, got {sources}")
        _require(self.decoder is not None or bool(sources), "a model needs a decoder or a feature head")
        _check_sizes(self, "")


def _check_sizes(value: object, name: str) -> None:
    """Reject whole numbers and tuples beyond what any student has, wherever they stand."""
    if is_dataclass(value):
        for part in fields(value):
            _check_sizes(getattr(value, part.name), part.name)
    elif isinstance(value, tuple):
        _require(len(value) <= MAX_LAYERS, f"{name} has {len(value)} parts, want <= {MAX_LAYERS}")
        for part in value:
            _check_sizes(part, name)
    elif isinstance(value, int):
        most = MAX_LAYERS if name.endswith(("blocks", "frequencies")) else MAX_SIZE
        _require(value <= most, f"{name} {value}: want <= {most}")
