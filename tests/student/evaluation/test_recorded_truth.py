"""What a recording says about itself: named returns, what cameras see of them, pixels, sky."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from storage.scenes.schema import SceneBoxes
from storage.scenes.store import SceneReader, write_scene
from student.evaluation.recorded_truth import RecordedTruth
from tests.student.evaluation.conftest import CAR, HEIGHT, NUM_CAMERAS, ROAD, WIDTH, scene_data

CAR_NUMBER, ROAD_NUMBER, NOISE_NUMBER = 3, 7, 0


def reader_of(**changes) -> SceneReader:
    scene = replace(scene_data(0), **changes)
    group = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(group, scene)
    return SceneReader(group)


def test_boxes_name_the_returns_inside_and_tell_what_the_others_are_not():
    truth = RecordedTruth(reader_of(), height=HEIGHT, width=WIDTH)
    assert truth.source == "boxes"
    named = truth.points(0)
    assert set(named.labels.tolist()) == {CAR, 254}
    cars = named.points[named.labels == CAR]
    assert (np.abs(cars - [7.6, -2.2, 0.8]) <= [1.6, 1.0, 0.8]).all()
    assert (cars[:, 2] > 0.1).all()  # ground under the car is not named by it


def test_a_frame_without_boxes_names_nothing():
    scene = scene_data(0)
    kept = scene.boxes.frame_index == 1
    boxes = SceneBoxes(
        frame_index=scene.boxes.frame_index[kept],
        centre=scene.boxes.centre[kept],
        size=scene.boxes.size[kept],
        quat_wxyz=scene.boxes.quat_wxyz[kept],
        category=("vehicle.car",) * int(kept.sum()),
        instance=("car 0",) * int(kept.sum()),
        num_lidar_points=scene.boxes.num_lidar_points[kept],
    )
    truth = RecordedTruth(reader_of(boxes=boxes), height=HEIGHT, width=WIDTH)
    assert truth.points(0) is None
    assert truth.pixel_labels(0) is None
    assert truth.points(1) is not None
    none = RecordedTruth(reader_of(boxes=SceneBoxes.none()), height=HEIGHT, width=WIDTH)
    assert none.source == "none"
    assert none.points(0) is None


def test_a_return_behind_a_nearer_one_is_hidden():
    scene = scene_data(0)
    first = scene.lidar_points[0]
    on_car = first[(np.abs(first[:, :3] - [7.6, -2.2, 0.8]) <= [1.6, 1.0, 0.7]).all(axis=1)]
    behind = on_car.copy()
    eye = np.array([0.5, 0.0, 1.5])
    behind[:, :3] = eye + 1.6 * (on_car[:, :3] - eye)  # farther along the same rays of the front camera
    points = (np.concatenate([first, behind]), *scene.lidar_points[1:])
    named = RecordedTruth(reader_of(lidar_points=points), height=HEIGHT, width=WIDTH).points(0)
    is_behind = (named.points[:, None] == behind[None, :, :3]).all(axis=-1).any(axis=1)
    assert is_behind.sum() > 20
    assert named.is_seen[is_behind].mean() < 0.1
    assert named.is_seen[~is_behind].mean() > 0.95


def test_pixels_take_the_class_of_their_nearest_return():
    truth = RecordedTruth(reader_of(), height=HEIGHT, width=WIDTH)
    labels = truth.pixel_labels(0)
    assert labels.shape == (NUM_CAMERAS, HEIGHT, WIDTH)
    assert set(np.unique(labels).tolist()) == {CAR, 254, 255}
    rows, columns = np.nonzero(labels[0] == CAR)
    assert len(rows) > 20
    assert columns.min() > WIDTH / 2  # the car stands to the right
    assert (labels[1] != CAR).all()


def test_labels_of_points_go_before_boxes(monkeypatch):
    numbers = {CAR_NUMBER: "vehicle.car", ROAD_NUMBER: "flat.driveable_surface", NOISE_NUMBER: "noise"}
    reader = reader_of(attributes={"lidarseg_categories": {str(k): v for k, v in numbers.items()}})
    points = reader.lidar_points(0)
    given = np.where(points[:, 2] < 0.05, ROAD_NUMBER, CAR_NUMBER).astype(np.uint8)
    given[:5] = NOISE_NUMBER
    monkeypatch.setattr(SceneReader, "lidar_labels", lambda self, frame: given if frame == 0 else None)
    truth = RecordedTruth(reader, height=HEIGHT, width=WIDTH)
    assert truth.source == "points"
    named = truth.points(0)
    assert len(named.points) == len(points) - 5
    assert set(named.labels.tolist()) == {CAR, ROAD}
    assert truth.points(1) is None


def test_panoptic_labels_say_where_the_sky_is(monkeypatch):
    categories = {"0": "TYPE_UNDEFINED", "20": "TYPE_ROAD", "25": "TYPE_SKY"}
    reader = reader_of(attributes={"panoptic_categories": categories})
    classes = np.full((HEIGHT, WIDTH), 20, np.uint16)
    classes[: HEIGHT // 2], classes[:, :4] = 25, 0
    labelled = (classes, np.zeros_like(classes))
    monkeypatch.setattr(SceneReader, "panoptic", lambda self, frame, camera: labelled if camera == 0 else None)
    truth = RecordedTruth(reader, height=HEIGHT // 2, width=WIDTH // 2)
    is_sky, is_known = truth.sky(0)
    assert is_sky[0].mean() == pytest.approx(0.5 * (1 - 4 / WIDTH))
    assert not is_sky[1].any()
    assert not is_known[1].any()
    assert is_known[0].mean() == pytest.approx(1 - 4 / WIDTH)
    labels = truth.pixel_labels(0)
    assert (labels[0] == 17).sum() > 0.25 * labels[0].size
    monkeypatch.setattr(SceneReader, "panoptic", lambda self, frame, camera: None)
    assert truth.sky(0) is None
    assert RecordedTruth(reader_of(), height=HEIGHT, width=WIDTH).sky(0) is None
