"""What a run leaves open follows from its student and from its split."""

import dataclasses
from typing import Any

import pytest

from pipeline.presets import PRESET_NAMES, PresetName
from pipeline.run_config import HomeSelection
from student.config import Variant
from student.presets.published import PUBLISHED_SIZES, published_student
from student.presets.students import VARIANTS

ONE_SCENE = {"train_scenes": ("d.a",)}
TWO_SCENES = {"train_scenes": ("d.a",), "validation_scenes": ("d.b",)}


def sizes(config: Any) -> dict[str, tuple[int, int]]:
    return {
        "input_images": config.input_images.size,
        "sky_mask": config.image_teachers.sky.size,
        "field": config.nerf.image_size,
        "teacher_depth": config.teacher_depth.size,
        "virtual_views": config.virtual_views.size,
        "teacher_features": config.teacher_features.size,
    }


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("factor", [1, 2])
def test_no_target_is_smaller_than_what_the_student_compares_with_it(
    preset: PresetName, variant: Variant, factor: int
) -> None:
    data = HomeSelection(preset=preset, variant=variant).resolve().student.data
    grids = {name: factor * getattr(data, name) for name in dir(data) if name.endswith(("_height", "_width"))}
    chosen = HomeSelection(
        preset=preset, variant=variant, overrides=tuple(f"student.data.{name}={value}" for name, value in grids.items())
    ).resolve()
    depth = (grids["depth_height"], grids["depth_width"])
    render = (grids["render_height"], grids["render_width"])
    decoded = (2 * render[0], 2 * render[1])
    told = sizes(chosen)
    assert told["input_images"] == (grids["image_height"], grids["image_width"])
    assert told["teacher_depth"] == tuple(map(max, depth, render))
    assert told["virtual_views"] == decoded
    assert told["teacher_features"] == render
    for name, wanted in (("field", decoded), ("sky_mask", depth), ("sky_mask", told["field"])):
        assert all(size >= want for size, want in zip(told[name], wanted, strict=True)), name


def test_the_published_student_gets_the_sizes_that_it_reads() -> None:
    assert sizes(HomeSelection(preset="paper").resolve()) == {
        "input_images": (128, 228),
        "sky_mask": (450, 800),
        "field": (450, 800),
        "teacher_depth": (128, 228),
        "virtual_views": (128, 228),
        "teacher_features": (64, 114),
    }


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_a_published_run_gets_the_sizes_that_it_reads(size: str) -> None:
    rows, columns = (int(side) for side in size.rpartition("-")[2].split("x"))
    resolved = HomeSelection(preset="paper", variant="clip", published=size).resolve()
    assert resolved.student == published_student(size, output="clip")
    told = sizes(resolved)
    assert told["input_images"] == told["teacher_depth"] == told["virtual_views"] == (rows, columns)
    assert told["teacher_features"] == (rows // 2, columns // 2)


def test_a_published_run_stays_with_its_preset() -> None:
    kept = HomeSelection(preset="paper", published="nuscenes-224x400")
    assert HomeSelection.on_top_of(kept, variant="depth").published == "nuscenes-224x400"
    assert HomeSelection.on_top_of(kept, preset="small").published is None
    with pytest.raises(ValueError, match="published run 'nuscenes-1x1'"):
        HomeSelection(preset="paper", published="nuscenes-1x1")
    with pytest.raises(ValueError, match="no published run is of variant 'clip_dinov2'"):
        HomeSelection(preset="paper", variant="clip_dinov2", published="nuscenes-224x400").resolve()


def test_a_given_size_is_kept() -> None:
    given = (
        "teacher_depth.height=20",
        "teacher_depth.width=30",
        "virtual_views.width=40",
        "nerf.image_height=16",
        "student.data.render_height=80",
    )
    told = sizes(HomeSelection(preset="demo", overrides=given).resolve())
    assert told["teacher_depth"] == (20, 30)
    assert told["virtual_views"] == (160, 40)
    assert told["field"] == (16, 200)


def test_a_size_equal_to_the_followed_one_is_kept_too_where_the_student_changes() -> None:
    given = ("teacher_depth.height=36", "student.data.render_height=80")
    assert HomeSelection(preset="demo", overrides=given).resolve().teacher_depth.height == 36


def test_the_field_never_sees_frames_that_are_held_out_from_its_student() -> None:
    alone = HomeSelection(preset="demo", **ONE_SCENE)
    assert alone.resolve().nerf.fit_all_frames is False
    assert HomeSelection(preset="demo", **TWO_SCENES).resolve().nerf.fit_all_frames is True
    assert HomeSelection(preset="demo").resolve().nerf.fit_all_frames is False
    asked = dataclasses.replace(alone, overrides=("nerf.fit_all_frames=true",))
    with pytest.raises(ValueError, match="1 in 4 frames is held out from the student"):
        asked.resolve()


@pytest.mark.parametrize("every", [3, 5])
def test_student_and_field_hold_out_the_same_frames(every: int) -> None:
    selection = HomeSelection(preset="demo", overrides=(f"nerf.holdout_every={every}",), **ONE_SCENE)
    assert selection.training_set("clip").held_out_stride == selection.resolve().nerf.holdout_every == every
