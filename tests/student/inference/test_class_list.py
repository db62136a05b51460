"""Your own classes: what a file may say, and what follows from it for prompts and labels."""

import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.taxonomy import SKY_ID, class_named
from student.inference.class_list import FIRST_OWN_LABEL, asked, load_class_list, part_prompts

YARD = """
name: yard
classes:
  forklift:
    prompts: [forklift, pallet truck]
    synonyms: [fork truck]
    negatives: [railing]
    threshold: 0.3
    occ3d: construction_vehicle
  car:
    synonyms: [automobile]
  traffic_cone:
"""


@pytest.fixture
def yard(tmp_path):
    (tmp_path / "yard.yaml").write_text(YARD)
    return load_class_list(str(tmp_path / "yard.yaml"))


def test_a_list_says_what_is_told_apart(yard):
    forklift, car, cone = yard.classes
    assert forklift.concepts == (("forklift", "fork truck"), ("pallet truck",))
    assert (forklift.threshold, forklift.occ3d, forklift.truth) == (0.3, "construction_vehicle", ())
    assert (car.occ3d, car.truth) == ("car", ("car",))
    assert (cone.prompts, cone.occ3d, cone.truth) == (("traffic cone",), "traffic_cone", ("traffic_cone",))
    names = yard.prompts.names
    assert names[-3:] == ("forklift", "car", "traffic_cone")
    assert len(set(names)) == len(names) == 16 + 1 + 2  # cars and cones are background no more, and there is the sky
    assert yard.prompts.concepts[names.index("others")][-1] == ("railing",)
    assert yard.labels[-4:] == (SKY_ID, FIRST_OWN_LABEL, FIRST_OWN_LABEL + 1, FIRST_OWN_LABEL + 2)
    assert yard.labels[names.index("truck")] == 10
    assert yard.label_names[FIRST_OWN_LABEL] == "forklift"
    assert yard.occ3d_labels == {18: 5, 19: 4, 20: 8}


def test_a_query_stands_for_its_class_and_never_competes_with_it(yard):
    prompts, threshold = yard.query("the fork truck")
    assert (prompts.names[0], threshold) == ("forklift", 0.3)
    assert prompts.concepts[0] == yard.classes[0].concepts
    assert prompts.names.count("forklift") == 1
    narrower, none = yard.query("red car")
    assert (narrower.names[0], none) == ("red car", None)
    assert "car" not in narrower.names[1:]
    assert "forklift" in narrower.names
    assert "pallet truck" not in {w for of in yard.query("pallet truck")[0].concepts[1:] for c in of for w in c}
    assert asked("car", None)[1] is None
    with pytest.raises(ValueError, match="either of the two"):
        asked("car", yard, negatives=("truck",))
    wheel = part_prompts("wheel", prompts, yard)
    assert (wheel.names[0], wheel.names.count("forklift")) == ("wheel", 1)
    assert "red car" in part_prompts("wheel", narrower, yard).names
    with pytest.raises(ValueError, match="same as the whole"):
        part_prompts("fork truck", prompts, yard)


def test_a_list_survives_being_written(yard, tmp_path):
    chosen = yard.with_thresholds({"car": 0.2}, {"chosen_on": "verdicts"})
    (tmp_path / "copy.yaml").write_text(chosen.to_yaml())
    copy = load_class_list(str(tmp_path / "copy.yaml"))
    assert copy == chosen
    assert copy.digest == chosen.digest != yard.digest
    assert [entry.threshold for entry in copy.classes] == [None, 0.2, None]


def test_comments_do_not_count_and_everything_else_does(yard, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("# a comment\n" + YARD)
    assert load_class_list(str(path)).digest == yard.digest
    path.write_text(YARD.replace("0.3", "0.31"))
    assert load_class_list(str(path)).digest != yard.digest


def test_the_shipped_list_covers_what_the_issue_of_aprons_is_about():
    airside = load_class_list("airside")
    names = [entry.name for entry in airside.classes]
    assert {"aircraft", "tow bar", "chock", "cone", "ground support equipment"} <= set(names)
    assert all(class_named(name) for entry in airside.classes for name in entry.truth)
    assert all(entry.truth for entry in airside.classes)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("threshold: 0.3", "threshold: 3", "classes.forklift.threshold: is 3, want a number in (0, 1)"),
        ("threshold: 0.3", "threshold: true", "classes.forklift.threshold: is True"),
        ("threshold: 0.3", "threshold: .nan", "classes.forklift.threshold: is nan"),
        ("threshold: 0.3", "treshold: 0.3", "classes.forklift.treshold: is no key here"),
        ("occ3d: construction_vehicle", "occ3d: forklift", "classes.forklift.occ3d: is 'forklift'"),
        ("[railing]", "railing", "classes.forklift.negatives: is 'railing', want a list"),
        ("[railing]", "[forklift]", "classes.forklift.negatives: holds 'forklift'"),
        ("[automobile]", "[fork truck]", "classes.car: claims 'fork truck', which is also of class 'forklift'"),
        ("[automobile]", "['<b>']", "classes.car.synonyms: the text '<b>'"),
        ("[automobile]", "[1]", "classes.car.synonyms: is [1]"),
        ("  car:\n", "  no:\n", "classes.False: is called False"),
        ("  car:\n", "  others:\n", "classes.others: is a name that labels need"),
        ("  car:\n", "  forklift:\n", "'forklift' stands twice"),
        ("name: yard", "names: yard", "names: is no key here"),
        ("name: yard", "name: 3", "name: is 3"),
        ("name: yard", "name: yard\ntemplate: a photo", "template: is 'a photo'"),
        ("[railing]", "&a [railing]\n    truth: *a", "aliases are not read"),
        ("[railing]", "!!python/object/apply:os.system ['touch canary']", "could not determine a constructor"),
        ("occ3d: construction_vehicle", "truth: [boat]", "classes.forklift.truth: names 'boat'"),
    ],
)
def test_a_wrong_file_names_class_and_key(tmp_path, monkeypatch, old, new, place):
    monkeypatch.chdir(tmp_path)
    assert old in YARD
    (tmp_path / "yard.yaml").write_text(YARD.replace(old, new, 1))
    with pytest.raises(SourceDataError) as raised:
        load_class_list("yard.yaml")
    assert place in str(raised.value)
    assert "yard.yaml" in str(raised.value)
    assert raised.value.kind is ErrorKind.CLASSES_INVALID
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(("content", "place"), [("", "is None"), ("name: a\nclasses: {}", "classes"), ("a: [", "YAML")])
def test_what_is_no_list_is_refused(tmp_path, content, place):
    (tmp_path / "list.yaml").write_text(content)
    with pytest.raises(SourceDataError, match=place):
        load_class_list(str(tmp_path / "list.yaml"))


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(SourceDataError, match="airside"):
        load_class_list("seaside")
    (tmp_path / "huge.yaml").write_text("#" * 300_000)
    with pytest.raises(SourceDataError, match="bytes"):
        load_class_list(str(tmp_path / "huge.yaml"))
