"""Further words: which true class is which of a set, and that words called unseen are in no caption."""

import re

import pytest

from storage.taxonomy import OCC3D_NAMES, OCC3D_UNKNOWN, OCC3D_UNNAMED, SKY, SKY_ID, VOID_ID, class_named
from student.evaluation.word_sets import UNSEEN, occ3d_names, own_names, unseen_names
from student.inference.class_list import load_class_list
from student.inference.prompts import ids_of_word
from teachers.demo_training.captions import sentences

APRON = """
name: apron
classes:
  aircraft: {}
  tow vehicle: {prompts: [baggage tractor], truth: [baggage_tractor]}
  person: {prompts: [pedestrian], synonyms: [worker]}
"""


@pytest.fixture
def apron(tmp_path):
    path = tmp_path / "apron.yaml"
    path.write_text(APRON)
    return load_class_list(str(path))


def test_words_called_unseen_are_in_no_caption():
    captions = {word for sentence in sentences() for word in re.findall(r"[a-z]+", sentence.lower())}
    parts = {part for words in UNSEEN.values() for word in words for part in re.findall(r"[a-z]+", word)}
    assert not (parts - {"by"}) & captions
    assert not any(ids_of_word(word) for words in UNSEEN.values() for word in words)


def test_unseen_words_name_the_classes_that_they_stand_for():
    names, truth = tuple(UNSEEN), unseen_names()
    assert set(names) == {*OCC3D_NAMES, SKY.name} - {"others", "other_flat"}
    for said, index in (("car", "car"), ("pole", "manmade"), ("fuel_truck", "truck"), ("sky", "sky")):
        assert names[truth.of_semantics[class_named(said).class_id]] == index
    assert truth.of_semantics[class_named("aircraft").class_id] == OCC3D_UNNAMED
    assert truth.of_semantics[VOID_ID] == OCC3D_UNKNOWN
    assert names[truth.of_category("vehicle.car")] == "car"
    assert truth.of_category("vehicle") == OCC3D_UNKNOWN
    assert names[truth.sky] == "sky"


def test_own_classes_take_what_is_theirs_and_leave_the_rest(apron):
    names, truth = apron.prompts.names, own_names(apron)
    name_of = {said: names[truth.of_semantics[class_named(said).class_id]] for said in ("car", "pedestrian", "sky")}
    assert name_of == {"car": "car", "pedestrian": "person", "sky": "sky"}
    assert names[truth.of_semantics[class_named("baggage_tractor").class_id]] == "tow vehicle"
    assert names[truth.of_semantics[class_named("belt_loader").class_id]] == "construction_vehicle"
    assert names[truth.of_category("aircraft")] == "aircraft"
    assert names[truth.of_category("human.pedestrian.adult")] == "person"
    assert names[truth.of_category("worker")] == "person"
    # It may be a tow vehicle or not: the recording's own name does not tell.
    assert truth.of_category("vehicle.construction") == OCC3D_UNNAMED
    assert truth.of_category("no such thing") == OCC3D_UNKNOWN
    assert names[truth.sky] == "sky"


def test_occ3d_names_are_those_of_the_usual_vocabulary():
    truth = occ3d_names()
    assert truth.of_semantics[class_named("tow_bar").class_id] == 0
    assert (truth.of_semantics[SKY_ID], truth.sky) == (17, 17)
    assert truth.of_semantics[VOID_ID] == OCC3D_UNKNOWN
