"""Complete configurations of the whole pipeline, each a function named for what it is for.

Every stage's configuration is owned by that stage; this module only puts them side by side, so that one preset name,
one seed and a list of overrides describe a run from raw frames to report.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from storage.ingest.raw_scene import IngestConfig
from storage.procedural.config import ProceduralConfig
from storage.targets.images import InputImagesConfig
from student.config import StudentConfig, Variant
from student.evaluation_config import EvaluationConfig
from student.presets import demo_student, tiny_student
from teachers.config import ImageTeachersConfig
from teachers.nerf.config import NerfConfig, TeacherDepthConfig, TeacherFeaturesConfig, VirtualViewsConfig

PresetName = Literal["demo", "tiny"]
"""``demo`` runs procedural scenes in minutes on two CPU cores, ``tiny`` a real scene on the same machine."""

PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How scenes are divided into those to learn from and those to be judged on.

    Attributes:
        held_out_scenes: Scenes kept for validation, the last ones by key, where none are named. 0 holds none out.
        held_out_stride: Where there is one scene only, every so many-th frame is held out instead.
        allow_ungated: Kinds that a training set takes although their quality gate failed.
    """

    held_out_scenes: int = 1
    held_out_stride: int = 4
    allow_ungated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.held_out_scenes < 0:
            raise ValueError(f"held_out_scenes {self.held_out_scenes}, want >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One run, every stage of it.

    Attributes:
        procedural: Drives to generate where there is no recording.
        ingest: What is taken from a recording.
        input_images: Size of the images that the student reads.
        image_teachers: Sky, monocular depth, DINOv2 and CLIP.
        nerf: The per-scene field.
        teacher_depth: Depth rendered from it.
        virtual_views: Views rendered from it at poses the car never had.
        teacher_features: Features distilled into it and rendered back.
        split: Which scenes are held out.
        student: The student, its data, losses and budget.
        evaluation: What is measured, and on how much.
    """

    procedural: ProceduralConfig
    ingest: IngestConfig
    input_images: InputImagesConfig
    image_teachers: ImageTeachersConfig
    nerf: NerfConfig
    teacher_depth: TeacherDepthConfig
    virtual_views: VirtualViewsConfig
    teacher_features: TeacherFeaturesConfig
    split: SplitConfig
    student: StudentConfig
    evaluation: EvaluationConfig


def build_preset(name: PresetName, *, variant: Variant, seed: int | None = None) -> PipelineConfig:
    """Return a preset.

    Args:
        name: Which one.
        variant: What the student is taught.
        seed: Of every random choice in every stage; None keeps the preset's own seeds.

    Raises:
        ValueError: If there is no such preset.
    """
    builders = {"demo": demo, "tiny": tiny}
    if name not in builders:
        raise ValueError(f"preset {name!r}, want one of {', '.join(builders)}")
    config = builders[name](variant)
    return config if seed is None else reseed(config, seed)


def demo(variant: Variant) -> PipelineConfig:
    """Return the run of ``distillnerf demo``: procedural scenes, two CPU cores, minutes."""
    student = demo_student(variant)
    return PipelineConfig(
        procedural=ProceduralConfig(),
        ingest=IngestConfig(),
        input_images=InputImagesConfig(height=student.data.image_height, width=student.data.image_width),
        image_teachers=ImageTeachersConfig(),
        nerf=NerfConfig(),
        teacher_depth=TeacherDepthConfig(),
        virtual_views=VirtualViewsConfig(),
        teacher_features=TeacherFeaturesConfig(),
        split=SplitConfig(),
        student=student,
        evaluation=EvaluationConfig(),
    )


def tiny(variant: Variant) -> PipelineConfig:
    """Return a run of real scenes on two CPU cores."""
    student = tiny_student(variant)
    return dataclasses.replace(
        demo(variant),
        input_images=InputImagesConfig(height=student.data.image_height, width=student.data.image_width),
        student=student,
    )


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
