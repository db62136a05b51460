"""Stand-ins have the published architectures, and are read as the published checkpoints are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.presets import PRESET_NAMES, PresetName, build_preset
from teachers.config import WeightsConfig
from teachers.image.lite import LiteConfig
from teachers.image.presets import paper_image_teachers, small_image_teachers
from teachers.image.stand_ins import architecture, write_stand_ins
from teachers.image.weights import DEMO_WEIGHTS, TeacherModel, resolve_weights


@pytest.mark.parametrize(
    ("source", "millions"),
    [
        ("nvidia/segformer-b0-finetuned-cityscapes-1024-1024", 3.72),
        ("nvidia/segformer-b5-finetuned-cityscapes-1024-1024", 84.6),
        ("depth-anything/Depth-Anything-V2-Small-hf", 24.8),
        ("LiheYoung/depth-anything-base-hf", 97.5),
        ("facebook/dinov2-small", 22.06),
        ("facebook/dinov2-base", 86.6),
        ("openai/clip-vit-base-patch16", 149.6),
        ("openai/clip-vit-large-patch14-336", 427.9),
    ],
)
def test_sizes_are_the_published_ones(source: str, millions: float) -> None:
    with torch.device("meta"):
        model = architecture(source)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=1.5e-3)


def test_every_published_teacher_has_an_architecture() -> None:
    for teachers in (small_image_teachers(), paper_image_teachers()):
        bases = (teachers.dinov2_basis, teachers.clip_basis)
        weights = [teachers.sky.weights, teachers.depth_anything.weights, *(b.extractor.weights for b in bases)]
        with torch.device("meta"):
            assert all(architecture(one.source) for one in weights)
    with pytest.raises(ValueError, match="nobody/resnet-50: no architecture"):
        architecture("nobody/resnet-50")


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("published", [None, "nuscenes-128x228"])
def test_a_student_reads_the_channels_of_the_depth_model_beside_it(preset: PresetName, published: str | None) -> None:
    config = build_preset(preset, variant="clip", published=published)
    source = config.image_teachers.depth_anything.weights.source
    if source == "demo":
        channels = LiteConfig.from_pretrained(DEMO_WEIGHTS / TeacherModel.LITE).widths[-1]
    else:
        channels = architecture(source).config.fusion_hidden_size
    assert config.student.model.coarse_depth.depth_feature_channels == channels


def test_they_are_written_once_and_read_as_any_checkpoint(tmp_path: Path) -> None:
    small = small_image_teachers()
    same = replace(small, clip_basis=replace(small.clip_basis, extractor=small.dinov2_basis.extractor))
    found = write_stand_ins(same, tmp_path)  # without CLIP, which takes half a gigabyte
    assert found.sky.weights == WeightsConfig(source=str(tmp_path / "segformer-b0-finetuned-cityscapes-1024-1024"))
    written = tmp_path / "segformer-b0-finetuned-cityscapes-1024-1024" / "model.safetensors"
    before = written.stat().st_mtime_ns
    assert write_stand_ins(same, tmp_path) == found
    assert written.stat().st_mtime_ns == before
    assert (written.parent / "preprocessor_config.json").is_file()
    folder = resolve_weights(found.depth_anything.weights, TeacherModel.DEPTH_ANYTHING)
    assert folder.licence == "cc0-1.0"
