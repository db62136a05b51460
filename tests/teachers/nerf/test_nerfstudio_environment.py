"""What only nerfstudio's own environment can show, run there in two subprocesses."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.feature_views import iterate_views
from storage.code import code_digest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target, write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from teachers.nerf.config import (
    FeatureFieldConfig,
    FieldConfig,
    FieldLossConfig,
    FitGateConfig,
    NerfConfig,
    ProposalConfig,
    SamplingConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
)
from teachers.nerf.feature_request import FeatureView
from teachers.nerf.provenance import MODULE_OF
from teachers.nerf.task import NerfStep, NerfTask, read_result

SCENE_KEY = "test.wall"
_PATTERN = 0.1 * np.where(np.arange(16) < 8, 1.0, -1.0)  # across the 16 columns of a feature map


def run(python: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, check=False, env=environment, timeout=300, cwd=root
    )


@pytest.fixture(scope="module")
def checks(nerfstudio_python, repository_root, wall_home, lacking_home, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("nerfstudio")
    for name, home in (("a", wall_home), ("b", wall_home), ("lacking", lacking_home)):
        shutil.copytree(home.root, folder / name)
    script = Path(__file__).with_name("nerfstudio_checks.py")
    homes = (str(folder / name) for name in ("a", "b", "lacking"))
    done = run(nerfstudio_python, repository_root, str(script), *homes)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_both_environments_digest_code_alike(nerfstudio_python, repository_root):
    question = "from storage.code import code_digest; print(*map(code_digest, sys.argv[1:]))"
    modules = sorted(set(MODULE_OF.values()))
    done = run(nerfstudio_python, repository_root, "-c", f"import sys; {question}", *modules)
    assert done.stdout.split() == [code_digest(module) for module in modules], done.stderr


def test_rays_are_those_of_nerfstudios_cameras(checks):
    assert checks["ray_difference"] < 1e-5


def test_a_proposal_knows_what_moves_where_and_when(checks):
    assert checks["proposal"] == {
        "anywhere": [False],  # nothing is known of what moves
        "0": [False, False],
        "1": [True, False],  # the second point is ten metres away
        "2": [False, False],
    }


def test_an_interrupted_fit_continues_bit_equal(checks):
    """Interrupted in the first phase, in the judgement and in the second phase."""
    resume = checks["resume"]
    assert resume["interruptions"] == 3
    assert resume["taken"] == [*range(18), *range(18, 24)], "no step was taken twice"
    assert resume["judged"] == [1, 1], "judged on the held-out frame; the first was interrupted"
    assert resume["same_judgement"]
    assert not resume["published_early"]
    assert resume["checkpoints_left_by_interruption"] == ["attempt-5.safetensors"] * 3
    assert resume["equal"]
    assert resume["same_digest"]
    assert resume["steps_after"][-1] == 24.0
    assert resume["history"] == sorted(resume["history"])
    assert resume["work_is_gone"]
    assert resume["reused"]


def test_a_field_says_what_it_was_fitted_to_when_it_was_judged_and_after(checks):
    metrics, description = checks["resume"]["metrics"], checks["resume"]["description"]
    assert description["phases"] == [{"frames": [0, 1, 3, 4], "steps": 18}, {"frames": [0, 1, 2, 3, 4], "steps": 6}]
    assert description["held_out_frames"] == [2]
    assert description["fitted_frames"] == metrics["fitted_frames"] == [0, 1, 2, 3, 4]
    assert description["judgement"]["psnr"] == metrics["psnr"]
    assert metrics["judged_steps"] == 18
    assert set(metrics["by_camera"]) == {"seen", "joined"}
    assert set(metrics["by_camera"]["joined"]) == {"FRONT", "LEFT"}
    assert set(metrics["quality"]["checks"]) >= {"static_psnr", "whole_psnr_drop", "whole_abs_rel_rise"}


def test_divergence_is_retried_with_the_next_seed_and_then_raised(checks):
    assert checks["divergence"]["seed_used"] == 21
    assert "test.wall" in checks["divergence"]["raised"]
    assert "nan" in checks["divergence"]["raised"]


def test_a_limit_of_wall_time_stops_a_fit_that_goes_on_when_it_is_run_again(checks):
    stops = checks["limits"]["stops"]
    assert len(stops) == 3
    for step, said in enumerate(stops, start=1):
        assert f"step {step} of 4" in said
        assert "run it again to continue" in said


def test_too_much_memory_and_a_full_disk_are_told(checks):
    limits = checks["limits"]
    assert "max_memory_bytes is 1048576" in limits["memory"]
    assert "nerf.pixel_rays" in limits["memory"]
    assert "attempt-52.safetensors: no room for" in limits["disk"]
    assert limits["step_left"] == 0, "the last good state stays"
    assert limits["went_on"]


def test_a_scene_without_lidar_is_fitted_and_its_gate_says_so(checks):
    metrics = checks["lacking"]["test.no-lidar"]["metrics"]
    gate = metrics["quality"]["checks"]
    for name in ("static_lidar_abs_rel", "lidar_coverage", "whole_abs_rel_rise"):
        assert gate[name]["undecided"] == "the scene has no LiDAR"
        assert not gate[name]["passed"]
    assert metrics["static_psnr"] > 8.0
    assert "lidar_abs_rel" not in metrics


def test_black_images_are_left_out_counted_and_named(checks):
    found = checks["lacking"]["test.black"]
    assert found["metrics"]["blank_images"] == 2
    assert found["blank_images"] == [[1, "FRONT"], [2, "FRONT"]]


def test_a_vehicle_that_stands_still_is_fitted_and_its_gate_says_so(checks):
    metrics = checks["lacking"]["test.still"]["metrics"]
    assert "stands still" in metrics["quality"]["checks"]["held_out_shift_m"]["undecided"]
    assert metrics["static_psnr"] > 8.0


def test_grids_are_those_asked_for_or_refused(checks):
    found = checks["implementations"]
    assert found["grid"] == "NerfstudioGrid"
    assert found["kept"] == "nerfstudio"
    assert found["auto"] == "torch"
    assert found["refused"]["cpu"]
    if not found["tcnn_exists"]:
        assert "tinycudann" in found["refused"]["cuda"]


def test_a_field_that_lacks_something_is_not_loaded(checks):
    broken = checks["broken"]
    assert broken["whole"] == ""
    assert broken["without_tensor"].startswith("field.safetensors: does not fit the field")
    assert broken["lost"] in broken["without_tensor"]
    assert broken["without_setting"].startswith("field.json.config.field")
    assert "num_levels" in broken["without_setting"]


FIT = NerfConfig(
    image_height=36,
    image_width=64,
    num_steps=150,
    pixel_rays=1024,
    lidar_pixel_rays=256,
    lidar_rays=256,
    field=FieldConfig(num_levels=4, log2_table_size=14, coarsest_cell_m=4.0, finest_cell_m=0.4),
    sampling=SamplingConfig(proposals=(ProposalConfig(num_samples=32),), num_field_samples=12, far_m=150.0),
    losses=FieldLossConfig(max_depth_m=40.0),
    gate=FitGateConfig(min_psnr=20.0, max_abs_rel=0.15),
)


@pytest.fixture(scope="module")
def worked(nerfstudio_python, repository_root, wall_home, tmp_path_factory) -> tuple[Home, dict, str]:
    """The worker's whole task on the wall scene: fit, depth, virtual views, features."""
    folder = tmp_path_factory.mktemp("worker")
    shutil.copytree(wall_home.root, folder / "home")
    home = Home(folder / "home")
    rng = np.random.default_rng(0)
    is_sky = read_target(home.open_arrays(home.require("sky_mask", SCENE_KEY)), "sky_mask", "is_sky")
    features = np.where(is_sky[:, :, ::4, ::4, None], 0.8, 0.2) + rng.normal(0, 0.02, (5, 2, 9, 16, 3))
    features[..., 1] += _PATTERN  # what a transformer adds by place, whatever it sees

    def write(group):
        write_target(group, "dinov2_features", "features", features.clip(0, 1).astype(np.float16))
        return {}

    materialize_arrays(home, Provenance(kind="dinov2_features", partition=SCENE_KEY), write)
    task = NerfTask(
        home_root=str(home.root),
        scene_key=SCENE_KEY,
        steps=(
            NerfStep(action="fit", config=FIT),
            NerfStep(action="render_depth", config=TeacherDepthConfig(height=18, width=32, max_abs_rel=0.15)),
            NerfStep(action="render_virtual_views", config=VirtualViewsConfig(height=9, width=16)),
            NerfStep(action="read_occupancy", config=TeacherOccupancyConfig(stride=2, samples_per_axis=1)),
            NerfStep(
                action="distil_features",
                config=FeatureFieldConfig(
                    feature_sources=("dinov2",), num_steps=80, rays_per_step=512, positional="shared"
                ),
            ),
            NerfStep(action="render_features", config=TeacherFeaturesConfig(height=9, width=16)),
        ),
        result_file=str(folder / "result.json"),
    )
    (folder / "task.json").write_text(json.dumps(task.to_json()))
    done = run(
        nerfstudio_python, repository_root, "-m", "teachers.nerf.worker", "--task-file", str(folder / "task.json")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home, read_result(folder / "result.json"), done.stderr


def test_a_fit_learns_the_scene_and_says_how_well(worked):
    home, results, log = worked
    metrics = results["fit"].metrics
    assert metrics["quality"]["passed"], metrics
    assert metrics["static_psnr"] > 20.0
    assert metrics["lidar_beam_abs_rel"] < 0.1
    assert metrics["sky_opacity"] < 0.3
    assert "psnr" in log
    assert "rays_per_s" in log
    folder = home.open_files(results["fit"].version, verify=True)
    assert sorted(p.suffix for p in folder.iterdir()) == [".json"] * 5 + [".safetensors"]
    provenance = home.provenance(results["fit"].version)
    assert {i.kind for i in provenance.inputs} == {"scene", "sky_mask"}
    assert provenance.licence == "none"
    assert provenance.packages["nerfstudio"] == "1.1.5"


def test_depth_is_metric_and_undefined_in_the_sky(worked):
    home, results, _ = worked
    group = home.open_arrays(results["render_depth"].version)
    depth = read_target(group, "teacher_depth", "termination_depth").astype(np.float32)
    is_sky = read_target(home.open_arrays(home.require("sky_mask", SCENE_KEY)), "sky_mask", "is_sky")
    is_sky = is_sky[:, :, 1::2, 1::2]
    assert depth.shape == (5, 2, 18, 32)
    assert np.isnan(depth[is_sky]).all()
    # The LEFT camera looks straight at the wall, 5.7 m away.
    centre = depth[:, 1, 8:10, 15:17]
    assert np.nanmedian(centre) == pytest.approx(5.7, abs=0.4)
    assert results["render_depth"].metrics["quality"]["passed"], results["render_depth"].metrics
    provenance = home.provenance(results["render_depth"].version)
    assert {i.kind for i in provenance.inputs} == {"scene", "sky_mask", "nerf_teacher"}


def test_virtual_views_stand_where_they_should(worked):
    home, results, _ = worked
    group = home.open_arrays(results["render_virtual_views"].version)
    assert group.attrs["view_names"] == ["left", "right", "up"]
    depth = read_target(group, "virtual_views", "termination_depth").astype(np.float32)
    image = read_target(group, "virtual_views", "image")
    assert image.shape == (5, 2, 3, 9, 16, 3)
    # From 1 m higher the FRONT camera's lowest rows meet the ground further away: 2.6 / 1.6 times.
    own = read_target(home.open_arrays(results["render_depth"].version), "teacher_depth", "termination_depth")
    ratio = np.nanmedian(depth[:, 0, 2, -1, 6:10]) / np.nanmedian(own[:, 0, -2:, 12:20].astype(np.float32))
    assert ratio == pytest.approx(2.6 / 1.6, abs=0.25)


def test_voxels_are_opaque_where_returns_are_and_clear_before_them(worked):
    home, results, _ = worked
    group = home.open_arrays(results["read_occupancy"].version)
    opacity = read_target(group, "teacher_occupancy", "opacity").astype(np.float32).reshape(5, -1)
    assert group.attrs["frames"] == [1, 3]
    np.testing.assert_array_equal(np.isnan(opacity).all(axis=1), [True, False, True, False, True])
    assert np.isfinite(opacity[[1, 3]]).all()
    reader = SceneReader.open(home, SCENE_KEY)
    for frame in (1, 3):
        returns = reader.lidar_points(frame)[:, :3].astype(np.float64)
        start = reader.lidar_to_ego[:3, 3]
        before = np.concatenate([start + share * (returns - start) for share in (0.3, 0.5, 0.7)])
        hit, crossed = (opacity[frame, OCC3D_GRID.flat_of(points)].mean() for points in (returns, before))
        assert hit > 0.15  # a field of few steps is soft, and one point in a voxel may miss its surface
        assert hit > 2 * crossed, (hit, crossed)
    provenance = home.provenance(results["read_occupancy"].version)
    assert {i.kind for i in provenance.inputs} == {"scene", "sky_mask", "nerf_teacher"}


def test_features_are_rendered_back_consistently(worked):
    home, results, _ = worked
    group = home.open_arrays(results["render_features"].version)
    features = read_target(group, "teacher_features", "dinov2").astype(np.float32)
    is_sky = read_target(home.open_arrays(home.require("sky_mask", SCENE_KEY)), "sky_mask", "is_sky")
    assert features.shape == (5, 2, 9, 16, 3)
    assert "clip" not in group
    assert features[is_sky[:, :, 2::4, 2::4]].mean() > 0.65
    assert features[~is_sky[:, :, 2::4, 2::4]].mean() < 0.4
    metrics = results["distil_features"].metrics
    assert metrics["dinov2_psnr"] > 20.0, metrics
    # The pattern of the second channel is known to be of the image, not of the scene; the first channel has none.
    steps = np.array([features[..., :8, c].mean() - features[..., 8:, c].mean() for c in (0, 1)])
    assert abs(steps[1] - steps[0]) < 0.08, steps  # of 0.2 that was added
    provenance = home.provenance(results["render_features"].version)
    assert {i.kind for i in provenance.inputs} == {
        "scene",
        "sky_mask",
        "nerf_teacher",
        "dinov2_features",
        "feature_field",
    }


def test_views_from_anywhere_come_one_by_one(worked, nerfstudio_python, monkeypatch):
    home, results, _ = worked
    monkeypatch.setenv("DISTILLNERF_NERFSTUDIO_PYTHON", str(nerfstudio_python))
    about = np.diag([-1.0, 1.0, -1.0, 1.0])  # the camera turns round
    views = [
        FeatureView.at(2, 1),
        FeatureView.shifted(2, 1, (0.0, 0.0, 2.0)),
        FeatureView.at(2, 1, virtual_to_camera=about),
    ]
    field = results["distil_features"].version
    readings = list(iterate_views(home, SCENE_KEY, views, (18, 32), FIT.execution, field))
    assert [reading.rgb.shape for reading in readings] == [(1, 18, 32, 3)] * 3
    assert readings[0].features["dinov2"].shape == (1, 18, 32, 3)
    own, nearer, behind = (float(np.nanmedian(reading.termination_depth[0, 8:10, 15:17])) for reading in readings)
    assert own == pytest.approx(5.7, abs=0.4)
    assert nearer == pytest.approx(own - 2.0, abs=0.3)
    assert not abs(behind - own) < 1.0  # no wall there, or another one
    np.testing.assert_allclose(readings[2].camera_to_world[0, :3, 2], -readings[0].camera_to_world[0, :3, 2])


def test_the_worker_refuses_what_it_cannot_do(nerfstudio_python, repository_root, wall_home, tmp_path):
    def work(content: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "task.json").write_text(content)
        return run(
            nerfstudio_python, repository_root, "-m", "teachers.nerf.worker", "--task-file", str(tmp_path / "task.json")
        )

    assert work("{").returncode == 2
    result = tmp_path / "result.json"
    task = NerfTask(
        home_root=str(wall_home.root),
        scene_key="test.none",
        steps=(NerfStep(action="fit", config=NerfConfig()),),
        result_file=str(result),
    ).to_json()
    bad = work(json.dumps({**task, "steps": [{"action": "bake", "config": {}}]}))
    assert bad.returncode == 2
    assert "task.steps[0].action: is 'bake'" in bad.stderr
    missing = work(json.dumps(task))
    assert missing.returncode == 3
    assert "scene/test.none" in missing.stderr
    assert json.loads(result.read_text())["error"]["type"] == "MissingTargetError"
