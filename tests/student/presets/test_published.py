"""Every published configuration builds with the published number of weights, which is on record for all sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from student.config import StudentConfig
from student.model.distillnerf import DistillNeRF
from student.presets.published import (
    PUBLISHED_RUNS,
    PUBLISHED_SIZES,
    paper_compatible,
    published_student,
    published_variant,
)
from student.presets.students import PRESETS, student_preset

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "student-parameters.json"


def every_run() -> dict[str, StudentConfig]:
    runs = {
        f"{size} {space} {output}": published_student(size, space=space, output=output)
        for size in PUBLISHED_SIZES
        for space in ("linear", "contracted")
        for output in ("rgb", "clip", "dinov2")
    }
    for preset in PRESETS:
        for variant in ("depth", "depth_contracted_virtual", "clip_dinov2"):
            runs[f"{preset} {variant}"] = student_preset(preset, variant)
    return runs


def num_parameters(run: StudentConfig) -> int:
    with torch.device("meta"):
        model = DistillNeRF(run.model)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_every_run_has_the_recorded_number_of_weights(request: pytest.FixtureRequest) -> None:
    counts = {name: num_parameters(run) for name, run in every_run().items()}
    if request.config.getoption("--regenerate-golden"):
        GOLDEN.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    assert counts == json.loads(GOLDEN.read_text())
    assert counts["nuscenes-128x228 contracted rgb"] == pytest.approx(15.8e6, rel=0.02)


def test_sizes_and_spaces_are_the_published_ones() -> None:
    run = published_student("nuscenes-224x400", space="contracted", output="clip")
    assert (run.data.image_height, run.data.image_width) == (224, 400)
    assert (run.data.render_height, run.data.render_width) == (112, 200)
    assert len(DistillNeRF(replace(run.model, decoder=None)).ray_edges) - 1 == 143
    assert run.data.feature_sources == ("clip",)
    linear = published_student("waymo-144x216", space="linear")
    assert (linear.data.render_height, linear.data.render_width) == (72, 108)
    assert linear.losses.max_lidar_range == 50.0
    assert linear.model.contraction.inner_ratio == 0.999
    with pytest.raises(ValueError, match="want one of nuscenes-128x228"):
        published_student("nuscenes-1x1")


def test_paper_compatible_changes_sampling_and_pooling_alone() -> None:
    run = published_student("nuscenes-128x228")
    old = paper_compatible(run).model
    assert (old.renderer.fine_sampling, old.voxels.pooling) == ("window", "mean")
    ours = replace(
        old,
        renderer=replace(old.renderer, fine_sampling="inverse_cdf"),
        voxels=replace(old.voxels, pooling="opacity"),
    )
    assert ours == run.model


def test_a_name_says_which_published_run_it_is() -> None:
    assert len(set(PUBLISHED_RUNS)) == 4 * len(PUBLISHED_SIZES)
    size = "nuscenes-224x400"
    assert published_variant(size, "clip") == published_student(size, output="clip")
    linear = published_student(size, space="linear", output="clip")
    assert published_variant(f"{size}-linear", "clip") == linear  # the paper's row of features
    assert published_variant(f"{size}-linear-as-coded", "clip") == paper_compatible(linear)
    assert published_variant(f"{size}-as-coded", "depth_contracted_virtual") == paper_compatible(
        published_student(size)
    )
    assert published_variant(f"{size}-linear", "depth") == published_variant(size, "depth")
    with pytest.raises(ValueError, match="want variant 'depth'"):
        published_variant(f"{size}-linear", "depth_contracted_virtual")
    with pytest.raises(ValueError, match="published run 'nuscenes-224x400-curved'"):
        published_variant("nuscenes-224x400-curved", "clip")
