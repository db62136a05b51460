import json

import pytest

from storage.errors import ErrorKind, TeacherDivergedError
from storage.stores.versioned import Materialized, StoreForm, StoreVersion
from teachers.nerf.config import (
    ExecutionConfig,
    FieldConfig,
    FieldLossConfig,
    NerfConfig,
    SamplingConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    VirtualViewsConfig,
    determining,
)
from teachers.nerf.task import NerfStep, NerfTask, decode, read_result, write_result

STEPS = (
    NerfStep(action="fit", config=NerfConfig(num_steps=7, losses=FieldLossConfig(line_of_sight_margin_m=(4.0, 1.0)))),
    NerfStep(action="render_depth", config=TeacherDepthConfig(height=9)),
    NerfStep(action="render_virtual_views", config=VirtualViewsConfig()),
    NerfStep(action="render_features", config=TeacherFeaturesConfig(feature_source="clip_features")),
)


def test_a_task_survives_json():
    task = NerfTask(home_root="/runs/a", scene_key="test.wall", steps=STEPS, result_file="/tmp/r.json")
    assert NerfTask.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_one_step_may_stand_at_the_top():
    task = NerfTask.from_json({"home": "h", "scene_key": "a.b", "action": "fit", "config": {"num_steps": 3}})
    assert task.steps == (NerfStep(action="fit", config=NerfConfig(num_steps=3)),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "bake"}, "action 'bake'"),
        ({"config": {"num_stepz": 3}}, "unknown fields"),
        ({"config": {"num_steps": 3.5}}, "num_steps is 3.5"),
        ({"config": {"field": {"shading": "phong"}}}, "shading is 'phong'"),
        ({"config": {"losses": {"line_of_sight_margin_m": [1.0]}}}, "line_of_sight_margin_m"),
        ({"config": {"num_steps": 0}}, "at least one step"),
        ({"homee": "x"}, "unknown fields"),
    ],
)
def test_a_bad_task_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        NerfTask.from_json({"home": "h", "scene_key": "a.b", "action": "fit", "config": {}, **change})


def test_a_step_takes_the_config_of_its_action():
    with pytest.raises(ValueError, match="want TeacherDepthConfig"):
        NerfStep(action="render_depth", config=NerfConfig())


def test_results_come_back_typed(tmp_path):
    version = StoreVersion("nerf_teacher", "a.b", "d" * 64, "d" * 64, StoreForm.FILES)
    made = Materialized(version, False, {"psnr": 21.5, "quality": {"passed": True, "checks": {}}})
    write_result(tmp_path / "result.json", {"fit": made})
    assert read_result(tmp_path / "result.json") == {"fit": made}


def test_the_error_that_ended_a_task_is_raised_again(tmp_path):
    error = TeacherDivergedError(ErrorKind.DIVERGED, "a.b", "loss nan at step 3")
    write_result(tmp_path / "result.json", {}, error)
    with pytest.raises(TeacherDivergedError, match="loss nan at step 3"):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    "build",
    [
        lambda: NerfConfig(holdout_every=1),
        lambda: NerfConfig(pixel_rays=0),
        lambda: NerfConfig(final_learning_rate_ratio=0.0),
        lambda: FieldConfig(finest_cell_m=9.0, coarsest_cell_m=4.0),
        lambda: SamplingConfig(near_m=5.0, far_m=1.0),
        lambda: FieldLossConfig(rgb=-1.0),
        lambda: VirtualViewsConfig(view_names=("a",)),
        lambda: TeacherDepthConfig(min_opacity=0.0),
        lambda: ExecutionConfig(rays_per_chunk=0),
    ],
)
def test_impossible_configurations_are_refused(build):
    with pytest.raises(ValueError, match=r"want|must"):
        build()


def test_how_it_is_run_determines_nothing():
    fast = NerfConfig(execution=ExecutionConfig(device="cpu", rays_per_chunk=64))
    assert determining(fast) == NerfConfig()


def test_decoding_keeps_numbers_of_the_annotated_type():
    config = decode(NerfConfig, {"learning_rate": 1})
    assert isinstance(config.learning_rate, float)
    with pytest.raises(ValueError, match="use_sky_mask"):
        decode(NerfConfig, {"use_sky_mask": 1})
