"""Thresholds of own classes."""

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.run_config import HomeSelection
from storage.errors import MissingTargetError
from student.applications.class_thresholds import best_f1_threshold, choose_on_truth, lowest_precise_threshold
from student.inference.class_list import load_class_list

YARD = "name: yard\nclasses:\n  car: {synonyms: [automobile, sedan]}\n  tree:\n"


def test_the_best_f1_and_the_lowest_precise_threshold():
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    is_class = np.array([True, False, True, True, False, False])
    best = best_f1_threshold(probability, is_class)
    assert (best.threshold, best.precision, best.recall, best.count) == (0.6, 0.75, 1.0, 3)
    strict = best_f1_threshold(probability, is_class, min_precision=0.8)
    assert (strict.threshold, strict.precision) == (0.9, 1.0)
    lowest = lowest_precise_threshold(probability, is_class, min_precision=0.7)
    assert (lowest.threshold, lowest.precision, lowest.count) == (0.6, 0.75, 6)
    assert np.isnan(lowest.recall)
    assert lowest_precise_threshold(probability, ~is_class, min_precision=0.9).threshold is None
    assert lowest_precise_threshold(probability[:0], is_class[:0], min_precision=0.9).count == 0
    assert best_f1_threshold(probability, np.zeros(6, bool)).threshold is None


def test_equal_probabilities_are_above_a_threshold_together():
    probability = np.array([0.5, 0.5, 0.5, 0.2])
    is_class = np.array([True, False, False, True])
    best = best_f1_threshold(probability, is_class, min_precision=0.9)
    assert best.threshold is None  # one of the three alone would be precise
    assert best_f1_threshold(probability, is_class).threshold == 0.2


def test_an_oracle_needs_a_threshold_that_finds_every_car_and_nothing_else(oracle, tmp_path, capsys, monkeypatch):
    path = tmp_path / "yard.yaml"
    path.write_text(YARD)
    classes = load_class_list(str(path))
    choices, _ = choose_on_truth(oracle.home, "oracle", classes)
    car, tree = choices["car"], choices["tree"]
    assert (car.precision, car.recall) == (1.0, 1.0)
    assert car.held_out is not None
    assert car.held_out["average_precision"] == pytest.approx(1.0)
    assert (car.held_out["precision"], car.held_out["recall"]) == (1.0, 1.0)
    assert 0 < car.held_out["chance"] == pytest.approx(car.held_out["shown_share"])
    assert (tree.threshold, tree.count) == (None, 0)  # there is none in this world
    monkeypatch.setattr(HomeSelection, "load", classmethod(lambda *_: HomeSelection(preset="tiny", variant="clip")))
    out = tmp_path / "chosen.yaml"
    assert main(["classes", "fit", str(path), str(out), "--home", str(oracle.home.root)]) == 0
    assert "tree" in capsys.readouterr().out
    chosen = load_class_list(str(out))
    # Of another student, whose evaluation may have chosen another temperature.
    of_clip = choose_on_truth(oracle.home, "clip", classes)[0]["car"].threshold
    assert chosen.classes[0].threshold == pytest.approx(of_clip, rel=1e-3)
    assert chosen.classes[1].threshold is None
    assert yaml.safe_load(out.read_text())["thresholds_from"]["chosen_on"] == "exact truth of training frames"


def test_without_truth_there_is_nothing_to_choose_on(oracle, tmp_path, monkeypatch):
    (tmp_path / "yard.yaml").write_text(YARD)
    monkeypatch.setattr("student.applications.class_thresholds.evaluation_scenes", lambda *_: ())
    with pytest.raises(MissingTargetError, match="exact truth"):
        choose_on_truth(oracle.home, "oracle", load_class_list(str(tmp_path / "yard.yaml")))
