import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from storage.errors import MissingTargetError
from storage.geometry.voxel_grid import VoxelGrid
from storage.keys import SceneKey
from storage.references.config import LidarOccupancyConfig, VoteRules
from storage.references.lidar_occupancy import make_lidar_occupancy
from storage.stores.versioned import Home
from student.evaluation.config import EvaluationConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.evaluation.evidence import StudentEvidence
from student.evaluation.frames import lidar_occupancy_of
from student.evaluation.results import NO_GROUND_TRUTH, EvaluationResult
from student.reporting.report import PAGE, ReportConfig, build_report
from tests.student.evaluation.conftest import SMALL_EVALUATION, Oracle

CONFIG = EvaluationConfig(max_lateral_frames=0, num_training_frames=2, panel_cameras=1, panel_frames=1, panel_width=64)


def test_an_oracle_gets_every_figure_right(oracle):
    """One end-to-end check of every frame, unit, grid and mask: truth in, perfect figures out."""
    made = evaluate_checkpoint(oracle.home, "oracle", CONFIG)
    result = EvaluationResult.from_json(made.metrics)
    assert result.scenes == ("yard.b",)
    assert result.num_frames == 3
    for name in ("reconstruction", "next_frame"):
        # The reference is 8-bit, and half-size by an antialiasing filter; the oracle casts one ray per pixel.
        assert result.section(name).figure("psnr").value > 24
        assert result.section(name).figure("psnr").beats_baselines
        assert result.section(name).figure("paper_psnr").count == 1
    assert result.section("depth_truth").figure("abs_rel").value < 1e-3
    assert result.section("depth_teacher").figure("abs_rel").value < 1e-3
    # A return lies anywhere in its pixel, the ray goes through the centre: on 28 columns the road shows that.
    assert result.section("depth_lidar").figure("abs_rel").value < 0.1
    lidar = result.section("depth_lidar").figure("abs_rel")
    assert all(lidar.value < baseline.value for baseline in lidar.baselines[:2])
    assert result.section("depth_truth").figure("coverage").value == 1.0
    by_surface = result.section("depth_truth")
    for kind in ("glass", "other_surface"):
        assert by_surface.figure(f"abs_rel_{kind}").value < 1e-3
        assert by_surface.figure(f"coverage_{kind}").value == 1.0
        assert by_surface.figure(f"abs_rel_{kind}").group == "AbsRel by surface"
    assert (by_surface.figure("abs_rel_fuselage").value, by_surface.figure("abs_rel_fuselage").count) == (None, 0)
    assert "No pixel was of the kind fuselage, wet ground" in by_surface.note
    # Its LiDAR returns everything with one intensity, which tells nothing.
    assert all(result.section("depth_lidar").figure(f"abs_rel_{k}").count == 0 for k in ("dark", "middling", "bright"))
    assert result.section("sky").figure("iou").value == 1.0
    assert [b.label for b in result.section("sky").figure("iou").baselines] == [
        "everything above the horizon",
        "the sky teacher",
    ]
    assert result.section("sky").figure("iou").baselines[0].value < 1.0
    assert (
        result.section("depth_truth").figure("abs_rel").baselines[-1].label == "the scene teacher, where it is defined"
    )
    for name in ("iou", "precision", "recall"):
        assert result.section("occupancy").figure(name).value == 1.0
    assert result.section("calibration").figure("ece").value < 1e-6
    semantic = result.section("semantic_occupancy")
    assert semantic.figure("miou_17").value == 1.0
    assert semantic.figure("miou_17").count == 3
    assert semantic.figure("fmiou_12").count == 2
    assert semantic.figure("accuracy_where_occupied").value == 1.0
    query = result.section("text_query")
    assert query.figure("mean_average_precision").value == pytest.approx(1.0)
    assert query.figure("mean_iou").value == pytest.approx(1.0)
    assert query.figure("ap.car").baselines[1].value == pytest.approx(1.0)
    assert result.section("features").figure("psnr_clip").value > 60
    assert result.section("lateral_truth").unavailable == NO_GROUND_TRUTH


def test_own_classes_are_asked_for_beside_the_usual_ones(oracle, tmp_path, monkeypatch):
    """The oracle knows what a car is, whatever list asks; nobody taught this encoder the words called unseen."""
    monkeypatch.setattr("student.evaluation.evaluate.sources_of_features", lambda *_: {"clip": "demo"})
    path = tmp_path / "yard.yaml"
    path.write_text("{name: yard, classes: {vehicle: {prompts: [car], truth: [car]}, aircraft: {}}}")
    config = replace(SMALL_EVALUATION, classes=str(path))
    made = evaluate_checkpoint(oracle.home, "oracle", config)
    result = EvaluationResult.from_json(made.metrics)
    own = result.section("own_classes")
    assert own.title.endswith("yard")
    assert own.figure("ap.vehicle").value == pytest.approx(1.0)
    assert own.figure("ap.vehicle").count == result.section("text_query").figure("ap.car").count > 0
    assert own.figure("ap.aircraft").value is None
    assert own.figure("mean_average_precision").definition.startswith("Mean average precision over the 4 of")
    unseen = result.section("unseen_words")
    assert unseen.figure("ap.car").count == own.figure("ap.vehicle").count
    assert unseen.figure("ap.car").value < 0.9
    path.write_text("{name: yard, classes: {vehicle: {prompts: [car], truth: [bus]}, aircraft: {}}}")
    assert not evaluate_checkpoint(oracle.home, "oracle", config).reused  # the content counts, not the name


