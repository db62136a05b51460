"""Complete configurations of the whole pipeline, each a function named for its purpose.

Each stage owns its configuration; this module puts them together. One preset name, one seed and a list of overrides
then describe a run from raw frames to report.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from storage.ingest.raw_scene import IngestConfig
from storage.procedural.config import ProceduralConfig
from storage.references.config import LidarOccupancyConfig
from storage.targets.images import InputImagesConfig
from student.config import OnFailedGate, StudentConfig, Variant
from student.evaluation.config import EvaluationConfig, WeakLabelConfig
from student.presets.published import published_variant
from student.presets.students import demo_student, paper_student, small_student, tiny_student
from teachers.config import ImageTeachersConfig
from teachers.image.presets import demo_image_teachers, paper_image_teachers, small_image_teachers, tiny_image_teachers
from teachers.nerf.config import (
    ErrorSamplingConfig,
    FeatureFieldConfig,
    FieldConfig,
    FieldLossConfig,
    NerfConfig,
    ProposalConfig,
    SamplingConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
)

PresetName = Literal["demo", "tiny", "small", "paper"]
"""``demo`` runs procedural scenes in minutes on two CPU cores, ``tiny`` a real scene on the same machine, ``small`` and
``paper`` need an accelerator and published checkpoints."""

PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Division of scenes into those to learn from and those held out.

    If no scene is held out, frames of each are: the same ones that judge its field, see ``NerfConfig.holdout_every``.

    Attributes:
        held_out_scenes: Number of scenes held out if none are named, the last ones by key; 0 holds none out.
        allow_ungated: Kinds that a training set takes even if their quality gate failed.
        on_failed_gate: Whether a scene that fails a gate is left out of training, or stops the run.
    """

    held_out_scenes: int = 1
    allow_ungated: tuple[str, ...] = ()
    on_failed_gate: OnFailedGate = "leave_out"

    def __post_init__(self) -> None:
        if self.held_out_scenes < 0:
            raise ValueError(f"held_out_scenes {self.held_out_scenes}, want >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """Configuration of one run, for all its stages.

    Attributes:
        procedural: Drives to generate if there is no recording.
        ingest: Parts to ingest from a recording.
        input_images: Size of the images that the student reads.
        lidar_occupancy: How LiDAR beams become voxels, by which recordings are judged.
        image_teachers: Sky, monocular depth, DINOv2 and CLIP.
        nerf: The per-scene field.
        teacher_depth: Depth rendered from it.
        teacher_occupancy: Its density in the grid in which occupancy is judged.
        virtual_views: Views rendered from it at other poses than the recorded ones.
        feature_field: Features distilled into it.
        teacher_features: The same rendered back.
        split: Choice of held-out scenes.
        student: The student, its data, losses and budget.
        evaluation: Metrics and the amount of data that they are measured on.
        weak_labels: Labels that the student gives to scenes.
    """

    procedural: ProceduralConfig
    ingest: IngestConfig
    input_images: InputImagesConfig
    lidar_occupancy: LidarOccupancyConfig
    image_teachers: ImageTeachersConfig
    nerf: NerfConfig
    teacher_depth: TeacherDepthConfig
    teacher_occupancy: TeacherOccupancyConfig
    virtual_views: VirtualViewsConfig
    feature_field: FeatureFieldConfig
    teacher_features: TeacherFeaturesConfig
    split: SplitConfig
    student: StudentConfig
    evaluation: EvaluationConfig
    weak_labels: WeakLabelConfig


def build_preset(
    name: PresetName, *, variant: Variant, seed: int | None = None, published: str | None = None
) -> PipelineConfig:
    """Return a preset. What follows from the student or from the split is left open, see ``pipeline.settled.settle``.

    Args:
        name: Name of the preset.
        variant: Student variant.
        seed: Seed of every random choice in every stage; None keeps the preset's own seeds.
        published: Published run that takes the place of the preset's student, by data set and image size.

    Raises:
        ValueError: If there is no such preset, or no such published run.
    """
    if name not in _PRESETS:
        raise ValueError(f"preset {name!r}, want one of {', '.join(_PRESETS)}")
    config = _PRESETS[name](variant)
    if published is not None:
        student = with_depth_channels(published_variant(published, variant), like=config.student)
        config = dataclasses.replace(config, student=student)
    return config if seed is None else reseed(config, seed)


def with_depth_channels(student: StudentConfig, *, like: StudentConfig) -> StudentConfig:
    """Return a student that reads as many channels of Depth Anything as another one, beside the same image teachers."""
    channels = like.model.coarse_depth.depth_feature_channels
    coarse = dataclasses.replace(student.model.coarse_depth, depth_feature_channels=channels)
    return dataclasses.replace(student, model=dataclasses.replace(student.model, coarse_depth=coarse))


def demo(variant: Variant) -> PipelineConfig:
    """Return the run of ``distillnerf demo``: procedural scenes, two CPU cores, minutes.

    Streets and aprons alternate, so that training sees aprons before the last scene, a held-out apron.
    """
    config = _assemble(demo_student(variant), demo_image_teachers(), NerfConfig(num_steps=420))
    return dataclasses.replace(config, procedural=ProceduralConfig(airside_share=0.5, seed=1))


def tiny(variant: Variant) -> PipelineConfig:
    """Return a run of real scenes on two CPU cores."""
    return _assemble(tiny_student(variant), tiny_image_teachers(), NerfConfig())


def small(variant: Variant) -> PipelineConfig:
    """Return a run for one accelerator: published image size, the smallest published checkpoints."""
    nerf = NerfConfig(
        min_image_height=225,
        min_image_width=400,
        num_steps=4000,
        pixel_rays=8192,
        lidar_pixel_rays=2048,
        lidar_rays=2048,
        field=FieldConfig(
            num_levels=10, log2_table_size=20, dynamic=True, dynamic_log2_table_size=18, flow=True, shadow=True
        ),
        moving_source="boxes",
    )
    return _assemble(small_student(variant), small_image_teachers(), nerf)


def paper(variant: Variant) -> PipelineConfig:
    """Return the published run: its image size, its teachers' checkpoints, EmerNeRF's sizes and coefficients.

    What EmerNeRF has and this field cannot express is in ``docs/guides/differences-from-emernerf.md``.
    """
    assembled = _assemble(paper_student(variant), paper_image_teachers(), _emernerf())
    features = FeatureFieldConfig(positional="shared", positional_height=80, positional_width=120)
    return dataclasses.replace(assembled, feature_field=features)


def _emernerf() -> NerfConfig:
    """Return EmerNeRF's field, samples, rays, schedule and weights (EmerNeRF Sec. A.1.2).

    Its grids have so many cells across space; cells are metric here, and meant for a box of 60 m to either side.
    """
    return NerfConfig(
        min_image_height=450,
        min_image_width=800,
        num_steps=25_000,
        moving_source="none",
        pixel_rays=8192,
        lidar_pixel_rays=0,
        lidar_rays=8192,
        learning_rate=0.01,
        final_learning_rate_ratio=0.33**4,
        field=FieldConfig(
            num_levels=10,
            log2_table_size=20,
            coarsest_cell_m=15.0,
            finest_cell_m=0.03,
            hidden_width=64,
            density_channels=0,
            appearance_width=16,
            appearance="image",
            shading="per_sample",
            dynamic=True,
            dynamic_levels=10,
            dynamic_log2_table_size=18,
            dynamic_coarsest_cell_m=7.5,
            dynamic_cell_m=0.03,
            flow=True,
            shadow=True,
        ),
        sampling=SamplingConfig(
            near_m=0.1,
            far_m=1000.0,
            proposals=(
                ProposalConfig(num_samples=128, num_levels=8, log2_table_size=20, finest_cell_m=0.47),
                ProposalConfig(num_samples=64, num_levels=8, log2_table_size=20, finest_cell_m=0.12),
            ),
            num_field_samples=64,
        ),
        error_sampling=ErrorSamplingConfig(share=0.25, refresh_every=2000),
        losses=FieldLossConfig(
            depth=1.0,
            depth_form="squared",
            line_of_sight=0.1,
            line_of_sight_form="normal",
            line_of_sight_margin_m=(6.0, 2.5),
            sky=0.001,
            distortion=0.0,
            opacity_entropy=0.0,
            dynamic=0.01,
            static_clearance=0.0,
            shadow=0.01,
            flow_cycle=0.01,
            flow=0.0,
        ),
    )


def _assemble(student: StudentConfig, teachers: ImageTeachersConfig, nerf: NerfConfig) -> PipelineConfig:
    """Put the stages together; sizes are left open, to follow the student once it is known."""
    return PipelineConfig(
        procedural=ProceduralConfig(),
        ingest=IngestConfig(),
        input_images=InputImagesConfig(),
        lidar_occupancy=LidarOccupancyConfig(),
        image_teachers=teachers,
        nerf=nerf,
        teacher_depth=TeacherDepthConfig(),
        teacher_occupancy=TeacherOccupancyConfig(),
        virtual_views=VirtualViewsConfig(),
        feature_field=FeatureFieldConfig(),
        teacher_features=TeacherFeaturesConfig(),
        split=SplitConfig(),
        student=student,
        evaluation=EvaluationConfig(),
        weak_labels=WeakLabelConfig(),
    )


_PRESETS: dict[PresetName, Callable[[Variant], PipelineConfig]] = {
    "demo": demo,
    "tiny": tiny,
    "small": small,
    "paper": paper,
}


def reseed(config: Any, seed: int) -> Any:  # noqa: ANN401 - any nested dataclass; returns the same type
    """Return the configuration with every field called ``seed``, at any depth, set to one value."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed":
            changes["seed"] = seed
        elif dataclasses.is_dataclass(value):
            changes[field.name] = reseed(value, seed)
    return dataclasses.replace(config, **changes) if changes else config
