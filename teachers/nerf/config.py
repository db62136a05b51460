"""Configuration of the per-scene field: how it is built, fitted, judged and rendered.

Imports neither torch nor nerfstudio, so that Dagster and the command line can read it. Lengths are metres.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

from storage.kinds import FEATURE_SOURCES, FeatureSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """How a fit or a render is run. Nothing here changes what is meant to be stored, so it is no part of a digest.

    Attributes:
        device: ``auto`` takes CUDA where there is one.
        rays_per_chunk: Rays rendered at once.
        checkpoint_every_s: Seconds between resumable checkpoints of a fit.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    rays_per_chunk: int = 8192
    checkpoint_every_s: float = 20.0

    def __post_init__(self) -> None:
        _require(self.rays_per_chunk >= 1, f"rays_per_chunk {self.rays_per_chunk}, want >= 1")
        _require(self.checkpoint_every_s > 0, f"checkpoint_every_s {self.checkpoint_every_s}, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldConfig:
    """Size of the field.

    Attributes:
        implementation: Backend of the grids: ``torch`` (this project's, made for CPUs), ``tcnn`` (tiny-cuda-nn through
            nerfstudio; CUDA only), ``nerfstudio`` (its plain torch grids, the reference that the others are measured
            against), or ``auto``: tcnn where it can be imported and the device is CUDA, else torch. What was taken is
            kept in the artifact.
        num_levels: Levels of the static grid.
        features_per_level: Channels of each level.
        log2_table_size: Rows per level.
        coarsest_cell_m: Cell of the coarsest level, inside the scene's box.
        finest_cell_m: Cell of the finest level, inside the scene's box.
        hidden_width: Width of the density and of the colour network.
        appearance_width: Learned code of each camera: exposure, white balance. Per camera and not per image, so that
            held-out frames and virtual views have one.
        shading: ``deferred`` composites features and decodes one colour per ray; ``per_sample`` decodes at every
            sample. On a CPU the second costs several times the first.
        dynamic: Adds a branch for what moves, with a grid of its own per frame: at two frames a second nothing that
            moves can be followed from one to the next. A frame that was held out has no dynamic part.
        dynamic_cell_m: Its finest cell.
    """

    implementation: Literal["auto", "torch", "tcnn", "nerfstudio"] = "auto"
    num_levels: int = 6
    features_per_level: int = 4
    log2_table_size: int = 17
    coarsest_cell_m: float = 4.0
    finest_cell_m: float = 0.15
    hidden_width: int = 32
    appearance_width: int = 8
    shading: Literal["deferred", "per_sample"] = "deferred"
    dynamic: bool = False
    dynamic_cell_m: float = 0.5

    def __post_init__(self) -> None:
        _require(1 <= self.num_levels <= 16, f"num_levels {self.num_levels}, want 1 to 16")
        _require(1 <= self.features_per_level <= 8, f"features_per_level {self.features_per_level}, want 1 to 8")
        _require(10 <= self.log2_table_size <= 22, f"log2_table_size {self.log2_table_size}, want 10 to 22")
        _require(
            0 < self.finest_cell_m <= self.coarsest_cell_m,
            f"finest_cell_m {self.finest_cell_m}, want in (0, coarsest_cell_m = {self.coarsest_cell_m}]",
        )
        _require(self.hidden_width >= 8, f"hidden_width {self.hidden_width}, want >= 8")
        _require(self.dynamic_cell_m > 0, f"dynamic_cell_m {self.dynamic_cell_m}, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Where a ray is sampled.

    Attributes:
        near_m: Distance of the first sample.
        far_m: Distance of the last.
        spacing_m: First samples are spaced like ``log(1 + distance / spacing_m)``: uniform below, logarithmic above.
        num_proposal_samples: Samples of the proposal density along each ray.
        num_field_samples: Samples of the field, drawn from the proposal.
        proposal_levels: Levels of the proposal grid.
        proposal_log2_table_size: Rows per level of the proposal grid.
        proposal_finest_cell_m: Its finest cell.
        histogram_padding: Weight added to every proposal interval, so that none is never looked into. With 48
            intervals, nerfstudio's 0.01 would spend a third of all samples on empty space.
        proposal_update_every: The proposal is fitted every so many steps after the warm-up.
    """

    near_m: float = 0.3
    far_m: float = 400.0
    spacing_m: float = 4.0
    num_proposal_samples: int = 48
    num_field_samples: int = 16
    proposal_levels: int = 3
    proposal_log2_table_size: int = 16
    proposal_finest_cell_m: float = 0.6
    proposal_update_every: int = 2
    histogram_padding: float = 0.002

    def __post_init__(self) -> None:
        _require(0 < self.near_m < self.far_m, f"near_m {self.near_m} and far_m {self.far_m}, want 0 < near < far")
        _require(self.spacing_m > 0, f"spacing_m {self.spacing_m}, want > 0")
        _require(self.num_proposal_samples >= 4 and self.num_field_samples >= 4, "want at least 4 samples")
        _require(self.proposal_levels >= 1 and self.proposal_update_every >= 1, "want at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldLossConfig:
    """Weights and shapes of the terms, see ``teachers.nerf.losses``.

    Attributes:
        rgb: Squared colour error of camera rays.
        depth: Range of rays with a LiDAR return.
        line_of_sight: Weight distribution of rays with a LiDAR return.
        sky: Opacity where the sky mask says sky or not sky.
        distortion: Compactness of weights along a ray.
        opacity_entropy: Rays hit something or sky, not half of each.
        proposal: The proposal bounds the field.
        dynamic: Mean density of the dynamic branch, per metre.
        static_clearance: Weight of the static branch alone where beams have passed; only with a dynamic branch.
        max_depth_m: LiDAR returns beyond it take no part.
        line_of_sight_margin_m: Width of the peak at a return, at the first and at the last step.
    """

    rgb: float = 1.0
    depth: float = 0.1
    line_of_sight: float = 0.05
    sky: float = 0.1
    distortion: float = 0.005
    opacity_entropy: float = 0.001
    proposal: float = 1.0
    dynamic: float = 0.0005
    static_clearance: float = 0.1
    max_depth_m: float = 80.0
    line_of_sight_margin_m: tuple[float, float] = (3.0, 0.4)

    def __post_init__(self) -> None:
        for name in (
            "rgb",
            "depth",
            "line_of_sight",
            "sky",
            "distortion",
            "opacity_entropy",
            "proposal",
            "dynamic",
            "static_clearance",
        ):
            _require(getattr(self, name) >= 0, f"loss weight {name} {getattr(self, name)}, want >= 0")
        _require(self.max_depth_m > 0, f"max_depth_m {self.max_depth_m}, want > 0")
        _require(min(self.line_of_sight_margin_m) > 0, "line_of_sight_margin_m, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitGateConfig:
    """What a fit must reach on held-out frames to be used downstream.

    Attributes:
        min_psnr: PSNR of held-out images over what stands still, dB.
        max_abs_rel: Absolute relative error of depth against held-out LiDAR on what stands still.
        max_sky_opacity: Mean opacity where the sky mask says sky; not judged without a mask.
        min_coverage: Share of held-out LiDAR pixels where the depth is defined.
    """

    min_psnr: float = 18.0
    max_abs_rel: float = 0.15
    max_sky_opacity: float = 0.3
    min_coverage: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class NerfConfig:
    """One fit of one scene.

    Attributes:
        image_height: Height that images are read at, pixels.
        image_width: Width that images are read at, pixels.
        holdout_every: Every so many frames one is kept from training and used to judge the fit.
        use_sky_mask: Read the scene's ``sky_mask`` store; it must then exist. If False, sky is told from the rest by
            the entropy term alone.
        num_steps: Optimisation steps.
        pixel_rays: Rays per step through random pixels.
        lidar_pixel_rays: Rays per step through pixels that a LiDAR return projects to.
        lidar_rays: Rays per step from the LiDAR itself.
        learning_rate: Rate of grids at the first step; networks take half. It decays exponentially.
        final_learning_rate_ratio: Learning rate at the last step over that at the first.
        seed: Seed of initialisation and ray order.
        max_attempts: A fit that diverges is repeated with the next seed, at most so many fits in all.
        min_opacity: Opacity under which depth is undefined when judged.
        execution: How it is run.
        field: Size of the field.
        sampling: Where a ray is sampled.
        losses: Weights of the terms.
        gate: What the fit must reach.
    """

    image_height: int = 112
    image_width: int = 200
    holdout_every: int = 4
    use_sky_mask: bool = True
    num_steps: int = 500
    pixel_rays: int = 3072
    lidar_pixel_rays: int = 1024
    lidar_rays: int = 1024
    learning_rate: float = 0.02
    final_learning_rate_ratio: float = 0.05
    seed: int = 0
    max_attempts: int = 3
    min_opacity: float = 0.5
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    losses: FieldLossConfig = dataclasses.field(default_factory=FieldLossConfig)
    gate: FitGateConfig = dataclasses.field(default_factory=FitGateConfig)

    def __post_init__(self) -> None:
        _require(self.image_height >= 8 and self.image_width >= 8, "images must be at least 8x8")
        _require(self.holdout_every >= 2, f"holdout_every {self.holdout_every}, want >= 2")
        _require(self.num_steps >= 1 and self.max_attempts >= 1, "want at least one step and one attempt")
        _require(min(self.pixel_rays, self.lidar_pixel_rays, self.lidar_rays) >= 0, "ray counts, want >= 0")
        _require(self.pixel_rays > 0, "pixel_rays, want > 0")
        _require(self.learning_rate > 0, f"learning_rate {self.learning_rate}, want > 0")
        _require(0 < self.final_learning_rate_ratio <= 1, "final_learning_rate_ratio, want in (0, 1]")
        _require(0 < self.min_opacity <= 1, f"min_opacity {self.min_opacity}, want in (0, 1]")

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width of training images."""
        return self.image_height, self.image_width


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherDepthConfig:
    """Depth rendered at every camera of every frame.

    Attributes:
        height: Rows of the depth map.
        width: Columns of the depth map.
        min_opacity: Opacity under which depth is NaN.
        max_depth_m: Beyond it depth is NaN.
        contradiction_ratio: Rendered and measured depth that differ by more than this factor contradict each other.
        contradiction_reach_px: Depth is NaN within so many pixels of a LiDAR return that contradicts it, as far as no
            other return is nearer: what moves is missing from frames that the field was not fitted to.
        max_contradicted_share: Gate: share of LiDAR pixels of all frames that contradict the depth.
        max_abs_rel: Gate: absolute relative error against those that do not.
        min_coverage: Gate: share of LiDAR pixels where the depth is defined.
        execution: How it is run.
    """

    height: int = 56
    width: int = 100
    min_opacity: float = 0.5
    max_depth_m: float = 200.0
    contradiction_ratio: float = 1.3
    contradiction_reach_px: float = 3.0
    max_contradicted_share: float = 0.15
    max_abs_rel: float = 0.10
    min_coverage: float = 0.9
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        _require(self.height >= 2 and self.width >= 2, "depth maps must be at least 2x2")
        _require(self.contradiction_ratio > 1, f"contradiction_ratio {self.contradiction_ratio}, want > 1")
        _require(self.contradiction_reach_px >= 0, f"contradiction_reach_px {self.contradiction_reach_px}, want >= 0")
        _require(0 < self.min_opacity <= 1, f"min_opacity {self.min_opacity}, want in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualViewsConfig:
    """Images and depth rendered at poses the car never had.

    Attributes:
        height: Rows of each view.
        width: Columns of each view.
        view_names: What each view is called, in order.
        camera_shifts_m: Where it stands in its camera's own axes (x right, y down, z forward), in order.
        min_opacity: Opacity under which depth is NaN.
        max_depth_m: Beyond it depth is NaN.
        min_coverage: Gate: share of all pixels where the depth is defined.
        execution: How it is run.
    """

    height: int = 56
    width: int = 100
    view_names: tuple[str, ...] = ("left", "right", "up")
    camera_shifts_m: tuple[tuple[float, float, float], ...] = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    min_opacity: float = 0.5
    max_depth_m: float = 200.0
    min_coverage: float = 0.3
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        _require(self.height >= 2 and self.width >= 2, "views must be at least 2x2")
        _require(len(self.view_names) == len(self.camera_shifts_m) > 0, "want one shift per view name")
        _require(len(set(self.view_names)) == len(self.view_names), f"view_names {self.view_names}, want distinct")
        _require(0 < self.min_opacity <= 1, f"min_opacity {self.min_opacity}, want in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFieldConfig:
    """Image features distilled into a fitted field; its geometry is frozen.

    Attributes:
        feature_sources: Foundation models that are distilled, into one grid with a decoder each.
        num_steps: Optimisation steps.
        whole_share: Share of the steps, the last ones, that also learn from the frames that the field's fit holds out.
            They come after the judgement, so that it is of frames never distilled.
        rays_per_step: Rays per step and source.
        learning_rate: Rate of the feature grid; networks take a fifth.
        num_levels: Levels of the feature grid.
        features_per_level: Channels of each level.
        log2_table_size: Rows per level.
        finest_cell_m: Its finest cell.
        hidden_width: Width of the decoders.
        positional: Map of image positions that takes out what a vision transformer adds to its features whatever it
            sees: none, one for all cameras, or one for each.
        positional_height: Nodes of that map along the image's height.
        positional_width: Nodes along its width.
        min_psnr: Gate: PSNR of features on held-out frames, dB, of each source.
        seed: Seed of initialisation and ray order.
        execution: How it is run.
    """

    feature_sources: tuple[FeatureSource, ...] = FEATURE_SOURCES
    num_steps: int = 250
    whole_share: float = 0.2
    rays_per_step: int = 2048
    learning_rate: float = 0.02
    num_levels: int = 4
    features_per_level: int = 8
    log2_table_size: int = 15
    finest_cell_m: float = 0.5
    hidden_width: int = 64
    positional: Literal["none", "shared", "per_camera"] = "shared"
    positional_height: int = 8
    positional_width: int = 14
    min_psnr: float = 14.0
    seed: int = 0
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        known = set(self.feature_sources) <= set(FEATURE_SOURCES)
        _require(
            known and len(set(self.feature_sources)) == len(self.feature_sources) > 0,
            f"feature_sources {self.feature_sources}, want distinct ones of {FEATURE_SOURCES}",
        )
        _require(self.num_steps >= 1 and self.rays_per_step >= 1, "want at least one step and one ray")
        _require(0 <= self.whole_share < 1, f"whole_share {self.whole_share}, want in [0, 1)")
        _require(self.learning_rate > 0, f"learning_rate {self.learning_rate}, want > 0")
        _require(self.finest_cell_m > 0, f"finest_cell_m {self.finest_cell_m}, want > 0")
        _require(self.positional_height >= 2 and self.positional_width >= 2, "a positional map is at least 2x2")

    @property
    def judged_steps(self) -> int:
        """Return the steps before the judgement."""
        return max(1, self.num_steps - self.whole_steps)

    @property
    def whole_steps(self) -> int:
        """Return the steps after it, on all frames."""
        return int(self.whole_share * self.num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFeaturesConfig:
    """The feature field rendered at every camera of every frame.

    Attributes:
        height: Rows of the rendered feature maps.
        width: Columns of the rendered feature maps.
        execution: How it is run.
    """

    height: int = 28
    width: int = 50
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        _require(self.height >= 2 and self.width >= 2, "feature maps must be at least 2x2")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


C = TypeVar(
    "C", bound=NerfConfig | TeacherDepthConfig | VirtualViewsConfig | FeatureFieldConfig | TeacherFeaturesConfig
)


def determining(config: C) -> C:
    """Return the part of a configuration that determines what is stored: the same with ``execution`` at default."""
    return dataclasses.replace(config, execution=ExecutionConfig())
