"""Queries, weak labels and the operating point that they share with an evaluation."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from storage.errors import MissingTargetError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.stores.arrays import read_target
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, VOID_ID
from student.applications.answers import HEAT_MAP_WIDTH
from student.applications.deployment import DeployedStudent
from student.applications.query import query_scene
from student.applications.weak_labels import choose_labels, export_weak_labels
from student.evaluation.config import WeakLabelConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.inference.class_list import load_class_list
from student.inference.observed_voxels import VoxelSight
from student.inference.prompts import PromptSet
from student.inference.vocabulary import Vocabulary
from tests.student.evaluation.conftest import (
    BOXES,
    CAR,
    GRID,
    NUM_CAMERAS,
    NUM_FRAMES,
    RIG,
    ROAD,
    SKY_CLASS,
    SMALL_EVALUATION,
    Oracle,
    look,
    scaled_intrinsics,
    shift_of,
    voxel_labels,
)

SCENE = SceneKey.parse("yard.b")


def test_an_oracle_finds_the_car_in_the_images_and_in_space(oracle, tmp_path):
    evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)
    result = query_scene(oracle.home, SCENE, 1, "car", "oracle", tmp_path / "answer")
    low, high, *_ = BOXES[1]
    shift = np.array([shift_of(1, 1), 0, 0])
    best = result.positions[result.probability > 0.5]
    assert len(best) > 10
    assert np.all((best + shift >= low) & (best + shift <= high))
    assert np.all(np.diff(result.probability) <= 0)
    assert result.probability[0] > 0.9
    assert result.probability[-1] < 0.1
    heat = np.asarray(Image.open(result.heat_maps[0])).astype(int)
    assert heat.shape[1] == HEAT_MAP_WIDTH
    is_lit = np.ptp(heat, axis=-1) > 40
    truth = look(scaled_intrinsics(*GRID), RIG[0], shift_of(1, 1), *GRID)[1] == CAR
    assert abs(is_lit.mean() - truth.mean()) < 0.1 * truth.mean()  # the car is lit and nothing else is
    best_object = result.objects[0]
    assert np.all((np.array(best_object.centre) + shift >= low) & (np.array(best_object.centre) + shift <= high))
    assert best_object.volume == pytest.approx(best_object.num_cells * 0.4**3)
    assert best_object.mean_score > 0.9
    record = json.loads((result.folder / "query.json").read_text())
    assert record["temperature_source"] == "fitted on training frames"
    assert record["calibration"]["method"] == "isotonic"
    assert "sky" in record["negatives"]
    with (result.folder / "ranked_voxels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == min(200, len(result.positions))
    assert float(rows[0]["probability"]) == pytest.approx(result.probability[0], abs=1e-5)
    stored = np.load(result.folder / "voxels.npz")
    np.testing.assert_allclose(stored["positions_ego"], result.positions)


def test_what_cannot_be_asked_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="frames 0 to 2, not 7"):
        query_scene(world.home, SCENE, 7, "car", "clip", tmp_path)
    with pytest.raises(ValueError, match="at least one word"):
        query_scene(world.home, SCENE, 0, " ", "clip", tmp_path)
    with pytest.raises(ValueError, match="own negatives"):
        query_scene(world.home, SCENE, 0, "car", "clip", tmp_path, part="the car")
    with pytest.raises(MissingTargetError, match="no CLIP features"):
        query_scene(world.home, SCENE, 0, "car", "depth", tmp_path)
    with pytest.raises(MissingTargetError, match=r"scene/yard\.z"):
        query_scene(world.home, "yard.z", 0, "car", "clip", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_part_is_looked_for_within_the_best_object_alone(oracle, tmp_path):
    whole = query_scene(oracle.home, SCENE, 1, "car", "oracle", tmp_path)
    cloud = trimesh.load(tmp_path / "points.ply")  # as another program reads it
    np.testing.assert_allclose(cloud.vertices, whole.positions, atol=1e-5)
    found = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(found["probability"], whole.probability, atol=1e-6)
    assert (found["object_rank"] == 1).sum() == whole.objects[0].num_cells
    part = query_scene(oracle.home, SCENE, 1, "car", "oracle", tmp_path, part="road")
    assert len(part.positions) == whole.objects[0].num_cells
    assert {tuple(p) for p in part.positions} <= {tuple(p) for p in whole.positions}
    assert part.probability.max() < 0.1  # no road in a car
    assert part.record["within"] == whole.record["objects"][:1]
    assert "car" in part.record["negatives"]


def test_an_oracle_labels_a_scene_as_it_is(oracle):
    evaluation = evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)
    made = export_weak_labels(oracle.home, SCENE, "oracle", WeakLabelConfig())
    group = oracle.home.open_arrays(made.version)
    labels = read_target(group, "weak_labels", "voxel_label")
    probability = read_target(group, "weak_labels", "voxel_probability")
    assert labels.shape == (NUM_FRAMES, *OCC3D_GRID.shape)
    for frame in range(NUM_FRAMES):
        truth = voxel_labels(shift_of(1, frame)).reshape(OCC3D_GRID.shape)
        is_known = labels[frame] != OCC3D_UNKNOWN
        assert 0.01 < is_known.mean() < 0.9
        np.testing.assert_array_equal(labels[frame][is_known], truth[is_known])
        assert np.isnan(probability[frame][~is_known]).all()
        assert np.isfinite(probability[frame][is_known]).all()
    pixels = read_target(group, "weak_labels", "pixel_label")
    assert pixels.shape == (NUM_FRAMES, NUM_CAMERAS, *GRID)
    assert (pixels == SKY_CLASS).mean() > 0.2
    attributes = group.attrs.asdict()
    assert attributes["evaluation_digest"] == evaluation.version.digest
    assert attributes["checkpoint"]["digest"] == oracle.home.require("student_checkpoint", "oracle").digest
    assert attributes["template"] == "a photo of a {}"
    assert attributes["prompts"]["car"] == [["car", "automobile", "sedan"]]
    assert made.metrics["is_calibrated"] is True
    assert export_weak_labels(oracle.home, SCENE, "oracle", WeakLabelConfig()).reused


def test_own_classes_continue_the_labels_and_leave_their_digest(oracle, tmp_path):
    evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)
    path = tmp_path / "yard.yaml"
    path.write_text("name: yard\nclasses:\n  automobile: {synonyms: [car, sedan], threshold: 0.5}\n  house:\n")
    config = WeakLabelConfig(classes=str(path), pixel_labels=False)
    made = export_weak_labels(oracle.home, SCENE, "oracle", config)
    group = oracle.home.open_arrays(made.version)
    labels = read_target(group, "weak_labels", "voxel_label")[1]
    plain = read_target(
        oracle.home.open_arrays(export_weak_labels(oracle.home, SCENE, "oracle", WeakLabelConfig()).version),
        "weak_labels",
        "voxel_label",
    )[1]
    np.testing.assert_array_equal(labels == 18, plain == CAR)
    assert (labels == 18).sum() > 10
    assert group.attrs["class_names"][18:] == ["automobile", "house"]
    assert group.attrs["occ3d_labels"] == {"18": 4, "19": 15}
    assert group.attrs["thresholds"] == {"automobile": 0.5, "house": None}
    assert made.metrics["voxels"]["automobile"] > 10
    provenance = oracle.home.provenance(made.version)
    digest = load_class_list(str(path)).digest
    assert provenance.config["class_list"] == {"name": "yard", "digest": digest}
    moved = tmp_path / "moved.yaml"
    moved.write_text("# the same\n" + path.read_text())
    assert export_weak_labels(oracle.home, SCENE, "oracle", replace(config, classes=str(moved))).reused
    moved.write_text(path.read_text().replace("0.5", "0.999999"))
    other = export_weak_labels(oracle.home, SCENE, "oracle", replace(config, classes=str(moved)))
    assert not other.reused
    assert not (read_target(oracle.home.open_arrays(other.version), "weak_labels", "voxel_label") == 18).any()


def test_a_threshold_decides_before_the_most_probable_class_does():
    probability = np.array([[0.9, 0.04, 0.06], [0.9, 0.06, 0.04], [0.5, 0.2, 0.3], [0.2, 0.01, 0.79]])
    labels, found = choose_labels(probability, [11, 18, 19], [None, 0.05, 0.1])
    assert labels.tolist() == [11, 18, 18, 19]  # the third exceeds both thresholds, that of 18 the most
    assert found.tolist() == [0.9, 0.06, 0.2, 0.79]
    labels, _ = choose_labels(probability, [11, 18, 19], [None, None, None])
    assert labels.tolist() == [11, 11, 11, 19]


def test_labels_without_an_evaluation_say_that_they_are_uncalibrated(world):
    seen = []
    config = WeakLabelConfig(default_threshold=0.3, pixel_labels=False)
    made = export_weak_labels(
        world.home, SceneKey.parse("yard.a"), "never_evaluated", config, lambda *e: seen.append(e)
    )
    attributes = world.home.open_arrays(made.version).attrs.asdict()
    assert made.metrics["is_calibrated"] is False
    assert attributes["occupancy_cuts"] == [{"everywhere": 0.3, "above_ground": 0.3}] * made.metrics["frames"]
    assert attributes["occupancy_threshold"] == 0.3
    assert attributes["calibration"] is None
    assert attributes["temperature_source"] == "CLIP checkpoint"
    assert "pixel_label" not in world.home.open_arrays(made.version)
    assert seen[-1][1] == 1.0
    with pytest.raises(ValueError, match="default_threshold"):
        WeakLabelConfig(default_threshold=1.0)


def test_a_voxel_behind_a_surface_or_outside_every_image_is_not_observed(world):
    student = DeployedStudent.open(world.home, "clip")
    frames = student.frames(SCENE)
    cameras = frames.camera_views(0).cameras
    wall_at_10 = np.full((NUM_CAMERAS, *GRID), 10.0, np.float32)
    everywhere = np.ones(wall_at_10.shape, bool)
    seen = VoxelSight(OCC3D_GRID, cameras, everywhere).before(wall_at_10).reshape(OCC3D_GRID.shape)
    row = seen[:, 100, 5]  # along x, straight ahead of both cameras
    x = -40 + 0.4 * (np.arange(200) + 0.5)
    assert row[(x > 2) & (x < 9)].all()
    assert row[(x < -2) & (x > -9)].all()
    assert not row[np.abs(x) > 12].any()
    assert not seen[100, 150:].any()  # beside the car, where neither camera looks
    nowhere = np.full(wall_at_10.shape, np.nan, np.float32)
    open_sky = VoxelSight(OCC3D_GRID, cameras, everywhere).before(nowhere)
    assert open_sky.reshape(OCC3D_GRID.shape)[199, 100, 5]
    assert OCC3D_FREE != OCC3D_UNKNOWN


def test_ground_stays_observed_where_depth_is_short(oracle, monkeypatch):
    """Far away, little height is many voxels of road. What hides a voxel is what is occupied."""
    render = Oracle.render

    def short(*arguments):
        views = render(*arguments)
        return replace(views, termination_depth=0.6 * views.termination_depth)

    monkeypatch.setattr(Oracle, "render", short)
    student = DeployedStudent.open(oracle.home, "oracle")
    reading = student.read(student.frames(SCENE), 0)
    sight = VoxelSight(OCC3D_GRID, reading.batch.cameras, reading.views.is_seen)
    truly, shortly = (sight.before(depth * reading.views.termination_depth) for depth in (1 / 0.6, 1.0))
    road = truly & (voxel_labels(shift_of(1, 0)) == ROAD)
    assert road.sum() > 1_000
    assert shortly[road].mean() < 0.7
    assert reading.voxels.is_observed[road].mean() > 0.95
    assert not (reading.voxels.is_occupied & ~reading.voxels.is_observed).any()
    assert reading.voxels.is_observed.mean() < 0.9 * sight.in_view.mean()


def test_pixels_without_a_ray_get_no_label_no_heat_and_let_no_voxel_be_seen(oracle, monkeypatch, tmp_path):
    is_seen = np.ones((NUM_CAMERAS, *GRID), bool)
    is_seen[0] = False
    is_seen[1, : GRID[0] // 2] = False
    render = Oracle.render
    monkeypatch.setattr(Oracle, "render", lambda *a: replace(render(*a), is_seen=is_seen))
    made = export_weak_labels(oracle.home, SCENE, "oracle", WeakLabelConfig(default_threshold=0.4))
    group = oracle.home.open_arrays(made.version)
    pixels = read_target(group, "weak_labels", "pixel_label")
    np.testing.assert_array_equal(pixels == VOID_ID, np.broadcast_to(~is_seen, pixels.shape))
    np.testing.assert_array_equal(
        np.isnan(read_target(group, "weak_labels", "pixel_probability")), np.broadcast_to(~is_seen, pixels.shape)
    )
    assert group.attrs["void_pixel"] == VOID_ID
    ahead = read_target(group, "weak_labels", "voxel_label")[:, 101:]
    assert (ahead == OCC3D_UNKNOWN).all()  # only the camera that looks back has rays
    result = query_scene(oracle.home, SCENE, 1, "road", "oracle", tmp_path)
    unseen, seen_below = (np.asarray(Image.open(path)).astype(int) for path in result.heat_maps)
    assert np.ptp(unseen, axis=-1).max() < 5  # grey
    assert np.ptp(seen_below[: GRID[0]], axis=-1).max() < 5
    assert np.ptp(seen_below[GRID[0] :], axis=-1).max() > 20


def test_a_students_views_tell_which_pixels_have_rays(world):
    student = DeployedStudent.open(world.home, "clip")
    batch = student.frames(SCENE).camera_views(0)
    shown = torch.ones(1, NUM_CAMERAS, *GRID, dtype=torch.bool)
    shown[:, 1, 10:] = False
    views = student.predictor.render(student.predictor.encode(batch.inputs), replace(batch.cameras, is_valid=shown))
    np.testing.assert_array_equal(views.is_seen, shown[0].numpy())


def test_a_concept_is_the_mean_of_its_synonyms(world):
    space = DeployedStudent.open(world.home, "clip").space
    one, other, both = (
        Vocabulary.of(space, PromptSet(names=("x",), concepts=((words,),))).embeddings[0]
        for words in (("car",), ("truck",), ("car", "truck"))
    )
    np.testing.assert_allclose(both, (one + other) / np.linalg.norm(one + other), atol=1e-5)
