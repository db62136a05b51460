"""Words at true places: a teacher that shows the classes names all of them, and a new head tells what a field knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from student.experiments import words_of_places
from student.experiments.words_of_places import Places, WordsOfPlaces, fit_head


def test_a_right_teacher_names_every_place_and_an_untrained_student_does_not(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_of_places, "_MIN_PLACES", 1)  # an untrained student fills few cells
    folder = world.home.open_files(world.home.require("student_checkpoint", "clip"))
    judge = WordsOfPlaces(
        home=world.home.root,
        training_set="clip",
        student=folder,
        widths=(8,),
        steps=20,
        every=1,
        stride=1,
        output=tmp_path / "words.json",
    )
    scores = judge.run()
    assert set(scores) == {"student", "new head, 8", "teacher"}
    assert scores["teacher"].mean_iou == 1.0
    assert scores["teacher"].mean_precision == pytest.approx(1.0)
    assert {"driveable_surface", "manmade"} <= set(scores["teacher"].iou)
    assert scores["student"].mean_iou < 0.7
    written = json.loads((tmp_path / "words.json").read_text())
    assert written["student"]["mean_iou"] == scores["student"].mean_iou


def test_a_new_head_tells_what_a_field_knows() -> None:
    generator = np.random.default_rng(0)
    field = generator.normal(size=(4000, 6)).astype(np.float32)
    teacher = (0.5 + 0.3 * np.sin(field[:, :3])).astype(np.float32)
    head = fit_head(Places(field=field, teacher=teacher, labels=np.zeros(4000, np.uint8)), 32, steps=300)
    seen = head(torch.from_numpy(field)).detach().numpy()
    assert np.abs(seen - teacher).mean() < 0.2 * np.abs(teacher - np.median(teacher, axis=0)).mean()
