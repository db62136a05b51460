"""Configuration of the per-scene field: how it is built, fitted, judged and rendered.

Imports neither torch nor nerfstudio, so that Dagster and the command line can read it. Lengths are metres.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeVar

from storage.config_json import added_later
from storage.grid_size import check_size, settled_size
from storage.kinds import FEATURE_SOURCES, FeatureSource
from storage.scenes.held_out import held_out_frames

Method = Literal["driving-field", "nerfacto", "depth-nerfacto", "gsplat"]
"""What is fitted to a scene: this project's field, or in its place one of nerfstudio's or Gaussians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """How a fit or a render is run. Nothing here changes what is meant to be stored, so it is no part of a digest.

    Attributes:
        device: ``auto`` takes CUDA where there is one.
        rays_per_chunk: Rays rendered at once.
        checkpoint_every_s: Seconds between resumable checkpoints of a fit.
        max_wall_s: A fit that takes longer stops at a checkpoint, and goes on when it is run again. None is no limit.
        max_memory_bytes: A fit whose process takes more of the host's memory stops likewise. None is no limit.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    rays_per_chunk: int = 8192
    checkpoint_every_s: float = 20.0
    max_wall_s: float | None = None
    max_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        _require(self.rays_per_chunk >= 1, f"rays_per_chunk {self.rays_per_chunk}, want >= 1")
        _require(self.checkpoint_every_s > 0, f"checkpoint_every_s {self.checkpoint_every_s}, want > 0")
        for name in ("max_wall_s", "max_memory_bytes"):
            limit = getattr(self, name)
            _require(limit is None or limit > 0, f"{name} {limit}, want > 0 or none")


MovingSource = Literal["boxes", "lidar", "none"]
GridGradient = Literal["exact", "stochastic"]


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
        density_channels: Channels of each level that give the density. The last three are then added up over levels as
            a first guess of colour: so density and colour do not pull at the same channels, and colour need not wait
            for a network to tell them apart. 0 gives all channels to both, as EmerNeRF does.
        log2_table_size: Rows per level.
        coarsest_cell_m: Cell of the coarsest level, inside the scene's box.
        finest_cell_m: Cell of the finest level, inside the scene's box.
        hidden_width: Width of the density and of the colour network.
        grid_gradient: Whether a sample's gradient reaches all corners of its cell (``exact``), or one that is drawn by
            its weight (``stochastic``): a step takes a third less time and learns less, see ``docs/experiments.md``.
        appearance_width: Width of a learned code of exposure and white balance.
        appearance: Whether each ``camera`` has a code or each ``image``. Of an image that was not fitted, and of any
            other instant of its camera, the code is interpolated in time between the camera's fitted neighbours; a
            virtual view takes that of the image it stands beside.
        shading: ``deferred`` composites features and decodes one colour per ray; ``per_sample`` decodes at every
            sample. On a CPU the second costs several times the first.
        dynamic: Adds a branch for what moves, see ``teachers.nerf.dynamic``. It exists where ``moving_source`` says
            that something moves, and everywhere if that is ``none``.
        dynamic_levels: Levels of its grid.
        dynamic_log2_table_size: Rows per level, which all frames share.
        dynamic_coarsest_cell_m: Cell of its coarsest level.
        dynamic_cell_m: Cell of its finest level.
        flow: Adds a flow field to the dynamic branch, so that neighbouring frames say what moves too. Its grid has as
            many levels as the dynamic one and cells twice as wide.
        shadow: Adds shadows that the dynamic branch casts on what stands still.
    """

    implementation: Literal["auto", "torch", "tcnn", "nerfstudio"] = "auto"
    num_levels: int = 6
    features_per_level: int = 4
    density_channels: int = 1
    log2_table_size: int = 17
    coarsest_cell_m: float = 4.0
    finest_cell_m: float = 0.15
    hidden_width: int = 32
    grid_gradient: GridGradient = added_later("stochastic", "exact")  # noqa: RUF009 - a field, as ``field`` makes
    appearance_width: int = 8
    appearance: Literal["camera", "image"] = "image"
    shading: Literal["deferred", "per_sample"] = "deferred"
    dynamic: bool = False
    dynamic_levels: int = 5
    dynamic_log2_table_size: int = 18
    dynamic_coarsest_cell_m: float = 2.0
    dynamic_cell_m: float = 0.15
    flow: bool = False
    shadow: bool = False

    def __post_init__(self) -> None:
        _require(1 <= self.num_levels <= 16, f"num_levels {self.num_levels}, want 1 to 16")
        _require(1 <= self.features_per_level <= 8, f"features_per_level {self.features_per_level}, want 1 to 8")
        _require(
            0 <= self.density_channels <= max(0, self.features_per_level - 3),
            f"density_channels {self.density_channels} of {self.features_per_level}, want three fewer at most, or 0",
        )
        _require(10 <= self.log2_table_size <= 22, f"log2_table_size {self.log2_table_size}, want 10 to 22")
        _require(
            0 < self.finest_cell_m <= self.coarsest_cell_m,
            f"finest_cell_m {self.finest_cell_m}, want in (0, coarsest_cell_m = {self.coarsest_cell_m}]",
        )
        _require(self.hidden_width >= 8, f"hidden_width {self.hidden_width}, want >= 8")
        _require(1 <= self.dynamic_levels <= 16, f"dynamic_levels {self.dynamic_levels}, want 1 to 16")
        _require(
            10 <= self.dynamic_log2_table_size <= 22,
            f"dynamic_log2_table_size {self.dynamic_log2_table_size}, want 10 to 22",
        )
        _require(
            0 < self.dynamic_cell_m <= self.dynamic_coarsest_cell_m,
            f"dynamic_cell_m {self.dynamic_cell_m}, want in (0, dynamic_coarsest_cell_m = "
            f"{self.dynamic_coarsest_cell_m}]",
        )
        for part in ("flow", "shadow"):
            _require(self.dynamic or not getattr(self, part), f"{part} is True, want False without a dynamic branch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalConfig:
    """One density that only says where to look.

    Attributes:
        num_samples: Its samples along each ray.
        num_levels: Levels of its grid; the coarsest has the cell of the static grid's.
        log2_table_size: Rows per level.
        finest_cell_m: Cell of the finest level.
    """

    num_samples: int = 48
    num_levels: int = 3
    log2_table_size: int = 16
    finest_cell_m: float = 0.6

    def __post_init__(self) -> None:
        _require(self.num_samples >= 4, f"num_samples {self.num_samples}, want >= 4")
        _require(self.num_levels >= 1, f"num_levels {self.num_levels}, want >= 1")
        _require(8 <= self.log2_table_size <= 22, f"log2_table_size {self.log2_table_size}, want 8 to 22")
        _require(self.finest_cell_m > 0, f"finest_cell_m {self.finest_cell_m}, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Where a ray is sampled.

    Attributes:
        near_m: Distance of the first sample.
        far_m: Distance of the last.
        spacing_m: First samples are spaced like ``log(1 + distance / spacing_m)``: uniform below, logarithmic above.
        proposals: Densities that say where to look, each where the one before it says; the field's samples are drawn
            from the last.
        num_field_samples: Samples of the field.
        histogram_padding: Weight added to every proposal interval, so that none is never looked into. With 48
            intervals, nerfstudio's 0.01 would spend a third of all samples on empty space.
        proposal_update_every: Proposals are fitted every so many steps after the warm-up.
    """

    near_m: float = 0.3
    far_m: float = 400.0
    spacing_m: float = 4.0
    proposals: tuple[ProposalConfig, ...] = dataclasses.field(default_factory=lambda: (ProposalConfig(),))
    num_field_samples: int = 24
    proposal_update_every: int = 2
    histogram_padding: float = 0.002

    def __post_init__(self) -> None:
        _require(0 < self.near_m < self.far_m, f"near_m {self.near_m} and far_m {self.far_m}, want 0 < near < far")
        _require(self.spacing_m > 0, f"spacing_m {self.spacing_m}, want > 0")
        _require(len(self.proposals) >= 1, "proposals are empty, want at least one")
        _require(self.num_field_samples >= 4, f"num_field_samples {self.num_field_samples}, want >= 4")
        _require(self.proposal_update_every >= 1, f"proposal_update_every {self.proposal_update_every}, want >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSamplingConfig:
    """How many rays go where the fit still errs, see ``teachers.nerf.error_map``.

    Attributes:
        share: Share of a step's random pixels that is drawn by error.
        refresh_every: Probabilities are made anew every so many steps.
        tile_px: Height and width of the tiles that errors are kept for.
    """

    share: float = 0.0
    refresh_every: int = 100
    tile_px: int = 8

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, f"share {self.share}, want in [0, 1]")
        _require(self.refresh_every >= 1, f"refresh_every {self.refresh_every}, want >= 1")
        _require(self.tile_px >= 1, f"tile_px {self.tile_px}, want >= 1")


DepthForm = Literal["relative", "squared"]
LineOfSightForm = Literal["overlap", "normal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldLossConfig:
    """Weights and shapes of the terms, see ``teachers.nerf.losses``.

    Attributes:
        rgb: Squared colour error of camera rays.
        depth: Range of rays with a LiDAR return.
        depth_form: Huber loss of the ``relative`` error, or EmerNeRF's ``squared`` error over ``max_depth_m``.
        line_of_sight: Weight distribution of rays with a LiDAR return.
        line_of_sight_form: By ``overlap`` with the margin, or EmerNeRF's ``normal`` peak.
        sky: Opacity where the sky mask says sky or not sky.
        distortion: Compactness of weights along a ray.
        opacity_entropy: Rays hit something or sky, not half of each.
        proposal: The proposal bounds the field.
        dynamic: Mean density of the dynamic branch, per metre.
        static_clearance: Weight of the static branch alone along beams that met what moves; only with a dynamic branch.
        shadow: Mean square of the shadow ratio.
        flow_cycle: Forward flow and the backward flow where it leads, metres, should cancel.
        flow: Velocity of LiDAR returns whose motion ``moving_source`` knows, metres per second.
        max_depth_m: LiDAR returns beyond it take no part.
        line_of_sight_margin_m: Width of the peak at a return, at the first and at the last step.
    """

    rgb: float = 1.0
    depth: float = 0.1
    depth_form: DepthForm = "relative"
    line_of_sight: float = 0.05
    line_of_sight_form: LineOfSightForm = "overlap"
    sky: float = 0.1
    distortion: float = 0.03
    opacity_entropy: float = 0.001
    proposal: float = 1.0
    dynamic: float = 0.0005
    static_clearance: float = 0.02
    shadow: float = 0.01
    flow_cycle: float = 0.01
    flow: float = 0.05
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
            "shadow",
            "flow_cycle",
            "flow",
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
        max_psnr_drop: By how much the PSNR of any camera may fall in the phase with all frames, dB.
        max_abs_rel_rise: By how much the absolute relative depth error of any camera may rise in it.
    """

    min_psnr: float = 18.0
    max_abs_rel: float = 0.15
    max_sky_opacity: float = 0.3
    min_coverage: float = 0.9
    max_psnr_drop: float = 0.5
    max_abs_rel_rise: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryConfig:
    """Where the vehicle is taken to have been, see ``teachers.nerf.trajectory``.

    Attributes:
        source: The ``recorded`` poses; those by which LiDAR scans agree (``lidar``); or ``auto``: the latter where
            they close enough of the gap between neighbouring scans.
        min_gain: Share of that gap that aligned poses must close to be used.
        max_range_m: Returns farther from the vehicle take no part.
        voxel_m: Returns are averaged in voxels of this size.
        map_frames: Earlier frames that a scan is aligned with.
        max_correspondence_m: Points farther apart than this are not the same surface.
        max_iterations: Most iterations for each scan.
        point_error_m: A usual distance of a point from its plane, far above a sensor's noise: neighbouring points err
            alike.
        usual_shift_m: A usual error of the recorded motion between two frames.
        usual_turn_deg: A usual error of its direction.
    """

    source: Literal["auto", "recorded", "lidar"] = "auto"
    min_gain: float = 0.2
    max_range_m: float = 50.0
    voxel_m: float = 0.4
    map_frames: int = 4
    max_correspondence_m: float = 1.0
    max_iterations: int = 30
    point_error_m: float = 1.0
    usual_shift_m: float = 0.1
    usual_turn_deg: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.min_gain < 1, f"min_gain {self.min_gain}, want in [0, 1)")
        lengths = (self.max_range_m, self.voxel_m, self.max_correspondence_m, self.point_error_m)
        _require(min(lengths) > 0, f"max_range_m, voxel_m, max_correspondence_m, point_error_m {lengths}, want > 0")
        _require(min(self.usual_shift_m, self.usual_turn_deg) > 0, "usual_shift_m and usual_turn_deg, want > 0")
        _require(self.map_frames >= 1 and self.max_iterations >= 1, "want at least one frame and one iteration")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementConfig:
    """What is learned about where cameras stand and when they expose, see ``teachers.nerf.refinement``.

    While anything is, LiDAR returns are no depths of pixels: which pixels they fall on is what is in doubt.

    Attributes:
        poses: Learn a rigid correction of each camera.
        time_offsets: Learn an offset of each camera's clock.
        start_share: Share of the steps of the first phase before it begins: a field must be there to compare with.
        learning_rate: Rate, in usual errors.
        weight: Cost of the mean squared correction, in usual errors.
        usual_rotation_deg: A usual error of a rotation.
        usual_translation_m: A usual error of a position.
        usual_time_offset_s: A usual error of a clock.
    """

    poses: bool = False
    time_offsets: bool = False
    start_share: float = 0.2
    learning_rate: float = 0.02
    weight: float = 1e-4
    usual_rotation_deg: float = 0.5
    usual_translation_m: float = 0.1
    usual_time_offset_s: float = 0.02

    def __post_init__(self) -> None:
        _require(0 <= self.start_share < 1, f"start_share {self.start_share}, want in [0, 1)")
        _require(self.learning_rate > 0, f"learning_rate {self.learning_rate}, want > 0")
        _require(self.weight >= 0, f"weight {self.weight}, want >= 0")
        usual = (self.usual_rotation_deg, self.usual_translation_m, self.usual_time_offset_s)
        _require(min(usual) > 0, f"usual errors {usual}, want > 0")

    @property
    def is_on(self) -> bool:
        """Return whether anything is refined."""
        return self.poses or self.time_offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class NerfConfig:
    """One fit of one scene.

    Attributes:
        method: What is fitted. nerfstudio's methods take the sizes below as far as they have them, and none of the
            losses but ``depth-nerfacto`` the one of depth; ``gsplat`` runs on CUDA only.
        image_height: Height that images are read at, pixels. None follows the student: the height of the virtual views
            that it reads, but no less than ``min_image_height``.
        image_width: Width that images are read at, pixels, likewise.
        min_image_height: Height of images, pixels, where no student wants more.
        min_image_width: Width of images, pixels, where no student wants more.
        holdout_every: Every so many frames one is held out: to judge the fit, and to judge the student where no whole
            scene is held out from it.
        fit_all_frames: Once judged, the field goes on with the held-out frames too. None follows the split: True where
            whole scenes are held out. Where frames are, the student would learn them from its teacher, so they are
            never fitted.
        use_sky_mask: Read the scene's ``sky_mask`` store; it must then exist. If False, sky is told from the rest by
            the entropy term alone.
        moving_source: What tells a dynamic branch which LiDAR returns move: the recording's ``boxes``, with how they
            move; the ``lidar`` itself, by what is solid now and was seen through before or after; or ``none``.
        num_steps: Optimisation steps, both phases together.
        whole_share: Share of the steps, the last ones, that are taken on all frames, if they are to be fitted.
        pixel_rays: Rays per step through random pixels.
        lidar_pixel_rays: Rays per step through pixels that a LiDAR return projects to.
        lidar_rays: Rays per step from the LiDAR itself.
        learning_rate: Rate of grids at the first step; networks take half. It decays exponentially within each phase.
        final_learning_rate_ratio: Learning rate at the last step of each phase over that at the first of all.
        whole_learning_rate_ratio: Learning rate at the first step with all frames over that at the first of all.
        betas: Decay of Adam's averages of gradients and of their squares. Shorter averages than the default's make what
            stands still sharper, and build ghosts before single cameras where something moves.
        num_gaussians: Gaussians of method ``gsplat``.
        seed: Seed of initialisation and ray order.
        max_attempts: A fit that diverges is repeated with the next seed, at most so many fits in all.
        min_opacity: Opacity under which depth is undefined when judged.
        execution: How it is run.
        trajectory: Where the vehicle is taken to have been.
        field: Size of the field.
        sampling: Where a ray is sampled.
        error_sampling: Which rays are drawn by error.
        losses: Weights of the terms.
        refinement: What is learned about the cameras' poses and clocks.
        gate: What the fit must reach.
    """

    method: Method = "driving-field"
    image_height: int | None = None
    image_width: int | None = None
    min_image_height: int = 112
    min_image_width: int = 200
    holdout_every: int = 4
    fit_all_frames: bool | None = None
    use_sky_mask: bool = True
    moving_source: MovingSource = "lidar"
    num_steps: int = 500
    whole_share: float = 0.25
    pixel_rays: int = 3072
    lidar_pixel_rays: int = 1024
    lidar_rays: int = 1024
    learning_rate: float = 0.02
    final_learning_rate_ratio: float = 0.05
    whole_learning_rate_ratio: float = 0.25
    betas: tuple[float, float] = added_later((0.9, 0.99))
    num_gaussians: int = 200_000
    seed: int = 0
    max_attempts: int = 3
    min_opacity: float = 0.5
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    trajectory: TrajectoryConfig = dataclasses.field(default_factory=TrajectoryConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    error_sampling: ErrorSamplingConfig = dataclasses.field(default_factory=ErrorSamplingConfig)
    losses: FieldLossConfig = dataclasses.field(default_factory=FieldLossConfig)
    refinement: RefinementConfig = dataclasses.field(default_factory=RefinementConfig)
    gate: FitGateConfig = dataclasses.field(default_factory=FitGateConfig)

    def __post_init__(self) -> None:
        check_size(self.image_height, self.image_width, of="images of the field", at_least=8)
        check_size(self.min_image_height, self.min_image_width, of="smallest images of the field", at_least=8)
        _require(self.holdout_every >= 2, f"holdout_every {self.holdout_every}, want >= 2")
        _require(self.num_steps >= 1 and self.max_attempts >= 1, "want at least one step and one attempt")
        _require(0 < self.whole_share < 1, f"whole_share {self.whole_share}, want in (0, 1)")
        _require(
            self.judged_steps >= 1, f"whole_share {self.whole_share} leaves no step of {self.num_steps} to be judged"
        )
        _require(min(self.pixel_rays, self.lidar_pixel_rays, self.lidar_rays) >= 0, "ray counts, want >= 0")
        _require(self.pixel_rays > 0, "pixel_rays, want > 0")
        _require(self.learning_rate > 0, f"learning_rate {self.learning_rate}, want > 0")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas}, want in [0, 1)")
        _require(0 < self.final_learning_rate_ratio <= 1, "final_learning_rate_ratio, want in (0, 1]")
        _require(
            self.final_learning_rate_ratio <= self.whole_learning_rate_ratio <= 1,
            f"whole_learning_rate_ratio {self.whole_learning_rate_ratio}, want in [final_learning_rate_ratio, 1]",
        )
        _require(self.num_gaussians >= 1, f"num_gaussians {self.num_gaussians}, want >= 1")
        _require(0 < self.min_opacity <= 1, f"min_opacity {self.min_opacity}, want in (0, 1]")

    @property
    def image_size(self) -> tuple[int, int]:
        """Return height and width of training images."""
        height, width = self.image_height, self.image_width
        return self.min_image_height if height is None else height, self.min_image_width if width is None else width

    @property
    def judged_steps(self) -> int:
        """Return the steps of the first phase, at whose end the field is judged on frames it never saw."""
        return self.num_steps - self.whole_steps

    @property
    def whole_steps(self) -> int:
        """Return the steps of the second phase, with all frames; none where held-out frames are not to be fitted."""
        return round(self.whole_share * self.num_steps) if self.fit_all_frames else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceConfig:
    """Which rendered pixels are valid, see ``teachers.nerf.confidence``.

    Attributes:
        min_opacity: Opacity from which a ray ends at a surface.
        max_sky_opacity: Opacity under which it leaves the scene; between the two is fog.
        max_depth_m: Largest distance of a surface.
        neighbour_frames: Frames before and after a pixel's own whose cameras and returns are asked about its surface.
        min_witnesses: Images of fitted frames that must agree on a surface, the pixel's own included if it is one.
        min_parallax_deg: Angle between the rays of a pixel and of its witnesses, and of any two of them, from which
            their word counts: who looks along the same ray cannot tell how far it goes. Ten frames of a vehicle that
            stands are one witness.
        depth_tolerance: Relative difference of two images' distances to a surface on which they still agree.
        lidar_reach_m: A return within this distance proves a surface on which too few images agree.
        lidar_reach: Largest share of the surface's own distance that ``lidar_reach_m`` may be. Beside the vehicle,
            0.3 m are a tenth of the depth and more.
        contradiction_ratio: Rendered and measured depth that differ by more than this factor contradict each other.
        contradiction_reach_px: A pixel within so many pixels of a LiDAR return that contradicts it is not valid, as far
            as no other return is nearer: what moves is missing from frames that the field was not fitted to.
        colour_tolerance: Mean absolute difference of a rendered and a recorded colour, [0, 1], that still is agreement.
        colour_window_px: Side of the square over which colours are averaged before they are compared, odd.
    """

    min_opacity: float = 0.8
    max_sky_opacity: float = 0.1
    max_depth_m: float = 200.0
    neighbour_frames: int = 2
    min_witnesses: int = 3
    min_parallax_deg: float = 1.5
    depth_tolerance: float = 0.03
    lidar_reach_m: float = 0.3
    lidar_reach: float = added_later(1.0, 0.05)
    contradiction_ratio: float = 1.12
    contradiction_reach_px: float = 6.0
    colour_tolerance: float = 0.08
    colour_window_px: int = 3

    def __post_init__(self) -> None:
        _require(
            0 <= self.max_sky_opacity < self.min_opacity <= 1,
            f"max_sky_opacity {self.max_sky_opacity} and min_opacity {self.min_opacity}, want 0 <= sky < min <= 1",
        )
        _require(0 < self.max_depth_m < 1000, f"max_depth_m {self.max_depth_m}, want in (0, 1000)")
        _require(self.neighbour_frames >= 0, f"neighbour_frames {self.neighbour_frames}, want >= 0")
        _require(self.min_witnesses >= 1, f"min_witnesses {self.min_witnesses}, want >= 1")
        _require(0 <= self.min_parallax_deg < 90, f"min_parallax_deg {self.min_parallax_deg}, want in [0, 90)")
        _require(self.depth_tolerance > 0, f"depth_tolerance {self.depth_tolerance}, want > 0")
        _require(self.lidar_reach_m > 0, f"lidar_reach_m {self.lidar_reach_m}, want > 0")
        _require(self.lidar_reach > 0, f"lidar_reach {self.lidar_reach}, want > 0")
        _require(self.contradiction_ratio > 1, f"contradiction_ratio {self.contradiction_ratio}, want > 1")
        _require(self.contradiction_reach_px >= 0, f"contradiction_reach_px {self.contradiction_reach_px}, want >= 0")
        _require(self.colour_tolerance > 0, f"colour_tolerance {self.colour_tolerance}, want > 0")
        _require(
            self.colour_window_px >= 1 and self.colour_window_px % 2 == 1,
            f"colour_window_px {self.colour_window_px}, want odd and >= 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Limits of what is compared with LiDAR returns and recorded images, see ``teachers.nerf.gates``.

    Attributes:
        contradiction_ratio: Rendered and measured depth that differ by more than this factor contradict each other.
        max_depth_bias: Absolute median logarithm of rendered over measured depth of a camera.
        max_misplaced: Share of a camera's error, of depth or of colour, that the poses of other cameras, frames or
            views explain.
        max_misplaced_once: The same in a single frame.
        max_shifted: Share of a camera's error, of depth or of colour, that a pose 0.3 m aside explains.
        min_colour_explained: Share of the variety of recorded colours that a camera's views reproduce.
    """

    contradiction_ratio: float = 1.3
    max_depth_bias: float = 0.05
    max_misplaced: float = 0.4
    max_misplaced_once: float = 0.75
    max_shifted: float = 0.1
    min_colour_explained: float = 0.1

    def __post_init__(self) -> None:
        _require(self.contradiction_ratio > 1, f"contradiction_ratio {self.contradiction_ratio}, want > 1")
        _require(self.max_depth_bias > 0, f"max_depth_bias {self.max_depth_bias}, want > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherDepthConfig:
    """Depth rendered at every camera of every frame.

    Attributes:
        height: Rows of the depth map; None follows the student.
        width: Columns of the depth map; None follows the student.
        confidence: Which of its pixels are valid; depth is NaN elsewhere.
        max_contradicted_share: Gate: share of LiDAR pixels of all frames that contradict the depth.
        max_abs_rel: Gate: absolute relative error against the LiDAR of all frames, whatever moves.
        min_coverage: Gate: share of LiDAR pixels where the depth is defined.
        min_valid_share: Gate: share of pixels with a ray that are valid.
        gate: Gate: limits of the worst camera, frame and view.
        execution: How it is run.
    """

    height: int | None = None
    width: int | None = None
    confidence: ConfidenceConfig = dataclasses.field(default_factory=ConfidenceConfig)
    max_contradicted_share: float = 0.2
    max_abs_rel: float = 0.30
    min_coverage: float = 0.9
    min_valid_share: float = 0.4
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        check_size(self.height, self.width, of="teacher_depth", at_least=2)

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns.

        Raises:
            ValueError: If one of them is still open.
        """
        return settled_size(self.height, self.width, of="teacher_depth")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualViewsConfig:
    """Images and depth rendered at poses the car never had.

    Attributes:
        height: Rows of each view; None follows the student.
        width: Columns of each view; None follows the student.
        view_names: What each view is called, in order.
        camera_shifts_m: Where it stands in its camera's own axes (x right, y down, z forward), in order.
        confidence: Which pixels are valid; depth is NaN elsewhere.
        min_valid_share: Gate: share of pixels with a ray that are valid.
        gate: Gate: limits of the worst camera, frame and view.
        execution: How it is run.
    """

    height: int | None = None
    width: int | None = None
    view_names: tuple[str, ...] = ("left", "right", "up")
    camera_shifts_m: tuple[tuple[float, float, float], ...] = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    confidence: ConfidenceConfig = dataclasses.field(default_factory=ConfidenceConfig)
    min_valid_share: float = 0.3
    gate: GateConfig = dataclasses.field(
        default_factory=lambda: GateConfig(max_depth_bias=0.09, max_shifted=0.2)  # few returns fall into one view
    )
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        check_size(self.height, self.width, of="virtual_views", at_least=2)
        _require(len(self.view_names) == len(self.camera_shifts_m) > 0, "want one shift per view name")
        _require(len(set(self.view_names)) == len(self.view_names), f"view_names {self.view_names}, want distinct")

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns.

        Raises:
            ValueError: If one of them is still open.
        """
        return settled_size(self.height, self.width, of="virtual_views")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOccupancyConfig:
    """The field's density in the grid in which a student's occupancy is judged.

    Attributes:
        stride: Every so many-th frame is read, as they are held out; 1 for all frames. None follows the split.
        samples_per_axis: Points per voxel and axis.
        execution: How it is run.
    """

    stride: int | None = None
    samples_per_axis: int = 2
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        _require(self.stride is None or self.stride >= 1, f"stride {self.stride}, want >= 1 or none")
        _require(self.samples_per_axis >= 1, f"samples_per_axis {self.samples_per_axis}, want >= 1")

    def frames_of(self, num_frames: int) -> tuple[int, ...]:
        """Return the frames to read.

        Raises:
            ValueError: If the stride is still open.
        """
        if self.stride is None:
            raise ValueError("teacher_occupancy.stride is open: want a number, or a settled configuration")
        return held_out_frames(num_frames, every=self.stride)


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
    positional: Literal["none", "shared", "per_camera"] = "none"
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
        height: Rows of the rendered feature maps; None follows the student.
        width: Columns of the rendered feature maps; None follows the student.
        execution: How it is run.
    """

    height: int | None = None
    width: int | None = None
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        check_size(self.height, self.width, of="teacher_features", at_least=2)

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns.

        Raises:
            ValueError: If one of them is still open.
        """
        return settled_size(self.height, self.width, of="teacher_features")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


C = TypeVar(
    "C",
    bound=NerfConfig
    | TeacherDepthConfig
    | VirtualViewsConfig
    | TeacherOccupancyConfig
    | FeatureFieldConfig
    | TeacherFeaturesConfig,
)


def determining(config: C) -> C:
    """Return the part of a configuration that determines what is stored: the same with ``execution`` at default."""
    return dataclasses.replace(config, execution=ExecutionConfig())
