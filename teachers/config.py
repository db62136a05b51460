"""Configuration of the image teachers: weights, resolution, stored grid and quality gate."""

from dataclasses import dataclass, field, replace
from typing import Literal

from storage.grid_size import check_size, settled_size
from storage.kinds import FeatureSource

Precision = Literal["float32", "float16", "bfloat16"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """Source of a pretrained model.

    Attributes:
        source: ``"demo"`` for the tiny checkpoint that this project ships, an existing folder, or a model hub id.
        revision: Commit, tag or branch on the hub; None for its default branch. Ignored for folders.
    """

    source: str = "demo"
    revision: str | None = None

    def __post_init__(self) -> None:
        _require(bool(self.source.strip()), "weights source is empty: want 'demo', a folder or a hub id")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """Settings of running a model. They leave the stored values as they are, so they are no part of a version's digest.

    Attributes:
        batch_size: Images per forward pass.
        device: ``"auto"`` takes CUDA where there is one.
    """

    batch_size: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"batch_size {self.batch_size}: want >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTeacherConfig:
    """Configuration that every image teacher has.

    Attributes:
        weights: Source of the model.
        input_short_side: Length of the image's shorter side after resizing at its aspect, pixels. Both sides are then
            rounded to multiples of the model's patch size.
        precision: Number format of the forward pass. Half formats need CUDA.
        inference: Settings of running it.
    """

    weights: WeightsConfig = field(default_factory=WeightsConfig)
    input_short_side: int = 224
    precision: Precision = "float32"
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        _require(self.input_short_side >= 16, f"input_short_side {self.input_short_side}: want >= 16 pixels")
        _require(
            self.precision == "float32" or self.inference.device != "cpu",
            f"precision {self.precision} on the CPU: want float32 there",
        )

    def determining(self) -> "ImageTeacherConfig":
        """Return the part that determines the stored values: the config with ``inference`` at its default."""
        return replace(self, inference=InferenceConfig())


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyConfig(ImageTeacherConfig):
    """Sky segmentation.

    Attributes:
        segmenter: ``"segformer"`` takes what transformers reads (Segformer, Mask2Former, OneFormer: the weights say
            which), ``"pointrend"`` takes PointRend, where detectron2 is installed.
        height: Rows of the stored masks; None follows the finest grid that they are read on.
        width: Columns of the stored masks, likewise.
        threshold: Probability above which Segformer's pixel counts as sky, in (0, 1). PointRend's does where sky is the
            most probable class.
        max_lidar_on_sky: Gate: largest share of LiDAR returns that may fall on sky, because real sky returns none.
        keep_semantics: Whether the most probable class of every pixel is stored too, as the array ``image_semantics``.
    """

    segmenter: Literal["segformer", "pointrend"] = "segformer"
    height: int | None = None
    width: int | None = None
    threshold: float = 0.5
    max_lidar_on_sky: float = 0.05
    keep_semantics: bool = False

    def __post_init__(self) -> None:
        ImageTeacherConfig.__post_init__(self)
        check_size(self.height, self.width, of="sky masks")
        _require(0 < self.threshold < 1, f"threshold {self.threshold}: want within (0, 1)")
        _require(0 <= self.max_lidar_on_sky <= 1, f"max_lidar_on_sky {self.max_lidar_on_sky}: want within [0, 1]")

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns of the stored masks.

        Raises:
            ValueError: If one of them is still open.
        """
        return settled_size(self.height, self.width, of="sky masks")


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthAnythingConfig(ImageTeacherConfig):
    """Configuration of the features of a monocular depth model.

    Attributes:
        grid_height: Rows of the stored feature maps.
        grid_width: Columns of the stored feature maps.
        min_lidar_rank_correlation: Gate: smallest Spearman correlation of predicted and LiDAR inverse depth.
    """

    grid_height: int = 32
    grid_width: int = 56
    min_lidar_rank_correlation: float = 0.3

    def __post_init__(self) -> None:
        ImageTeacherConfig.__post_init__(self)
        _require(self.grid_height >= 1 and self.grid_width >= 1, "feature grid: want at least 1x1")
        _require(-1 <= self.min_lidar_rank_correlation <= 1, "min_lidar_rank_correlation: want within [-1, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFeatureConfig(ImageTeacherConfig):
    """Configuration of a foundation model's patch features (DINOv2 or CLIP), reduced by a feature basis.

    Attributes:
        grid_height: Rows of the stored feature maps.
        grid_width: Columns of the stored feature maps.
        min_retained_variance: Gate: smallest share of this scene's feature variance that the basis must keep.
        max_clipped: Gate: largest share of reduced values that may lie outside the range of the basis.
        block: Transformer block whose output is taken, from 0; None for the last one. CLIP has the last one alone.
        facet: The block's tokens, or the keys of its attention. CLIP has its values alone.
        stride: Pixels from one feature to the next; None for the patch size. A smaller one divides it, and the model
            sees the image once for each shift.
        unit_length: Whether each feature is scaled to length 1 before the basis. CLIP's always are.
        stored_bits: Bits of a stored value that carry meaning, within the half precision that all stores have: 8 rounds
            to steps of 1/256 of its channel's range, which takes a third less space. See
            ``docs/guides/image-teachers.md``.
    """

    grid_height: int = 16
    grid_width: int = 28
    min_retained_variance: float = 0.5
    max_clipped: float = 0.05
    block: int | None = None
    facet: Literal["token", "key"] = "token"
    stride: int | None = None
    unit_length: bool = False
    stored_bits: Literal[8, 16] = 8

    def __post_init__(self) -> None:
        ImageTeacherConfig.__post_init__(self)
        _require(self.block is None or self.block >= 0, f"block {self.block}: want >= 0, or None for the last")
        _require(self.stride is None or self.stride >= 1, f"stride {self.stride}: want >= 1 pixel, or None")
        _require(self.grid_height >= 1 and self.grid_width >= 1, "feature grid: want at least 1x1")
        for name in ("min_retained_variance", "max_clipped"):
            _require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)}: want within [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBasisConfig:
    """Configuration of a feature basis, the PCA of a foundation model's features.

    Attributes:
        extractor: Model and grid of the features; extraction uses the same.
        source: "fit" fits it to this home's frames. "weights" takes the one in the folder of the model's weights, so
            that features mean the same in every home; this home's frames judge it. Components and range are then its
            own.
        num_components: Channels kept, K, at most 64.
        frames_per_scene: Frames sampled from each scene, all cameras; all frames where a scene has fewer.
        seed: Seed of the choice of frames and of the sample that sets the range.
        range_sample_size: Feature vectors kept to set the range of each channel. It bounds memory; the PCA uses all
            vectors.
        range_quantile: Share of the sample left outside the range at each end; 0 takes minimum and maximum.
    """

    extractor: PatchFeatureConfig = field(default_factory=PatchFeatureConfig)
    source: Literal["fit", "weights"] = "fit"
    num_components: int = 32
    frames_per_scene: int = 4
    seed: int = 0
    range_sample_size: int = 65536
    range_quantile: float = 0.001

    def __post_init__(self) -> None:
        _require(1 <= self.num_components <= 64, f"num_components {self.num_components}: want within [1, 64]")
        _require(self.frames_per_scene >= 1, f"frames_per_scene {self.frames_per_scene}: want >= 1")
        _require(self.range_sample_size >= 2, f"range_sample_size {self.range_sample_size}: want >= 2")
        _require(0 <= self.range_quantile < 0.5, f"range_quantile {self.range_quantile}: want within [0, 0.5)")

    def determining(self) -> "FeatureBasisConfig":
        """Return the part that determines the stored values."""
        return replace(self, extractor=self.extractor.determining())


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTeachersConfig:
    """Configuration of all image teachers of one run.

    Attributes:
        sky: Sky segmentation.
        depth_anything: Monocular depth features.
        dinov2_basis: DINOv2 features and the basis that reduces them.
        clip_basis: CLIP features and the basis that reduces them.
    """

    sky: SkyConfig = field(default_factory=SkyConfig)
    depth_anything: DepthAnythingConfig = field(default_factory=DepthAnythingConfig)
    dinov2_basis: FeatureBasisConfig = field(default_factory=FeatureBasisConfig)
    clip_basis: FeatureBasisConfig = field(default_factory=FeatureBasisConfig)

    def basis_of(self, feature_source: FeatureSource) -> FeatureBasisConfig:
        """Return the basis of a feature source; its features are extracted as the basis was fitted."""
        return getattr(self, f"{feature_source}_basis")