def test_an_untrained_student_is_scored_and_reported(world, tmp_path):
    seen = []
    made = evaluate_checkpoint(world.home, "clip", CONFIG, lambda *event: seen.append(event))
    result = EvaluationResult.from_json(json.loads(json.dumps(made.metrics)))
    assert result.headline()["depth_truth.abs_rel"] > 0.05
    assert result.section("occupancy").figure("iou").value < 0.9
    assert [share for _, share, _ in seen] == sorted(share for _, share, _ in seen)
    assert seen[-1][1] == 1.0
    assert result.settings["temperature_source"] == "fitted on training frames"
    again = evaluate_checkpoint(world.home, "clip", CONFIG)
    assert again.reused
    assert again.metrics == made.metrics
    panel = result.panels[0]
    assert [title for title, _ in panel.rows] == ["truth", "teacher", "student"]
    folder = world.home.open_files(made.version)
    for _, tiles in panel.rows:
        assert [tile.column for tile in tiles] == ["image", "depth", "sky", "semantics", "features", "query"]
        assert all((folder / tile.path).is_file() for tile in tiles if tile.path)
    (above,) = [panel for panel in result.panels if panel.camera == "Occupancy from above"]
    ((_, tiles),) = above.rows
    assert {"truth", "student", "found and missed"} <= {tile.column for tile in tiles}
    assert all((folder / tile.path).is_file() for tile in tiles)
    psnr = [record.figures["reconstruction.psnr"] for record in result.worst]
    assert len(psnr) == result.num_frames
    assert psnr == sorted(psnr)
    assert np.mean(psnr) == pytest.approx(result.section("reconstruction").figure("psnr").value, abs=1e-3)
    assert all((folder / record.picture).is_file() for record in result.worst)
    page = (world.home.open_files(build_report(world.home, "clip", ReportConfig()).version) / PAGE).read_text()
    assert f"frame {result.worst[0].frame}: PSNR {psnr[0]:.1f} dB" in page
    for expected in ("yard.b", "student_checkpoint", "CC0-1.0", "Semantic occupancy by words", "2 raw files"):
        assert expected in page
    assert "training curves" in page


def test_a_student_without_clip_says_that_words_mean_nothing_to_it(world):
    made = evaluate_checkpoint(world.home, "depth", CONFIG)
    result = EvaluationResult.from_json(made.metrics)
    assert "renders no CLIP" in result.section("semantic_occupancy").unavailable
    assert "renders no CLIP" in result.section("text_query").unavailable
    assert result.section("occupancy").figures


def test_geometry_is_the_students_own_and_not_the_truths(oracle, monkeypatch):
    """A student that sees nothing gets what nothing deserves, however right its words are."""

    def blind(self, field, grid, flat_index, *, samples_per_axis=2):
        index = np.stack(np.unravel_index(flat_index, grid.shape), axis=1)
        return np.zeros(len(flat_index), np.float32), grid.centres(index).astype(np.float32)

    monkeypatch.setattr(Oracle, "voxel_density", blind)
    config = replace(CONFIG, num_training_frames=1, max_frames_per_scene=1, panel_frames=0, seed=5)
    result = EvaluationResult.from_json(evaluate_checkpoint(oracle.home, "oracle", config).metrics)
    everything = result.section("occupancy").figure("iou").baselines[0]
    assert everything.label == "all occupied"
    assert result.section("occupancy").figure("iou").value == pytest.approx(everything.value)
    assert everything.value < 0.2
    assert result.section("semantic_occupancy").figure("accuracy_where_occupied").value == 0.0


def test_what_was_trained_on_is_never_scored(world):
    """Threshold, calibration and baselines read training frames only; figures held-out frames only."""
    made = evaluate_checkpoint(world.home, "depth", CONFIG)
    result = EvaluationResult.from_json(made.metrics)
    assert "yard.a" not in result.scenes
    assert dict(StudentEvidence.load(world.home.open_files(made.version)).frames) == {"yard.a": (0, 2)}
    assert "3 frames of 1 scene held out whole (yard.b)" in result.scored_on
    visible = 140 * 120 * 15
    assert result.section("occupancy").figure("iou").count == visible * result.num_frames


