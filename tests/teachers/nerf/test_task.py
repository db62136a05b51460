import json

import pytest

from storage.errors import ErrorKind, IntegrityError, TeacherDivergedError
from storage.kinds import StoreForm
from storage.stores.versioned import Materialized, StoreVersion
from teachers.nerf.config import (
    ExecutionConfig,
    FeatureFieldConfig,
    FieldConfig,
    FieldLossConfig,
    NerfConfig,
    SamplingConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
    determining,
)
from teachers.nerf.task import NerfStep, NerfTask, read_result, write_result

STEPS = (
    NerfStep(action="fit", config=NerfConfig(num_steps=7, losses=FieldLossConfig(line_of_sight_margin_m=(4.0, 1.0)))),
    NerfStep(action="render_depth", config=TeacherDepthConfig(height=9)),
    NerfStep(action="render_virtual_views", config=VirtualViewsConfig()),
    NerfStep(action="read_occupancy", config=TeacherOccupancyConfig(stride=4)),
    NerfStep(action="distil_features", config=FeatureFieldConfig(feature_sources=("clip",))),
    NerfStep(action="render_features", config=TeacherFeaturesConfig(height=9)),
)


def test_a_task_survives_json():
    task = NerfTask(home_root="/runs/a", scene_key="test.wall", steps=STEPS, result_file="/tmp/r.json")
    assert NerfTask.from_json(json.loads(json.dumps(task.to_json()))) == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: task["steps"][0].update(action="bake"), r"task\.steps\[0\]\.action: is 'bake'"),
        (lambda task: task["steps"][1]["config"].pop("height"), r"task\.steps\[1\]\.config\.height: is missing"),
        (lambda task: task["steps"][0]["config"].update(num_stepz=3), r"config\.num_stepz: is unknown"),
        (lambda task: task["steps"][0]["config"].update(num_steps=3.5), r"config\.num_steps: is 3\.5"),
        (lambda task: task["steps"][0]["config"]["field"].update(shading="phong"), r"field\.shading: is 'phong'"),
        (lambda task: task["steps"][0]["config"].update(num_steps=0), "at least one step"),
        (lambda task: task.update(homee="x"), r"task\.homee: is unknown"),
        (lambda task: task.pop("store_url"), r"task\.store_url: is missing"),
    ],
)
def test_a_bad_task_is_named(change, message):
    written = NerfTask(home_root="h", scene_key="a.b", steps=STEPS).to_json()
    change(written)
    with pytest.raises(IntegrityError, match=message):
        NerfTask.from_json(written)


def test_a_task_without_steps_is_refused():
    written = NerfTask(home_root="h", scene_key="a.b", steps=STEPS).to_json()
    with pytest.raises(ValueError, match="at least one step"):
        NerfTask.from_json({**written, "steps": []})


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
        lambda: TeacherDepthConfig(height=1),
        lambda: ExecutionConfig(rays_per_chunk=0),
    ],
)
def test_impossible_configurations_are_refused(build):
    with pytest.raises(ValueError, match=r"want|must"):
        build()


def test_how_it_is_run_determines_nothing():
    fast = NerfConfig(execution=ExecutionConfig(device="cpu", rays_per_chunk=64))
    assert determining(fast) == NerfConfig()
