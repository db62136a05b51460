import socket
import urllib.request

import numpy as np
import pytest

from storage.keys import SceneKey
from storage.previews.pictures import label_colour
from student.applications.deployment import DeployedStudent
from student.applications.viewer import SceneView, legend_of, serve_scene
from student.evaluation.evaluate import evaluate_checkpoint
from student.inference.class_list import load_class_list
from tests.student.evaluation.conftest import BOXES, CAR, SMALL_EVALUATION, shift_of

SCENE = SceneKey.parse("yard.b")


def test_points_lie_on_the_surfaces_and_voxels_carry_their_class(oracle):
    evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)
    student = DeployedStudent.open(oracle.home, "oracle")
    view = SceneView(student, student.frames(SCENE))
    points, colours = view.points(2)
    assert len(points) == len(colours) > 200
    on_road = np.abs(points[:, 2]) < 1e-4
    on_front = np.abs(points[:, 0] - (BOXES[0][0][0] - shift_of(1, 2))) < 1e-4
    assert on_road.mean() > 0.3
    assert on_front.sum() > 10
    assert colours[on_front].mean(axis=0)[0] > colours[on_front].mean(axis=0)[2] + 50  # a red-brown wall
    positions, labels = view.voxels(2, "classes")
    is_car = np.all(labels == label_colour(CAR), axis=1)
    low, high = np.array(BOXES[1][0]), np.array(BOXES[1][1])
    moved = positions + np.array([shift_of(1, 2), 0, 0])
    inside = np.all((moved > low) & (moved < high), axis=1)
    np.testing.assert_array_equal(is_car, inside)
    _, heat = view.voxels(2, "query", "car")
    legend = legend_of(view, "query", "car", heat)
    assert list(legend) == ["car: 0%", "car: 25%", "car: 50%", "car: 75%", "car: 100%"]
    brightness = np.array(list(legend.values())).sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert heat.sum(axis=1).max() <= brightness[-1]
    present = legend_of(view, "classes", "car", labels)
    assert 0 < len(present) < len(view.colours)
    assert present["car"] == label_colour(CAR)
    assert set(present.values()) == {tuple(colour) for colour in labels.tolist()}
    assert legend_of(view, "points", "car", colours) == {}
    assert heat[inside].mean() > heat[~inside].mean() + 50
    with pytest.raises(ValueError, match="shows no voxels"):
        view.voxels(2, "points")
    with pytest.raises(ValueError, match="at least one word"):
        view.voxels(2, "query", " ")


def test_own_classes_have_colours_of_their_own(oracle, tmp_path):
    evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)
    path = tmp_path / "yard.yaml"
    path.write_text("name: yard\nclasses:\n  car: {threshold: 0.2}\n  tree:\n")
    student = DeployedStudent.open(oracle.home, "oracle")
    view = SceneView(student, student.frames(SCENE), classes=load_class_list(str(path)))
    plain = SceneView(student, student.frames(SCENE))
    _, colours = view.voxels(2, "classes")
    is_car = np.all(colours == view.colours["car"], axis=1)
    np.testing.assert_array_equal(is_car, np.all(plain.voxels(2, "classes")[1] == label_colour(CAR), axis=1))
    assert is_car.any()
    assert view.colours["car"] != view.colours["tree"]
    assert view.colours["driveable_surface"] == label_colour(11)


def test_the_server_answers_on_this_machine(world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve_scene(world.home, SCENE, "clip", port=port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert answer.status == 200
            assert b"<html" in answer.read().lower()
    finally:
        server.stop()