def test_a_recording_without_truth_has_no_such_figures(world, monkeypatch):
    monkeypatch.setattr("student.evaluation.frames.TRUTH_KIND", "no_such_truth")
    result = EvaluationResult.from_json(
        evaluate_checkpoint(world.home, "clip", EvaluationConfig(panel_frames=0, num_training_frames=1)).metrics
    )
    for name in ("depth_truth", "occupancy", "calibration", "semantic_occupancy", "lateral_truth"):
        assert result.section(name).unavailable == NO_GROUND_TRUTH
        assert result.section(name).figures == ()
    assert [figure.name for figure in result.section("sky").figures] == ["returns_called_sky"]
    assert result.section("depth_lidar").figures
    words = result.section("text_query")
    assert "boxes" in words.reference
    assert words.figure("ap.car").count > 0
    assert words.figure("ap_points_seen.car").count > 0
    assert words.figure("ap.manmade").value is None  # no box holds a building
    assert result.settings["temperature_source"] == "fitted on training frames"
    assert not np.isnan(result.section("reconstruction").figure("psnr").value)


def test_a_recording_without_labels_is_judged_by_its_own_lidar(world, tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    for key in ("yard.a", "yard.b"):
        make_lidar_occupancy(home, SceneKey.parse(key), LidarOccupancyConfig(rules=VoteRules(min_passes=1)))
    monkeypatch.setattr("student.evaluation.frames.TRUTH_KIND", "no_such_truth")
    config = EvaluationConfig(panel_frames=0, num_training_frames=2, max_lateral_frames=0)
    made = evaluate_checkpoint(home, "clip", config)
    result = EvaluationResult.from_json(made.metrics)
    kinds = {one.kind for one in home.provenance(made.version).inputs}
    assert "lidar_occupancy" in kinds
    for name in ("occupancy", "calibration", "semantic_occupancy"):
        assert "LiDAR" in result.section(name).reference
        assert result.section(name).figures
    sweep = {b.label: b.value for b in result.section("occupancy").figure("precision").baselines}["one LiDAR sweep"]
    assert sweep == pytest.approx(1.0)  # every return makes its own voxel occupied
    rays = result.section("occupancy").figure("ray_iou")
    assert rays.count > 100
    assert {b.label: b.value for b in rays.baselines}["one LiDAR sweep"] > 0.5
    semantic = result.section("semantic_occupancy")
    assert semantic.figure("ray_miou").count > 0
    assert semantic.figure("iou.car").count > 0
    assert semantic.figure("iou.manmade").value is None
    # Labels that came with the recording go before the LiDAR's.
    world.publish_labels(home)
    judged = EvaluationResult.from_json(evaluate_checkpoint(home, "clip", config).metrics)
    assert judged.section("occupancy").reference == "Occ3D labels that came with the recording"


def test_lidar_occupancy_in_another_grid_is_not_taken_for_occ3ds(world, tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    grid = VoxelGrid(minimum=(-8.0, -8.0, -1.0), voxel_size=0.4, shape=(40, 40, 8))
    for key in ("yard.a", "yard.b"):
        make_lidar_occupancy(home, SceneKey.parse(key), LidarOccupancyConfig(grid=grid))
    assert lidar_occupancy_of(home, "yard.a") is None


def test_a_recording_with_labels_is_judged_by_them(world, tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    world.publish_labels(home, unlabelled=[("yard.b", 2)])
    config = EvaluationConfig(panel_frames=0, num_training_frames=1, max_lateral_frames=0)
    exact = EvaluationResult.from_json(evaluate_checkpoint(home, "clip", config).metrics)
    monkeypatch.setattr("student.evaluation.frames.TRUTH_KIND", "no_such_truth")
    judged = EvaluationResult.from_json(evaluate_checkpoint(home, "clip", config).metrics)

    assert "procedural" in exact.section("occupancy").reference
    for name in ("occupancy", "calibration", "semantic_occupancy"):
        assert judged.section(name).reference == "Occ3D labels that came with the recording"
        assert judged.section(name).figures
    counts = [result.section("occupancy").figure("iou").count for result in (exact, judged)]
    assert counts[1] == counts[0] * (exact.num_frames - 1) // exact.num_frames
    assert judged.settings["occupancy"] == exact.settings["occupancy"]  # chosen on yard.a, all of which is labelled
    assert judged.section("depth_truth").unavailable == NO_GROUND_TRUTH


def test_a_checkpoint_that_was_never_published_is_named(world):
    with pytest.raises(MissingTargetError, match="student_checkpoint/dinov2"):
        evaluate_checkpoint(world.home, "dinov2", CONFIG)


def test_configurations_without_meaning_are_refused():
    for wrong in (
        {"panel_width": 0},
        {"num_training_frames": -1},
        {"prompt_template": "none"},
        {"max_voxels_per_frame": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EvaluationConfig(**wrong)
