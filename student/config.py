"""Configuration of one student run: data, losses and fit.

The model's own sizes are in :mod:`student.model.config`; complete runs are functions in
:mod:`student.presets.students`.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from storage.config_json import added_later
from storage.geometry.in_image import LIDAR_NEAR_M
from storage.kinds import FEATURE_SOURCES, Kind, features_kind
from student.model.config import ModelConfig, OccupancyHeadConfig

OnFailedGate = Literal["refuse", "leave_out"]
"""Effect of a train scene whose target failed a quality gate: the set is refused, or the scene is left out."""

Variant = Literal[
    "no_distillation",
    "depth",
    "depth_contracted",
    "depth_contracted_virtual",
    "clip",
    "dinov2",
    "clip_dinov2",
    "clip_without_field",
]
"""Name of what a student is taught. The first four are the paper's ablation. The next three add foundation features,
rendered together with the image, to the fourth. The last is "clip" without anything that a per-scene field renders: for
drives without LiDAR, whose fields nothing vouches for, and where there is no time to fit fields."""

SHIPPED = "shipped"
"""Name of the student that comes with this package, to start from."""

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewsConfig:
    """Numbers of views that one training sample renders. The views are drawn anew in each epoch.

    Attributes:
        same_frame: Views of the input frame; all of them if the rig has fewer cameras.
        neighbour: Views of the frames before and after, rendered from the input frame's field.
        virtual: Teacher views from poses that the car never had.
    """

    same_frame: int = 6
    neighbour: int = 0
    virtual: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.same_frame >= 1, f"same_frame must be at least 1, got {self.same_frame}")
        _require(self.neighbour >= 0 and self.virtual >= 0, "numbers of views must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Contents and sizes of a training sample.

    Attributes:
        image_height: Rows of the input images; the stored ``input_images`` must have them.
        image_width: Columns of the input images.
        render_height: Rows of the render grid. The decoded image has twice as many.
        render_width: Columns of the render grid.
        depth_height: Rows of the grid on which the model estimates the depth of its inputs.
        depth_width: Columns of that grid.
        views: Views rendered per sample.
        depth_anything: Feed frozen Depth Anything features to the model.
        teacher_depth: Supervise with the scene teacher's depth.
        sky_masks: Supervise opacity with sky masks.
        feature_sources: Foundation features to supervise: any of "clip" and "dinov2".
        features_from: Where those come from: each image by itself, or the scene's field, which holds what all its
            images agree on.
        dynamic_masks: Pixels to leave out of neighbouring frames' views because something moved. "boxes" leaves out
            every annotated object that moves at some time, where it is and where it was. "none", the published way,
            keeps all pixels and reads no annotations.
        min_camera_depth: LiDAR returns nearer to a camera plane than this are dropped, metres, because they show the
            car.
        max_lidar_range: LiDAR returns farther from a camera than this are dropped, metres.
        batch_size: Frames per optimisation step, over all processes and accumulated parts.
    """

    image_height: int = 128
    image_width: int = 228
    render_height: int = 64
    render_width: int = 114
    depth_height: int = 128
    depth_width: int = 228
    views: ViewsConfig = field(default_factory=ViewsConfig)
    depth_anything: bool = True
    teacher_depth: bool = True
    sky_masks: bool = True
    feature_sources: tuple[str, ...] = ()
    features_from: Literal["images", "field"] = "images"
    dynamic_masks: Literal["none", "boxes"] = "none"
    min_camera_depth: float = LIDAR_NEAR_M
    max_lidar_range: float = 80.0
    batch_size: int = 1

    def __post_init__(self) -> None:
        """Reject empty grids, unknown features and an empty LiDAR range."""
        for name in ("image", "render", "depth"):
            height, width = getattr(self, f"{name}_height"), getattr(self, f"{name}_width")
            _require(height >= 1 and width >= 1, f"{name} grid must not be empty, got {height}x{width}")
        unknown = set(self.feature_sources) - set(FEATURE_SOURCES)
        _require(not unknown, f"feature_sources {sorted(unknown)}: want some of {FEATURE_SOURCES}")
        _require(len(set(self.feature_sources)) == len(self.feature_sources), "feature_sources must differ")
        _require(0 < self.min_camera_depth < self.max_lidar_range, "need 0 < min_camera_depth < max_lidar_range")
        _require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of store that the run reads for each scene."""
        wanted = {
            Kind.SCENE: True,
            Kind.INPUT_IMAGES: True,
            Kind.TEACHER_DEPTH: self.teacher_depth,
            Kind.VIRTUAL_VIEWS: self.views.virtual > 0,
            Kind.SKY_MASK: self.sky_masks,
            Kind.DEPTH_ANYTHING_FEATURES: self.depth_anything,
            **{kind: True for kind, _ in map(self.feature_array, self.feature_sources)},
        }
        return tuple(kind for kind, is_read in wanted.items() if is_read)

    @property
    def reads_field(self) -> bool:
        """Return whether the run reads anything that per-scene fields render."""
        return not {Kind.TEACHER_DEPTH, Kind.VIRTUAL_VIEWS, Kind.TEACHER_FEATURES}.isdisjoint(self.kinds)

    def feature_array(self, source: str) -> tuple[Kind, str]:
        """Return the kind of store, and the array in it, that holds the features of a foundation model."""
        return (Kind.TEACHER_FEATURES, source) if self.features_from == "field" else (features_kind(source), "features")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Coefficients of the losses; 0 switches one off. Defaults are published values unless the entry says otherwise.

    Attributes:
        rgb: Absolute error of the image.
        perceptual: LPIPS if ``lpips_weights`` is given; otherwise multi-scale structural dissimilarity, which needs no
            weights.
        lpips_weights: Local safetensors file with the backbone and linear layers of VGG LPIPS.
        feature: Absolute error of each foundation feature map.
        surface_feature: Squared error of each foundation feature at the place where a pixel's ray is known to end, by
            LiDAR or else by the scene teacher, whatever the field's density there. A rendered map is a mean along rays,
            while a word is asked of places. Ours; off in published settings.
        lidar_depth: Error of termination depth against LiDAR.
        teacher_depth: Error of termination depth against the scene teacher.
        absolute_share: Weight of the absolute error beside the squared one in both depth losses.
        inner_range: Teacher depths below this are divided by it, farther ones by ``max_depth``, metres.
        max_depth: Largest depth of the comparison with the teacher, to which both sides are clamped, metres.
        max_lidar_range: Largest depth of the comparison with LiDAR, metres: both sides are clamped to it and divided by
            it.
        log_depth: Absolute error of the logarithm of depth, against LiDAR and teacher. An error of one metre then
            weighs more near the car. Ours; off in published settings.
        depth_likelihood: Negative log-probability of the coarse bin that holds the true depth. Unlike the error of an
            expectation, it does not reward spreading over two surfaces. Ours; off in published settings.
        fine_depth: Factor of the fine estimate's depth losses beside those of the coarse one; 0 in published settings.
        weight_entropy: Entropy of the weights along a ray.
        opacity: Cross-entropy of opacity against 1, for rays known to hit something, and for all rays of a view without
            a mask.
        sky: ``log(1 + optical depth)`` where the mask says sky.
        line_of_sight: Error of the weights before and around the true depth; off in published settings.
        line_of_sight_epsilon: Half width of the surface in ``line_of_sight``, metres: the initial and the final one.
        line_of_sight_steps: First and last step of the linear shrinking of ``line_of_sight_epsilon``.
        depth_edge: Second teacher depth loss, over the pixels where the teacher's depth jumps. Off in published
            settings, which name 30 as an example.
        depth_edge_from: First step that counts ``depth_edge``.
        depth_edge_range: Edges farther than this do not count, metres.
    """

    rgb: float = 1.0
    perceptual: float = 1.0
    lpips_weights: Path | None = None
    feature: float = 1.0
    surface_feature: float = added_later(0.0)
    lidar_depth: float = 10.0
    teacher_depth: float = 10.0
    absolute_share: float = 0.1
    inner_range: float = 50.0
    max_depth: float = 120.0
    max_lidar_range: float = 80.0
    log_depth: float = 0.0
    depth_likelihood: float = 0.0
    fine_depth: float = 0.0
    weight_entropy: float = 0.01
    opacity: float = 0.1
    sky: float = 0.1
    line_of_sight: float = 0.0
    line_of_sight_epsilon: tuple[float, float] = (6.0, 2.5)
    line_of_sight_steps: tuple[int, int] = (14_000, 28_000)
    depth_edge: float = 0.0
    depth_edge_from: int = 1000
    depth_edge_range: float = 56.0

    def __post_init__(self) -> None:
        """Reject negative coefficients and empty ranges."""
        for name in (known.name for known in fields(self) if known.type is float):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        _require(self.inner_range > 0, f"inner_range must be positive, got {self.inner_range}")
        _require(self.max_depth > 0 and self.max_lidar_range > 0, "ranges must be positive")
        _require(min(self.line_of_sight_epsilon) > 0, "line_of_sight_epsilon must be positive")
        first, last = self.line_of_sight_steps
        _require(0 <= first < last, f"line_of_sight_steps must ascend from 0, got {self.line_of_sight_steps}")
        _require(self.depth_edge_range > 0, "depth_edge_range must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Adam with a warm-up, a schedule over the run's budget, and clipping.

    Attributes:
        learning_rate: Peak learning rate.
        encoder_rate: Factor of the rate for an image encoder that starts from ImageNet weights.
        betas: Decay rates of Adam's two moments; the published first one is 0.
        weight_decay: Decoupled weight decay (AdamW); 0 is plain Adam.
        schedule: Fall of the rate after the warm-up. "step" divides it by ten at two thirds and at nine tenths of the
            run.
        warmup_steps: Steps over which the rate rises linearly.
        final_share: Share of the peak at the end of a "cosine" schedule.
        max_gradient_norm: Norm to which larger gradients are scaled down.
        ema_decay: Decay of an exponential average of the weights. The average is validated and published. None
            publishes the last weights.
    """

    learning_rate: float = 2e-4
    encoder_rate: float = 0.2
    betas: tuple[float, float] = (0.0, 0.99)
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: int = 0
    final_share: float = 0.05
    max_gradient_norm: float = 35.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        _require(self.encoder_rate >= 0, f"encoder_rate must not be negative, got {self.encoder_rate}")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), got {self.betas}")
        _require(self.weight_decay >= 0 and self.warmup_steps >= 0, "weight_decay and warmup_steps: want >= 0")
        _require(0 <= self.final_share <= 1, f"final_share must lie in [0, 1], got {self.final_share}")
        _require(self.max_gradient_norm > 0, "max_gradient_norm must be positive")
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, f"ema_decay {self.ema_decay}: want within (0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRuntime:
    """Settings of running and watching a fit. None of them is part of a checkpoint's digest.

    Attributes:
        device: "auto" takes CUDA where there is one.
        processes: Processes of this machine that train together, each on a device of its own; more than one are
            started by ``torchrun``. Under a ``torchrun`` that somebody else started, its number counts.
        num_workers: Processes that read samples, for each process that trains; 0 reads in the training process.
        accumulation_steps: Parts in which a process takes its share of a batch, one after the other, to save memory.
            Losses are means over samples, so the sum of the parts is the whole.
        recompute_activations: Compute the activations of the largest parts of the network twice instead of keeping
            them. This saves memory and takes longer; the gradients are the same.
        log_every: Steps between entries of the history and of the trackers.
        save_every: Steps between resumable states.
        trackers: Services that curves and pictures are sent to.
        max_pictures: Held-out frames that are drawn as pictures at each validation.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = added_later(1)
    num_workers: int = 0
    accumulation_steps: int = 1
    recompute_activations: bool = False
    log_every: int = 10
    save_every: int = 50
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    max_pictures: int = 1

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.processes >= 1, f"processes must be at least 1, got {self.processes}")
        _require(self.num_workers >= 0, f"num_workers must not be negative, got {self.num_workers}")
        _require(self.accumulation_steps >= 1, f"accumulation_steps must be at least 1, got {self.accumulation_steps}")
        _require(self.log_every >= 1 and self.save_every >= 1, "log_every and save_every must be at least 1")
        _require(len(set(self.trackers)) == len(self.trackers), f"trackers must differ, got {self.trackers}")
        _require(self.max_pictures >= 0, f"max_pictures must not be negative, got {self.max_pictures}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupancyFitConfig:
    """Teaching of the occupancy head, after the rest of a student is done.

    The head learns which voxels LiDAR beams end in and which they pass, over all sweeps of the frames that the student
    learns from, and of the rest what its cameras see through. Heads of voxel features learn with it what the image
    teacher says where beams ended. No box and no label is read.

    Attributes:
        steps: Optimisation steps, one frame each; 0 keeps the head that the fit started from.
        learning_rate: Peak learning rate; it falls to 0 as a cosine.
        max_frames: Frames to learn from, evenly spaced over all; each costs about a second to prepare.
        seen_through: Whether voxels of which beams know nothing are free where a camera of the frame sees through
            them, by the scene teacher's depth and the sky mask. Beams alone know little free space at the LiDAR's own
            height.
    """

    steps: int = 100
    learning_rate: float = 2e-3
    max_frames: int = 256
    seen_through: bool = added_later(False, True)

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.steps >= 0, f"occupancy.steps must not be negative, got {self.steps}")
        _require(self.learning_rate > 0, f"occupancy.learning_rate must be positive, got {self.learning_rate}")
        _require(self.max_frames >= 1, f"occupancy.max_frames must be at least 1, got {self.max_frames}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeadFitConfig:
    """Bringing the heads of foundation features to rest, when the field that they read does not move any more.

    Attributes:
        steps: Optimisation steps; 0 keeps the heads as the fit left them.
        learning_rate: Peak learning rate of Adam; it falls to 0 linearly.
        max_frames: Frames to learn from, evenly spaced over all; each is rendered once.
    """

    steps: int = 0
    learning_rate: float = 2e-3
    max_frames: int = 64

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.steps >= 0, f"heads.steps must not be negative, got {self.steps}")
        _require(self.learning_rate > 0, f"heads.learning_rate must be positive, got {self.learning_rate}")
        _require(self.max_frames >= 1, f"heads.max_frames must be at least 1, got {self.max_frames}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Budget of a fit, its precision and its optimiser.

    Attributes:
        max_steps: Optimisation steps.
        max_seconds: Wall-clock limit; None for no limit. The schedule follows whichever budget is nearer to its end. A
            fit that this limit ends is not reproducible to the bit, so leave it generous.
        validate_every: Steps between validations; the last step is always validated.
        max_validation_samples: Held-out frames per validation, evenly spaced.
        depth_steps: First steps, which fit the depth of the input images alone. No voxel is filled and nothing is
            rendered in them, so that each takes a quarter of the time. 0 in published settings.
        seed: Seed of weights, order, views and every sample along rays.
        initial: Checkpoint to start from: a folder, or "shipped" for the one that comes with this package; None starts
            at random. Heads of features that it does not have, or has in another basis, start at random too.
        precision: Number format of convolutions and linear layers. Weights, geometry, rendering along rays and losses
            are always float32; "float16" also scales losses, so that small gradients do not vanish.
        optimizer: Optimiser and its learning rate.
        heads: Last steps of the heads of foundation features, alone.
        occupancy: Teaching of the occupancy head, of a model that has one.
        runtime: Settings of running and watching it.
    """

    max_steps: int
    max_seconds: float | None = None
    validate_every: int = 1000
    max_validation_samples: int = 8
    depth_steps: int = 0
    seed: int = 0
    initial: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    heads: FeatureHeadFitConfig = added_later(FeatureHeadFitConfig())  # noqa: RUF009 - frozen
    occupancy: OccupancyFitConfig = added_later(OccupancyFitConfig())  # noqa: RUF009 - frozen
    runtime: FitRuntime = field(default_factory=FitRuntime)

    def __post_init__(self) -> None:
        """Reject an empty budget."""
        _require(self.max_steps >= 1, f"max_steps must be at least 1, got {self.max_steps}")
        _require(self.max_seconds is None or self.max_seconds > 0, "max_seconds must be positive")
        _require(self.validate_every >= 1, f"validate_every must be at least 1, got {self.validate_every}")
        _require(self.max_validation_samples >= 0, "max_validation_samples must not be negative")
        _require(0 <= self.depth_steps <= self.max_steps, f"depth_steps {self.depth_steps}: want 0 to max_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """One complete student run.

    Attributes:
        model: Sizes of the student.
        data: Contents of its samples.
        losses: Coefficients of its losses.
        fit: Budget and optimiser.
    """

    model: ModelConfig
    data: DataConfig
    losses: LossConfig
    fit: FitConfig

    def __post_init__(self) -> None:
        """Reject parts that do not fit together."""
        heads = {head.source for head in self.model.feature_heads}
        _require(
            heads == set(self.data.feature_sources),
            f"the model renders features {sorted(heads)}, the data supervise {sorted(self.data.feature_sources)}",
        )
        wants_depth_features = self.model.coarse_depth.depth_feature_channels > 0
        _require(
            wants_depth_features == self.data.depth_anything,
            f"depth_feature_channels is {self.model.coarse_depth.depth_feature_channels}, "
            f"but data.depth_anything is {self.data.depth_anything}",
        )
        stride = self.model.coarse_depth.pyramid.stem_stride
        _require(
            self.data.image_height % stride == self.data.image_width % stride == 0,
            f"images of {self.data.image_height}x{self.data.image_width}, want multiples of stem_stride {stride}: "
            "targets of the depth grid would lie beside its pixels",
        )
        processes, parts = self.fit.runtime.processes, self.fit.runtime.accumulation_steps
        _require(
            self.data.batch_size % (processes * parts) == 0,
            f"batch_size {self.data.batch_size} cannot be shared by {processes} processes, each in {parts} equal parts",
        )

    def determining(self) -> "StudentConfig":
        """Return the part that determines the checkpoint.

        The runtime is set to its default. The places of LPIPS and initial weights are removed: the digest covers their
        content instead.
        """
        return replace(
            self,
            losses=replace(self.losses, lpips_weights=None),
            fit=replace(self.fit, initial=None, runtime=FitRuntime()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetConfig:
    """Scenes of a training set, and the kinds of store it reads.

    Attributes:
        train_scenes: Keys of the scenes to learn from.
        validation_scenes: Keys of held-out scenes; none may be in ``train_scenes``.
        kinds: Kinds of stores to freeze for each scene, see :attr:`DataConfig.kinds`.
        allow_ungated: Kinds that are taken although their quality gate failed or was never run.
        on_failed_gate: Treatment of a train scene with a store that failed its quality gate. ``leave_out`` takes the
            scene out of the set and records it in the manifest; ``refuse`` raises an error. A held-out scene is never
            left out, because only easy scenes would remain to judge on.
        held_out_stride: Every so many-th frame of each train scene is held out, as input and as target, for homes with
            a single scene. 0 holds none out.
    """

    train_scenes: tuple[str, ...]
    validation_scenes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (Kind.SCENE, Kind.INPUT_IMAGES)
    allow_ungated: tuple[str, ...] = ()
    on_failed_gate: OnFailedGate = "refuse"
    held_out_stride: int = 0

    def __post_init__(self) -> None:
        """Reject overlapping splits and sets without inputs."""
        _require(len(self.train_scenes) > 0, "train_scenes is empty")
        both = set(self.train_scenes) & set(self.validation_scenes)
        _require(not both, f"scenes {sorted(both)} are in both splits")
        scenes = (*self.train_scenes, *self.validation_scenes)
        _require(len(set(scenes)) == len(scenes), "a scene is listed twice")
        missing = {Kind.SCENE, Kind.INPUT_IMAGES} - set(self.kinds)
        _require(not missing, f"kinds lack {sorted(missing)}, which every sample reads")
        _require(self.held_out_stride == 0 or self.held_out_stride >= 2, "held_out_stride: want 0 or at least 2")


FinetuneTask = Literal["occupancy", "segmentation"]
"""What a head tells of a voxel: whether something is there, or its class too."""

FinetunedPart = Literal["frozen", "voxels", "from_nothing"]
"""Part of a student that learns with a head: none, the voxel network, or all of a new one with random weights."""


FinetuneLabels = Literal["occ3d", "lidar"]
"""Labels of a head: Occ3D's, which lie beside a recording, or what the recording's own LiDAR beams tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """Training of a head on labelled voxels.

    Attributes:
        head: Widths of the head.
        labels: What it learns from and is scored by: "occ3d" is the kind ``occupancy_labels``, "lidar" the kind
            ``lidar_occupancy``, for which nobody labels anything.
        student: Part of the student that learns too. "frozen" is none of it, so that every frame is read once;
            "voxels" is the voxel network; "from_nothing" is all of a new student with random weights, which tells what
            pretraining is worth.
        max_scenes: Number of labelled scenes to learn from, the first ones; None for all.
        calibration_share: Share of their frames that choose threshold and calibration instead.
        steps: Optimisation steps, one frame each.
        learning_rate: Peak learning rate of the head; it falls to 0 as a cosine.
        student_rate: Factor of the rate for the part of the student that learns.
        weight_decay: Decoupled weight decay.
        seed: Seed of weights and order.
        device: "auto" takes CUDA where there is one; no part of the digest.
    """

    head: OccupancyHeadConfig = field(default_factory=OccupancyHeadConfig)
    labels: FinetuneLabels = "occ3d"
    student: FinetunedPart = "frozen"
    max_scenes: int | None = None
    calibration_share: float = 0.25
    steps: int = 300
    learning_rate: float = 3e-3
    student_rate: float = 0.3
    weight_decay: float = 0.01
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Reject values out of range."""
        _require(self.max_scenes is None or self.max_scenes >= 1, f"max_scenes {self.max_scenes}: want at least 1")
        _require(0 < self.calibration_share < 1, f"calibration_share {self.calibration_share}: want within (0, 1)")
        _require(self.steps >= 1 and self.learning_rate > 0, "steps and learning_rate must be positive")
        _require(self.student_rate > 0 and self.weight_decay >= 0, "student_rate: want > 0, weight_decay: want >= 0")

    def determining(self) -> "FinetuneConfig":
        """Return the part that determines the head."""
        return replace(self, device="auto")
